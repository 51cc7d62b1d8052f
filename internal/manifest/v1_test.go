package manifest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
)

// openV1 opens one of the sets in testdata/v1, which the program wrote on 2026-11-29.
func openV1(t *testing.T, kind string) *Set {
	t.Helper()
	var s *Set
	var err error
	switch kind {
	case "directory":
		s, err = Open("testdata/v1/directory")
	case "discs":
		s, err = Open("testdata/v1/discs/1/directory")
	case "web":
		web := httptest.NewServer(http.FileServer(http.Dir("testdata/v1")))
		t.Cleanup(web.Close)
		s, err = Open(web.URL + "/directory")
	case "legacy":
		s, err = OpenLegacy("testdata/v1/legacy")
	case "tape":
		s, err = OpenTape(tapeV1(t), nil)
	}
	if err != nil {
		t.Fatalf("opening %s: %v", kind, err)
	}
	s.AllDiscs = true
	return s
}

// tapeV1 is a tape with the blocks of testdata/v1/tape.zst, each behind its length; a
// length of 0 is a file mark.
func tapeV1(t *testing.T) *tape.Store {
	t.Helper()
	b, err := os.ReadFile("testdata/v1/tape.zst")
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if b, err = d.DecodeAll(b, nil); err != nil {
		t.Fatal(err)
	}
	tp := &model.Tape{}
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		item := b[4 : 4+n]
		if n == 0 {
			item = nil
		}
		tp.Items, b = append(tp.Items, item), b[4+n:]
	}
	st, err := tape.Open(context.Background(), []tape.Drive{&model.Drive{Tape: tp}}, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// list gives the paths and sizes in all archives.
func list(t *testing.T, s *Set) string {
	t.Helper()
	var out strings.Builder
	for _, a := range s.Manifest.Archives {
		r, err := s.Archive(a.File)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.Entries(func(e archive.Entry) error {
			fmt.Fprintf(&out, "%s %s %c %o %d\n", a.Mount, e.Path, e.Type, e.Mode, e.Size)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// TestVersion1: sets of version 1 are read as ever, each kind of them: opened, verified,
// listed, and unpacked to the same bytes.
func TestVersion1(t *testing.T) {
	const listed = `/ . 5 755 0
/ big 0 600 1048576
/ link 2 777 0
/ etc 5 755 0
/ etc/hostname 0 644 4
/srv . 5 755 0
/srv mail 0 640 20
`
	for _, kind := range []string{"directory", "web", "discs", "tape", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			ctx := context.Background()
			s := openV1(t, kind)
			if err := s.Verify(ctx, true, progress.None{}); err != nil {
				t.Errorf("Verify = %v", err)
			}
			phase := func(int64) progress.Counter { return progress.None{} }
			dir, file := t.TempDir(), "etc/hostname"
			if kind == "legacy" {
				file = "hostname"
			}
			if _, err := s.Unpack(ctx, s.Manifest.Archives[0].File, dir, archive.ExtractOptions{NoOwner: true}, phase); err != nil {
				t.Fatalf("Unpack = %v", err)
			}
			if b, err := os.ReadFile(dir + "/" + file); err != nil || string(b) != "old\n" {
				t.Errorf("%s = %q, %v; want %q", file, b, err, "old\n")
			}
			if kind == "legacy" {
				return
			}
			if got := list(t, s); got != listed {
				t.Errorf("listed:\n%s; want:\n%s", got, listed)
			}
			dst, err := os.Create(dir + "/device")
			if err != nil {
				t.Fatal(err)
			}
			defer dst.Close()
			if err := s.RestoreImage(ctx, "vdc.img.zst", dst, phase); err != nil {
				t.Fatalf("RestoreImage = %v", err)
			}
			if b, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(b, bytes.Repeat([]byte("bytes of a device "), 1000)) {
				t.Errorf("the device has %d other bytes, %v", len(b), err)
			}
			lacks, left := s.Lacks()
			if fmt.Sprint(lacks) != "[/odd: not supported]" || len(left) != 0 {
				t.Errorf("Lacks = %q, %q; want one, and nothing left out", lacks, left)
			}
		})
	}
}

// TestPlaces: what callers ask of the place of a set, for each kind of place.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		kind, local   string
		dirs          int
		direct, whole bool
		none          bool // what Has returns for a file that no archive has
	}{
		{"directory", "testdata/v1/directory", 1, true, true, false},
		{"web", "", 0, true, true, false},
		{"discs", "", 1, false, true, false},
		{"tape", "", 1, false, true, false},
		{"legacy", "", 1, false, false, true},
	} {
		s := openV1(t, c.kind)
		if s.Local() != c.local || len(s.Dirs()) != c.dirs || s.Direct() != c.direct || s.WholeLayout() != c.whole {
			t.Errorf("%s: Local = %q, Dirs = %q, Direct = %v, WholeLayout = %v; want %+v", c.kind, s.Local(), s.Dirs(), s.Direct(), s.WholeLayout(), c)
		}
		if found, err := s.Has("/none", "/etc/hostname"); err != nil || !found {
			t.Errorf("%s: Has(/etc/hostname) = %v, %v; want true", c.kind, found, err)
		}
		if found, err := s.Has("/none"); err != nil || found != c.none {
			t.Errorf("%s: Has(/none) = %v, %v; want %v", c.kind, found, err, c.none)
		}
		if _, err := s.Open("none"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: Open(none) = %v; want %v", c.kind, err, os.ErrNotExist)
		}
		// Without AllDiscs, nothing is read that needs a medium to be changed or wound.
		all := s.VerifySize(false)
		s.AllDiscs = false
		if now := s.VerifySize(false); (now == all) != (c.direct || c.kind == "legacy") {
			t.Errorf("%s: VerifySize = %d without the other media, %d with them", c.kind, now, all)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: Close = %v", c.kind, err)
		}
	}
}
