package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proxy passes connections to a server on, and breaks them.
type proxy struct {
	t    *testing.T
	to   string
	addr string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	left     int64         // bytes until all connections are cut; negative: never
	cut      int           // how often that was
	down     time.Duration // for how long nothing answers then
	delay    time.Duration // before each piece
}

func newProxy(t *testing.T, to string) *proxy {
	p := &proxy{t: t, to: to, conns: map[net.Conn]bool{}, left: -1}
	p.listen("127.0.0.1:" + freePort(t))
	t.Cleanup(p.stop)
	return p
}

func (p *proxy) listen(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.mu.Lock()
	p.listener, p.addr = l, l.Addr().String()
	p.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", p.to)
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.conns[c], p.conns[s] = true, true
			p.mu.Unlock()
			go p.pass(c, s)
			go p.pass(s, c)
		}
	}()
}

func (p *proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		delay := p.delay
		if p.left >= 0 {
			if p.left -= int64(n); p.left < 0 {
				p.left = -1
				p.cut++
				go p.restart()
				p.mu.Unlock()
				_, _ = to.Write(b[:n/2])
				return
			}
		}
		p.mu.Unlock()
		time.Sleep(delay)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stop closes all.
func (p *proxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for c := range p.conns {
		c.Close()
	}
	p.conns = map[net.Conn]bool{}
}

func (p *proxy) restart() {
	p.stop()
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	time.Sleep(down)
	p.listen(p.addr)
}

// after cuts all connections when so many bytes have passed.
func (p *proxy) after(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.cut, p.down = n, 0, 100*time.Millisecond
}

func (p *proxy) cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// breaking are the kinds whose server is behind a proxy that cuts connections.
func breaking() map[string]func(t *testing.T) (*site, *proxy) {
	return map[string]func(t *testing.T) (*site, *proxy){
		"sftp": func(t *testing.T) (*site, *proxy) { s := startSFTP(t); return s.behind(t) },
		"s3 fake": func(t *testing.T) (*site, *proxy) {
			f := newFakeS3(t)
			p := newProxy(t, f.addr)
			return f.site(p.addr), p
		},
		"webdav": func(t *testing.T) (*site, *proxy) {
			d := newDavServer(t, t.TempDir(), true)
			p := newProxy(t, d.addr)
			return d.site(p.addr), p
		},
		"s3": func(t *testing.T) (*site, *proxy) {
			v := startVersity(t, t.TempDir())
			p := newProxy(t, "127.0.0.1:"+v.port)
			return v.site(p.addr), p
		},
	}
}

// behind gives the site with a proxy before it.
func (s *sshd) behind(t *testing.T) (*site, *proxy) {
	p := newProxy(t, "127.0.0.1:"+s.port)
	return s.site(t, p.addr), p
}

// TestBroken: connections that break in the middle of an upload or a read cost nothing.
func TestBroken(t *testing.T) {
	for name, start := range breaking() {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "s3 fake" {
				t.Skip("takes a while")
			}
			s, p := start(t)
			h := s.open(t)
			for i, n := range []int64{1000, 3 << 20, 9 << 20, 17 << 20} {
				want := random(20<<20+i, uint64(i))
				p.after(n)
				file := fmt.Sprintf("broken/%d", i)
				put(t, h, file, want)
				if p.cuts() != 1 {
					t.Errorf("cut after %d bytes: %d times", n, p.cuts())
				}
				p.after(n)
				if got := content(t, h, file); !bytes.Equal(got, want) {
					t.Errorf("cut after %d bytes: read %d bytes that differ", n, len(got))
				}
				if p.cuts() != 1 {
					t.Errorf("cut after %d bytes: %d times", n, p.cuts())
				}
			}
			if got := listed(t, h, "broken"); len(got) != 4 {
				t.Errorf("listed: %q", got)
			}
			p.mu.Lock()
			p.delay = 20 * time.Millisecond
			p.mu.Unlock()
			put(t, h, "slow", random(1<<20, 9))
			if got := content(t, h, "slow"); !bytes.Equal(got, random(1<<20, 9)) {
				t.Errorf("slow: %d bytes that differ", len(got))
			}
		})
	}
}

// TestServerKilled: a server that is killed in the middle and started again costs nothing,
// and one that stays away is an error.
func TestServerKilled(t *testing.T) {
	for name, start := range killable() {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes a while")
			}
			s, kill, again := start(t)
			h := s.open(t)
			want := random(40<<20, 3)
			u, err := h.Create(t.Context(), "killed/x")
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(want); i += 1 << 20 {
				if i == 12<<20 {
					kill()
					time.AfterFunc(300*time.Millisecond, again)
				}
				if _, err := u.Write(want[i : i+1<<20]); err != nil {
					t.Fatal(err)
				}
			}
			if err := u.Commit(); err != nil {
				t.Fatal(err)
			}
			f, err := h.At(t.Context(), "killed").Open("x")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := make([]byte, 0, len(want))
			for len(got) < len(want) {
				if len(got) == 8<<20 {
					kill()
					time.AfterFunc(300*time.Millisecond, again)
				}
				n, err := f.ReadAt(got[len(got):len(got)+4<<20], int64(len(got)))
				got = got[:len(got)+n]
				if err != nil && err != io.EOF {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Error("what was written and read differs")
			}
			kill()
			s.access.limits = fast
			if _, err := OpenHome(t.Context(), s.url, s.access); err == nil {
				_, err = h.Dirs(t.Context())
				if err == nil {
					t.Error("a killed server answers")
				}
				s.secretFree(t, err)
			}
			again()
		})
	}
}

// killable are the kinds with real servers, and what kills and starts them.
func killable() map[string]func(t *testing.T) (s *site, kill, again func()) {
	return map[string]func(t *testing.T) (*site, func(), func()){
		"sftp": func(t *testing.T) (*site, func(), func()) {
			s := startSFTP(t)
			return s.site(t, "127.0.0.1:"+s.port), s.kill, s.run
		},
		"s3": func(t *testing.T) (*site, func(), func()) {
			v := startVersity(t, t.TempDir())
			return v.site("127.0.0.1:" + v.port), v.kill, v.run
		},
	}
}

// smallDisk is a file system of 24 MiB.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// full are the kinds with a disk of 24 MiB.
func full() map[string]func(t *testing.T) *site {
	return map[string]func(t *testing.T) *site{
		"dir": func(t *testing.T) *site { return &site{url: smallDisk(t)} },
		"sftp": func(t *testing.T) *site {
			s := startSFTP(t)
			s.home = smallDisk(t)
			return s.site(t, "127.0.0.1:"+s.port)
		},
		"webdav":       func(t *testing.T) *site { d := newDavServer(t, smallDisk(t), false); return d.site(d.addr) },
		"webdav parts": func(t *testing.T) *site { d := newDavServer(t, smallDisk(t), true); return d.site(d.addr) },
		"rclone":       func(t *testing.T) *site { return rcloneAt(t, smallDisk(t)) },
		"s3": func(t *testing.T) *site {
			v := startVersity(t, smallDisk(t))
			return v.site("127.0.0.1:" + v.port)
		},
	}
}

// TestFull: a full disk is an error that names it, and nothing of the file is left.
func TestFull(t *testing.T) {
	for name, start := range full() {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "dir" {
				t.Skip("takes a while")
			}
			s := start(t)
			h := s.open(t)
			put(t, h, "full/fits", random(5<<20, 1))
			u, err := h.Create(t.Context(), "full/x")
			if err != nil {
				t.Fatal(err)
			}
			_, err = u.Write(random(60<<20, 2))
			if err == nil {
				err = u.Commit()
			}
			if err == nil || !strings.Contains(err.Error(), "disk is full") && !strings.Contains(err.Error(), "InsufficientStorage") && !errors.Is(err, unix.ENOSPC) && !strings.Contains(err.Error(), "no space left on device") && !strings.Contains(err.Error(), "507") {
				t.Errorf("a full disk: %v", err)
			}
			s.secretFree(t, err)
			if err := u.Abort(); err != nil {
				t.Errorf("Abort: %v", err)
			}
			for i := range 100 { // a server may need a moment to remove what it did not store
				if err = write(t.Context(), h, "full/again", random(5<<20, 3)); err == nil || i > 0 && name == "dir" {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if err != nil {
				t.Errorf("after a full disk: %v", err)
			}
			if got := listed(t, h, "full"); len(got) != 2 {
				t.Errorf("after a full disk: %q", got)
			}
		})
	}
}

// readOnly are the kinds with a home that can't be written; it has the file set/x.
func readOnly() map[string]func(t *testing.T) *site {
	return map[string]func(t *testing.T) *site{
		"dir": func(t *testing.T) *site { return &site{url: readOnlyDir(t)} },
		"sftp": func(t *testing.T) *site {
			s := startSFTP(t)
			s.home = readOnlyDir(t)
			return s.site(t, "127.0.0.1:"+s.port)
		},
		"s3 fake": func(t *testing.T) *site {
			f := newFakeS3(t)
			f.objects["p/q/set/x"] = fakeObject{b: []byte("text"), etag: `"1"`}
			f.refuse = func(method, _ string) string {
				return map[string]string{http.MethodPut: "AccessDenied", http.MethodPost: "AccessDenied", http.MethodDelete: "AccessDenied"}[method]
			}
			return f.site(f.addr)
		},
	}
}

func readOnlyDir(t *testing.T) string {
	dir := smallDisk(t)
	if err := errors.Join(os.Mkdir(dir+"/set", 0o700), os.WriteFile(dir+"/set/x", []byte("text"), 0o600), unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReadOnly: what can't be written can be read; the error of writing names the reason.
func TestReadOnly(t *testing.T) {
	for name, start := range readOnly() {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			h := s.open(t)
			if got := content(t, h, "set/x"); string(got) != "text" {
				t.Errorf("%q", got)
			}
			u, err := h.Create(t.Context(), "set/y")
			if err == nil {
				if _, err = u.Write([]byte("x")); err == nil {
					err = u.Commit()
				}
			}
			if err == nil || !strings.Contains(err.Error(), "cannot write "+h.String()+"/set/y: ") {
				t.Errorf("writing: %v", err)
			}
			if err2 := h.Remove(t.Context(), "set"); err2 == nil || !strings.Contains(err2.Error(), "cannot remove "+h.String()) {
				t.Errorf("removing: %v", err2)
			}
			s.secretFree(t, err)
			if got := listed(t, h, "set"); len(got) != 1 {
				t.Errorf("%q", got)
			}
		})
	}
}
