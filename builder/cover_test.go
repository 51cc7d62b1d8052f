package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// setOf writes the set of a plan into a new directory.
func setOf(t *testing.T, p *Plan) (dir string, m *manifest.Manifest) {
	t.Helper()
	return setIn(t, p, t.TempDir())
}

func setIn(t *testing.T, p *Plan, parent string) (dir string, m *manifest.Manifest) {
	t.Helper()
	b := &Builder{Run: tool.Exec{}, Report: progress.None{}, Config: &Config{}}
	sink, err := set.NewDirectory(parent, p.Layout.Hostname, time.Now(), b.Report)
	if err != nil {
		t.Fatal(err)
	}
	man, err := b.write(t.Context(), p, uuid.New(), time.Now(), sink, parent, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return sink.Final(), man
}

// testSet writes a set of host with one archive below parent.
func testSet(t *testing.T, parent string) string {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(src+"/f00", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	p := planFor("/dev/no-such-disk", src, "ext4")
	p.Layout.Hostname = "host"
	p.archives()
	p.Archives[0].File = "sda1._.tar.zst"
	dir, m := setIn(t, p, parent)
	if len(m.Archives) != 1 {
		t.Fatal(notCovered(m))
	}
	return dir
}

func notCovered(m *manifest.Manifest) string { return strings.Join(m.NotCovered, "\n") }

// planFor plans archives of what is mounted at dir, from dev, a whole disk.
func planFor(dev, dir, typ string) *Plan {
	p := &Plan{lacking: map[string]bool{}, Layout: &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}}
	p.addDisk(strings.TrimPrefix(dev, "/dev/"), dir, typ)
	return p
}

func (p *Plan) addDisk(dev, dir, typ string) {
	p.Layout.Disks = append(p.Layout.Disks, layout.Disk{Name: dev, Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512})
	p.Layout.Filesystems = append(p.Layout.Filesystems, layout.Filesystem{Device: dev, Type: typ, UUID: uuid.New(), Size: 1 << 26, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1}}, Mounts: []layout.Mount{{Path: dir}}})
}

// A file system that was unmounted, or hidden by another one, after the plan is
// not covered, by name; there is never an empty archive of it. The rest of the set
// is made.
func TestUnmountedSincePlan(t *testing.T) {
	for _, over := range []bool{false, true} {
		dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
		if err := os.WriteFile(dir+"/data", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := planFor(dev, dir, "ext4")
		p.archives()
		_, m := setOf(t, p)
		if len(m.Archives) != 1 || m.Archives[0].Members < 2 || notCovered(m) != "" {
			t.Fatalf("mounted: %+v, not covered %q", m.Archives, notCovered(m))
		}
		if over {
			btrfstest.Run(t, "mount", "-t", "tmpfs", "none", dir)
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		} else if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		made, m := setOf(t, p)
		if len(m.Archives) != 0 || !strings.Contains(notCovered(m), dir) || p.Layout.Filesystems[0].Excluded == "" {
			t.Errorf("over=%v: archives %+v, not covered %q", over, m.Archives, notCovered(m))
		}
		if _, err := os.Stat(filepath.Join(made, p.Archives[0].File)); err == nil {
			t.Error("there is an archive of it")
		}
	}
}

// A plan that saw something else at the mount point than the layout's device does
// not archive that.
func TestOvermountedAtPlan(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	btrfstest.Run(t, "mount", "-t", "tmpfs", "none", dir)
	p := planFor(dev, dir, "ext4")
	p.archives()
	unix.Unmount(dir, unix.MNT_DETACH) // the tmpfs
	if _, m := setOf(t, p); len(m.Archives) != 1 {
		t.Errorf("the planned device is there again: %s", notCovered(m))
	}
	btrfstest.Run(t, "mount", "-t", "tmpfs", "none", dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if _, m := setOf(t, p); len(m.Archives) != 0 || notCovered(m) == "" {
		t.Errorf("a tmpfs was archived in its place: %+v", m.Archives)
	}
}

// The file system of the set, when it has other files, is saved without the
// backups; one for backups alone is left out.
func TestSetsFilesystem(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	dest := filepath.Join(dir, "deep", "backups")
	for _, d := range []string{dest + "/host-20261121T101010Z", dest + "/" + set.Partial + "other-1", dir + "/deep/for other hosts"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(dest + "/host-20261121T101010Z/" + manifest.File)
	write(dest + "/host-20261121T101010Z_1.iso")
	write(dest + "/" + set.Partial + "other-1.owner")
	plan := func() *Plan {
		t.Helper()
		p := planFor(dev, dir, "ext4")
		p.addDisk("vda1", "/proc", "ext4")
		p.Layout.Fstab = dev + " " + dir + " ext4 defaults 0 2\n"
		if err := p.holder(dest, nil); err != nil {
			t.Fatal(err)
		}
		p.exclusions(&Config{})
		p.archives()
		p.leaveSets()
		return p
	}
	if p := plan(); p.Layout.Filesystems[0].Excluded != manifest.RuleHolder || len(p.Archives) != 1 || len(p.NotCovered) > 0 {
		t.Errorf("a disk for backups: %+v, not covered %v", p.Archives, p.NotCovered)
	}
	write(dir + "/letter")
	write(dest + "/notes")
	p := plan()
	if p.Layout.Filesystems[0].Excluded != "" || len(p.NotCovered) > 0 || len(p.Archives) != 2 {
		t.Fatalf("a file system with other files, too: %+v, not covered %v", p.Layout.Filesystems[0], p.NotCovered)
	}
	i := 0
	if p.Archives[0].Mount != dir {
		i = 1
	}
	// What is written now appears after the plan.
	p.Archives, p.holderArchive = p.Archives[i:i+1], 1
	made, m := setIn(t, p, dest)
	if len(m.Archives) != 1 {
		t.Fatal(notCovered(m))
	}
	r, err := archive.OpenFile(filepath.Join(made, p.Archives[0].File))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	if err := r.Entries(func(e archive.Entry) error {
		if e.Type == archive.TypeFile {
			got = append(got, e.Path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if strings.Join(got, " ") != "deep/backups/notes letter" {
		t.Errorf("saved: %q", got)
	}
	// Not a part of the machine: by name, and exit 3.
	p = planFor(dev, dir, "ext4")
	if err := p.holder(dest, nil); err != nil {
		t.Fatal(err)
	}
	p.exclusions(&Config{})
	if got := strings.Join(p.NotCovered, ";"); !strings.Contains(got, "letter") || p.Layout.Filesystems[0].Excluded == "" {
		t.Errorf("a disk that is not in fstab: not covered %q", got)
	}
}

// What was mounted after the plan is named.
func TestMountedSincePlan(t *testing.T) {
	p := planFor("/dev/vda1", "/", "ext4")
	p.mounts = []probe.MountInfo{{Device: "vda1", Path: "/"}, {Device: "vdb", Path: "/image"}}
	now := append(p.mounts, probe.MountInfo{Device: "vdc1", Path: "/new", Type: "xfs"}, probe.MountInfo{Device: "vdc1", Path: "/again"}, probe.MountInfo{Path: "/proc", Type: "proc"}, probe.MountInfo{Device: "loop3", Path: "/snap/x"}, probe.MountInfo{Device: "sda3", Path: "/run/key", Type: "ext4"})
	if got := newMounts(p, now, "/run/key/set"); len(got) != 1 || got[0].Path != "/new" {
		t.Errorf("new: %+v", got)
	}
}

// Names that differ in case alone have archives that differ in more.
func TestDistinct(t *testing.T) {
	p := planFor("/dev/vda1", "/Data", "ext4")
	p.Layout.Filesystems = append(p.Layout.Filesystems, layout.Filesystem{Device: "vda1", Type: "ext4", Mounts: []layout.Mount{{Path: "/data"}}})
	p.archives()
	if a, b := p.Archives[0].File, p.Archives[1].File; strings.EqualFold(a, b) {
		t.Errorf("%s and %s", a, b)
	}
}

// A file system of which only a directory is mounted is saved as a whole, through a
// mount of our own.
func TestPrivateFilesystem(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	for _, d := range []string{"/seen", "/hidden"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+d+"/file", []byte(d), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bind := t.TempDir()
	btrfstest.Run(t, "mount", "--bind", dir+"/seen", bind)
	t.Cleanup(func() { unix.Unmount(bind, unix.MNT_DETACH) })
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	p := planFor(dev, dir, "ext4")
	p.Layout.Filesystems[0].Mounts, p.Layout.Filesystems[0].Private = nil, true
	p.archives()
	if len(p.Archives) != 1 || p.Archives[0].Mount != "" {
		t.Fatalf("planned: %+v", p.Archives)
	}
	made, m := setOf(t, p)
	if len(m.Archives) != 1 {
		t.Fatalf("not covered %q", notCovered(m))
	}
	r, err := archive.OpenFile(filepath.Join(made, p.Archives[0].File))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	if err := r.Entries(func(e archive.Entry) error { got = append(got, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, "seen/file") || !slices.Contains(got, "hidden/file") {
		t.Errorf("saved: %q", got)
	}
	// Not in use any more: mounting it would write to it.
	if err := unix.Unmount(bind, 0); err != nil {
		t.Fatal(err)
	}
	if _, m := setOf(t, p); len(m.Archives) != 0 || !strings.Contains(notCovered(m), p.Archives[0].Device) {
		t.Errorf("not in use: %q", notCovered(m))
	}
}

// What probe leaves alone is printed, a line for each, and is not "not covered".
func TestAwayListed(t *testing.T) {
	root := t.TempDir()
	var text string
	types := []string{"nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs", "fuse.rclone", "fuse"}
	for i, typ := range types {
		text += fmt.Sprintf("%d 22 0:%d / /mnt/%d rw - %s //host/%d rw\n", 40+i, 70+i, i, typ, i)
	}
	for p, b := range map[string]string{"/proc/self/mountinfo": text, "/sys/block/x": ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+p), 0o755), os.WriteFile(root+p, []byte(b), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	is, err := probe.Machine{Root: root, Run: &tool.Recorder{}}.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := twoDisks("/no-such-mount")
	l.LeftAlone, l.Unsupported = is.LeftAlone, is.Unsupported
	p, err := NewPlan(&Config{}, l, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	left := strings.Join(p.LeftOut, "\n") + "\n"
	for i, typ := range types {
		if !strings.Contains(left, fmt.Sprintf("/mnt/%d: a ", i)) || !strings.Contains(left, "("+typ+")") {
			t.Errorf("%s is not listed:\n%s", typ, left)
		}
	}
	if strings.Contains(strings.Join(p.NotCovered, "\n"), "/mnt") {
		t.Errorf("not covered: %q", p.NotCovered)
	}
}

// What has no device of its own is excluded by its own name, by that of the device it is
// on, and with the disks under that.
func TestExcludeParts(t *testing.T) {
	for name, want := range map[string]string{
		"vdd":             "hybrid vg9 LUKS",
		"/dev/vdd":        "hybrid vg9 LUKS",
		"disk/by-id/D":    "hybrid vg9 LUKS",
		"vdd1":            "vg9 LUKS",
		"vg9":             "vg9",
		"hybrid-mbr:vdd":  "hybrid",
		"vdd:hybrid-mbr":  "hybrid",
		"vdb":             "",
		"hybrid-mbr:vdb":  "",
		"something-other": "",
	} {
		l := twoDisks("/no-such-mount")
		l.Links["vdd"] = []string{"by-id/D"}
		l.Crypts = []layout.Crypt{{Name: "secret", Device: "vdd1"}}
		l.Unsupported = []layout.Unsupported{{What: "hybrid-mbr:vdd", Device: "vdd:hybrid-mbr", Reason: "hybrid"}, {What: "vg9", Device: "vdd1:vg9", Reason: "a part of vg9 is missing"}}
		p, err := NewPlan(&Config{ExcludeDevices: []string{name}}, l, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		not := strings.Join(p.NotCovered, ";")
		for _, part := range []string{"hybrid", "vg9", "LUKS"} {
			if got := !strings.Contains(not, part); got != strings.Contains(want, part) {
				t.Errorf("exclude_devices: %s: %s excluded %v; not covered: %s", name, part, got, not)
			}
		}
	}
}

// The directory that a run works in is not backed up, whatever it is called.
func TestLeaveOut(t *testing.T) {
	p := &Plan{}
	if err := p.leaveOut(&Config{Exclude: []string{"/tmp/*"}}, `/root/a*b[c]\d/.mkcdrec-tape-1`); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{`/root/a*b[c]\d/.mkcdrec-tape-1`: true, `/root/axb[c]\d/.mkcdrec-tape-1`: false, "/tmp/x": true, "/root": false} {
		if got := p.exclude.Match(path) != ""; got != want {
			t.Errorf("%s: left out %v; want %v", path, got, want)
		}
	}
	if err := p.leaveOut(&Config{}, `/srv/[a]*/work`); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{`/srv/[a]*/work`: true, `/srv/[a]*/work/set`: false, `/srv/a/work`: false, `/srv/[a]*`: false, `/srv/[a]*/other`: false, `/srv/[a]x/work`: false} {
		if got := p.exclude.Match(path) != ""; got != want {
			t.Errorf("%s: left out %v; want %v", path, got, want)
		}
	}
}
