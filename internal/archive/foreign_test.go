package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExtractTar extracts what GNU tar wrote in each of its formats, and has
// it compare the result.
func TestExtractTar(t *testing.T) {
	src := t.TempDir()
	long := strings.Repeat("directory-with-a-long-name/", 6) + strings.Repeat("n", 120)
	script := `cd "$1"
mkdir -p "$2" etc/empty && rmdir "$2" && : > "$2"
head -c 5000000 /dev/urandom > random; : > empty; printf x > 'with space
and newline'
ln random hard; ln -s random soft; ln -s /etc/passwd absolute; mkfifo fifo
truncate -s 3000000 sparse; printf data | dd of=sparse bs=1 seek=2000000 conv=notrunc 2>/dev/null
chmod 4755 empty; chmod 1777 etc/empty; touch -d 2009-04-03T01:02:03 random etc/empty`
	if out, err := exec.Command("sh", "-ec", script, "sh", src, long).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, f := range [][]string{{"--format=gnu"}, {"--format=gnu", "--sparse"}, {"--format=pax"}, {"--format=pax", "--sparse"}, {"--format=oldgnu", "--label=disk"}, {"--format=ustar", "--exclude=directory*"}} {
		name := strings.Join(f, " ")
		file := filepath.Join(t.TempDir(), "a.tar")
		if out, err := exec.Command("tar", append(append([]string{"-C", src, "-cf", file}, f...), ".")...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", name, err, out)
		}
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		dest := t.TempDir()
		sum, err := ExtractTar(context.Background(), in, "a.tar", dest, ExtractOptions{NoOwner: os.Geteuid() != 0})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out, err := exec.Command("tar", "-C", dest, "-df", file).CombinedOutput(); err != nil || sum.Members < 11 || len(sum.Problems) > 0 {
			t.Errorf("%s: %v %s, %+v", name, err, out, sum)
		}
		if _, err := in.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		if n, err := CheckTar(context.Background(), in, nil); err != nil || n < sum.Members {
			t.Errorf("%s: checked %d members of %d, %v", name, n, sum.Members, err)
		}
		in.Close()
		// Cut anywhere, it is an error, and never a hang.
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{511, 700, 100_000, 3_000_001} {
			if _, err := ExtractTar(context.Background(), bytes.NewReader(b[:n]), "a.tar", t.TempDir(), ExtractOptions{NoOwner: true}); err == nil {
				t.Errorf("%s cut at %d was taken", name, n)
			}
		}
	}
}

// TestExtractTarHostile: nothing is written outside of the destination.
func TestExtractTarHostile(t *testing.T) {
	for name, hs := range map[string][]tar.Header{
		"dotdot":   {{Name: "../out", Typeflag: tar.TypeReg}},
		"inner":    {{Name: "a/../../out", Typeflag: tar.TypeReg}},
		"absolute": {{Name: "/tmp/mkcdrec-hostile-out", Typeflag: tar.TypeReg}},
		"link":     {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "d/out", Typeflag: tar.TypeReg}},
		"hardlink": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range hs {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		top := t.TempDir()
		dest := filepath.Join(top, "dest")
		if err := os.Mkdir(dest, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := ExtractTar(context.Background(), &b, name, dest, ExtractOptions{NoOwner: true}); err == nil {
			t.Errorf("%s was extracted", name)
		}
		for _, f := range []string{filepath.Join(top, "out"), "/tmp/mkcdrec-hostile-out"} {
			if _, err := os.Lstat(f); err == nil {
				t.Errorf("%s wrote %s", name, f)
			}
		}
	}
}

func FuzzExtractTar(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "./a", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644, Format: tar.FormatGNU})
	_, _ = w.Write([]byte("abc"))
	_ = w.WriteHeader(&tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "./a", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:600])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		_, _ = CheckTar(context.Background(), bytes.NewReader(b), nil)
		_, _ = ExtractTar(context.Background(), bytes.NewReader(b), "fuzz", t.TempDir(), ExtractOptions{NoOwner: true})
	})
}
