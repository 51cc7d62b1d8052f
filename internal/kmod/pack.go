package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// A pack holds modules compressed in the rescue system's memory: unpacked,
// the drivers of a distribution's kernel take 150 MB, packed 40. Modules lie
// one after the other in zstd frames of about packFrame bytes; the index has
// one line per module: where its frame begins, the frame's length, where the
// module begins in the decoded frame, its length, and its path.
const (
	PackFile  = "modules.pack"
	PackIndex = "modules.pack.index"
	// packFrame is the decoded size at which a frame ends: as large as the
	// compression likes, as small as loading one module allows.
	packFrame = 2 << 20
	// packKeep is how many decoded frames a reader keeps.
	packKeep = 4
)

type packed struct {
	frame, length int64
	off, size     int64
}

// WritePack writes the named modules into w, in that order, and gives the
// index. Modules that are loaded together should be neighbours. each is called
// with every module's content, from one goroutine.
func (x *Index) WritePack(w io.Writer, names []string, each func(name string, module []byte) error) ([]byte, error) {
	type frame struct {
		raw   bytes.Buffer
		lines []string // offset, size, path
		out   []byte
		err   error
		done  chan struct{}
	}
	todo := make(chan *frame, runtime.NumCPU())
	order := make(chan *frame, 2*runtime.NumCPU())
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packFrame*2))
			for f := range todo {
				if f.err = err; err == nil {
					f.out = z.EncodeAll(f.raw.Bytes(), nil)
				}
				close(f.done)
			}
		})
	}
	var readErr error
	go func() {
		defer close(order)
		defer close(todo)
		f := &frame{done: make(chan struct{})}
		send := func() {
			if len(f.lines) > 0 {
				order <- f
				todo <- f
				f = &frame{done: make(chan struct{})}
			}
		}
		for _, n := range names {
			b, err := x.Read(n)
			if err == nil {
				err = each(n, b)
			}
			if err != nil {
				readErr = err
				break
			}
			f.lines = append(f.lines, fmt.Sprintf("%d %d %s", f.raw.Len(), len(b), PlainPath(x.Path[n])))
			f.raw.Write(b)
			if f.raw.Len() >= packFrame {
				send()
			}
		}
		send()
	}()
	var index bytes.Buffer
	var errs []error
	pos := int64(0)
	for f := range order {
		<-f.done
		if f.err != nil || len(errs) > 0 {
			errs = append(errs, f.err)
			continue
		}
		if _, err := w.Write(f.out); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, l := range f.lines {
			fmt.Fprintf(&index, "%d %d %s\n", pos, len(f.out), l)
		}
		pos += int64(len(f.out))
	}
	wg.Wait()
	if err := errors.Join(append(errs, readErr)...); err != nil {
		return nil, fmt.Errorf("cannot pack kernel modules: %w", err)
	}
	return index.Bytes(), nil
}

// readPackIndex reads the index, if there is one.
func (x *Index) readPackIndex() error {
	bad := ""
	err := lines(filepath.Join(x.Dir, PackIndex), func(l string) {
		var p packed
		var path string
		if n, err := fmt.Sscanf(l, "%d %d %d %d %s", &p.frame, &p.length, &p.off, &p.size, &path); err != nil || n != 5 || p.frame < 0 || p.length < 0 || p.length > 64<<20 || p.off < 0 || p.size < 0 {
			bad = l
			return
		}
		x.packed[Name(path)] = p
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && bad != "" {
		err = fmt.Errorf("%s: bad line %q", PackIndex, bad)
	}
	return err
}

// Unreadable is the error of a module that can't be read: its pack is damaged, or not
// all there.
type Unreadable struct{ error }

func (u Unreadable) Unwrap() error { return u.error }

// unpack gives a module out of the pack. The error is an Unreadable.
func (x *Index) unpack(name string, p packed) ([]byte, error) {
	b, err := x.fromFrame(name, p)
	if err != nil {
		return nil, Unreadable{err}
	}
	return b, nil
}

func (x *Index) fromFrame(name string, p packed) ([]byte, error) {
	x.mu.Lock()
	raw, ok := x.frames[p.frame]
	x.mu.Unlock()
	if !ok {
		f, err := os.Open(filepath.Join(x.Dir, PackFile))
		if err != nil {
			return nil, fmt.Errorf("cannot read kernel module %s: %w", name, err)
		}
		defer f.Close()
		b := make([]byte, p.length)
		if _, err := f.ReadAt(b, p.frame); err != nil {
			return nil, fmt.Errorf("cannot read kernel module %s: %s: %w", name, PackFile, err)
		}
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		if raw, err = z.DecodeAll(b, nil); err != nil {
			return nil, fmt.Errorf("cannot read kernel module %s: %s, byte %d: %w", name, PackFile, p.frame, err)
		}
		x.mu.Lock()
		if len(x.recent) >= packKeep {
			delete(x.frames, x.recent[0])
			x.recent = x.recent[1:]
		}
		x.frames[p.frame] = raw
		x.recent = append(x.recent, p.frame)
		x.mu.Unlock()
	}
	if p.off > int64(len(raw)) || p.size > int64(len(raw))-p.off {
		return nil, fmt.Errorf("cannot read kernel module %s: it lies outside its frame in %s", name, PackFile)
	}
	return raw[p.off : p.off+p.size], nil
}

// Packed reports whether a module is in a pack and not in a file of its own.
func (x *Index) Packed(name string) bool { _, ok := x.packed[name]; return ok }

// FlushPack forgets decoded frames.
func (x *Index) FlushPack() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.frames)
	x.recent = nil
}

// Conf is what of modprobe.d(5) matters to a rescue system: blacklists
// and options. `install` and `remove` lines run programs, and are ignored.
type Conf struct {
	Blacklist map[string]bool
	Options   map[string]string
}

// ConfDirs are the directories of modprobe.d(5), the most important first.
var ConfDirs = []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"}

// ReadConf reads the modprobe.d directories below root. A file hides those of
// the same name in later directories. What can't be read is skipped.
func ReadConf(root string) *Conf {
	c := &Conf{Blacklist: map[string]bool{}, Options: map[string]string{}}
	seen := map[string]bool{}
	for _, d := range ConfDirs {
		files, err := filepath.Glob(root + d + "/*.conf")
		if err != nil {
			continue
		}
		for _, f := range files {
			if seen[filepath.Base(f)] {
				continue
			}
			seen[filepath.Base(f)] = true
			if b, err := os.ReadFile(f); err == nil {
				c.parse(string(b))
			}
		}
	}
	return c
}

func (c *Conf) parse(text string) {
	for _, l := range strings.Split(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		w := strings.Fields(l)
		switch {
		case len(w) >= 2 && w[0] == "blacklist":
			c.Blacklist[Norm(w[1])] = true
		case len(w) >= 3 && w[0] == "options":
			n := Norm(w[1])
			c.Options[n] = strings.TrimSpace(c.Options[n] + " " + strings.Join(w[2:], " "))
		}
	}
}

// Cmdline adds what the kernel command line has: modprobe.blacklist= and
// MODULE.PARAMETER=VALUE.
func (c *Conf) Cmdline(cmdline string) {
	for _, w := range sysconf.ParseCmdline(cmdline).Words {
		if w.Name == "modprobe.blacklist" || w.Name == "module_blacklist" {
			for _, n := range strings.Split(w.Value, ",") {
				c.Blacklist[Norm(n)] = true
			}
			continue
		}
		mod, param, ok := strings.Cut(w.Raw(), ".")
		if !ok || !strings.HasPrefix(w.Name, mod+".") || mod == "" || param == "" || mod == "mkcdrec" || mod == "systemd" || mod == "rd" {
			continue
		}
		c.Options[Norm(mod)] = strings.TrimSpace(c.Options[Norm(mod)] + " " + param)
	}
}

// Text gives a file for modprobe.d with what concerns the named modules.
func (c *Conf) Text(names []string) []byte {
	var b bytes.Buffer
	for _, n := range names {
		if c.Blacklist[n] {
			fmt.Fprintf(&b, "blacklist %s\n", n)
		}
		if o := c.Options[n]; o != "" {
			fmt.Fprintf(&b, "options %s %s\n", n, o)
		}
	}
	return b.Bytes()
}
