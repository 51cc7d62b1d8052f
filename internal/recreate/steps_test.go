package recreate

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// errTold is how what a test wants to fail does.
var errTold = errors.New("told to fail")

// mirrorText is a group whose volume is a mirror with metadata at the tenth extent of 1 MiB.
const mirrorText = `vg0 {
	id = "aaaaaa-0001-4567-89ab-cdef-0123-456789"
	extent_size = 2048
	physical_volumes {
		pv0 {
			id = "aaaaaa-0002-4567-89ab-cdef-0123-456789"
			pe_start = 2048
		}
	}
	logical_volumes {
		root_rmeta_0 {
			segment_count = 1
			segment1 {
				start_extent = 0
				extent_count = 1
				type = "striped"
				stripe_count = 1
				stripes = ["pv0", 9]
			}
		}
		root_mlog {
			segment_count = 1
			segment1 {
				start_extent = 0
				extent_count = 1
				type = "mirror"
			}
		}
		home {
			segment_count = 1
			segment1 {
				type = "striped"
				stripes = ["pv0", 12]
			}
		}
	}
}
`

const pvUUID = "aaaaaa-0002-4567-89ab-cdef-0123-456789"

// fill writes bytes that are not zero on a part of a device.
func fill(t *testing.T, m *machinetest.Machine, dev string, at, n quantity.Size) {
	t.Helper()
	f, err := m.Open(dev, os.O_WRONLY)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, int(n)), int64(at))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// blankAt lists the MiB of a device of which all bytes are zero.
func blankAt(m *machinetest.Machine, dev string) []int {
	var out []int
	b := []byte(m.Read("/dev/" + dev))
	for i := 0; (i+1)<<20 <= len(b); i++ {
		if !bytes.ContainsFunc(b[i<<20:(i+1)<<20], func(r rune) bool { return r != 0 }) {
			out = append(out, i)
		}
	}
	return out
}

// on gives a machine with blank disks of 32 MiB, and what carries out steps on them.
func on(t *testing.T, disks []string, steps ...plan.Step) (*machinetest.Machine, *Recreator) {
	t.Helper()
	m := machinetest.New(t)
	for _, d := range disks {
		m.AddDisk(d, 32*mib, "SERIAL-"+d)
	}
	have, err := m.Probe().Present(nil)
	if err != nil || len(have) != len(disks) {
		t.Fatalf("Present() = %v, %v; want %q", have, err, disks)
	}
	p := &plan.Plan{Layout: &layout.Layout{}, Steps: steps}
	for _, h := range have {
		p.Disks = append(p.Disks, plan.Disk{New: h.Disk, Place: h.Place})
	}
	return m, &Recreator{Plan: p, Run: m, Machine: m.Probe(), Report: progress.None{}, Target: m.Path("/mnt/target"), Keys: map[string]Key{"secret": {Passphrase: []byte("open sesame")}}}
}

// stackedCrypt is the LUKS device of stacked.
func stackedCrypt() *layout.Crypt {
	return &layout.Crypt{Name: "secret", Device: "md0", UUID: "6d6b6364-7265-4c55-8b53-000000000001", Size: 20 * mib, LUKS: &superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 512, Offset: 4 << 20}}
}

// stacked is a volume group in a LUKS device on a RAID array of two disks, with a file
// system that is grown. The programs make what real ones make.
func stacked(t *testing.T) (*machinetest.Machine, *Recreator) {
	t.Helper()
	table := func(disk string) *plan.WriteTable {
		return &plan.WriteTable{Device: disk, Sector: 512, Table: &layout.Table{Label: layout.GPT, GUID: "00000000-0000-4000-8000-000000000001", Partitions: []layout.Partition{
			{Number: 1, Device: disk + "1", Start: mib, Size: 28 * mib, Type: "A19D880F-05FC-4D3B-A006-743F0F84911E", GUID: "00000000-0000-4000-8000-000000000002"}}}}
	}
	fs := &layout.Filesystem{Device: "vg0/root", Type: fstype.TypeExt4, Size: 4 * mib}
	crypt := stackedCrypt()
	m, r := on(t, []string{"vda", "vdb"},
		table("vda"), table("vdb"),
		&plan.MakeArray{Device: "md0", Array: &layout.Array{Name: "md0", Level: "raid1", Devices: 2, Size: 24 * mib, Members: []layout.Member{{Device: "vda1"}, {Device: "vdb1", Role: 1}}}, Run: [][]string{{"mdadm", "--create", "/dev/md0", "/dev/vda1", "/dev/vdb1"}}},
		&plan.MakeCrypt{Device: "md0", Crypt: crypt},
		&plan.MakePV{Device: "mapper/secret", Group: "vg0", UUID: pvUUID, Config: mirrorText},
		&plan.RestoreVG{Device: "mapper/secret", Group: "vg0", Config: mirrorText},
		&plan.MakeThin{Group: "vg0", Run: [][]string{{"lvm", "lvcreate", "-n", "pool", "vg0"}, {"lvm", "lvcreate", "-n", "thin", "vg0"}}},
		&plan.MakeFS{Device: "vg0/root", FS: fs, Run: [][]string{{"mke2fs", "/dev/vg0/root"}, {"tune2fs", "/dev/vg0/root"}}},
		&plan.MountFS{Device: "vg0/root", FS: fs, Mount: &layout.Mount{Path: "/"}},
		&plan.GrowFS{Device: "vg0/root", FS: fs, Mount: &layout.Mount{Path: "/"}})
	adds := func(command string, add func(c tool.Cmd)) {
		m.Programs[command] = func(c tool.Cmd) (string, error) {
			if open := m.StillOpen(); len(open) > 0 {
				t.Errorf("%s runs while %q are open", c, open)
			}
			if add != nil {
				add(c)
			}
			return "", nil
		}
	}
	for _, c := range []string{"cryptsetup luksFormat", "lvm lvcreate", "mke2fs", "tune2fs"} {
		adds(c, nil)
	}
	adds("mdadm --create", func(tool.Cmd) { m.AddVirtual("md0", "", 24*mib, "vda1", "vdb1") })
	adds("cryptsetup open", func(tool.Cmd) { m.AddVirtual("dm-0", "secret", 20*mib, "md0") })
	for _, c := range []string{"lvm pvcreate", "lvm vgcfgrestore"} {
		adds(c, func(c tool.Cmd) {
			if b, err := os.ReadFile(c.Args[slices.IndexFunc(c.Args, func(w string) bool { return strings.HasSuffix(w, "/vgcfg") })]); err != nil || string(b) != mirrorText {
				t.Errorf("%s gets %q, %v; want the text of the group", c, b, err)
			}
		})
	}
	adds("lvm vgchange", func(tool.Cmd) { m.AddVirtual("dm-1", "vg0-root", 8*mib, "dm-0") })
	return m, r
}

// temporary is the name of a directory that differs each time.
var temporary = regexp.MustCompile(`\S*/mkcdrec-vg\d+`)

// shown is a log without what differs from run to run.
func shown(m *machinetest.Machine) []string {
	return strings.Split(temporary.ReplaceAllString(acts(m), "TMP"), "\n")
}

// Storage in layers is made from the disks upwards; what a device had before is wiped first,
// and programs run when nothing else has their devices open.
func TestStacked(t *testing.T) {
	m, r := stacked(t)
	opens := m.Programs["cryptsetup open"]
	m.Programs["cryptsetup open"] = func(c tool.Cmd) (string, error) {
		out, err := opens(c)
		fill(t, m, "mapper/secret", 0, 20*mib)
		return out, err
	}
	if err := all(r); err != nil {
		t.Fatal(err)
	}
	golden(t, "stacked.log", strings.Join(shown(m), "\n"))
	if got, want := m.Mounted(), []string{"/dev/vg0/root /mnt/target"}; !slices.Equal(got, want) {
		t.Errorf("Mounted() = %q; want %q", got, want)
	}
	// Both ends of what is in the LUKS device, and the metadata of the mirror.
	if got, want := blankAt(m, "mapper/secret"), []int{0, 10, 19}; !slices.Equal(got, want) {
		t.Errorf("MiB %v of the LUKS device are blank; want %v", got, want)
	}
}

// Whatever fails stops the plan: the error names the step and the cause, nothing is done
// after it, and no device stays open.
func TestStackedFails(t *testing.T) {
	m, r := stacked(t)
	var want []string
	var steps []int // of each line in want
	for n := range r.Plan.Steps {
		if err := r.Do(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		for want = shown(m); len(steps) < len(want); {
			steps = append(steps, n)
		}
	}
	for i, line := range want {
		if strings.HasPrefix(line, "run lvm lvs ") || slices.Index(want, line) < i { // which may fail; tried already
			continue
		}
		m, r := stacked(t)
		begin, _, _ := strings.Cut(line, " TMP")
		m.Fail[begin] = errTold
		err := all(r)
		var step *StepError
		if !errors.As(err, &step) || step.Number != steps[i]+1 || !strings.Contains(err.Error(), fmt.Sprintf("step %d failed: %s\n", steps[i]+1, r.Plan.Steps[steps[i]])) || !strings.Contains(err.Error(), "told to fail") || !step.Touched() {
			t.Errorf("with a failure of %q: %v; want that step %d fails", line, err, steps[i]+1)
		}
		if got := shown(m); !slices.Equal(got, want[:i+1]) {
			t.Errorf("with a failure of %q: %q; want nothing after it", line, got[min(i, len(got)):])
		}
		if open := m.StillOpen(); len(open) > 0 {
			t.Errorf("with a failure of %q: %q stay open", line, open)
		}
	}
}

// A LUKS device whose header is in the set gets that, and keeps its keys; without a key, or
// with its name taken, nothing is opened.
func TestLUKSHeader(t *testing.T) {
	step := &plan.MakeCrypt{Device: "vda", Crypt: &layout.Crypt{Name: "secret", Size: 28 * mib, Header: "header.age"}}
	header := bytes.Repeat([]byte("LUKS"), 1<<20)
	for name, c := range map[string]struct {
		change func(m *machinetest.Machine, r *Recreator)
		want   string
	}{
		"restored": {nil, ""},
		"no key":   {func(_ *machinetest.Machine, r *Recreator) { delete(r.Keys, "secret") }, "there is no key for secret"},
		"open": {func(m *machinetest.Machine, _ *Recreator) {
			m.AddDisk("vdb", mib, "")
			m.AddVirtual("dm-5", "secret", mib, "vdb")
		}, "cryptsetup close secret gives its name free"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := on(t, []string{"vda"}, step)
			r.Keys["secret"] = Key{Header: header, Passphrase: []byte("open sesame")}
			m.Programs["cryptsetup open"] = func(tool.Cmd) (string, error) { m.AddVirtual("dm-0", "secret", 28*mib, "vda"); return "", nil }
			if c.change != nil {
				c.change(m, r)
			}
			err := all(r)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || acts(m) != "" {
					t.Errorf("Do(1) = %v after %q; want that nothing was done, and %q", err, acts(m), c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := "open /dev/vda for writing\nrun cryptsetup open --type luks --key-file - /dev/vda secret\nopen /dev/mapper/secret for writing"
			if got := acts(m); got != want {
				t.Errorf("Do(1) did %s; want %s", got, want)
			}
			if got := m.Read("/dev/vda"); got[:4<<20] != string(header) {
				t.Errorf("/dev/vda begins with %q; want the header", got[:8])
			}
		})
	}
}

// A key file is added with the passphrase of the new device, which is given to the program
// where nobody sees it.
func TestAddKeyFile(t *testing.T) {
	m, r := on(t, []string{"vda"})
	var key bytes.Buffer
	m.Programs["cryptsetup luksAddKey"] = func(c tool.Cmd) (string, error) {
		_, err := key.ReadFrom(c.Stdin)
		return "", err
	}
	err := r.AddKeyFile(t.Context(), &plan.MakeCrypt{Device: "vda", Crypt: &layout.Crypt{Name: "secret"}}, "/mnt/target/etc/key")
	if want := "run cryptsetup luksAddKey --batch-mode --key-file - /dev/vda /mnt/target/etc/key"; err != nil || acts(m) != want || key.String() != "open sesame" {
		t.Errorf("AddKeyFile() = %v with the key %q: %s; want %s", err, key.String(), acts(m), want)
	}
}

// An array of the same name is not touched.
func TestArrayRuns(t *testing.T) {
	m, r := on(t, []string{"vda"}, &plan.MakeArray{Device: "md0", Array: &layout.Array{Name: "md0", Members: []layout.Member{{Device: "vda"}}}})
	m.AddVirtual("md0", "", mib)
	var refused *exit.Refusal
	if err := all(r); !errors.As(err, &refused) || !strings.Contains(err.Error(), "mdadm --stop /dev/md0 gives its name free") || acts(m) != "" {
		t.Errorf("Do(1) = %v after %q; want a refusal", err, acts(m))
	}
}

// A thin volume of a run that was stopped is made again.
func TestThinAgain(t *testing.T) {
	m, r := on(t, []string{"vda"}, &plan.MakeThin{Group: "vg0", Run: [][]string{{"lvm", "lvcreate", "-n", "pool", "vg0"}}})
	m.Answer("", "lvm lvs vg0/pool", "lvm lvremove", "lvm lvcreate")
	want := "run lvm lvs vg0/pool\nrun lvm lvremove -y vg0/pool\nrun lvm lvcreate -n pool vg0"
	if err := all(r); err != nil || acts(m) != want {
		t.Errorf("Do(1) = %v after %s; want %s", err, acts(m), want)
	}
	m, r = on(t, []string{"vda"}, r.Plan.Steps...)
	m.Answer("", "lvm lvs vg0/pool")
	m.Fail["run lvm lvremove"] = errTold
	if err := all(r); err == nil || !strings.Contains(err.Error(), "told to fail") || len(m.Did("run")) != 2 {
		t.Errorf("Do(1) = %v after %s; want that lvremove fails, and nothing after it", err, acts(m))
	}
}

// What is not known of a group's metadata is refused before the group is made.
func TestBlankRAIDRefuses(t *testing.T) {
	for change, want := range map[[2]string]string{
		{`stripes = ["pv0", 9]`, `stripes = ["pv0"]`}:              "the metadata of root_rmeta_0 has an unknown form",
		{`stripes = ["pv0", 9]`, `stripes = ["pv1", 9]`}:           "the metadata of root_rmeta_0 has an unknown form",
		{"extent_size = 2048", "extent_size = 0"}:                  "the metadata of root_rmeta_0 has an unknown form",
		{`"aaaaaa-0002`, `"bbbbbb-0002`}:                           "the physical volume pv0 of root_rmeta_0 is not in the plan",
		{"vg0 {", "vg0 "}:                                          "volume group vg0: ",
		{`stripes = ["pv0", 9]`, `stripes = ["pv0", 9, "pv0", 9]`}: "unknown form",
	} {
		text := strings.Replace(mirrorText, change[0], change[1], 1)
		m, r := on(t, []string{"vda"}, &plan.RestoreVG{Device: "vda", Group: "vg0", Config: text}, &plan.MakePV{Device: "vda", Group: "vg0", UUID: pvUUID, Config: text})
		if err := r.Do(t.Context(), 0); err == nil || !strings.Contains(err.Error(), want) || len(m.Did("run")) > 0 {
			t.Errorf("Do(1) with %s = %v; want %q, and nothing run", change[1], err, want)
		}
	}
}

// Devices of a btrfs lose what a run before has left on them; then it is made, and its
// subvolumes while its top level is mounted.
func TestMakeBtrfs(t *testing.T) {
	fs := &layout.Filesystem{Type: fstype.TypeBtrfs}
	steps := []plan.Step{&plan.MakeFS{Device: "vda", Others: []string{"vdb"}, FS: fs, Run: [][]string{{"mkfs.btrfs", "/dev/vda", "/dev/vdb"}}},
		&plan.MakeSubs{Device: "vda", Others: []string{"vdb"}, Subs: []layout.Subvolume{{Path: "@"}, {Path: "@/home"}}}}
	for name, c := range map[string]struct {
		change func(m *machinetest.Machine)
		want   string
		left   []string
	}{
		"there already": {func(*machinetest.Machine) {}, "", nil},
		"not mounted":   {func(m *machinetest.Machine) { m.Fail["mount /dev/vda"] = errTold }, "cannot mount /dev/vda on ", nil},
		"in the way":    {func(m *machinetest.Machine) { m.Content["vda"] = map[string]string{"@": "a file"} }, "not a directory", nil},
		"busy":          {func(m *machinetest.Machine) { m.Fail["unmount"] = errTold }, "cannot unmount ", []string{"/dev/vda"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := on(t, []string{"vda", "vdb"}, steps...)
			t.Setenv("TMPDIR", "/tmp") // the fake machine has it, too
			m.Answer("", "mkfs.btrfs")
			m.Content["vda"] = map[string]string{"@/home/file": "of a run before"}
			c.change(m)
			for _, d := range []string{"vda", "vdb"} {
				fill(t, m, d, 0, 32*mib)
			}
			err := all(r)
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), "step 2 failed") || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Do() = %v; want an error with %q", err, c.want)
			}
			for _, d := range []string{"vda", "vdb"} {
				if got := blankAt(m, d); !slices.Equal(got, []int{0, 31}) {
					t.Errorf("MiB %v of /dev/%s are blank; want both ends", got, d)
				}
			}
			if got := m.Did("open", "run"); !slices.Equal(got, []string{"open /dev/vda for writing", "open /dev/vdb for writing", "run mkfs.btrfs /dev/vda /dev/vdb"}) {
				t.Errorf("Do(1) did %q", got)
			}
			if got := m.Did("mount"); len(got) != 1 || !strings.HasSuffix(got[0], " btrfs subvolid=5,device=/dev/vdb") {
				t.Errorf("Do(2) did %q; want the top level mounted with both devices", got)
			}
			if got := m.Mounted(); len(got) != len(c.left) {
				t.Errorf("Mounted() = %q; want %q", got, c.left)
			}
		})
	}
}

// Where the kernel refuses to grow a file system, the program does it; other failures, and
// types that nothing is known of, are errors.
func TestGrowBy(t *testing.T) {
	for name, c := range map[string]struct {
		typ  string
		fail map[string]error
		want string
		runs []string
	}{
		"by the kernel":  {fstype.TypeExt4, nil, "", nil},
		"by the program": {fstype.TypeExt4, map[string]error{"ioctl": unix.EPERM}, "", []string{"run resize2fs /dev/vda"}},
		"not at all":     {fstype.TypeExt4, map[string]error{"ioctl": unix.EOPNOTSUPP, "run resize2fs": errTold}, "cannot grow ext4 on /dev/vda: ", []string{"run resize2fs /dev/vda"}},
		"broken":         {fstype.TypeExt4, map[string]error{"ioctl": unix.EIO}, "cannot grow ext4 on /dev/vda: input/output error", nil},
		"no program":     {fstype.TypeBtrfs, map[string]error{"ioctl": unix.EPERM}, "cannot grow btrfs on /dev/vda: operation not permitted", nil},
		"unknown":        {"hfs", nil, "no way is known to grow this type", nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := on(t, []string{"vda"}, &plan.GrowFS{Device: "vda", FS: &layout.Filesystem{Type: c.typ}, Mount: &layout.Mount{Path: "/"}})
			m.Answer("", "resize2fs")
			if err := os.Mkdir(r.Target, 0o755); err != nil {
				t.Fatal(err)
			}
			for k, e := range c.fail {
				m.Fail[k] = e
			}
			err := all(r)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Do(1) = %v; want an error with %q", err, c.want)
			}
			if got := m.Did("run"); !slices.Equal(got, c.runs) || (len(m.Did("ioctl")) == 1) != (name != "unknown") {
				t.Errorf("Do(1) did %q; want %q", acts(m), c.runs)
			}
		})
	}
}
