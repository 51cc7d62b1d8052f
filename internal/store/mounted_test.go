package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeMounts mounts nothing: a link in the place of the mount's directory leads to a
// directory that stands for the server's.
type fakeMounts struct {
	t       *testing.T
	server  string
	calls   []string
	refuse  func(source string) error
	mounted map[string]bool
}

func (m *fakeMounts) mount(source, dir, typ string, flags uintptr, options []string) error {
	m.calls = append(m.calls, fmt.Sprint(source, " ", typ, " ", strings.Join(options, ",")))
	if flags&unix.MS_NOSUID == 0 || flags&unix.MS_NODEV == 0 || flags&unix.MS_NOSYMFOLLOW == 0 {
		m.t.Errorf("mounted with flags %x", flags)
	}
	if m.refuse != nil {
		if err := m.refuse(source); err != nil {
			return err
		}
	}
	at := filepath.Join(m.server, strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(source, "//"), "127.0.0.1"), ":/"))
	if strings.Contains(source, "127.0.0.1:") || strings.Contains(source, "//127.0.0.1/") {
		if _, err := os.Stat(at); err != nil {
			return unix.ENOENT
		}
	} else {
		at = m.server
	}
	m.mounted[dir] = true
	return errors.Join(os.Remove(dir), os.Symlink(at, dir))
}

func (m *fakeMounts) unmount(dir string) error {
	if !m.mounted[dir] {
		return unix.EINVAL
	}
	delete(m.mounted, dir)
	return errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700))
}

func newMounts(t *testing.T) (*fakeMounts, Access) {
	m := &fakeMounts{t: t, server: t.TempDir(), mounted: map[string]bool{}}
	at := t.TempDir()
	t.Cleanup(func() {
		if left, err := os.ReadDir(at); len(left) > 0 || err != nil || len(m.mounted) > 0 {
			t.Errorf("left below %s: %v, %v, mounted %v", at, left, err, m.mounted)
		}
	})
	return m, Access{Mount: m.mount, Unmount: m.unmount, MountDir: at, limits: quick}
}

func mountSite(t *testing.T, url string) *site {
	m, access := newMounts(t)
	if err := errors.Join(os.Mkdir(m.server+"/export", 0o700), os.Mkdir(m.server+"/share", 0o700)); err != nil {
		t.Fatal(err)
	}
	c, err := ParseCredentials([]byte("- {url: 'smb://127.0.0.1/', password: 'gJ7,top=secret'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	access.Credentials = c
	return &site{url: url, access: access, hidden: []string{"gJ7,top=secret"}}
}

// TestMounts: what is mounted, with which options; after errors nothing is mounted.
func TestMounts(t *testing.T) {
	credentials, err := ParseCredentials([]byte("- {url: 'smb://h/', user: u, password: 'p,1', domain: D}\n- {url: 'nfs://h/', options: 'vers=3,nolock'}\n- {url: 'smb://h/open'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	nfs, smb := "soft,timeo=300,retrans=6", "vers=3,sign,file_mode=0600,dir_mode=0700"
	for _, c := range []struct {
		url, refuse string
		cause       error
		calls       []string
		want        string // in the error; "" for none
	}{
		{"nfs://h/export", "", nil, []string{"h:/export nfs " + nfs + ",vers=3,nolock"}, ""},
		{"nfs://other:2050/a/b", "b", unix.ENOENT, []string{"other:/a/b nfs " + nfs + ",port=2050", "other:/a nfs " + nfs + ",port=2050"}, ""},
		{"nfs://[fe80::1]/a/b", "/", unix.EACCES, []string{"[fe80::1]:/a/b nfs " + nfs, "[fe80::1]:/a nfs " + nfs}, "cannot mount nfs://[fe80::1]/a/b: permission denied"},
		{"nfs://other/a/b", "/", unix.ETIMEDOUT, []string{"other:/a/b nfs " + nfs}, "timed out"},
		{"smb://h/share/d", "", nil, []string{"//h/share cifs " + smb + ",username=u,password=p,1,domain=D"}, ""},
		{"smb://v@h/share/d", "", nil, []string{"//h/share cifs " + smb + ",username=v,password=p,1,domain=D"}, ""},
		{"smb://h/open", "", nil, []string{"//h/open cifs " + smb + ",guest"}, ""},
		{"smb://v@other/share", "", nil, nil, "no credentials for it, and no terminal to ask"},
		{"smb://h/share", "/", unix.EACCES, []string{"//h/share cifs " + smb + ",username=u,password=p,1,domain=D"}, "permission denied"},
	} {
		t.Run(c.url, func(t *testing.T) {
			m, access := newMounts(t)
			access.Credentials = credentials
			m.refuse = func(source string) error {
				if c.refuse != "" && strings.Contains(filepath.Base(source), strings.TrimPrefix(c.refuse, "/")) {
					return c.cause
				}
				return nil
			}
			h, err := OpenHome(t.Context(), c.url, access)
			if !slices.Equal(m.calls, c.calls) {
				t.Errorf("calls: %q; want %q", m.calls, c.calls)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "p,1") {
					t.Errorf("%v; want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.At(t.Context(), "x").Open("y"); err == nil || strings.Contains(err.Error(), access.MountDir) || !strings.Contains(err.Error(), c.url+"/x/y") {
				t.Errorf("%v; want the URL and no directory of this machine", err)
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := OpenHome(t.Context(), "nfs://h/x", Access{}); err == nil || !strings.Contains(err.Error(), "mounts no shares") {
		t.Errorf("%v", err)
	}
}
