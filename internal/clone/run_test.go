package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// recorder records what a clone shows, and answers.
type recorder struct {
	text    strings.Builder
	onPhase func(name string)
	confirm []string
}

func (s *recorder) Phase(name string, _ int64) progress.Counter {
	if s.onPhase != nil {
		s.onPhase(name)
	}
	fmt.Fprintln(&s.text, "phase:", name)
	return progress.None{}
}
func (s *recorder) Note(f string, a ...any)                { fmt.Fprintf(&s.text, f+"\n", a...) }
func (s *recorder) Warn(f string, a ...any)                { fmt.Fprintf(&s.text, f+"\n", a...) }
func (s *recorder) Secret(string) ([]byte, error)          { return nil, errors.New("no terminal") }
func (s *recorder) Choose(*plan.Undecided) (string, error) { return "", errors.New("nobody chose") }
func (s *recorder) Confirm(p *plan.Plan) ([]string, error) { return s.confirm, nil }
func (s *recorder) Plan(p *plan.Plan, c restore.Content) {
	fmt.Fprintln(&s.text, c.Name())
	for _, x := range p.Steps {
		fmt.Fprintln(&s.text, "step:", x)
	}
}

// run runs a program that a test needs, and skips the test where it is missing.
func run(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is missing", args[0])
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v %s", args, err, out)
	}
}

// needsLoops skips a test where it cannot have loop devices and mount them.
func needsLoops(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
}

// data is what the file "file" of the images has.
var data = bytes.Repeat([]byte("content "), 1<<18)

// ext4 makes an image of an ext4 with one file.
func ext4(t *testing.T, name, size string) {
	t.Helper()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "-s", size, name)
	run(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, name)
}

// checkExt4 checks an ext4 and its file.
func checkExt4(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", name).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "cat /file", name).Output(); err != nil || !bytes.Equal(out, data) {
		t.Errorf("the file has %d bytes, %v", len(out), err)
	}
}

// part is the unfinished image file in dir.
func part(t *testing.T, dir string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(all) != 1 {
		t.Fatalf("part files: %v, %v", all, err)
	}
	return all[0]
}

// TestVerify: a clone whose copy is equal is verified, also where it is smaller and has a new
// UUID; one that differs ends with an error that names the place.
func TestVerify(t *testing.T) {
	needsLoops(t)
	for name, c := range map[string]struct {
		o     Options
		phase string // in which the copy is changed
		where func(t *testing.T, part string)
		want  string
	}{
		"blocks":                 {o: Options{Identity: Keep}},
		"files with a new UUID":  {o: Options{Identity: New, TargetSize: 40 << 20}},
		"blocks with a new UUID": {o: Options{Identity: New}},
		"blocks that differ": {o: Options{Identity: Keep}, phase: "comparing loop", want: "512 bytes differ: bytes ", where: func(t *testing.T, part string) {
			// The file's content begins at a block that debugfs names.
			f, err := os.OpenFile(part, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b, err := os.ReadFile(part)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("X"), int64(bytes.Index(b, []byte("content content ")))+8); err != nil {
				t.Fatal(err)
			}
		}},
		"files that differ": {o: Options{Identity: New, TargetSize: 40 << 20}, phase: "comparing the root", want: "file: differs between", where: func(t *testing.T, _ string) {
			name := copied(t)
			st, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			b := bytes.Clone(data)
			b[len(b)/2] ^= 1
			if err := errors.Join(os.WriteFile(name, b, 0o644), os.Chtimes(name, st.ModTime(), st.ModTime())); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			ext4(t, src, "64M")
			s := &recorder{}
			done := false
			s.onPhase = func(phase string) {
				if c.phase != "" && strings.HasPrefix(phase, c.phase) {
					done = true
					c.where(t, part(t, dir))
				}
			}
			c.o.Source, c.o.Target, c.o.Verify = []string{src}, []string{dst}, true
			rep, err := Run(context.Background(), tool.Exec{}, s, c.o)
			if !strings.Contains(s.text.String(), "phase: comparing") {
				t.Errorf("nothing was compared:\n%s", s.text.String())
			}
			if c.want == "" {
				if err != nil || len(rep.NotCovered)+len(rep.Problems) > 0 {
					t.Fatalf("%v %+v\n%s", err, rep, s.text.String())
				}
				checkExt4(t, dst)
				if same := uuidOf(t, src) == uuidOf(t, dst); same != (c.o.Identity == Keep) {
					t.Errorf("UUID of the copy: the same as the source's: %v", same)
				}
				return
			}
			if !done || err == nil || !strings.Contains(err.Error(), c.want) || exit.Code(err) != exit.Failed {
				t.Errorf("%v\n%s", err, s.text.String())
			}
			if _, err := os.Stat(dst); err == nil {
				t.Error("the copy that differs has its name")
			}
		})
	}
}

// uuidOf is the UUID of a file system in an image.
func uuidOf(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-s", "UUID", "-o", "value", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestRenumberXFS: an XFS that gets another UUID is copied by blocks, and is valid.
func TestRenumberXFS(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	run(t, "truncate", "-s", "400M", src)
	run(t, "mkfs.xfs", "-q", src)
	s := &recorder{}
	if _, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{dst}, Identity: New}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.text.String(), "whose UUID is changed to that") || uuidOf(t, src) == uuidOf(t, dst) {
		t.Errorf("UUIDs %s and %s after\n%s", uuidOf(t, src), uuidOf(t, dst), s.text.String())
	}
	run(t, "xfs_repair", "-n", dst)
}

// copied is the path of the file on the copy, which is mounted.
func copied(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[0], "/dev/loop") && strings.HasPrefix(f[3], "rw") {
			if name := filepath.Join(f[1], "file"); exists(name) {
				return name
			}
		}
	}
	t.Fatal("the copy is not mounted")
	return ""
}

// TestVerifyGrown: a file system that is grown after it was copied is no difference.
func TestVerifyGrown(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	run(t, "truncate", "-s", "320M", src)
	run(t, "mkfs.xfs", "-q", src)
	s := &recorder{}
	rep, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep, Verify: true, TargetSize: 400 << 20})
	if err != nil || len(rep.NotCovered)+len(rep.Problems) > 0 || !strings.Contains(s.text.String(), "step: grow xfs") || !strings.Contains(s.text.String(), "phase: comparing") {
		t.Fatalf("%v %+v\n%s", err, rep, s.text.String())
	}
	if out, err := exec.Command("xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks", dst).CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprint(400<<20>>12)) {
		t.Errorf("it was not grown: %s, %v", out, err)
	}
}

// TestTargetHoldsSource: a target on which the image that is cloned lies is refused.
func TestTargetHoldsSource(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	target, mnt := filepath.Join(dir, "target"), filepath.Join(dir, "mnt")
	ext4(t, target, "200M")
	dev := loopOver(t, target, 0)
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "/dev/"+dev, mnt)
	defer exec.Command("umount", mnt).Run()
	disk, image := filepath.Join(mnt, "disk.img"), filepath.Join(mnt, "sda1.img")
	ext4(t, disk, "32M")
	partImageOf(t, image)
	for _, src := range []string{disk, image} {
		for _, raw := range []bool{false, true} {
			o := Options{Source: []string{src}, Target: []string{dev}, Identity: Keep, Raw: raw && src == disk}
			o.Restore.Outside, o.Restore.Yes = true, true
			o.Restore.Wish.Confirmed = []string{probe.Machine{}.Place(dev).Slot()}
			s := &recorder{}
			if _, err := Run(context.Background(), tool.Exec{}, s, o); exit.Code(err) != exit.Refused {
				t.Errorf("%s, raw %v: %v\n%s", src, raw, err, s.text.String())
			}
		}
	}
	var err error
	for range 50 { // the kernel detaches a loop device a moment after it was closed
		runtime.GC() // closes the directory of an image
		if err = unix.Unmount(mnt, 0); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkExt4(t, target)
}

// TestFullTarget: a target that has no room left, or is too small, ends a clone, and leaves
// no file.
func TestFullTarget(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, full := filepath.Join(dir, "src"), filepath.Join(dir, "full")
	ext4(t, src, "64M")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "none", full)
	defer exec.Command("umount", full).Run()
	for name, o := range map[string]Options{
		"no room for blocks":     {Identity: Keep, Target: []string{filepath.Join(full, "dst")}},
		"no room for files":      {Identity: New, Target: []string{filepath.Join(full, "dst")}},
		"no room for all blocks": {Identity: Keep, Raw: true, Target: []string{filepath.Join(full, "dst")}},
		"too small":              {Identity: New, Target: []string{filepath.Join(dir, "dst")}, TargetSize: 1 << 20},
		"too small for bytes":    {Identity: Keep, Raw: true, Target: []string{filepath.Join(dir, "dst")}, TargetSize: 32 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			o.Source = []string{src}
			s := &recorder{}
			_, err := Run(context.Background(), tool.Exec{}, s, o)
			want := exit.Failed
			if o.TargetSize != 0 {
				want = exit.Refused
			}
			if exit.Code(err) != want {
				t.Errorf("%v\n%s", err, s.text.String())
			}
			if all, err := filepath.Glob(o.Target[0] + "*"); err != nil || len(all) > 0 {
				t.Errorf("%v, %v", all, err)
			}
		})
	}
	checkExt4(t, src)
}

// TestResumeFile: a file that is made again has nothing of the run before.
func TestResumeFile(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	ext4(t, src, "64M")
	o := Options{Source: []string{src}, Target: []string{filepath.Join(dir, "dst")}, Identity: Keep}
	o.Restore.Resume = true
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, o); exit.Code(err) != exit.BadUsage {
		t.Error(err)
	}
}
