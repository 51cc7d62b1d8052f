package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

const mib = quantity.MiB

// files is a Content with a file in each file system, "content of DEV".
type files struct {
	l     *layout.Layout
	order []string // what was asked for
	has   bool
}

func (f *files) Name() string                  { return "a test" }
func (f *files) ID() (string, string)          { return "id", "digest" }
func (f *files) Layout() *layout.Layout        { return f.l }
func (f *files) Lacks() (lacks, left []string) { return []string{"sdz: not mounted"}, []string{"/tmp"} }
func (f *files) Has(...string) (bool, error)   { return f.has, nil }
func (f *files) Lost() []string                { return []string{"lost"} }
func (f *files) Header(*layout.Crypt, agekey.Keys) ([]byte, error) {
	return bytes.Repeat([]byte("H"), 1<<20), nil
}
func (f *files) Files(_ context.Context, dev string, m layout.Mount, dest string, o archive.ExtractOptions, _ progress.Reporter) (*archive.Summary, error) {
	f.order = append(f.order, "files of "+dev)
	return &archive.Summary{Members: 1, Data: 7}, os.WriteFile(filepath.Join(dest, o.Below, "file"), []byte("content of "+dev), 0o600)
}
func (f *files) Blocks(_ context.Context, m *layout.Image, dst *os.File, _ progress.Reporter) error {
	f.order = append(f.order, "blocks of "+m.Device)
	_, err := dst.WriteAt([]byte("image"), 0)
	return err
}

// typist is a Screen whose person confirms everything that is shown.
type typist struct {
	notes
	confirm func(p *plan.Plan) // before it answers; nil for nothing
	wrong   bool
	chose   string
}

func (s *typist) Choose(u *plan.Undecided) (string, error) {
	s.chose = u.Among[len(u.Among)-1].Name
	return s.chose, nil
}

func (s *typist) Confirm(p *plan.Plan) ([]string, error) {
	if s.confirm != nil {
		s.confirm(p)
	}
	var words []string
	for _, d := range p.Disks {
		words = append(words, d.Word())
	}
	if s.wrong {
		return []string{"?"}, nil
	}
	return words, nil
}

// simple is a layout with a root, a home, an image and swap on one disk.
func simple() *layout.Layout {
	const id = "00000000-0000-4000-8000-00000000000"
	xfs := &fstype.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 1368, CRC: true, FType: true}
	part := func(n int, start quantity.Size) layout.Partition {
		return layout.Partition{Number: n, Device: fmt.Sprint("sda", n), Start: start, Size: 64 * mib, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: fmt.Sprint(id, n)}
	}
	return &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS},
		Disks: []layout.Disk{{Name: "sda", Size: 300 * mib, LogicalSector: 512, PhysicalSector: 512, Serial: "OLD", Table: &layout.Table{Label: layout.GPT, GUID: id + "9",
			Partitions: []layout.Partition{part(1, mib), part(2, 65*mib), part(3, 129*mib), part(4, 193*mib)}}}},
		Filesystems: []layout.Filesystem{
			{Device: "sda1", Type: fstype.TypeXFS, UUID: id + "5", Size: 64 * mib, Geometry: fstype.Geometry{XFS: xfs}, Mounts: []layout.Mount{{Path: "/"}}},
			{Device: "sda2", Type: fstype.TypeXFS, UUID: id + "6", Size: 64 * mib, Geometry: fstype.Geometry{XFS: xfs}, Mounts: []layout.Mount{{Path: "/home"}}},
		},
		Images: []layout.Image{{Device: "sda3", Type: "hfs", Size: 64 * mib, File: "sda3.img.zst"}},
		Swap:   []layout.Swap{{Device: "sda4", UUID: id + "7", Size: 64 * mib, Active: true}},
	}
}

// onFake gives a restorer on a fake machine with blank disks, vda and further ones.
func onFake(t *testing.T, disks ...string) (*machinetest.Machine, *Restorer, *typist) {
	t.Helper()
	m := machinetest.New(t)
	for _, d := range disks {
		m.AddDisk(d, 300*mib, "SERIAL-"+d)
	}
	m.Write("/proc/filesystems", "nodev tmpfs\n\txfs\n")
	m.Answer("", "mkfs.xfs")
	bin := t.TempDir()
	for _, n := range []string{"mkfs.xfs", "mdadm", "cryptsetup", "lvm"} {
		if err := os.WriteFile(filepath.Join(bin, n), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", "/tmp") // the fake machine has it, too
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s := &typist{}
	return m, &Restorer{Run: m, Screen: s, Machine: m.Probe()}, s
}

// data is a restore of a content without a system that has to boot.
func data(c Content) Options {
	return Options{Request: Request{Outside: true}, Content: c, DataOnly: true}
}

// A restore makes everything in the plan's order, puts the files where they belong, and
// leaves nothing mounted.
func TestRestore(t *testing.T) {
	m, r, s := onFake(t, "vda")
	c := &files{l: simple()}
	opt := data(c)
	opt.WhenRead = func(context.Context) error {
		if got, want := m.Mounted(), []string{"/dev/vda1 /mnt/target", "/dev/vda2 /mnt/target/home"}; !slices.Equal(got, want) {
			t.Errorf("Mounted() when all was read = %q; want %q", got, want)
		}
		return errors.New("nobody waits for it")
	}
	rep, err := r.Restore(t.Context(), opt)
	if err != nil {
		t.Fatalf("Restore() = %v\n%s", err, strings.Join(s.said, "\n"))
	}
	if want := []string{"blocks of sda3", "files of sda1", "files of sda2"}; !slices.Equal(c.order, want) {
		t.Errorf("read %q; want %q", c.order, want)
	}
	if got := m.Mounted(); len(got) > 0 {
		t.Errorf("Mounted() = %q; want nothing", got)
	}
	for file, want := range map[string]string{"/mnt/target/file": "content of sda1", "/mnt/target/home/file": "content of sda2"} {
		if got := m.Read(file); got != want {
			t.Errorf("Read(%s) = %q; want %q", file, got, want)
		}
	}
	if len(rep.Archives) != 2 || rep.Archives[1].Device != "vda2" || !slices.Equal(rep.NotCovered, []string{"sdz: not mounted", "lost"}) {
		t.Errorf("Report = %+v", rep)
	}
	said := strings.Join(s.said, "\n")
	for _, w := range []string{"left out of the backup: /tmp", "not in the backup, and not restored: sdz", "nobody waits for it", "1. write GPT with 4 partitions on /dev/vda"} {
		if !strings.Contains(said, w) {
			t.Errorf("no %q in\n%s", w, said)
		}
	}
	if b := m.Read("/run/mkcdrec/journal.jsonl"); strings.Count(b, "\n") != 1+len(rep.Plan.Steps) || !strings.Contains(b, `"text":"make xfs on /dev/vda2`) {
		t.Errorf("journal:\n%s", b)
	}
}

// A restore that fails resumes after the last finished step, with the same set only, and
// an earlier run's mounts do not stop it.
func TestRestoreResumes(t *testing.T) {
	m, r, s := onFake(t, "vda")
	m.Fail["run mkfs.xfs"] = errors.New("no memory")
	c := &files{l: simple()}
	var rehearsal *exit.Refusal
	if _, err := r.Restore(t.Context(), data(c)); !errors.As(err, &rehearsal) || !strings.Contains(err.Error(), "step 2 would fail") {
		t.Fatalf("Restore() = %v; want a refusal of the rehearsal", err)
	}
	delete(m.Fail, "run mkfs.xfs")
	m.Fail["mount /dev/vda2"] = errors.New("broken")
	_, err := r.Restore(t.Context(), data(c))
	var step *recreate.StepError
	if !errors.As(err, &step) || step.Step.Head().Kind != "mount" || !step.Touched() {
		t.Fatalf("Restore() = %v; want that mounting failed", err)
	}
	if len(m.Mounted()) != 1 {
		t.Fatalf("Mounted() = %q; want the root", m.Mounted())
	}
	delete(m.Fail, "mount /dev/vda2")
	s.said = nil
	opt := data(c)
	opt.Resume = true
	c.order = nil
	before := len(m.Did("run"))
	if _, err := r.Restore(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(s.said, "\n"); strings.Count(said, ": was done before") != 5 || !strings.Contains(said, "mount /dev/vda1 on /: was restored before") {
		t.Errorf("said\n%s", said)
	}
	if want := []string{"files of sda2"}; !slices.Equal(c.order, want) {
		t.Errorf("read %q; want %q", c.order, want)
	}
	if got := m.Did("run")[before:]; len(got) != 2 { // the rehearsal
		t.Errorf("programs of the second run: %q", got)
	}
	r.opt, opt.Content = Options{}, &files{l: simple()}
	opt.Content.(*files).l.Filesystems[1].Label = "another plan"
	if _, err := r.Restore(t.Context(), opt); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "of another plan") {
		t.Errorf("resumed with another plan: %v", err)
	}
}

// Nothing is written when a disk is not confirmed, is not clear, or holds the content.
func TestRestoreRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		disks  []string
		change func(m *machinetest.Machine, s *typist, o *Options)
		want   string
	}{
		"not confirmed":   {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) { s.wrong = true }, "is not among the disks that were confirmed"},
		"nobody is asked": {[]string{"vda", "vdb"}, func(m *machinetest.Machine, s *typist, o *Options) { o.Yes = true }, "it is not clear which disk"},
		"holds the set": {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) {
			o.Sources = map[string]string{"vda": "it holds the set"}
		}, "it holds the set"},
		"pulled out": {[]string{"vda", "vdb"}, func(m *machinetest.Machine, s *typist, o *Options) {
			o.Sources = map[string]string{"vdb": "it holds the set"}
			s.confirm = func(*plan.Plan) { m.Remove("vdb") }
		}, "/dev/vdb, which holds the backup set, is disconnected"},
		"no driver": {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) {
			m.Write("/proc/filesystems", "ext4\n")
			m.Answer("", "modprobe xfs")
		}, "the plan needs the file system xfs"},
		"no rescue system": {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) { o.Outside = false }, "this is not a rescue system"},
		"firmware": {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) {
			o.Content.Layout().Boot.Loader = layout.GRUB
			o.Wish.Firmware = layout.UEFI
		}, "the system in the set has no boot loader for it"},
		"broken disk": {[]string{"vda"}, func(m *machinetest.Machine, s *typist, o *Options) {
			if err := os.Truncate(m.Path("/dev/vda"), int64(mib)); err != nil {
				t.Fatal(err)
			}
		}, "the disk is broken, or smaller than it reports"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r, s := onFake(t, c.disks...)
			o := data(&files{l: simple()})
			c.change(m, s, &o)
			_, err := r.Restore(t.Context(), o)
			if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Restore() = %v; want a refusal with %q", err, c.want)
			}
			if len(m.Did("open", "mount", "reread")) > 0 {
				t.Errorf("Log() = %q; want nothing written", m.Log())
			}
		})
	}
}

// A person chooses between disks, and only one file system or one image is restored when
// that is wished.
func TestRestoreChosen(t *testing.T) {
	m, r, s := onFake(t, "vda", "vdb")
	if rep, err := r.Restore(t.Context(), data(&files{l: simple()})); err != nil || s.chose != "vdb" || rep.Plan.Disks[0].New.Name != "vdb" || slices.Contains(m.Log(), "open /dev/vda for writing") {
		t.Fatalf("Restore() = %v, chose %s", err, s.chose)
	}
	c := &files{l: simple()}
	o := data(c)
	o.Only, o.Onto = "/home", "/dev/vdb2"
	rep, err := r.Restore(t.Context(), o)
	if err != nil || len(rep.Plan.Steps) != 2 || !slices.Equal(c.order, []string{"files of sda2"}) {
		t.Errorf("--only /home: %v, read %q", err, c.order)
	}
	c.l.Filesystems, c.order = nil, nil
	o.Only, o.Onto = "", "vdb3"
	if _, err := r.Restore(t.Context(), o); err != nil || !slices.Equal(c.order, []string{"blocks of sda3"}) {
		t.Errorf("--onto vdb3: %v, read %q", err, c.order)
	}
	for onto, want := range map[string]string{"vdx": "/dev/vdx is not there", "vdb": "has a partition table", "": "no device has the UUID"} {
		c.l = simple()
		o.Only, o.Onto = "/home", onto
		if _, err := r.Restore(t.Context(), o); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), want) {
			t.Errorf("--onto %q: %v; want %q", onto, err, want)
		}
	}
}

// A new identity gives file systems other UUIDs, and a run that is resumed the same ones.
func TestRestoreRenewed(t *testing.T) {
	m, r, _ := onFake(t, "vda")
	c := &files{l: simple()}
	o := data(c)
	o.NewIdentity = true
	o.Resume = true
	if _, err := r.Restore(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no run with a new identity") {
		t.Errorf("resumed without a run before: %v", err)
	}
	o.Resume = false
	m.Fail["mount /dev/vda2"] = errors.New("broken")
	rep, err := r.Restore(t.Context(), o)
	if err == nil {
		t.Fatal("Restore() = nil; want that mounting failed")
	}
	first := rep.Plan.Layout.Filesystems[1].UUID
	delete(m.Fail, "mount /dev/vda2")
	o.Resume = true
	if rep, err = r.Restore(t.Context(), o); err != nil || rep.Plan.Layout.Filesystems[1].UUID != first || first == c.l.Filesystems[1].UUID {
		t.Errorf("Restore() = %v, UUID %s; want %s", err, rep.Plan.Layout.Filesystems[1].UUID, first)
	}
}

// What is on an array and in LUKS is restored, and opened again by a run that resumes.
func TestRestoreStacked(t *testing.T) {
	m, r, _ := onFake(t, "vda", "vdb")
	l := simple()
	two := l.Disks[0]
	two.Name, two.Serial = "sdb", "OLD2"
	table := *two.Table
	table.GUID = "00000000-0000-4000-8000-0000000000aa"
	table.Partitions = []layout.Partition{{Number: 1, Device: "sdb1", Start: mib, Size: 64 * mib, Type: "A19D880F-05FC-4D3B-A006-743F0F84911E", GUID: "00000000-0000-4000-8000-0000000000bb"}}
	two.Table = &table
	l.Disks = append(l.Disks, two)
	l.Arrays = []layout.Array{{Name: "md7", UUID: "11111111:22222222:33333333:44444444", Level: "raid1", Metadata: "1.2", Devices: 2, Members: []layout.Member{{Device: "sda2", Role: 0}, {Device: "sdb1", Role: 1}}, Data: mib, Part: 63 * mib, Size: 63 * mib}}
	l.Crypts = []layout.Crypt{{Name: "secret", Device: "md7", UUID: "00000000-0000-4000-8000-0000000000cc", Size: 47 * mib, LUKS: &superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", KeySize: 512, Hash: "sha256", SectorSize: 512, Offset: int64(16 * mib)}}}
	l.Filesystems[1].Device, l.Filesystems[1].Size = "mapper/secret", 47*mib
	m.Programs["mdadm --create"] = func(c tool.Cmd) (string, error) {
		if slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasSuffix(a, "/missing0") }) {
			return "", errors.New(c.Args[len(c.Args)-2] + " does not exist") // the rehearsal
		}
		m.AddVirtual("md7", "", 63*mib, "vda2", "vdb1")
		return "", nil
	}
	m.Programs["mdadm --assemble"] = func(tool.Cmd) (string, error) { m.AddVirtual("md7", "", 63*mib, "vda2", "vdb1"); return "", nil }
	m.Programs["mdadm --stop"] = func(tool.Cmd) (string, error) { m.Remove("md7"); return "", nil }
	m.Answer("", "cryptsetup luksFormat")
	m.Programs["cryptsetup open"] = func(tool.Cmd) (string, error) { m.AddVirtual("dm-0", "secret", 47*mib, "md7"); return "", nil }
	m.Programs["cryptsetup close"] = func(tool.Cmd) (string, error) { m.Remove("dm-0"); return "", nil }
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &files{l: l}
	o := data(c)
	o.KeyFile, o.Wish.Map = key, map[string]string{"sda": "vda", "sdb": "vdb"}
	m.Fail["mount /dev/mapper/secret"] = errors.New("broken")
	if _, err := r.Restore(t.Context(), o); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Fatalf("Restore() = %v; want that mounting failed", err)
	}
	delete(m.Fail, "mount /dev/mapper/secret")
	o.Resume = true
	if _, err := r.Restore(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	log := strings.Join(m.Log(), "\n")
	if strings.Count(log, "run mdadm --create /dev/md7 --run --force --level=1 --raid-devices=2 --metadata=1.2") < 2 || strings.Count(log, "run mdadm --assemble") != 1 || strings.Count(log, "run cryptsetup open") != 2 || strings.Count(log, "run mdadm --stop") != 2 {
		t.Errorf("Log():\n%s", log)
	}
	if got := m.Mounted(); len(got) > 0 || m.Read("/sys/block/md7/md/array_state") != "" {
		t.Errorf("Mounted() = %q, and the array runs", got)
	}
}

// Disks that were restored from a set are not restored from it again when that is asked
// for, whatever they are called.
func TestRestoreOnce(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("mke2fs is missing")
	}
	m, r, s := onFake(t, "vda")
	l := simple()
	l.Images, l.Filesystems = nil, l.Filesystems[:1]
	set := pairOf(t, l, map[string]string{})
	o := Options{Request: Request{Outside: true, Once: true, Set: set.String(), NoVerify: true}, DataOnly: true}
	m.Fail["mount /dev/vda1"] = errors.New("stopped")
	if _, err := r.Restore(t.Context(), o); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Fatalf("Restore() = %v; want that mounting failed", err)
	}
	delete(m.Fail, "mount /dev/vda1")
	if out, err := exec.Command("mke2fs", "-qF", "-U", simple().Filesystems[0].UUID, m.Path("/dev/vda1")).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v %s", err, out)
	}
	record := func(id, disk string) {
		m.Content["vda1"] = map[string]string{"/var/lib/mkcdrec/restored.json": fmt.Sprintf(`{"version":1,"set":%q,"manifest":%q,"host":"other","restored":"2020-01-01T00:00:00Z","disks":[%q]}`, id, set.Digest, disk)}
	}
	record(set.Manifest.ID, "SERIAL-vda")
	var again *Repeated
	if _, err := r.Restore(t.Context(), o); !errors.As(err, &again) || exit.Code(err) != exit.Refused || again.Record.Host != "other" {
		t.Errorf("Restore() = %v; want a refusal to repeat it", err)
	}
	record("another", "SERIAL-vda")
	s.wrong = true // it comes as far as that
	if _, err := r.Restore(t.Context(), o); err == nil || errors.As(err, &again) {
		t.Errorf("Restore() of another set = %v; want the question", err)
	}
}

// TestRestoreSalvage: a set whose archive was cut off is refused, and salvaged on demand: what is lost is named, and the
// report is not that of a whole machine.
func TestRestoreSalvage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("archives are restored by root")
	}
	tree := t.TempDir()
	random := make([]byte, 6<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(random) // never fails
	if err := errors.Join(os.WriteFile(tree+"/a", []byte("first"), 0o600), os.WriteFile(tree+"/b", random, 0o600)); err != nil {
		t.Fatal(err)
	}
	for size, what := range map[int64]string{3 << 20: "nothing behind it can be read", -1: "all of it"} {
		m, r, s := onFake(t, "vda")
		l := simple()
		l.Images, l.Filesystems = nil, l.Filesystems[:1]
		set := pairOf(t, l, map[string]string{"/": tree})
		file := filepath.Join(set.Local(), set.Manifest.Archives[0].File)
		err := os.Remove(file)
		if size >= 0 {
			set = pairOf(t, l, map[string]string{"/": tree})
			err = os.Truncate(filepath.Join(set.Local(), set.Manifest.Archives[0].File), size)
		}
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Request: Request{Outside: true, Set: set.Local()}, DataOnly: true}
		if _, err := r.Restore(t.Context(), o); err == nil || len(m.Mounted()) > 0 {
			t.Errorf("%d bytes: Restore() = %v; want that the set is damaged", size, err)
		}
		o.Salvage = true
		rep, err := r.Restore(t.Context(), o)
		if err != nil {
			t.Errorf("%d bytes: Restore() with Salvage = %v\n%s", size, err, strings.Join(s.said, "\n"))
			continue
		}
		if !strings.Contains(fmt.Sprint(rep.Problems), what) {
			t.Errorf("%d bytes: problems %v; want %q", size, rep.Problems, what)
		}
		if got := m.Read("/mnt/target/a"); (got == "first") != (size > 0) {
			t.Errorf("%d bytes: a = %q", size, got)
		}
	}
}
