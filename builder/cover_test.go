package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func contextFor(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), time.Minute)
}

// writerFor is a set that is being written for a plan, in a new directory.
func writerFor(t *testing.T, p *Plan) *setWriter {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/log", 0o700); err != nil {
		t.Fatal(err)
	}
	return &setWriter{b: &Builder{Run: tool.Exec{}, Report: progress.None{}, Config: &Config{}}, p: p, dir: dir, final: dir + "-final", man: &manifest.Manifest{}, log: slog.New(slog.NewJSONHandler(io.Discard, nil)), sfv: map[string]uint32{}}
}

func notCovered(s *setWriter) string { return strings.Join(s.man.NotCovered, "\n") }

// planFor plans archives of what is mounted at dir, from dev.
func planFor(dev, dir, typ string) *Plan {
	return &Plan{lacking: map[string]bool{}, Layout: &layout.Layout{Filesystems: []layout.Filesystem{{Device: strings.TrimPrefix(dev, "/dev/"), Type: typ, Size: 1, Mounts: []layout.Mount{{Path: dir}}}}}}
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
		s := writerFor(t, p)
		if err := s.archive(t.Context(), p.Archives[0]); err != nil || len(s.man.Archives) != 1 || s.man.Archives[0].Members < 2 || notCovered(s) != "" {
			t.Fatalf("mounted: %v, %+v, not covered %q", err, s.man.Archives, notCovered(s))
		}
		if over {
			btrfstest.Run(t, "mount", "-t", "tmpfs", "none", dir)
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		} else if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		s = writerFor(t, p)
		if err := s.archive(t.Context(), p.Archives[0]); err != nil {
			t.Fatal(err)
		}
		if len(s.man.Archives) != 0 || !strings.Contains(notCovered(s), dir) || p.Layout.Filesystems[0].Excluded == "" {
			t.Errorf("over=%v: archives %+v, not covered %q", over, s.man.Archives, notCovered(s))
		}
		if _, err := os.Stat(filepath.Join(s.dir, p.Archives[0].File)); err == nil {
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
	s := writerFor(t, p)
	if err := s.archive(t.Context(), p.Archives[0]); err != nil || len(s.man.Archives) != 1 {
		t.Errorf("the planned device is there again: %v, %s", err, notCovered(s))
	}
	btrfstest.Run(t, "mount", "-t", "tmpfs", "none", dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s = writerFor(t, p)
	if err := s.archive(t.Context(), p.Archives[0]); err != nil || len(s.man.Archives) != 0 || notCovered(s) == "" {
		t.Errorf("a tmpfs was archived in its place: %v, %+v", err, s.man.Archives)
	}
}

// A full disk ends the run; a file system that can't be read does not.
func TestOnlyWritingIsFatal(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	if err := os.WriteFile(dir+"/data", make([]byte, 9<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := planFor(dev, dir, "ext4")
	p.archives()
	s := writerFor(t, p)
	if err := os.Symlink("/dev/full", filepath.Join(s.dir, "full")); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	root, err := p.Archives[0].open(s.b, p)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	out := &sink{w: full}
	if _, err := archive.Create(t.Context(), out, root, archive.CreateOptions{}); err == nil || out.err == nil {
		t.Errorf("/dev/full: %v, kept %v", err, out.err)
	}
	p.Archives[0].Mount = "/no/such\ndirectory"
	if err := s.archive(t.Context(), p.Archives[0]); err != nil || !strings.Contains(notCovered(s), "/no/such") {
		t.Errorf("what can't be opened: %v, %q", err, notCovered(s))
	}
}

// The file system of the set, when it has other files, is saved without the
// backups; one for backups alone is left out.
func TestSetsFilesystem(t *testing.T) {
	dev, dir := btrfstest.MountOther(t, "ext4", 64<<20)
	dest := filepath.Join(dir, "deep", "backups")
	for _, d := range []string{dest + "/host-20261121T101010Z", dest + "/" + partial + "other-1", dir + "/deep/for other hosts"} {
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
	write(dest + "/" + partial + "other-1" + ownerSuffix)
	plan := func() *Plan {
		t.Helper()
		p := planFor(dev, dir, "ext4")
		p.Layout.Filesystems = append(p.Layout.Filesystems, layout.Filesystem{Device: "vda1", Type: "ext4", Mounts: []layout.Mount{{Path: "/proc"}}})
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
	if err := os.MkdirAll(dest+"/"+partial+"host-20261122T101010Z/log", 0o700); err != nil {
		t.Fatal(err)
	}
	s := writerFor(t, p)
	s.dir, s.final = dest+"/"+partial+"host-20261122T101010Z", dest+"/host-20261122T101010Z"
	if err := s.archive(t.Context(), p.Archives[i]); err != nil || len(s.man.Archives) != 1 {
		t.Fatalf("%v %s", err, notCovered(s))
	}
	r, err := archive.OpenFile(filepath.Join(s.dir, p.Archives[i].File))
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

// An image of a device that can change while it is read is in the set, and named.
func TestImageWriters(t *testing.T) {
	dev := btrfstest.Loop(t, 12<<20)
	m := &layout.Image{Device: strings.TrimPrefix(dev, "/dev/"), Size: 12 << 20}
	save := func() string {
		t.Helper()
		s := writerFor(t, &Plan{Layout: &layout.Layout{}})
		m.File = "x.img.zst"
		if err := s.image(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if len(s.man.Files) != 1 || m.File == "" {
			t.Errorf("it is not in the set: %+v", s.man)
		}
		return notCovered(s)
	}
	if got := save(); got != "" {
		t.Errorf("nobody uses it: %s", got)
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := save(); !strings.Contains(got, "has it open for writing") {
		t.Errorf("a program that writes: %q", got)
	}
	f.Close()
	if f, err = os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0); err != nil {
		t.Fatal(err)
	}
	if got := save(); !strings.Contains(got, "exclusively") {
		t.Errorf("somebody holds it: %q", got)
	}
	f.Close()
	btrfstest.Run(t, "mkfs.ext4", "-q", dev)
	dir := t.TempDir()
	for _, c := range []struct{ opt, want string }{{"ro", ""}, {"rw", "it is mounted on " + dir}} {
		btrfstest.Run(t, "mount", "-o", c.opt, dev, dir)
		if got := save(); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("mounted %s: %q", c.opt, got)
		}
		btrfstest.Run(t, "umount", dir)
	}
	// Written to and closed again in between: the count of sectors shows it.
	src, err := openImage(m)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	count := src.use.written()
	if f, err = os.OpenFile(dev, os.O_RDWR|unix.O_SYNC, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("guest"), 4<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if n := src.use.written(); count < 0 || n <= count {
		t.Errorf("%d sectors written before, %d after", count, n)
	}
	// A device that is missing is named; the set goes to its end.
	s := writerFor(t, &Plan{Layout: &layout.Layout{}})
	gone := &layout.Image{Device: "no/such", File: "y.img.zst"}
	if err := s.image(t.Context(), gone); err != nil || gone.File != "" || !strings.Contains(notCovered(s), "no/such (unknown content)") {
		t.Errorf("a device that is missing: %v, %q", err, notCovered(s))
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

// sha256sum(1) reads the lines of any name.
func TestSumLine(t *testing.T) {
	dir := t.TempDir()
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	var all string
	for _, n := range []string{"plain", `back\slash`, "new\nline", "ta\tb", "[x]*", "re\rturn"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		all += sumLine(empty, n)
	}
	if err := os.WriteFile(dir+"/SUMS", []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	btrfstest.Run(t, "sh", "-c", `cd "$1" && sha256sum --strict --quiet -c SUMS`, "sh", dir)
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
	s := writerFor(t, p)
	if err := s.archive(t.Context(), p.Archives[0]); err != nil || len(s.man.Archives) != 1 {
		t.Fatalf("%v, not covered %q", err, notCovered(s))
	}
	r, err := archive.OpenFile(filepath.Join(s.dir, p.Archives[0].File))
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
	s = writerFor(t, p)
	if err := s.archive(t.Context(), p.Archives[0]); err != nil || len(s.man.Archives) != 0 || !strings.Contains(notCovered(s), p.Archives[0].Device) {
		t.Errorf("not in use: %v, %q", err, notCovered(s))
	}
}

// What can't be read of a device is listed with its bytes, a few in the manifest.
func TestBadSectorsListed(t *testing.T) {
	s := writerFor(t, &Plan{Layout: &layout.Layout{}})
	m := &layout.Image{Device: "sdb3", Type: "ntfs"}
	sum := &blockcopy.Summary{ReadError: unix.EIO}
	for i := range int64(12) {
		sum.Bad = append(sum.Bad, blockcopy.Extent{Start: i * 8192, Length: 512})
	}
	s.imageProblems(m, sum, nil, &deviceUse{dev: "/no/such"}, -1)
	if got := notCovered(s); !strings.Contains(got, "sdb3 (ntfs): 6144 bytes can't be read") || !strings.Contains(got, "bytes 0 to 511, 8192 to 8703") || !strings.Contains(got, "and 2 more ranges") {
		t.Errorf("not covered: %q", got)
	}
}

// What the manifest lists of an archive is bounded, so that it can be read.
func TestManyProblems(t *testing.T) {
	s := writerFor(t, &Plan{Layout: &layout.Layout{}})
	sum := &archive.Summary{}
	for range mostProblems + 5 {
		sum.Problems = append(sum.Problems, archive.Problem{Path: "x", Kind: archive.Unreadable, Detail: "input/output error"})
	}
	s.archived(PlannedArchive{File: "a", Mount: "/srv"}, sum, 0)
	if n := len(s.man.NotCovered); n != mostProblems+1 || !strings.Contains(s.man.NotCovered[n-1], "/srv: 5 more paths") {
		t.Errorf("%d entries, the last %q", n, s.man.NotCovered[n-1])
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
