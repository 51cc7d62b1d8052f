//go:build vmtest

package vmtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestShares: what servers of NFS and SMB do to backups on a real machine: wrong credentials, no server, a server that
// is killed while a set is written and is back soon, a full one, one that can't be written to. A run ends with a reason,
// nothing looks like a set that is not one, and the next run makes a set that verifies.
func TestShares(t *testing.T) {
	onlyAll(t)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r := Circle{Kind: BIOSLVM, Work: workDir(t), Say: t.Logf}.new()
	r.Mkcdrec, r.Guest = programs(t)
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	share := newShare(t)
	f := startSource(ctx, t, r, Machine{Name: "shares-source", Net: true})
	f.want(0, "for n in /sys/class/net/e*; do ip link set ${n##*/} up; ip addr add 10.0.2.15/24 dev ${n##*/}; done; mkdir -p /backup && mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /usr/local/bin/")
	for _, kind := range []string{"nfs", "smb"} {
		f.want(0, `printf 'include: [/etc, /usr/bin, /usr/sbin, /usr/lib/x86_64-linux-gnu]\nexclude_devices: [/backup]\nrescue: {programs: none, modules: host}\ncredentials_file: /root/cred\n' > /etc/mkcdrec.yaml`)
		t.Run(kind, func(t *testing.T) { f.t = t; share.faults(ctx, f, kind) })
	}
}

// share is a small file system of this host that servers have.
type share struct{ *Servers }

// shareSize is what it has, in bytes.
const shareSize = "900m"

func newShare(t *testing.T) share {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "servers")
	if err := os.MkdirAll(dir+"/share", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir+"/share", "tmpfs", 0, "size="+shareSize); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/share", unix.MNT_DETACH) }) // t.TempDir reports what stays
	s, err := StartServers(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return share{s}
}

// sets are the directories of the host's sets, with the size of what they have.
func (s share) sets(t *testing.T) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	err := filepath.WalkDir(s.Share+"/sets", func(p string, d fs.DirEntry, err error) error {
		if rel := strings.TrimPrefix(p, s.Share+"/sets/"); err == nil && rel != p {
			name, _, _ := strings.Cut(rel, "/")
			if i, err := d.Info(); err == nil && i.Mode().IsRegular() {
				out[name] += i.Size()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// faults are those of one kind of server.
func (s share) faults(ctx context.Context, f *faults, kind string) {
	t := f.t
	url := s.Fill(map[string]string{"nfs": "nfs://HOST:PORT(nfs)/share/sets", "smb": "smb://HOST:PORT(smb)/share/sets"}[kind])
	credentials := func(password string) {
		text := "[]"
		if kind == "smb" {
			text = s.Fill(`- {url: "smb://HOST:PORT(smb)", user: root, password: ` + password + `}`)
		}
		f.want(0, "umask 077; echo '"+text+"' > /root/cred")
	}
	path := func(url string) string {
		return "mkcdrec path '" + url + "' > /tmp/out 2>&1; S=$?; cat /tmp/out; "
	}
	good := func() {
		t.Helper()
		f.want(0, path(url)+"test $S = 0 && mkcdrec -q verify '"+url+"'")
		f.want(0, "! grep mkcdrec /proc/self/mounts && ! ls -d /run/mkcdrec/home* 2>/dev/null; test -z \"$(ls -d /tmp/mkcdrec-* 2>/dev/null)\"")
	}
	bad := func(what, url string, words ...string) {
		t.Helper()
		before := len(s.sets(t))
		f.want(0, path(url)+"test $S = 1; E=$?; ! grep geheim /tmp/out && test $E = 0", words...)
		f.want(0, "! grep mkcdrec /proc/self/mounts")
		if after := len(s.sets(t)); after > before {
			t.Errorf("%s: %d sets; want %d, as before", what, after, before)
		}
	}
	if kind == "smb" {
		credentials("geheim2")
		bad("wrong password", url, "wrong user name or password")
	}
	credentials("geheim")
	good()
	one := int64(0)
	for _, n := range s.sets(t) {
		one = max(one, n)
	}

	bad("read-only", strings.Replace(url, "/share/", "/ro/", 1), map[string]string{"nfs": "read-only file system", "smb": "permission denied"}[kind])

	// Room for half of a set.
	ballast := filepath.Join(s.Share, "ballast")
	var st unix.Statfs_t
	if err := unix.Statfs(s.Share, &st); err != nil {
		t.Fatal(err)
	}
	b, err := os.Create(ballast)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(b.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-one/2), b.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	bad("full", url, "will probably not fit", "no space left on device")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}

	// Killed in the middle, and back after some seconds: the run goes through, or ends with a reason.
	before := s.sets(t)
	f.want(0, "mkcdrec path '"+url+"' > /tmp/out 2>&1 & :")
	for end := time.Now().Add(jobLimit); ; time.Sleep(200 * time.Millisecond) {
		n := int64(0)
		for name, size := range s.sets(t) {
			n += size - before[name]
		}
		if n > one/4 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing is written:\n%s", f.want(0, "cat /tmp/out"))
		}
	}
	s.Kill(kind)
	time.Sleep(5 * time.Second) // how long the server is away
	if err := s.Restart(ctx, kind); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed: %s", f.want(0, "wait %1; S=$?; tail -n 8 /tmp/out; test $S = 0 || test $S = 1; echo status $S"))
	f.want(0, "mkcdrec -q verify '"+url+"'")

	// Away from the beginning on.
	s.Kill(kind)
	bad("no server", url, "cannot ")
	if err := s.Restart(ctx, kind); err != nil {
		t.Fatal(err)
	}
	good()
	for name := range s.sets(t) {
		if _, err := os.Stat(filepath.Join(s.Share, "sets", name, "manifest.json")); err != nil {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	if err := os.RemoveAll(s.Share + "/sets"); err != nil {
		t.Fatal(err)
	}
}
