package store

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stuck are the kinds with a file set/stuck that can't be removed, and what ends that. The home has
// the other files of names already.
func stuck(names []string) map[string]func(t *testing.T) (s *site, end func()) {
	inDir := func(t *testing.T, dir string) (end func()) {
		t.Helper()
		other := filepath.Join(t.TempDir(), "other")
		err := errors.Join(os.MkdirAll(dir+"/set/sub", 0o700), os.WriteFile(other, nil, 0o600))
		for _, n := range names {
			err = errors.Join(err, os.WriteFile(dir+"/set/"+n, []byte("x"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		at := dir + "/set/stuck"
		if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("needs the right to mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // may be done already
		return func() {
			if err := unix.Unmount(at, 0); err != nil {
				t.Error(err)
			}
		}
	}
	return map[string]func(t *testing.T) (*site, func()){
		"dir": func(t *testing.T) (*site, func()) {
			s := &site{url: t.TempDir()}
			return s, inDir(t, s.url)
		},
		"sftp": func(t *testing.T) (*site, func()) {
			s := startSFTP(t)
			return s.site(t, "127.0.0.1:"+s.port), inDir(t, s.home)
		},
		"webdav": func(t *testing.T) (*site, func()) {
			d := newDavServer(t, t.TempDir(), false)
			return d.site(d.addr), inDir(t, d.dir+"/dav/ho me")
		},
		"rclone": func(t *testing.T) (*site, func()) {
			dir := t.TempDir()
			return rcloneAt(t, dir), inDir(t, dir+"/ho me/x")
		},
		"s3 fake": func(t *testing.T) (*site, func()) {
			f := newFakeS3(t)
			for _, n := range names {
				f.objects["p/q/set/"+n] = fakeObject{b: []byte("x")}
			}
			f.refuse = func(method, key string) string {
				return map[string]string{"DELETE p/q/set/stuck": "AccessDenied"}[method+" "+key]
			}
			return f.site(f.addr), func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.refuse = func(string, string) string { return "" }
			}
		},
	}
}

// TestRemovalInterrupted: after an interruption a set no longer looks whole, and has its mark, by
// which the next backup removes what is left.
func TestRemovalInterrupted(t *testing.T) {
	names := []string{"0001.age", "archive", UnfinishedFile, "manifest.json", "manifest.json.sig", "set.json", "stuck", "sub/z"}
	for name, start := range stuck(names) {
		t.Run(name, func(t *testing.T) {
			s, end := start(t)
			h := s.open(t)
			if err := h.Remove(t.Context(), "set"); err == nil {
				t.Error("a file that can't be removed: no error")
			}
			left := strings.Join(listed(t, h, "set"), " ")
			if strings.Contains(left, "manifest") || strings.Contains(left, "set.json") || !strings.Contains(left, UnfinishedFile) || !strings.Contains(left, "stuck") {
				t.Errorf("left: %s", left)
			}
			end()
			if err := h.Remove(t.Context(), "set"); err != nil {
				t.Error(err)
			}
			if left := listed(t, h, "set"); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestRemovalOrder: what makes a set whole is first, its mark last.
func TestRemovalOrder(t *testing.T) {
	got := removalOrder([]string{"a/unfinished.json", "unfinished.json", "archive", "manifest.json.sig", "set.json", "manifest.json", "z"})
	want := []string{"manifest.json", "set.json", "manifest.json.sig", "a/unfinished.json", "archive", "z", "unfinished.json"}
	if !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
}

// TestDavUnfinishedDir: unfinished files of WebDAV are in no list, and are removed.
func TestDavUnfinishedDir(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	h := d.site(d.addr).open(t)
	put(t, h, "set/x", []byte("x"))
	if err := errors.Join(os.Mkdir(d.dir+"/dav/ho me/"+partialPrefix+"d", 0o700), os.WriteFile(d.dir+"/dav/ho me/set/"+partialPrefix+"1", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var removed []string
	d.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			removed = append(removed, r.URL.Path)
		}
		return false
	}
	if dirs, err := h.Dirs(t.Context()); err != nil || !slices.Equal(dirs, []string{"set"}) {
		t.Errorf("%q, %v", dirs, err)
	}
	if got := listed(t, h, "set"); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if err := h.Remove(t.Context(), "set"); err != nil || !slices.Contains(removed, "/dav/ho me/set/"+partialPrefix+"1") {
		t.Errorf("%v; removed %q", err, removed)
	}
}
