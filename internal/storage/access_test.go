package storage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestAssembleArray: for reading, an array is on overlays, or on read-only devices where there
// are none, may lack members, and what was put over its members is removed with it.
func TestAssembleArray(t *testing.T) {
	ctx := context.Background()
	call := func(access Access, devs ...string) (string, error) {
		rec := &tool.Recorder{Answers: map[string]string{"mdadm": ""}}
		err := AssembleArray(ctx, rec, "md77", "1:2:3:4", devs, access)
		return strings.Join(rec.Calls, "\n"), err
	}
	for access, want := range map[Access]string{
		ReadWrite: "mdadm --assemble /dev/md77 --uuid=1:2:3:4 /dev/sda1 /dev/sdb1",
		Degraded:  "mdadm --assemble /dev/md77 --uuid=1:2:3:4 --run /dev/sda1 /dev/sdb1",
	} {
		if got, err := call(access, "sda1", "sdb1"); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if got, err := call(ReadOnly); err == nil || got != "" {
		t.Errorf("members that are not known: %q, %v", got, err)
	}
	if got, err := call(ReadOnly, "no-such-disk"); err == nil || got != "" {
		t.Errorf("a member that is not there: %q, %v", got, err)
	}
	dev := strings.TrimPrefix(loopOver(t, blank(t, 1<<20).Name()), "/dev/")
	got, err := call(ReadOnly, dev)
	_, loop, ok := strings.Cut(got, "\nmdadm --assemble /dev/md77 --uuid=1:2:3:4 --readonly --run /dev/")
	if err != nil || !ok || loop == dev || !strings.HasPrefix(loop, "loop") {
		t.Errorf("without device-mapper: %q, %v", got, err)
	}
	rec := &tool.Recorder{Answers: map[string]string{"mdadm": "", "dmsetup": ""}}
	err = AssembleArray(ctx, rec, "md77", "1:2:3:4", []string{dev}, ReadOnly)
	want := regexp.MustCompile(`^dmsetup create mkcdrec0-:md77 --table "0 2048 snapshot /dev/` + dev + ` /dev/loop[0-9]+ N 8"
mdadm --assemble /dev/md77 --uuid=1:2:3:4 --readonly --run /dev/mapper/mkcdrec0-:md77
dmsetup remove --deferred mkcdrec0-:md77$`)
	if got := strings.Join(rec.Calls, "\n"); err != nil || !want.MatchString(got) {
		t.Errorf("AssembleArray calls %q, %v; want %v", got, err, want)
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
