package storage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestAssembleArray: for reading, an array is on overlays, or on read-only devices where there
// are none, may lack members, and what was put over its members is removed with it.
func TestAssembleArray(t *testing.T) {
	const assemble = "mdadm --assemble /dev/md77 --uuid=1:2:3:4 "
	cover := func(n int, dev string) string {
		return fmt.Sprintf("dmsetup create mkcdrec%d-:md77 --table 0 2048 snapshot /dev/%s /dev/loop%d N 8", n, dev, n)
	}
	for name, c := range map[string]struct {
		access Access
		devs   []string
		change func(m *mapper)
		want   []string
		fails  string
	}{
		"for writing": {ReadWrite, []string{"vda", "vdb"}, nil, []string{assemble + "/dev/vda /dev/vdb"}, ""},
		"degraded":    {Degraded, []string{"vda"}, nil, []string{assemble + "--run /dev/vda"}, ""},
		"runs":        {ReadWrite, []string{"vda"}, func(m *mapper) { m.AddVirtual("md77", "", mib) }, nil, ""},
		"for reading": {ReadOnly, []string{"vda", "vdb"}, nil, []string{cover(0, "vda"), cover(1, "vdb"), assemble + "--readonly --run /dev/mapper/mkcdrec0-:md77 /dev/mapper/mkcdrec1-:md77",
			"dmsetup remove --deferred mkcdrec0-:md77", "dmsetup remove --deferred mkcdrec1-:md77"}, ""},
		"without device-mapper": {ReadOnly, []string{"vda", "vdb"}, func(m *mapper) { m.Fail["run dmsetup"] = errTold }, []string{cover(0, "vda"), assemble + "--readonly --run /dev/loop0 /dev/loop1"}, ""},
		"one overlay only": {ReadOnly, []string{"vda", "vdb"}, func(m *mapper) { m.Fail["run dmsetup create mkcdrec1-:md77"] = errTold },
			[]string{cover(0, "vda"), cover(1, "vdb"), "dmsetup remove --deferred mkcdrec0-:md77", assemble + "--readonly --run /dev/loop0 /dev/loop1"}, ""},
		"no members":     {ReadOnly, nil, nil, nil, "its members are not known"},
		"missing member": {ReadOnly, []string{"no-such-disk"}, nil, nil, "no such file"},
		"no driver": {ReadOnly, []string{"vda"}, func(m *mapper) {
			if err := os.Remove(m.Path("/dev/loop-control")); err != nil {
				t.Fatal(err)
			}
		}, []string{"modprobe loop"}, "cannot start the RAID array md77 for reading"},
		"left inactive": {ReadWrite, []string{"vda"}, func(m *mapper) {
			m.Programs["mdadm --assemble"] = func(tool.Cmd) (string, error) {
				m.Write("/sys/block/md77/md/array_state", "inactive\n")
				return "", errTold
			}
		}, []string{assemble + "/dev/vda", "mdadm --stop /dev/md77"}, "cannot start the RAID array md77"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMapper(t)
			m.Answer("", "mdadm")
			if c.change != nil {
				c.change(m)
			}
			err := AssembleArray(t.Context(), m, "md77", "1:2:3:4", c.devs, c.access)
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("AssembleArray() = %v; want an error with %q", err, c.fails)
			}
			sameCalls(t, m.calls(), c.want...)
			if left, err := filepath.Glob(m.Path("/sys/block/loop*")); err != nil || len(left) > 0 {
				t.Errorf("loop devices %q stay, %v", left, err)
			}
		})
	}
}

// MissingMembers reports what the kernel counts, and nothing for an array that does not run.
func TestMissingMembers(t *testing.T) {
	m := newMapper(t)
	for text, want := range map[string]int{"2\n": 2, "0\n": 0, "none": 0} {
		m.Write("/sys/block/md77/md/degraded", text)
		if got := MissingMembers(m, "md77"); got != want {
			t.Errorf("MissingMembers(%q) = %d; want %d", text, got, want)
		}
	}
	if got := MissingMembers(m, "md78"); got != 0 {
		t.Errorf("MissingMembers(md78) = %d; want 0", got)
	}
}

func TestOpenCryptReadOnly(t *testing.T) {
	rec := &tool.Recorder{Answers: map[string]string{"cryptsetup": ""}}
	if err := OpenCrypt(context.Background(), rec, &layout.Crypt{Name: "no-such-name"}, "sda1", nil, ReadOnly); err != nil || !strings.Contains(rec.Calls[0], " --readonly /dev/sda1 ") {
		t.Errorf("%q, %v", rec.Calls, err)
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

func TestGroups(t *testing.T) {
	const report = `{"report":[{"pv":[{"pv_name":"/dev/sda3","vg_name":"vg0","vg_uuid":"u1"},{"pv_name":"/dev/sdb","vg_name":"","vg_uuid":""}]}]}`
	got, err := Groups(context.Background(), &tool.Recorder{Answers: map[string]string{"lvm": report}})
	if err != nil || len(got) != 1 || got[0].Device != "sda3" || got[0].Name != "vg0" || got[0].UUID != "u1" || got[0].Type != plan.TypeGroup {
		t.Errorf("%+v, %v", got, err)
	}
}

func blank(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}
