package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

const treeUUID = "0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11"

// fake is a machine with LVM and a btrfs.
type fake struct {
	*machinetest.Machine
	t     *testing.T
	lvs   []map[string]string
	free  string          // of vg0
	pool  string          // how full vg0/pool is
	store string          // content of the btrfs while it is not mounted
	subs  map[string]bool // its subvolumes
	dms   int
	ended func() // called by each program, if not nil
}

func bytes(n quantity.Size) string { return fmt.Sprint(int64(n)) }

// said keeps what is reported.
type said struct {
	progress.None
	text []string
}

func (s *said) Note(f string, a ...any) { s.text = append(s.text, fmt.Sprintf(f, a...)) }
func (s *said) Warn(f string, a ...any) { s.Note(f, a...) }

func newFake(t *testing.T) (*fake, *Maker, *said) {
	f := &fake{Machine: machinetest.New(t), t: t, free: bytes(4 * quantity.GiB), pool: "40.00", store: filepath.Join(t.TempDir(), "store"), subs: map[string]bool{}, dms: 10}
	f.AddDisk("vda", 100*quantity.GiB, "A")
	f.AddDisk("vdb", 10*quantity.GiB, "B")
	f.AddDisk("vdc", 10*quantity.GiB, "C")
	f.Write("/sys/fs/btrfs/"+treeUUID+"/devices/vdb", "")
	for _, lv := range []string{"root", "home", "srv"} {
		f.addLV(lv)
	}
	for _, d := range []string{"@/var/inner", "@home"} {
		if err := os.MkdirAll(filepath.Join(f.store, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.subs = map[string]bool{"@": true, "@/var/inner": true, "@home": true}
	report := func(row func(r map[string]string) bool) (string, error) {
		var rows []map[string]string
		for _, r := range f.lvs {
			if row(r) {
				rows = append(rows, r)
			}
		}
		b, err := json.Marshal(map[string]any{"report": []any{map[string]any{"lv": rows}}})
		return string(b), err
	}
	f.Programs["lvm vgs"] = func(tool.Cmd) (string, error) {
		return `{"report":[{"vg":[{"vg_name":"vg0","vg_free":"` + f.free + `"}]}]}`, nil
	}
	f.Programs["lvm lvs"] = func(tool.Cmd) (string, error) {
		for _, r := range f.lvs {
			if r["lv_name"] == "pool" {
				r["data_percent"] = f.pool
			}
		}
		return report(func(map[string]string) bool { return true })
	}
	f.lvs = append(f.lvs, map[string]string{"vg_name": "vg0", "lv_name": "pool", "segtype": "thin-pool", "metadata_percent": "10.0"})
	f.Programs["lvm lvcreate"] = func(c tool.Cmd) (string, error) {
		name := c.Args[slices.Index(c.Args, "-n")+1]
		var tags []string
		for i, a := range c.Args {
			if a == "--addtag" {
				tags = append(tags, c.Args[i+1])
			}
		}
		f.addLV(name)
		f.lvs = append(f.lvs, map[string]string{"vg_name": "vg0", "lv_name": name, "origin": "x", "lv_tags": strings.Join(tags, ","), "lv_attr": "sri-a-s---", "data_percent": "1.00"})
		return "", nil
	}
	f.Programs["lvm lvremove"] = func(c tool.Cmd) (string, error) {
		f.lvs = slices.DeleteFunc(f.lvs, func(r map[string]string) bool { return r["vg_name"]+"/"+r["lv_name"] == c.Args[len(c.Args)-1] })
		return "", nil
	}
	rep := &said{}
	m := &Maker{Run: f, Report: rep, Records: filepath.Join(t.TempDir(), "records")}
	m.snapshot = func(src, dst string) error {
		if err := f.Note("snapshot %s %s", f.short(src), f.short(dst)); err != nil {
			return err
		}
		// A snapshot has empty directories in the place of subvolumes.
		if err := os.Mkdir(dst, 0o755); err != nil {
			return err
		}
		f.subs[f.short(dst)] = true
		if filepath.Base(src) == "@" {
			return os.MkdirAll(dst+"/var/inner", 0o755)
		}
		return nil
	}
	m.remove = func(dir string) error {
		delete(f.subs, f.short(dir))
		return errors.Join(f.Note("delete %s", f.short(dir)), os.RemoveAll(dir))
	}
	m.subvolumes = func(string) (list []btrfs.Subvolume, def uint64, err error) {
		for s := range f.subs {
			list = append(list, btrfs.Subvolume{Path: s})
		}
		return list, 5, nil
	}
	return f, m, rep
}

func (f *fake) addLV(name string) {
	if _, err := os.Lstat(f.Path("/dev/mapper/vg0-" + name)); err == nil {
		return
	}
	f.dms++
	f.AddVirtual(fmt.Sprint("dm-", f.dms), "vg0-"+name, quantity.GiB, "vda")
}

// short is a path in the mounted btrfs.
func (f *fake) short(p string) string {
	_, in, _ := strings.Cut(p, "btrfs-"+treeUUID+"/")
	return in
}

func (f *fake) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	if f.ended != nil {
		f.ended()
	}
	return f.Machine.Run(ctx, c)
}

// Mount has the content of the btrfs appear where it is mounted.
func (f *fake) Mount(source, dir, typ string, flags uintptr, data string) error {
	if err := f.Machine.Mount(source, dir, typ, flags, data); err != nil || source != "/dev/vdb" || strings.HasSuffix(dir, "/data") {
		return err
	}
	return errors.Join(os.Remove(dir), os.Rename(f.store, dir))
}

func (f *fake) MountReadOnly(dev, typ, dir string, options ...string) error {
	return f.Mount(dev, dir, typ, unix.MS_RDONLY, strings.Join(options, ","))
}

func (f *fake) Unmount(dir string) error {
	if err := f.Machine.Unmount(dir); err != nil {
		return err
	}
	if strings.Contains(dir, treeUUID) {
		return errors.Join(os.Rename(dir, f.store), os.Mkdir(dir, 0o700))
	}
	return nil
}

// left is what there is of snapshots: none of anybody's should be.
func (f *fake) left(m *Maker) (out []string) {
	for _, r := range f.lvs {
		if r["lv_tags"] != "" {
			out = append(out, r["lv_name"])
		}
	}
	for s := range f.subs {
		if strings.HasPrefix(s, ".") {
			out = append(out, s)
		}
	}
	if dirs, _ := filepath.Glob(f.store + "/.mkcdrec*"); len(dirs) > 0 {
		out = append(out, dirs...)
	}
	if dirs, _ := filepath.Glob(f.Path("/run/mkcdrec/*")); len(dirs) > 0 {
		out = append(out, dirs...)
	}
	records, _ := filepath.Glob(m.Records + "/*")
	return append(append(out, records...), slices.DeleteFunc(f.Mounted(), func(l string) bool { return strings.HasSuffix(l, " /data") })...)
}

// machine is the layout of the fake, and what is read of it.
func machine() (*layout.Layout, []Source) {
	l := &layout.Layout{VolumeGroup: []layout.VolumeGroup{{Name: "vg0", ExtentSize: 4 * quantity.MiB, LVs: []layout.LogicalVolume{
		{Name: "root", Size: 20 * quantity.GiB}, {Name: "home", Size: 10 * quantity.GiB}, {Name: "pool", Type: layout.TypeThinPool, Size: 20 * quantity.GiB}, {Name: "srv", Type: layout.TypeThin, Pool: "pool", Size: 30 * quantity.GiB}}}}}
	at := func(dev, typ, path string) layout.Filesystem {
		return layout.Filesystem{Device: dev, Type: typ, UUID: "uuid-" + path, Mounts: []layout.Mount{{Path: path}}}
	}
	l.Filesystems = []layout.Filesystem{at("vg0/root", "ext4", "/"), at("vg0/home", "xfs", "/home"), at("vda1", "ext4", "/boot"), at("vg0/srv", "ext4", "/srv"),
		{Device: "vdb", Type: "btrfs", UUID: treeUUID, Mounts: []layout.Mount{{Path: "/data", Subvolume: "@"}, {Path: "/data/home", Subvolume: "@home"}}, Subvolumes: []layout.Subvolume{{Path: "@"}, {Path: "@/var/inner"}, {Path: "@home"}}}}
	var out []Source
	for i := range l.Filesystems {
		out = append(out, Source{Filesystem: &l.Filesystems[i], Mounts: l.Filesystems[i].Parts()})
	}
	return l, out
}

const testID = "0123456789abcdef"

// golden is what is done for the fake's file systems, in order.
var golden = []string{
	"mount /dev/vdb /run/mkcdrec/snapshot-0123456789abcdef/btrfs-" + treeUUID + " btrfs subvolid=5",
	"run lvm lvcreate -q -y -s -p r -n mkcdrec_snap_0123456789abcdef_0 --addtag mkcdrec_snapshot --addtag mkcdrec_run_0123456789abcdef -L 2147483648b vg0/root",
	"run lvm lvcreate -q -y -s -p r -n mkcdrec_snap_0123456789abcdef_1 --addtag mkcdrec_snapshot --addtag mkcdrec_run_0123456789abcdef -L 1073741824b vg0/home",
	"run lvm lvcreate -q -y -s -p r -n mkcdrec_snap_0123456789abcdef_2 --addtag mkcdrec_snapshot --addtag mkcdrec_run_0123456789abcdef -kn -ay vg0/srv",
	"snapshot @ .mkcdrec-snapshot-0123456789abcdef/0",
	"snapshot @/var/inner .mkcdrec-snapshot-0123456789abcdef/0/var/inner",
	"snapshot @home .mkcdrec-snapshot-0123456789abcdef/1",
	"mount /dev/vg0/mkcdrec_snap_0123456789abcdef_1 /run/mkcdrec/snapshot-0123456789abcdef/1 xfs read-only",
	"unmount /run/mkcdrec/snapshot-0123456789abcdef/1",
	"unmount /run/mkcdrec/snapshot-0123456789abcdef/1",
	"run lvm lvremove -q -y vg0/mkcdrec_snap_0123456789abcdef_1",
	"run lvm lvremove -q -y vg0/mkcdrec_snap_0123456789abcdef_0",
	"run lvm lvremove -q -y vg0/mkcdrec_snap_0123456789abcdef_2",
	"delete .mkcdrec-snapshot-0123456789abcdef/1",
	"delete .mkcdrec-snapshot-0123456789abcdef/0/var/inner",
	"delete .mkcdrec-snapshot-0123456789abcdef/0",
	"unmount /run/mkcdrec/snapshot-0123456789abcdef/btrfs-" + treeUUID,
	"unmount /run/mkcdrec/snapshot-0123456789abcdef/btrfs-" + treeUUID,
}

// did is what was changed.
func (f *fake) did() []string {
	return slices.DeleteFunc(f.Did("run", "mount", "unmount", "snapshot", "delete"), func(l string) bool {
		return strings.HasPrefix(l, "run lvm lvs") || strings.HasPrefix(l, "run lvm vgs")
	})
}

// TestMake: snapshots are made one directly after another, read, and removed.
func TestMake(t *testing.T) {
	f, m, rep := newFake(t)
	l, sources := machine()
	p := m.Plan(t.Context(), testID, l, sources)
	if len(p.Live) != 1 || p.Live[0].Name != "/boot" || p.Has("vda1") || !p.Has("vdb") {
		t.Fatalf("Plan = %+v", p)
	}
	s, err := m.Make(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.Records, testID+".json")); err != nil {
		t.Error(err)
	}
	root, err := s.Open("vg0/home", layout.Mount{Path: "/home"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), "vg0/home"); err != nil {
		t.Errorf("Check = %v", err)
	}
	root.Close()
	s.Done(t.Context(), "vg0/home")
	if again, err := s.Open("vg0/home", layout.Mount{Path: "/home"}); again != nil || err != nil {
		t.Errorf("Open after Done = %v, %v", again, err)
	}
	if none, err := s.Open("vda1", layout.Mount{Path: "/boot"}); none != nil || err != nil {
		t.Errorf("Open without a snapshot = %v, %v", none, err)
	}
	part, err := s.Open("vdb", layout.Mount{Path: "/data/home", Subvolume: "@home"})
	if err != nil || !strings.HasSuffix(part.Name(), ".mkcdrec-snapshot-"+testID+"/1") {
		t.Errorf("Open = %v, %v", part, err)
	}
	part.Close()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := f.did(); !slices.Equal(got, golden) {
		t.Errorf("done:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(golden, "\n"))
	}
	if left := f.left(m); len(left) > 0 || len(rep.text) > 0 {
		t.Errorf("left %q, said %q", left, rep.text)
	}
}

// TestFailures: whatever step fails, nothing is left once it works again, and the file systems
// with a snapshot are those that are reported to have one.
func TestFailures(t *testing.T) {
	tried := map[string]bool{}
	for _, step := range golden {
		words := strings.Fields(step)
		for _, n := range []int{len(words), min(len(words), 3)} {
			fault := strings.Join(words[:n], " ")
			if tried[fault] {
				continue
			}
			tried[fault] = true
			f, m, rep := newFake(t)
			l, sources := machine()
			is := func(program string) bool { return words[0] == "run" && words[2] == program }
			f.Fail[fault] = errors.New("it fails")
			s, err := m.Make(t.Context(), m.Plan(t.Context(), testID, l, sources))
			if err != nil {
				t.Fatalf("%s: %v", fault, err)
			}
			if n == len(words) && is("lvcreate") && s.Has(words[n-1]) || words[0] == "snapshot" && len(rep.text) != 1 {
				t.Errorf("%s: has %v, said %q", fault, s.made, rep.text)
			}
			if words[0] == "snapshot" {
				part, err := s.Open("vdb", layout.Mount{Path: "/data", Subvolume: "@"})
				if live := strings.HasPrefix(words[1], "@/") || words[1] == "@"; (part == nil) != live || err != nil {
					t.Errorf("%s: the part is %v, %v; want it live: %v", fault, part, err, live)
				}
				part.Close()
			}
			if root, err := s.Open("vg0/home", layout.Mount{Path: "/home"}); err == nil && root != nil {
				root.Close()
			}
			closed := s.Close(t.Context())
			left := f.left(m)
			if removes := slices.Contains([]string{"unmount", "delete"}, words[0]) || is("lvremove"); removes != (closed != nil) && n == len(words) {
				t.Errorf("%s: Close = %v; left %q", fault, closed, left)
			}
			if closed == nil && len(left) > 0 || closed != nil && len(left) == 0 {
				t.Errorf("%s: Close = %v, and left %q", fault, closed, left)
			}
			delete(f.Fail, fault)
			f.Sweepable(t)
			if err := m.Sweep(t.Context()); err != nil || len(f.left(m)) > 0 {
				t.Errorf("%s: Sweep = %v, left %q", fault, err, f.left(m))
			}
		}
	}
}

// Sweepable has the machine show the btrfs as it is mounted by its owner.
func (f *fake) Sweepable(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(f.Path("/data"), 0o755), f.Machine.Mount("/dev/vdb", f.Path("/data"), "btrfs", 0, "")); err != nil {
		t.Fatal(err)
	}
}

// TestInterrupted: after Ctrl-C no further snapshot is made, and those that were are removed.
func TestInterrupted(t *testing.T) {
	f, m, _ := newFake(t)
	l, sources := machine()
	p := m.Plan(t.Context(), testID, l, sources)
	ctx, cancel := context.WithCancelCause(t.Context())
	f.ended = func() { cancel(&interrupt.Signal{Sig: os.Interrupt}) } // while the first is made
	if s, err := m.Make(ctx, p); s != nil || !interrupt.Is(err) {
		t.Errorf("Make = %v, %v", s, err)
	}
	n := 0
	for _, l := range f.did() {
		if strings.HasPrefix(l, "run lvm lvcreate") || strings.HasPrefix(l, "snapshot") {
			n++
		}
	}
	if left := f.left(m); n != 1 || len(left) > 0 {
		t.Errorf("%d snapshots were made; left %q", n, left)
	}
}

// TestSweep: what a run that was killed has left is removed, also after a reboot; what a run
// that has not ended has made stays, and so does what only looks like ours.
func TestSweep(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		f, m, rep := newFake(t)
		l, sources := machine()
		s, err := m.Make(t.Context(), m.Plan(t.Context(), testID, l, sources))
		if err != nil {
			t.Fatal(err)
		}
		f.Sweepable(t)
		theirs := []map[string]string{
			{"vg_name": "vg0", "lv_name": "mkcdrec_snap_fedcba9876543210_0", "origin": "root", "lv_tags": Tag + ",mkcdrec_run_fedcba9876543210"}, // of another machine
			{"vg_name": "vg1", "lv_name": "mkcdrec_snap_0123456789abcdef_0", "origin": "root", "lv_tags": "mkcdrec_snapshot,mkcdrec_run_0123456789abcdef"},
			{"vg_name": "vg0", "lv_name": "theirs", "origin": "root", "lv_tags": "mkcdrec_snapshot,mkcdrec_run_0123456789abcdef"},
		}
		f.lvs = append(f.lvs, theirs...)
		before := len(f.left(m))
		if err := m.Sweep(t.Context()); err != nil || len(f.left(m)) != before || len(rep.text) > 0 {
			t.Fatalf("before the run has ended: Sweep = %v, left %q, said %q", err, f.left(m), rep.text)
		}
		s.record.file.Close() // it is killed
		if reboot {
			if err := errors.Join(f.Unmount(f.Path("/run/mkcdrec/snapshot-"+testID+"/btrfs-"+treeUUID)), os.RemoveAll(f.Path("/run/mkcdrec"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Sweep(t.Context()); err != nil {
			t.Errorf("Sweep = %v", err)
		}
		if left := f.left(m); len(left) != len(theirs) || len(rep.text) != 1 || !strings.Contains(rep.text[0], "removing the snapshots of the backup of") {
			t.Errorf("left %q, said %q; want %d of others", left, rep.text, len(theirs))
		}
	}
	// A run that was killed before it wrote its record has made nothing.
	_, m, _ := newFake(t)
	if err := errors.Join(os.MkdirAll(m.Records, 0o700), os.WriteFile(filepath.Join(m.Records, testID+".json"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := m.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(m.Records, testID+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "can't be used") {
		t.Errorf("Sweep of a damaged record = %v", err)
	}
}

// TestCheck: a snapshot that was not whole to the end is reported.
func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		attr, data, want string
		device           string
	}{
		"whole":        {"sri-a-s---", "99.99", "", "vg0/root"},
		"invalid":      {"sri-I-s---", "100.00", "more was written to the volume than its snapshot of", "vg0/root"},
		"suspended":    {"sri-S-s---", "12.00", "more was written", "vg0/root"},
		"full":         {"sri-a-s---", "100.00", "more was written", "vg0/root"},
		"unknown":      {"sri-a-s---", "", "more was written", "vg0/root"},
		"cut off":      {"sri", "1.00", "more was written", "vg0/root"},
		"thin":         {"Vri-a-tz--", "100.00", "", "vg0/srv"},
		"thin, failed": {"Vri-a-tzF-", "", "the snapshot is damaged", "vg0/srv"},
		"removed":      {"", "", "the snapshot was removed", "vg0/srv"},
		"btrfs":        {"", "", "", "vdb"},
	} {
		f, m, _ := newFake(t)
		l, sources := machine()
		s, err := m.Make(t.Context(), m.Plan(t.Context(), testID, l, sources))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.lvs {
			r["lv_attr"], r["data_percent"] = c.attr, c.data
		}
		if name == "removed" {
			f.lvs = nil
		}
		if err := s.Check(t.Context(), c.device); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: Check = %v; want %q", name, err, c.want)
		}
		if c.device == "vg0/root" && c.want != "" {
			f.Fail["mount"] = errors.New("input/output error")
			if root, err := s.Open("vg0/root", layout.Mount{Path: "/"}); root != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: Open = %v, %v; want %q", name, root, err, c.want)
			}
		}
		f.Fail["run lvm lvs"] = errors.New("lvm fails")
		if err := s.Check(t.Context(), "vg0/root"); err == nil {
			t.Errorf("%s: Check without lvs = nil", name)
		}
	}
}

// TestFullPool: a thin pool that gets full while the backup runs loses its snapshots.
func TestFullPool(t *testing.T) {
	f, m, _ := newFake(t)
	l, sources := machine()
	s, err := m.Make(t.Context(), m.Plan(t.Context(), testID, l, sources))
	if err != nil {
		t.Fatal(err)
	}
	f.pool = "96.00"
	s.Done(t.Context(), "vg0/root")
	if root, err := s.Open("vg0/srv", layout.Mount{Path: "/srv"}); root != nil || err == nil || !strings.Contains(err.Error(), "thin pool vg0/pool is nearly full") {
		t.Errorf("Open = %v, %v", root, err)
	}
	if left := f.left(m); slices.Contains(left, "mkcdrec_snap_"+testID+"_2") || !slices.Contains(left, "mkcdrec_snap_"+testID+"_1") {
		t.Errorf("left %q", left)
	}
	if err := s.Close(t.Context()); err != nil || len(f.left(m)) > 0 {
		t.Errorf("Close = %v, left %q", err, f.left(m))
	}
}

// TestPlan: sizes are parts of what is free, and what has no room is read live with what to do.
func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fake, l *layout.Layout, s []Source)
		sizes  string // of the snapshots, in MiB
		live   string
	}{
		"enough":             {func(*fake, *layout.Layout, []Source) {}, "2048 1024 0", ""},
		"more than enough":   {func(f *fake, _ *layout.Layout, _ []Source) { f.free = bytes(quantity.TiB) }, "20480 10240 0", ""},
		"none free":          {func(f *fake, _ *layout.Layout, _ []Source) { f.free = "0" }, "0", "/: its snapshot would need 208.0 MiB of the volume group vg0, which has 0 B free for all of them; remove or shrink a volume, or add a disk (vgextend)|/home: its snapshot would need 104.0 MiB"},
		"for one only":       {func(f *fake, _ *layout.Layout, _ []Source) { f.free = bytes(200 * quantity.MiB) }, "148 0", "/: its snapshot would need 208.0 MiB"},
		"pool full":          {func(f *fake, _ *layout.Layout, _ []Source) { f.pool = "90.50" }, "2048 1024", "/srv: the thin pool vg0/pool is filled to 90 %, and a snapshot needs 10 % free; extend it (lvextend)"},
		"pool unknown":       {func(f *fake, _ *layout.Layout, _ []Source) { f.pool = "" }, "2048 1024", "/srv: it can't be read how full the thin pool vg0/pool is"},
		"metadata full":      {func(f *fake, _ *layout.Layout, _ []Source) { f.lvs[0]["metadata_percent"] = "81.0" }, "2048 1024", "/srv: the metadata of the thin pool vg0/pool is filled to 81 %"},
		"written to":         {func(_ *fake, _ *layout.Layout, s []Source) { s[0].Written = true; s[3].Written = true }, "3072 0", "/: the set is written to it"},
		"read-only":          {func(_ *fake, _ *layout.Layout, s []Source) { s[0].ReadOnly = true; s[4].ReadOnly = true }, "3072 0", ""},
		"LVM does not reply": {func(f *fake, _ *layout.Layout, _ []Source) { f.Fail["run lvm"] = errors.New("no locks") }, "", "/: cannot read LVM|/home: cannot read LVM|/srv: cannot read LVM"},
	} {
		f, m, _ := newFake(t)
		l, sources := machine()
		c.change(f, l, sources)
		p := m.Plan(t.Context(), testID, l, sources)
		var sizes, live []string
		for _, v := range p.volumes {
			sizes = append(sizes, fmt.Sprint(int64(v.size/quantity.MiB)))
		}
		for _, x := range p.Live {
			if x.Name != "/boot" {
				live = append(live, x.Name+": "+x.Why)
			}
		}
		want := strings.Split(c.live, "|")
		bad := strings.Join(sizes, " ") != c.sizes || len(live) != len(want) && c.live != "" || c.live == "" && len(live) > 0
		for i := range live {
			bad = bad || i < len(want) && !strings.HasPrefix(live[i], want[i])
		}
		if bad {
			t.Errorf("%s: sizes %q, live %q; want %q, %q", name, sizes, live, c.sizes, want)
		}
	}
}

// TestRunning: databases, containers and virtual machines are named by their processes, once.
func TestRunning(t *testing.T) {
	proc := t.TempDir()
	for pid, p := range map[string]struct{ comm, exe string }{
		"17": {"postgres", "/usr/lib/postgresql/15/bin/postgres"}, "3": {"postgres", ""}, "20": {"connection", "/usr/sbin/mariadbd (deleted)"},
		"21": {"containerd-shim", "/usr/bin/containerd-shim-runc-v2"}, "22": {"qemu-system-x86", "/usr/bin/qemu-system-x86_64"},
		"23": {"ora_pmon_ORCL", "/opt/oracle"}, "24": {"bash", "/bin/bash"}, "25": {"my-redis-server", "/bin/sh"}, "self": {"mongod", ""}, "26": {"containerd", "/usr/bin/containerd"},
	} {
		dir := filepath.Join(proc, pid)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/comm", []byte(p.comm+"\n"), 0o644), os.Symlink(p.exe+"", dir+"/exe")); err != nil && p.exe != "" {
			t.Fatal(err)
		}
	}
	var got []string
	for _, s := range Running(proc, nil) {
		got = append(got, s.Text(s.name == "containers"))
	}
	want := []string{
		"MySQL or MariaDB is running (process 20), and its files are read while they change; a hook of before-backup can save them better: mysqldump --all-databases --single-transaction",
		"PostgreSQL is running (process 3), and its files are read while they change; a hook of before-backup can save them better: pg_dumpall",
		"Oracle Database is running (process 23), and its files are read while they change; a hook of before-backup can save them better: RMAN",
		"containers are running (process 21), and a snapshot has their files as after a power failure; a hook of before-snapshot can save them better: podman pause --all, or what dumps their databases",
		"virtual machines are running (process 22), and their files are read while they change; a hook of before-backup can save them better: virsh domfsfreeze and domfsthaw",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for pid, to := range map[string]string{"20": "/var/lib/mysql/ibdata1", "22": "/srv/vm/disk.qcow2", "24": "/srv/x", "3": "socket:[1]"} {
		if err := errors.Join(os.Mkdir(filepath.Join(proc, pid, "fd"), 0o755), os.Symlink(to, filepath.Join(proc, pid, "fd", "5"))); err != nil {
			t.Fatal(err)
		}
	}
	if got := Running(proc, func(path string) bool { return strings.HasPrefix(path, "/srv/") }); len(got) != 1 || got[0].name != "virtual machines" {
		t.Errorf("Running for /srv = %v; want virtual machines, of which a disk is there", got)
	}
	if got := Running(proc+"/none", nil); got != nil {
		t.Errorf("without proc: %v", got)
	}
}
