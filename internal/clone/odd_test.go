package clone

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestNotMountable: a file system that can't be mounted is never made empty: all of its
// blocks are copied, or it is refused.
func TestNotMountable(t *testing.T) {
	needsLoops(t)
	for _, kind := range []string{"ext4", "xfs"} {
		for name, c := range map[string]struct {
			o    Options
			want string // of the refusal
		}{
			"same size": {o: Options{Identity: Keep}},
			"larger":    {o: Options{Identity: Keep, TargetSize: 400 << 20}},
			"smaller":   {o: Options{Identity: Keep, TargetSize: 325 << 20}, want: "cannot be mounted, so it can only be copied block by block"},
			"new":       {o: Options{Identity: New}, want: "use --identity keep"},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
				junk := make([]byte, 200<<10)
				_, _ = rand.NewChaCha8([32]byte{1}).Read(junk)
				at := int64(4096) // the descriptors of all groups
				if kind == "ext4" {
					ext4(t, src, "340M")
				} else {
					run(t, "truncate", "-s", "340M", src)
					run(t, "mkfs.xfs", "-q", src)
					at = 512 // the headers of the first group's free space and inodes, and the root
				}
				f, err := os.OpenFile(src, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(junk, at); err != nil {
					t.Fatal(err)
				}
				f.Close()
				s := &recorder{}
				c.o.Source, c.o.Target = []string{src}, []string{dst}
				_, err = Run(context.Background(), tool.Exec{}, s, c.o)
				if strings.Contains(s.text.String(), "empty") {
					t.Errorf("it is made empty:\n%s", s.text.String())
				}
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) || exit.Code(err) != exit.Refused || exists(dst) {
						t.Errorf("%v\n%s", err, s.text.String())
					}
					return
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, s.text.String())
				}
				was, err := os.ReadFile(src)
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(dst)
				if err != nil || len(got) < len(was) || !bytes.Equal(got[:len(was)], was) {
					t.Errorf("the copy differs, %v", err)
				}
			})
		}
	}
}

// TestQcow2Mode: an image has everything that is on the disk, whatever the umask.
func TestQcow2Mode(t *testing.T) {
	needsLoops(t)
	run(t, "qemu-img", "--version")
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst.qcow2")
	ext4(t, src, "32M")
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dst); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*part*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestLoopSource: a device that is no disk has a size, too.
func TestLoopSource(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst.img")
	ext4(t, src, "32M")
	dev := loopOver(t, src, 0)
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, Options{Source: []string{dev}, Target: []string{dst}, Identity: Keep}); err != nil {
		t.Fatal(err)
	}
	checkExt4(t, dst)
}

// TestWithoutEffect: what would have no effect, or not the one that is meant, is refused,
// and nothing is made.
func TestWithoutEffect(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst.img")
	ext4(t, src, "32M")
	damaged := filepath.Join(dir, "damaged")
	run(t, "truncate", "-s", "32M", damaged)
	if err := errors.Join(writeAt(damaged, 510, []byte{0x55, 0xaa}), writeAt(damaged, 446, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0, 0})); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy.img")
	if err := os.WriteFile(busy+".part", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		want string
		code int
	}{
		"root":            {Options{Root: "sda9"}, "--root sda9: the source has no system", exit.BadUsage},
		"host name":       {Options{Identity: New, Personal: identity.Personal{Hostname: "x"}}, "--hostname and --forget are for a system", exit.BadUsage},
		"map is target":   {Options{Map: dst}, "the map file cannot be the source or the target", exit.BadUsage},
		"map is source":   {Options{Map: src}, "the map file cannot be the source or the target", exit.BadUsage},
		"two files":       {Options{Source: []string{src, src}, Target: []string{dst, dst + "2"}}, "only one image file can be made at a time", exit.BadUsage},
		"no source":       {Options{Source: []string{dir + "/nothing"}}, "there is no such disk or file", exit.Failed},
		"damaged table":   {Options{Source: []string{damaged}}, "its partition table is damaged", exit.Failed},
		"a part is there": {Options{Target: []string{busy}}, "busy.img.part is there", exit.Refused},
		"resume":          {Options{Restore: restore.Options{Request: restore.Request{Resume: true}}}, "cannot be resumed", exit.BadUsage},
	} {
		t.Run(name, func(t *testing.T) {
			if c.o.Source == nil {
				c.o.Source = []string{src}
			}
			if c.o.Target == nil {
				c.o.Target = []string{dst}
			}
			if c.o.Identity == "" {
				c.o.Identity = Keep
			}
			_, err := Run(context.Background(), tool.Exec{}, &recorder{}, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || exit.Code(err) != c.code {
				t.Errorf("%v, exit status %d; want %q, %d", err, exit.Code(err), c.want, c.code)
			}
			if err != nil && c.code != exit.BadUsage && !errors.As(err, new(*restore.Untouched)) {
				t.Errorf("%v does not say that nothing was touched", err)
			}
			for _, f := range []string{dst, dst + ".part", dst + "2", busy} {
				if exists(f) {
					t.Errorf("%s was made", f)
				}
			}
		})
	}
	if b, err := os.ReadFile(src); err != nil || quantity.Size(len(b)) != 32*quantity.MiB {
		t.Errorf("the source has %d bytes, %v", len(b), err)
	}
}

// writeAt writes into a file at an offset.
func writeAt(name string, at int64, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}
