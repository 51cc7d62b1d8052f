package recreate

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// onLoop is a machine whose only disk is a loop device, and the plan's entry for it.
func onLoop(t *testing.T, size int64) (probe.Machine, plan.Disk) {
	t.Helper()
	name := strings.TrimPrefix(loopOver(t, blank(t, size).Name()), "/dev/")
	m := probe.Machine{Only: []string{name}, Run: &tool.Recorder{}}
	have, err := m.Present(nil)
	if err != nil || len(have) != 1 || have[0].Place.Dev == "" || !strings.HasSuffix(have[0].Place.Path, "virtual/block/"+name) {
		t.Fatalf("%+v, %v", have, err)
	}
	return m, plan.Disk{New: have[0].Disk, Place: have[0].Place, Words: have[0].Words}
}

// TestDoor: what differs in anything that the person was shown is not opened, nor a node
// that leads to another device.
func TestDoor(t *testing.T) {
	m, d := onLoop(t, 8<<20)
	open := func(d plan.Disk, m probe.Machine) error {
		r := &Recreator{Plan: &plan.Plan{Disks: []plan.Disk{d}}, Machine: m}
		f, err := r.openDisk(d.New.Name)
		if err == nil {
			f.Close()
		}
		return err
	}
	if err := open(d, m); err != nil {
		t.Fatal(err)
	}
	// A dry run's stand-in is shown as what it is.
	file := d
	file.New.Model = sparseModel
	r := &Recreator{Plan: &plan.Plan{Disks: []plan.Disk{file}}, Machine: m, Sparse: true}
	if err := r.confirmed(d.New.Name); err != nil {
		t.Errorf("a sparse file: %v", err)
	}
	for want, change := range map[string]func(*plan.Disk){
		"its serial number was":   func(d *plan.Disk) { d.New.Serial = "X" },
		"its WWN was":             func(d *plan.Disk) { d.New.WWN = "X" },
		"its model was":           func(d *plan.Disk) { d.New.Model = "X" },
		"its size was":            func(d *plan.Disk) { d.New.Size++ },
		"its place was":           func(d *plan.Disk) { d.Place.Path = "pci0000:00/0000:00:04.0/virtio1/block/vda" },
		"its sequence number was": func(d *plan.Disk) { d.Place.Seq++ },
		"its device number was":   func(d *plan.Disk) { d.Place.Dev = "8:0" },
	} {
		e := d
		change(&e)
		var ref *exit.Refusal
		if err := open(e, m); !errors.As(err, &ref) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a refusal with %q", err, want)
		}
	}
	// Whatever the node is, it has to be of the device that sysfs has by its name.
	f, err := os.Open("/dev/" + d.New.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for want, p := range map[string]layout.Place{"should lead to 8:0": {Dev: "8:0"}, "it was exchanged": {Dev: d.Place.Dev, Seq: d.Place.Seq + 1}} {
		var ref *exit.Refusal
		if err := r.isDevice(f, p); !errors.As(err, &ref) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a refusal with %q", err, want)
		}
	}
	g := blank(t, 1<<20)
	if err := r.isDevice(g, d.Place); err == nil {
		t.Error("a plain file is taken for a device")
	}
}

// TestExclusive: steps that write a device themselves get it for themselves alone.
func TestExclusive(t *testing.T) {
	m, d := onLoop(t, 64<<20)
	name := d.New.Name
	held, err := os.OpenFile("/dev/"+name, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	c := &layout.Crypt{Name: "mkcdrec-test", Device: name, UUID: "11111111-2222-3333-4444-555555555555"}
	for _, s := range []plan.Step{
		&plan.MakeSwap{Device: name, Swap: &layout.Swap{}},
		&plan.MakeFS{Device: name, FS: &layout.Filesystem{Type: "btrfs"}, Run: [][]string{{"mkfs.btrfs"}}},
		&plan.MakeCrypt{Device: name, Crypt: c},
		&plan.PutImage{Device: name, Image: &layout.Image{}},
		&plan.MakePV{Device: name},
		&plan.MakeArray{Device: "md77", Array: &layout.Array{Members: []layout.Member{{Device: name}}}, Run: [][]string{{"mdadm"}}},
		&plan.WriteTable{Device: name, Table: &layout.Table{Label: layout.GPT}},
	} {
		rec := &tool.Recorder{}
		r := &Recreator{Plan: &plan.Plan{Disks: []plan.Disk{d}, Steps: []plan.Step{s}}, Machine: m, Run: rec, Keys: map[string]Key{c.Name: {Header: []byte("LUKS")}}}
		if err := r.Do(context.Background(), 0); err == nil || !strings.Contains(err.Error(), "cannot open /dev/"+name+" for writing") || len(rec.Calls) > 0 {
			t.Errorf("%s: %v, %q", s.Head().Kind, err, rec.Calls)
		}
	}
}

// TestReleaseOwn: a dry run that failed closes what is on its own loop devices, and not
// the groups, LUKS devices and arrays of the machine that have the same names.
func TestReleaseOwn(t *testing.T) {
	steps := []plan.Step{&plan.RestoreVG{Group: "vg0"}, &plan.MakeCrypt{Crypt: &layout.Crypt{Name: "secret"}}}
	for name, c := range map[string]struct {
		r    storage.Tree
		want []string
	}{
		"a dry run":                 {storage.Tree{Plan: &plan.Plan{Steps: steps, Disks: []plan.Disk{{New: layout.Disk{Name: "loop7"}}}}}, []string{"run dmsetup remove vg0-root2", "run dmsetup remove vg0-swap"}},
		"after one that was killed": {storage.Tree{Plan: &plan.Plan{Steps: steps}, Own: []string{"loop7"}}, []string{"run dmsetup remove vg0-root2", "run dmsetup remove vg0-swap"}},
		"nothing of its own":        {storage.Tree{Plan: &plan.Plan{Steps: steps}, Own: []string{"loop8"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := machinetest.New(t)
			m.AddDisk("vda", mib, "")
			m.AddVirtual("loop7", "", mib)
			m.AddVirtual("dm-0", "vg0-root", mib, "vda")
			m.AddVirtual("dm-1", "vg0-root2", mib, "loop7")
			m.AddVirtual("dm-2", "secret", mib, "vda")
			m.AddVirtual("dm-3", "vg0-swap", mib, "loop7")
			m.Programs["dmsetup remove"] = func(c tool.Cmd) (string, error) { m.Remove("mapper/" + c.Args[2]); return "", nil }
			c.r.Run, c.r.Machine, c.r.Target = m, m.Probe(), m.Path("/mnt/target")
			if err := c.r.Release(t.Context()); err != nil {
				t.Errorf("Release() = %v; want nil", err)
			}
			if got := m.Did("run"); !slices.Equal(got, c.want) {
				t.Errorf("Release() did %q; want %q", got, c.want)
			}
		})
	}
}

// TestFreeLoops: too few loop devices refuse a plan, and none stays taken.
func TestFreeLoops(t *testing.T) {
	open := 0
	var taken closing = func() error { open--; return nil }
	attach := func() (io.Closer, error) {
		if open == 2 {
			return nil, errors.New("no space left on device")
		}
		open++
		return taken, nil
	}
	var r *exit.Refusal
	if err := freeLoops(5, attach); !errors.As(err, &r) || err.Error() != "refused: the plan needs 5 loop devices, and the kernel gives 2: no space left on device" || open != 0 {
		t.Errorf("%v, %d open", err, open)
	}
	if err := freeLoops(2, attach); err != nil || open != 0 {
		t.Errorf("%v, %d open", err, open)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil || os.Getuid() != 0 {
		t.Skip("no loop devices here")
	}
	if err := FreeLoops(nil, 3); err != nil {
		t.Error(err)
	}
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "mkcdrec-loop") {
			t.Errorf("%s is still attached to %s", f, b)
		}
	}
}

type closing func() error

func (c closing) Close() error { return c() }

// TestSparseBrackets: a directory with a name like a pattern has its files found.
func TestSparseBrackets(t *testing.T) {
	s := Sparse{Dir: filepath.Join(t.TempDir(), "a[b]*"), Run: machinetest.New(t)}
	if s.There() {
		t.Error("files where there is no directory")
	}
	if err := errors.Join(os.Mkdir(s.Dir, 0o700), os.WriteFile(filepath.Join(s.Dir, "vda.img"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if !s.There() {
		t.Error("no files")
	}
	if err := s.Remove(); err != nil || s.There() {
		t.Errorf("%v, still there: %v", err, s.There())
	}
}

// loopOver puts a loop device over a file for the test.
func loopOver(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--show", "-f", file).Output()
	if err != nil {
		t.Skip("no loop devices here: ", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
			t.Error(err)
		}
	})
	return dev
}
