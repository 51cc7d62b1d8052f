package set

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
)

// frozenSet has one archive with a file that differs in the snapshot and live.
func frozenSet(t *testing.T, change func(a *Archive, f *Frozen)) (w *Writer, saved string, log string) {
	t.Helper()
	frozen, live := t.TempDir(), t.TempDir()
	for dir, text := range map[string]string{frozen: "snapshot", live: "live"} {
		if err := os.WriteFile(dir+"/file", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w = newWriter(t, Job{})
	f := &Frozen{At: time.Now(), Whole: func(context.Context) error { return nil }, Done: func(context.Context) {}}
	a := &Archive{File: "a.tar.zst", Device: "vg0/root", Type: "ext4", Mount: "/", Name: "/",
		Open:   func() (*os.File, error) { return os.Open(live) },
		Frozen: func() (*Frozen, error) { r, err := os.Open(frozen); f.Root = r; return f, err }}
	change(a, f)
	if err := w.archive(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.sink.Dir(), "log/run.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.man.Archives) != 1 {
		return w, "", string(b)
	}
	x, err := os.Open(filepath.Join(w.sink.Dir(), "a.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	st, err := x.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := archive.Open(x, st.Size(), "a")
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if _, err := r.Extract(t.Context(), to, archive.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(to + "/file")
	if err != nil {
		t.Fatal(err)
	}
	return w, string(text), string(b)
}

// TestFrozen: an archive is of the snapshot, and of the live file system without a snapshot, or
// with one that was not whole until the archive was made. The log has which.
func TestFrozen(t *testing.T) {
	full := errors.New("the snapshot is full")
	var states []string // what became of the state for the next increment
	for name, c := range map[string]struct {
		change       func(a *Archive, f *Frozen)
		want, logged string
	}{
		"snapshot":   {func(*Archive, *Frozen) {}, "snapshot", `"snapshot":true`},
		"none":       {func(a *Archive, _ *Frozen) { a.Frozen = func() (*Frozen, error) { return nil, nil } }, "live", `"snapshot":false`},
		"not opened": {func(a *Archive, _ *Frozen) { a.Frozen = func() (*Frozen, error) { return nil, full } }, "live", `"why":"the snapshot is full"`},
		"full":       {func(_ *Archive, f *Frozen) { f.Whole = func(context.Context) error { return full } }, "live", `"snapshot":false`},
		"full, and not there live": {func(a *Archive, f *Frozen) {
			f.Whole = func(context.Context) error { return full }
			a.Open = func() (*os.File, error) { return nil, errors.New("it is not mounted") }
		}, "", `"why":"the snapshot is full"`},
		"full, with a state": {func(a *Archive, f *Frozen) {
			f.Whole = func(context.Context) error { return full }
			a.States = func(opt *archive.CreateOptions) func() {
				opt.Keep = &archive.StateWriter{}
				file, err := os.Create(filepath.Join(t.TempDir(), "state"))
				if err == nil {
					opt.Keep, err = archive.NewStateWriter(file, archive.Source{Set: "s", Dir: "d", File: "a.tar.zst"})
				}
				if err != nil {
					t.Fatal(err)
				}
				return func() {
					states = append(states, map[bool]string{true: "kept", false: "given up"}[opt.Keep != nil])
				}
			}
		}, "live", `"snapshot":false`},
		"unreadable": {func(_ *Archive, f *Frozen) { f.Whole = func(context.Context) error { f.Root.Close(); return full } }, "live", ""},
	} {
		done := false
		w, saved, log := frozenSet(t, func(a *Archive, f *Frozen) {
			f.Done = func(context.Context) {
				if done = true; f.Root.Close() == nil {
					t.Errorf("%s: Done is called before the root is closed", name)
				}
			}
			c.change(a, f)
		})
		if saved != c.want || !strings.Contains(log, c.logged) {
			t.Errorf("%s: saved %q, log\n%s\nwant %q, %q", name, saved, log, c.want, c.logged)
		}
		if lacks := len(w.man.NotCovered); lacks != map[bool]int{true: 1}[c.want == ""] {
			t.Errorf("%s: not covered: %q", name, w.man.NotCovered)
		}
		if opened := name != "none" && name != "not opened"; done != opened {
			t.Errorf("%s: Done was called: %v", name, done)
		}
	}
	if strings.Join(states, " ") != "given up kept" {
		t.Errorf("states %q; want the first one given up", states)
	}
}

// TestFrozenInterrupted: what is interrupted is not made again.
func TestFrozenInterrupted(t *testing.T) {
	w := newWriter(t, Job{})
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	a := &Archive{File: "a.tar.zst", Name: "/", Open: func() (*os.File, error) { t.Error("opened live"); return os.Open(dir) },
		Frozen: func() (*Frozen, error) {
			cancel()
			root, err := os.Open(dir)
			return &Frozen{Root: root, Whole: func(context.Context) error { return nil }, Done: func(context.Context) {}}, err
		}}
	if err := w.archive(ctx, a); err == nil {
		t.Error("archive = nil; want that it was interrupted")
	}
}
