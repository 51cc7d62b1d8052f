package archive

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
)

// A subvolume that belongs to the archive is in it with all that it has, one
// that a rule leaves out is not, and any other is told of.
func TestSubvolumes(t *testing.T) {
	src, dst := btrfstest.Mount(t, 1), btrfstest.Mount(t, 1)
	for _, s := range []string{"var/in", "var/in/deeper", "snap", "unknown", "var/apart"} {
		if err := btrfs.Create(filepath.Join(src, s)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, s, "file"), []byte(s), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	// Every subvolume counts inodes for itself: these are no hard links.
	for _, f := range []string{"var/in/a", "var/in/deeper/a"} {
		if err := os.WriteFile(filepath.Join(src, f), []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(src, f), filepath.Join(src, f+"2")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(src, "var/in"), 0o711); err != nil {
		t.Fatal(err)
	}
	root, err := OpenFS(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out bytes.Buffer
	var left []string
	sum, err := Create(context.Background(), &out, root, CreateOptions{Inner: []string{"var/in", "var/in/deeper"}, Apart: []string{"var/apart"}, LeftOut: map[string]string{"snap": "a snapshot"}, OnExcluded: func(p, rule string) { left = append(left, p+": "+rule) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(sum.Problems) != 1 || sum.Problems[0].Path != "unknown" || sum.Problems[0].Kind != Foreign {
		t.Errorf("problems: %v", sum.Problems)
	}
	if strings.Join(left, ",") != "/snap: a snapshot" {
		t.Errorf("left out: %v", left)
	}
	// Into subvolumes that are there already, as a restore makes them.
	for _, s := range []string{"var/in", "var/in/deeper", "var/apart"} {
		if err := btrfs.Create(filepath.Join(dst, s)); err != nil {
			t.Fatal(err)
		}
	}
	// What is in it is of another archive: it is not compared here.
	if err := os.WriteFile(filepath.Join(dst, "var/apart/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(out.Bytes()), int64(out.Len()), "archive")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if s, err := r.Extract(context.Background(), dst, ExtractOptions{}); err != nil || len(s.Problems) > 0 {
		t.Fatalf("%v %v", s, err)
	}
	for _, f := range []string{"var/in/file", "var/in/deeper/file", "var/in/a2", "var/in/deeper/a2"} {
		a, err := os.ReadFile(filepath.Join(src, f))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dst, f)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %q %v", f, b, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dst, "var/in")); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("the subvolume's own mode is %v (%v)", st.Mode(), err)
	}
	back, err := OpenFS(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if ds, err := r.Compare(context.Background(), back, CompareOptions{Inner: []string{"var/in", "var/in/deeper"}, Apart: []string{"var/apart"}}); err != nil || len(ds) > 0 {
		t.Errorf("what was restored differs: %v %v", ds, err)
	}
	if err := os.WriteFile(filepath.Join(dst, "var/in/deeper/new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if ds, err := r.Compare(context.Background(), back, CompareOptions{Inner: []string{"var/in", "var/in/deeper"}, Apart: []string{"var/apart"}}); err != nil || !slices.ContainsFunc(ds, func(d Difference) bool { return strings.HasSuffix(d.Path, "var/in/deeper/new") }) {
		t.Errorf("a new file in a subvolume is not seen: %v %v", ds, err)
	}
	list, _, err := btrfs.Subvolumes(dst)
	if err != nil || len(list) != 3 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(dst, "snap")); err == nil {
		t.Error("the snapshot is there")
	}
}
