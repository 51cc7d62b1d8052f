package streams

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// soon fails the test if fn waits, as opening a fifo does.
func soon(t *testing.T, what string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: waits", what)
		return nil
	}
}

// TestPasteOdd: a fifo or a device in the place of a volume is refused, not waited
// for.
func TestPasteOdd(t *testing.T) {
	for _, kind := range []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFSOCK} {
		dir := t.TempDir()
		if err := unix.Mknod(dir+"/s.001", kind|0o600, int(unix.Mkdev(1, 5))); err != nil {
			t.Skipf("cannot make nodes here: %v; CI is root", err)
		}
		for _, place := range []string{dir, dir + "/s.001"} {
			s, out, errs := command(nil, nil, none)
			err := soon(t, place, func() error { return Paste(ctx, s, []string{"-name", "s", place}) })
			if err == nil || out.Len() > 0 {
				t.Errorf("%s, type %#o: %v, %d bytes, %s", place, kind, err, out.Len(), errs)
			}
		}
		odd := dir + "/s.001"
		s, _, _ := command(nil, nil, none)
		for _, files := range [][2]string{{odd, dir + "/0"}, {dir + "/name", odd}} {
			os.WriteFile(dir+"/0", []byte("0\n"), 0o600)
			os.WriteFile(dir+"/name", []byte(odd+"\n"), 0o600)
			if kind == unix.S_IFCHR {
				continue // endless, and what was asked for
			}
			if err := soon(t, "-old", func() error {
				return Paste(ctx, s, []string{"-old", "-restore-file", files[0], "-more-file", files[1]})
			}); err == nil {
				t.Errorf("-old, type %#o: no error", kind)
			}
		}
		if kind != unix.S_IFCHR {
			if err := soon(t, "a piece", func() error {
				return Paste(ctx, s, []string{"-old", "-restore-file", dir + "/name", "-more-file", dir + "/0"})
			}); !errors.Is(err, volume.ErrNotRegular) && !errors.Is(err, unix.ENXIO) {
				t.Errorf("a piece of type %#o: %v", kind, err)
			}
		}
	}
}

// TestCutOdd: what is not a regular file is never replaced by a volume, nor what
// came into its place after the run began.
func TestCutOdd(t *testing.T) {
	stream := noise(100_000)
	for _, kind := range []string{"fifo", "link", "dangling link", "file"} {
		dir := t.TempDir()
		odd := dir + "/s.002"
		make := func(p string) {
			var err error
			switch kind {
			case "fifo":
				err = unix.Mkfifo(p, 0o600)
			case "link":
				if err = os.WriteFile(dir+"/precious", []byte("precious"), 0o600); err == nil {
					err = os.Symlink(dir+"/precious", p)
				}
			case "dangling link":
				err = os.Symlink("/no/such", p)
			case "file":
				err = os.WriteFile(p, []byte("precious"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s, _, _ := command(stream, nil, func(c tool.Cmd) error {
			if _, err := os.Lstat(odd); err != nil { // while the run is under way
				make(odd)
			}
			return nil
		})
		args := []string{"-size", "40K", "-name", "s", "-dir", dir, "-exec", "/bin/burn"}
		err := soon(t, kind, func() error { return Cut(ctx, s, args) })
		st, e := os.Lstat(odd)
		if err == nil || e != nil || st.Size() > 1000 {
			t.Errorf("%s in the place of a volume: %v; it is %v, %v", kind, err, st, e)
		}
		// Without it the run is completed.
		os.Remove(odd)
		s, _, _ = command(stream, nil, func(tool.Cmd) error { return nil })
		if err := Cut(ctx, s, append(args, "-resume")); err != nil {
			t.Errorf("%s: resume: %v", kind, err)
		}
		s, out, _ := command(nil, nil, none)
		if err := Paste(ctx, s, []string{dir}); err != nil || !bytes.Equal(out.Bytes(), stream) {
			t.Errorf("%s: pasted: %v", kind, err)
		}
	}
	for _, kind := range []string{"DESTINATION", "VOLNO_FILE"} {
		dir := t.TempDir()
		if err := unix.Mkfifo(dir+"/odd", 0o600); err != nil {
			t.Fatal(err)
		}
		env := map[string]string{"MAXCDSIZE": "40", "MAKE_ISO9660": "burn", "DESTINATION": dir + "/out", kind: dir + "/odd"}
		s, _, _ := command(stream, env, func(tool.Cmd) error { return os.Remove(dir + "/out") })
		if err := soon(t, kind, func() error { return Cut(ctx, s, nil) }); err == nil || !strings.Contains(err.Error(), "regular") && !errors.Is(err, unix.ENXIO) {
			t.Errorf("a fifo as %s: %v", kind, err)
		}
		if st, err := os.Lstat(dir + "/odd"); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
			t.Errorf("%s was replaced: %v", kind, err)
		}
	}
}

// TestPasteClean: what a volume's header has reaches no terminal as it is.
func TestPasteClean(t *testing.T) {
	dir := t.TempDir()
	s, _, _ := command(noise(100_000), nil, none)
	if err := Cut(ctx, s, []string{"-size", "40K", "-name", "a\x1b[2J", "-dir", dir}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir + "/a\x1b[2J.002"); err != nil {
		t.Fatal(err)
	}
	s, _, errs := command(nil, nil, none)
	if err := Paste(ctx, s, []string{"-name", "b", dir + "/a\x1b[2J.001"}); err == nil || !strings.Contains(errs.String(), `a\x1b[2J`) || strings.Contains(errs.String(), "\x1b") {
		t.Errorf("%v, %q", err, errs)
	}
}

// TestPasteNowhere: a place that is not there at all is named.
func TestPasteNowhere(t *testing.T) {
	s, _, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{t.TempDir() + "/no-such-place"}); err == nil || !strings.Contains(err.Error(), "/no-such-place") {
		t.Errorf("Paste = %v; want the place", err)
	}
	dir := t.TempDir()
	if err := Paste(ctx, s, []string{dir}); err == nil || strings.Contains(err.Error(), dir) {
		t.Errorf("Paste = %v; want that the volume is not there", err)
	}
}
