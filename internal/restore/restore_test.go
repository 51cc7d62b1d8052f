package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// notes is a Screen that keeps what it is told, and on which nobody answers.
type notes struct{ said []string }

func (n *notes) Note(f string, a ...any) { n.said = append(n.said, fmt.Sprintf(f, a...)) }
func (n *notes) Warn(f string, a ...any) { n.Note(f, a...) }
func (n *notes) Phase(string, int64) progress.Counter {
	return progress.None{}
}
func (n *notes) Plan(*plan.Plan, Content)               {}
func (n *notes) Secret(string) ([]byte, error)          { return nil, errors.New("nobody") }
func (n *notes) Choose(*plan.Undecided) (string, error) { return "", errors.New("nobody") }
func (n *notes) Confirm(*plan.Plan) ([]string, error)   { return nil, errors.New("nobody") }

// emptySet makes a set of a machine without disks.
func emptySet(t *testing.T, host string) string {
	t.Helper()
	return setOfLayout(t, &layout.Layout{}, host)
}

// setOfLayout makes a set of a machine that has this layout, without archives.
func setOfLayout(t *testing.T, l *layout.Layout, host string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, manifest.Layout))
	if err != nil {
		t.Fatal(err)
	}
	l.Version, l.Hostname, l.Boot.Firmware = layout.Version, host, layout.BIOS
	if err := l.Write(f); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	sum, err := manifest.SumFile(context.Background(), f.Name(), progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: "01234567-89ab-cdef-0123-456789abcdef", Host: host, Created: time.Unix(1, 0), Files: []manifest.FileSum{{Name: manifest.Layout, Size: quantity.Size(st.Size()), SHA256: sum}}}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A set that the rescue system found and was not made for is refused when nobody is
// asked, and a person is told of it.
func TestForeignSet(t *testing.T) {
	dir := emptySet(t, "web")
	set, err := manifest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	own := manifest.Wanted{ID: set.Manifest.ID}
	for _, c := range []struct {
		name    string
		opt     Options
		refused bool
		told    bool
	}{
		{"its own", Options{Request: Request{Yes: true}, Found: true, Wanted: own}, false, false},
		{"its host's", Options{Request: Request{Yes: true}, Found: true, Wanted: manifest.Wanted{ID: "x", Host: "web"}}, false, false},
		{"another host's", Options{Request: Request{Yes: true}, Found: true, Wanted: manifest.Wanted{ID: "x", Host: "db"}}, true, false},
		{"another host's, named", Options{Request: Request{Yes: true}, Wanted: manifest.Wanted{Host: "db"}}, false, true},
		{"another host's, a person is asked", Options{Found: true, Wanted: manifest.Wanted{Host: "db"}}, false, true},
		{"nothing is known", Options{Request: Request{Yes: true}, Found: true}, false, false},
	} {
		n := &notes{}
		r := &Restorer{Screen: n, opt: c.opt, set: set, content: setContent{set}}
		err := r.meant()
		var ref *exit.Refusal
		if errors.As(err, &ref) != c.refused || (len(n.said) > 0) != c.told {
			t.Errorf("%s: %v, said %q", c.name, err, n.said)
		}
		if c.refused && (!strings.Contains(err.Error(), "host web") || !strings.Contains(err.Error(), "host db") || !strings.Contains(err.Error(), set.Manifest.ID)) {
			t.Errorf("%s: %v; want hosts and id", c.name, err)
		}
	}
}

// A restore that is interrupted while it reads the set does not call it damaged.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	r := &Restorer{Screen: &notes{}}
	_, err := r.Restore(ctx, Options{Request: Request{Set: emptySet(t, "h"), PlanOnly: true}})
	if err == nil || !strings.Contains(err.Error(), "interrupted") || strings.Contains(err.Error(), "damaged set") {
		t.Errorf("Restore = %v", err)
	}
}

// What a set lacks is named before and after, and in the report.
func TestNotCovered(t *testing.T) {
	set, err := manifest.Open(emptySet(t, "h"))
	if err != nil {
		t.Fatal(err)
	}
	set.Manifest.NotCovered = []string{"sdb1: not mounted"}
	set.Layout.Images = []layout.Image{{Device: "sdc"}, {Device: "sdd", Type: "ntfs", Excluded: "exclude_devices: sdd"}}
	n := &notes{}
	r := &Restorer{Screen: n, set: set, content: setContent{set}}
	r.lacks()
	if got := strings.Join(r.report.NotCovered, "; "); got != "sdb1: not mounted; sdc (unknown content): its image is not in the set" {
		t.Errorf("report: %s", got)
	}
	if got := strings.Join(n.said, "\n"); !strings.Contains(got, "sdb1: not mounted") || !strings.Contains(got, "sdc (unknown content)") || !strings.Contains(got, "left out of the backup: sdd (ntfs): exclude_devices: sdd") {
		t.Errorf("shown: %s", got)
	}
}

// The log of a restore stays in the restored system, where its /var/log may be a link.
func TestLogsStayInside(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(root+"/data/logs", 0o755), os.Mkdir(root+"/var", 0o755), os.Symlink("/data/logs", root+"/var/log")); err != nil {
		t.Fatal(err)
	}
	j := &journal{filepath.Join(t.TempDir(), "journal.jsonl")}
	if _, err := j.start(journalLine{Digest: "d"}, false); err != nil {
		t.Fatal(err)
	}
	if err := j.copyTo(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/data/logs/mkcdrec/journal.jsonl"); err != nil {
		t.Error(err)
	}
	// One that leads out of it is the system's own, and to nothing.
	if err := errors.Join(os.Remove(root+"/var/log"), os.Symlink(outside, root+"/var/log")); err != nil {
		t.Fatal(err)
	}
	if err := j.copyTo(root); err == nil {
		t.Error("a log was written through a link to nothing")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
}

// A program that is not there refuses the plan, by name and step, also with --plan and in
// a dry run.
func TestProgramMissing(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"lvm", "mke2fs"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "cryptsetup"), 0o755); err != nil { // no program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	r := &Restorer{plan: &plan.Plan{Steps: []plan.Step{
		&plan.MakePV{Device: "vda2"},
		&plan.RestoreVG{Device: "vda2"},
		&plan.MakeFS{Device: "vda1", FS: &layout.Filesystem{Type: "ext4", Mounts: []layout.Mount{{Path: "/"}}}, Run: [][]string{{"mke2fs", "/dev/vda1"}, {"tune2fs", "/dev/vda1"}}},
		&plan.MakeArray{Device: "md0", Array: &layout.Array{Name: "md0", Level: "raid1", UUID: "u"}, Run: [][]string{{"mdadm"}}},
		&plan.MakeCrypt{Device: "md0", Crypt: &layout.Crypt{Name: "c", UUID: "u", LUKS: &superblock.LUKS{Version: 2}}}}}}
	err := r.programs()
	var refused *exit.Refusal
	want := "refused: the plan needs programs that are not here:\n  tune2fs, for step 3 (make ext4 on /dev/vda1)\n  mdadm, for step 4 (make raid1 array /dev/md0 of , UUID u)\n  cryptsetup, for step 5 (recreate LUKS2 on /dev/md0 with a new key, and open it as c, UUID u)"
	if !errors.As(err, &refused) || err.Error() != want {
		t.Errorf("programs = %v; want %s", err, want)
	}
	r.plan.Steps = r.plan.Steps[:2]
	if err := r.programs(); err != nil {
		t.Error(err)
	}
}

// A set of a part of a machine restores these files: other disks, and what makes a system
// boot, are left alone.
func TestRestoreIncluded(t *testing.T) {
	m, r, s := onFake(t, "vda")
	l := simple()
	l.Filesystems[0].Excluded = layout.ByInclude + "only /home/x"
	l.Filesystems[1].Included = []string{"/home/x"}
	l.Boot.Disks = []string{"sda"}
	c := &files{l: l}
	rep, err := r.Restore(t.Context(), Options{Request: Request{Outside: true}, Content: c})
	if err != nil || !slices.Equal(c.order, []string{"blocks of sda3", "files of sda2"}) || len(m.Mounted()) > 0 {
		t.Fatalf("Restore() = %v, read %q, mounted %q", err, c.order, m.Mounted())
	}
	if said := strings.Join(s.said, "\n"); !strings.Contains(said, "the restored system will not boot") || rep.Plan.Layout.Filesystems[0].Excluded == "" {
		t.Errorf("said\n%s", said)
	}
}

// A backup of mkCDrec 1.x whose root file system can't be made is refused, with what to do.
func TestRestoreLegacyWithoutRoot(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command("sh", "-ec", `: > CDrec-03.04.2009; mkdir rec; printf '/dev/vg0/root\t/\text3\trw\n' > rec/To_Restore
printf '/dev/hda1 : start= 63, size= 100000, Id=8e\n' > rec/partitions.hda; tar -czf recovery.tgz rec; tar -czf vg0_root._.tar.gz rec`)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m, r, _ := onFake(t, "vda")
	_, err := r.Restore(t.Context(), Options{Request: Request{Outside: true, Set: dir}})
	if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "vg0/root is on LVM") || len(m.Did("open")) > 0 {
		t.Errorf("Restore() = %v; want a refusal that names the volume", err)
	}
}

// TestAmounts: a plan shows how much of the old disks is not restored, once, by the report
// of the set; one that is damaged is named, and a set without one shows nothing.
func TestAmounts(t *testing.T) {
	for want, spoil := range map[string]func(b []byte) []byte{
		"not restored of 1.0 GiB on disks: 1.0 GiB excluded by rules, 0 B not covered": func(b []byte) []byte { return b },
		"it is damaged": func(b []byte) []byte { return bytes.Replace(b, []byte("sdq"), []byte("sdr"), 1) },
		"":              nil,
	} {
		set, err := manifest.Open(emptySet(t, "h"))
		if err != nil {
			t.Fatal(err)
		}
		if spoil != nil {
			l := &layout.Layout{Disks: []layout.Disk{{Name: "sdq", Size: 1 << 30}}, Images: []layout.Image{{Device: "sdq", Excluded: "it is blank"}}}
			c, err := coverage.Of(l, coverage.Marks{})
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := c.Write(&b); err != nil {
				t.Fatal(err)
			}
			set.Manifest.Files = append(set.Manifest.Files, manifest.FileSum{Name: coverage.File, Size: quantity.Size(b.Len()), SHA256: fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))})
			if err := os.WriteFile(filepath.Join(set.Local(), coverage.File), spoil(b.Bytes()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n := &notes{}
		r := &Restorer{Screen: n, set: set, content: setContent{set}}
		r.lacks()
		if got := strings.Join(n.said, "\n"); strings.Count(got, want) != 1 && want != "" || want == "" && got != "" {
			t.Errorf("shown: %q; want %q once", got, want)
		}
	}
}
