package builder

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

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// groupText is LVM's text of the volume group of a snapMachine.
const groupText = `vg0 {
id = "abcdef-0123-4567-89ab-cdef-0123-456789"
extent_size = 8192
physical_volumes {
pv0 {
id = "abcdef-0123-4567-89ab-cdef-0123-456789"
pe_start = 2048
pe_count = 1023
}
}
logical_volumes {
root {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 256
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
}
}
}
`

// snapMachine is a machine with a file system on LVM, whose snapshots have another file.
type snapMachine struct {
	*machinetest.Machine
	t     *testing.T
	b     *Builder
	rest  tool.Runner // programs that are not LVM's or hooks
	said  *notes
	to    string // where sets are written to
	snaps []string
	full  bool // snapshots have no room
}

func newSnapMachine(t *testing.T) *snapMachine {
	m := &snapMachine{Machine: machinetest.New(t), t: t, b: fakeMachine(t), said: &notes{}, to: t.TempDir()}
	m.AddDisk("vda", 10*quantity.GiB, "A")
	m.Content["dm-0"] = map[string]string{"file": "of the snapshot"}
	m.Programs["lvm vgs"] = func(tool.Cmd) (string, error) {
		return `{"report":[{"vg":[{"vg_name":"vg0","vg_free":"1073741824"}]}]}`, nil
	}
	m.Programs["lvm lvs"] = func(tool.Cmd) (string, error) {
		rows := []map[string]string{}
		for _, s := range m.snaps {
			rows = append(rows, map[string]string{"vg_name": "vg0", "lv_name": s, "origin": "root", "data_percent": "1.0",
				"lv_tags": "mkcdrec_snapshot,mkcdrec_run_" + strings.Split(s, "_")[2], "lv_attr": map[bool]string{true: "sri-I-s---", false: "sri-a-s---"}[m.full]})
		}
		out, err := json.Marshal(map[string]any{"report": []any{map[string]any{"lv": rows}}})
		return string(out), err
	}
	m.Programs["lvm lvcreate"] = func(c tool.Cmd) (string, error) {
		name := c.Args[slices.Index(c.Args, "-n")+1]
		m.snaps = append(m.snaps, name)
		m.AddVirtual("dm-0", "vg0-"+name, quantity.GiB, "vda")
		return "", nil
	}
	m.Programs["lvm lvremove"] = func(tool.Cmd) (string, error) {
		m.snaps = nil
		m.Remove("dm-0")
		return "", nil
	}
	m.rest, m.b.Run, m.b.Report = m.b.Run, m, m.said
	m.b.Snapshots = filepath.Join(t.TempDir(), "snapshots")
	m.b.Config.Snapshot, m.b.Config.Hooks.Dir = snapshotAuto, t.TempDir()
	return m
}

// Run implements tool.Runner.
func (m *snapMachine) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	switch {
	case c.Args[0] == "lvm":
		return m.Machine.Run(ctx, c)
	case strings.HasPrefix(c.Args[0], m.b.Config.Hooks.Dir):
		_ = m.Note("hook %s", strings.TrimPrefix(c.Args[0], m.b.Config.Hooks.Dir+"/"))
		return tool.Exec{}.Run(ctx, c)
	}
	return m.rest.Run(ctx, c)
}

func (m *snapMachine) hook(point, text string) {
	m.t.Helper()
	file := filepath.Join(m.b.Config.Hooks.Dir, point, "10")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o755)); err != nil {
		m.t.Fatal(err)
	}
}

// plan is of a file system on LVM and one beside it.
func (m *snapMachine) plan() *Plan {
	m.t.Helper()
	root, boot := m.t.TempDir(), m.t.TempDir()
	if err := errors.Join(os.WriteFile(root+"/file", []byte("live"), 0o600), os.WriteFile(boot+"/kernel", []byte("live"), 0o600)); err != nil {
		m.t.Fatal(err)
	}
	p := planFor("/dev/no-such-disk", boot, "ext4")
	p.Layout.Hostname, p.Layout.Kernel.Release = "host", "6.1.0-test"
	const lvm = "abcdef-0123-4567-89ab-cdef-0123-456789"
	p.Layout.Disks = append(p.Layout.Disks, layout.Disk{Name: "sdz", Size: 8 << 30, LogicalSector: 512, PhysicalSector: 512})
	p.Layout.VolumeGroup = []layout.VolumeGroup{{Name: "vg0", UUID: lvm, ExtentSize: 4 * quantity.MiB, PVs: []layout.PhysicalVolume{{Device: "sdz", UUID: lvm, Size: 4 * quantity.GiB}}, LVs: []layout.LogicalVolume{{Name: "root", UUID: lvm, Size: quantity.GiB}}, Config: groupText}}
	p.Layout.Filesystems = append(p.Layout.Filesystems, layout.Filesystem{Device: "vg0/root", Type: fstype.TypeExt4, UUID: "6d6b6364-7265-4c55-8b53-000000000009", Size: 1 << 26, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1}}, Mounts: []layout.Mount{{Path: root}}})
	p.archives()
	for i := range p.Archives {
		a := &p.Archives[i]
		a.File, a.root = map[bool]string{true: "vg0-root._.tar.zst", false: "vda1._boot.tar.zst"}[a.Device == "vg0/root"], archive.Root{}
	}
	return p
}

// backUp makes a set, and returns its directory, "" for none.
func (m *snapMachine) backUp(ctx context.Context) (dir string, err error) {
	err = m.b.Hooked(ctx, "path", m.to, func() (string, error) {
		r, err := m.b.Path(ctx, m.plan(), m.to)
		if err != nil {
			return "", err
		}
		dir = r.Dir
		return dir, nil
	})
	return dir, err
}

// file is the text of the file in the set's archive of the root.
func (m *snapMachine) file(dir string) string {
	m.t.Helper()
	s, err := manifest.Open(dir)
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Close()
	to := m.t.TempDir()
	if _, lost, err := s.ExtractPaths(m.t.Context(), nil, to, archive.ExtractOptions{}, progress.None{}); err != nil || len(lost) > 0 {
		m.t.Fatal(lost, err)
	}
	text := ""
	_ = filepath.WalkDir(to, func(p string, d os.DirEntry, _ error) error {
		if b, err := os.ReadFile(p); err == nil && d.Name() == "file" {
			text = string(b)
		}
		return nil
	})
	return text
}

// order is what was done, without arguments.
func (m *snapMachine) order() string {
	var out []string
	for _, l := range m.Did("hook", "run", "mount", "unmount") {
		f := strings.Fields(l)
		switch {
		case f[0] == "hook":
			out = append(out, f[1])
		case f[0] == "run" && f[2] != "lvs" && f[2] != "vgs":
			out = append(out, f[2])
		case f[0] == "mount":
			out = append(out, f[0])
		}
	}
	return strings.Join(out, " ")
}

// clean fails the test if anything of a snapshot is left.
func (m *snapMachine) clean(name string) {
	m.t.Helper()
	records, _ := filepath.Glob(m.b.Snapshots + "/*")
	dirs, _ := filepath.Glob(m.Path("/run/mkcdrec/*"))
	if left := slices.Concat(m.snaps, m.Mounted(), records, dirs); len(left) > 0 {
		m.t.Errorf("%s: left: %q", name, left)
	}
}

// TestSnapshots: hooks run right around the making of snapshots, which are read, and removed
// after the backup, however it ends.
func TestSnapshots(t *testing.T) {
	hooked := "before-backup/10 before-snapshot/10 lvcreate after-snapshot/10 mount lvremove after-backup/10"
	for name, c := range map[string]struct {
		change            func(m *snapMachine)
		order, file, said string
		status            int
	}{
		"made":          {func(*snapMachine) {}, hooked, "of the snapshot", "read live, without a snapshot: BOOT: it is neither on LVM nor a btrfs", 0},
		"off":           {func(m *snapMachine) { m.b.Config.Snapshot = snapshotOff }, "before-backup/10 after-backup/10", "live", "the hooks of before-snapshot and after-snapshot do not run: the configuration has no snapshot: auto", 0},
		"before fails":  {func(m *snapMachine) { m.hook("before-snapshot", "exit 3") }, "before-backup/10 before-snapshot/10 after-snapshot/10 after-backup/10", "", "", exit.Refused},
		"before hangs":  {func(m *snapMachine) { m.b.Config.Hooks.Timeout = "1s"; m.hook("before-snapshot", "sleep 600") }, "before-backup/10 before-snapshot/10 after-snapshot/10 after-backup/10", "", "", exit.Refused},
		"after fails":   {func(m *snapMachine) { m.hook("after-snapshot", "exit 3") }, hooked, "of the snapshot", "after-snapshot/10 failed: exit status 3", exit.Failed},
		"not made":      {func(m *snapMachine) { m.Fail["run lvm lvcreate"] = errors.New("no room") }, strings.Replace(hooked, " mount lvremove", "", 1), "live", "/dev/vg0/root is read live, without a snapshot: cannot make a snapshot", 0},
		"not mounted":   {func(m *snapMachine) { m.Fail["mount"] = errors.New("wrong type") }, hooked, "live", "is read live, without a snapshot: wrong type", 0},
		"full":          {func(m *snapMachine) { m.full = true }, hooked, "live", "is read live, without a snapshot: more was written to the volume than its snapshot of 768.0 MiB has room for", 0},
		"no record":     {func(m *snapMachine) { m.b.Snapshots = "/proc/none" }, "before-backup/10 before-snapshot/10 after-snapshot/10 after-backup/10", "live", "all file systems are read live, without snapshots: cannot record which snapshots are made", 0},
		"no removal":    {func(m *snapMachine) { m.Fail["run lvm lvremove"] = errors.New("busy") }, "before-backup/10 before-snapshot/10 lvcreate after-snapshot/10 mount lvremove lvremove after-backup/10", "of the snapshot", "the next backup will try again: cannot remove the snapshot vg0/mkcdrec_snap_", 0},
		"nothing fits":  {func(m *snapMachine) { m.Fail["run lvm vgs"] = errors.New("no locks") }, "before-backup/10 after-backup/10", "live", "do not run: no file system can have a snapshot", 0},
		"a hook's list": {func(m *snapMachine) { m.hook("after-snapshot", "echo live: $MKCDREC_LIVE") }, hooked, "of the snapshot", "after-snapshot/10: live: BOOT", 0},
	} {
		m := newSnapMachine(t)
		for _, point := range []string{"before-backup", "before-snapshot", "after-snapshot", "after-backup"} {
			m.hook(point, "exit 0")
		}
		c.change(m)
		dir, err := m.backUp(t.Context())
		if exit.Code(err) != c.status {
			t.Errorf("%s: %v; want status %d", name, err, c.status)
		}
		if got := m.order(); got != c.order {
			t.Errorf("%s: order %q; want %q", name, got, c.order)
		}
		said := strings.Join(m.said.lines, "\n")
		if dir != "" {
			if text := m.file(dir); text != c.file {
				t.Errorf("%s: the file is %q; want %q", name, text, c.file)
			}
			log, err := os.ReadFile(dir + "/log/run.jsonl")
			if err != nil || strings.Contains(string(log), `"device":"vg0/root","file":"vg0-root._.tar.zst","members":2,"earlier":0,"bytes":15,"packed"`) != (c.file == "of the snapshot") {
				t.Errorf("%s: log %v\n%s", name, err, log)
			}
			if name == "a hook's list" && !strings.Contains(string(log), `"line":"after-snapshot/10: live: `) {
				t.Errorf("%s: log\n%s", name, log)
			}
		} else if left, _ := os.ReadDir(m.to); len(left) > 0 {
			t.Errorf("%s: left: %v", name, left)
		}
		for _, w := range strings.Split(c.said, "BOOT") {
			if !strings.Contains(said, w) {
				t.Errorf("%s: said %s\nwant %q", name, said, c.said)
			}
		}
		if name == "no removal" {
			m.Fail = map[string]error{}
			if len(m.snaps) == 0 {
				t.Errorf("%s: it was removed", name)
			}
			m.b.sweepSnapshots(t.Context())
		}
		if name != "no record" {
			m.clean(name)
		}
	}
}

// TestSnapshotInterrupted: Ctrl-C while files are read removes the snapshots, too.
func TestSnapshotInterrupted(t *testing.T) {
	m := newSnapMachine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	m.hook("after-snapshot", "exit 0")
	lvs := m.Programs["lvm lvs"]
	m.Programs["lvm lvs"] = func(c tool.Cmd) (string, error) { // when the snapshot is checked
		if len(m.snaps) > 0 {
			cancel(&interrupt.Signal{Sig: os.Interrupt})
		}
		return lvs(c)
	}
	if dir, err := m.backUp(ctx); dir != "" || !interrupt.Is(err) {
		t.Errorf("Path = %q, %v", dir, err)
	}
	m.clean("interrupted")
}

// TestSnapshotLeftOut: the directories with snapshots in the top level of a btrfs are in no
// archive, nor are the records.
func TestSnapshotLeftOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, probe.SnapshotDir+"0123"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := planFor("/dev/no-such-disk", dir, fstype.TypeBtrfs)
	p.archives()
	b := &Builder{Config: &Config{Snapshot: snapshotAuto}, Snapshots: dir + "/var/records", Report: progress.None{}, Run: &tool.Recorder{}}
	p.planSnapshots(t.Context(), b)
	for _, want := range []string{probe.SnapshotDir + "0123", p.snapshotPlan.Dir(), "var/records"} {
		if p.Archives[0].leftOut[want] == "" {
			t.Errorf("%s is not left out: %v", want, p.Archives[0].leftOut)
		}
	}
	p.mounts = []probe.MountInfo{{Device: "no-such-disk", SuperReadOnly: true}}
	if p.planSnapshots(t.Context(), b); !p.snapshotPlan.Empty() {
		t.Errorf("of what is mounted read-only a snapshot is made: %+v", p.snapshotPlan)
	}
	for _, v := range []string{"", "auto", "off"} {
		if err := (&Config{Snapshot: v}).Validate(); err != nil && strings.Contains(err.Error(), "snapshot") {
			t.Errorf("snapshot: %q = %v", v, err)
		}
	}
	if err := (&Config{Snapshot: "yes"}).Validate(); err == nil || !strings.Contains(err.Error(), `snapshot: "yes"; want auto or off`) {
		t.Errorf("Validate = %v", err)
	}
	said := &notes{}
	b.Report = said
	p.mounts = nil
	b.SnapshotPlan(t.Context(), p)
	if got := fmt.Sprint(said.lines); !strings.Contains(got, dir+" would be read from a snapshot") {
		t.Errorf("SnapshotPlan says %s", got)
	}
}
