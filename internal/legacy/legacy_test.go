package legacy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func sh(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	c := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// backup makes three volumes as mkCDrec did, with the programs it used: /usr
// cut over all three, one piece in parts; / on the first; /home_2 as bzip2.
func backup(t *testing.T) (dirs []string, usr []byte) {
	t.Helper()
	top := t.TempDir()
	src := t.TempDir()
	rng := rand.New(rand.NewPCG(4, 4))
	b := make([]byte, 300_000)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(src+"/file", b, 0o644); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		d := fmt.Sprintf("%s/v%d", top, n)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
		if err := os.WriteFile(fmt.Sprintf("%s/CDrec-03.04.2009_%d", d, n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, top, `
tar -C "$1" -czf all .
tar -C "$1" -cf plain . && cmp plain plain
head -c 100000 all > v1/sda2._usr.tar.gz_
tail -c +100001 all | head -c 100000 > mid
tail -c +200001 all > v3/sda2._usr.tar.gz
: > v2/sda2._usr.tar.gz_
head -c 60000 mid > v2/sda2._usr.tar.gz_.part0
tail -c +60001 mid > v2/sda2._usr.tar.gz_.part1
cp all v1/sda1._.tar.gz
tar -C "$1" -cjf v3/vg%137sd_home._home_2.tar.bz2 .
echo log | gzip > v1/sda1._.log.gz
mkdir rec && printf '/dev/sda1\t/\text3\trw\n/dev/sda2\t/usr\text3\trw\n/dev/vg_sd/home\t/home_2\txfs\trw\n' > rec/To_Restore && tar -czf v1/recovery.tgz rec
(cd v1 && md5sum ./sda* > Checksums.md5)
(cd v2 && cksfv sda2._usr.tar.gz_.part0 sda2._usr.tar.gz_.part1 > Checksums.sfv)
gzip -dc all > plain`, src)
	plain, err := os.ReadFile(top + "/plain")
	if err != nil {
		t.Fatal(err)
	}
	return dirs, plain
}

func stream(t *testing.T, s *Set, mount string) ([]byte, error) {
	t.Helper()
	for _, a := range s.Archives {
		if a.Mount == mount {
			r, err := s.Stream(a)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		}
	}
	t.Fatalf("no %s among %+v", mount, s.Archives)
	return nil, nil
}

func TestSet(t *testing.T) {
	dirs, usr := backup(t)
	if !IsSet(dirs[0]) || IsSet(t.TempDir()) {
		t.Error("IsSet is wrong")
	}
	s, err := Open(dirs[2], dirs[0], dirs[1])
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range s.Archives {
		all = append(all, a.Device+" "+a.Mount+" "+a.Type)
	}
	if strings.Join(all, ", ") != "sda1 / ext3, vg_sd/home /home_2 xfs, sda2 /usr ext3" || s.Date != "03.04.2009" {
		t.Errorf("%s of %s", all, s.Date)
	}
	for _, m := range []string{"/", "/usr"} {
		if got, err := stream(t, s, m); err != nil || !bytes.Equal(got, usr) {
			t.Errorf("%s: %d bytes, %v; want %d", m, len(got), err, len(usr))
		}
	}
	got, err := stream(t, s, "/home_2")
	if err != nil || len(got) < 300_000 {
		t.Errorf("/home_2: %d bytes, %v", len(got), err)
	}
	c := exec.Command("tar", "-t")
	c.Stdin = bytes.NewReader(got)
	if out, err := c.Output(); err != nil || !strings.Contains(string(out), "./file") {
		t.Errorf("tar of /home_2: %s, %v", out, err)
	}
}

func TestBadSets(t *testing.T) {
	dirs, _ := backup(t)
	s, err := Open(dirs[0], dirs[2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream(t, s, "/usr"); err == nil || !strings.Contains(err.Error(), "CDrec-03.04.2009_2") {
		t.Errorf("volume 2 missing: %v", err)
	}
	if s, err = Open(dirs[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := stream(t, s, "/usr"); err == nil || !strings.Contains(err.Error(), "CDrec-03.04.2009_2") {
		t.Errorf("only the first volume: %v", err)
	}
	if _, err := Open(dirs[0], dirs[0]); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice the same: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no volume of mkCDrec") {
		t.Errorf("an empty directory: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(other+"/CDrec-01.01.2010_4", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dirs[0], other); err == nil || !strings.Contains(err.Error(), "01.01.2010") {
		t.Errorf("of two backups: %v", err)
	}
	for f, m := range map[string]string{"sda1._.tar.gz": "/", "../v2/sda2._usr.tar.gz_.part1": "/usr"} {
		p := filepath.Join(dirs[0], f)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dirs...); err != nil {
			t.Fatal(err)
		}
		if _, err := stream(t, s, m); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s damaged: %v", f, err)
		}
	}
	for name, want := range map[string]string{"sdb1._x.tar.gz.bf": "encrypted (bf)", "sdb2._y.tar.Z": "compression \"Z\""} {
		if err := os.WriteFile(filepath.Join(dirs[0], name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dirs...); err != nil {
			t.Fatal(err)
		}
		if _, err := stream(t, s, "/"+name[6:7]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("sda1._.tar.gz", []byte("; comment\nsda1._.tar.gz 01234567\n"))
	f.Fuzz(func(t *testing.T, name string, sums []byte) {
		if strings.ContainsAny(name, "/\x00") || len(name) > 200 || name == "" || name == "." || name == ".." {
			return
		}
		dir := t.TempDir()
		for n, b := range map[string][]byte{"CDrec-01.02.2003": nil, name: sums, "Checksums.sfv": sums} {
			if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
				return
			}
		}
		s, err := Open(dir)
		if err != nil {
			return
		}
		for _, a := range s.Archives {
			if r, err := s.Stream(a); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
				r.Close()
			}
		}
	})
}
