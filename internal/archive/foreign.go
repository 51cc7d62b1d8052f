package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// ExtractTar extracts a tar stream of another program (ustar, GNU, pax) below
// dest, by the rules of Extract. name is for messages. Selecting saves no
// reading here, and Salvage is not possible.
func ExtractTar(ctx context.Context, r io.Reader, name, dest string, opt ExtractOptions) (*Summary, error) {
	return extractInto(ctx, name, dest, opt, func(x *extractor) error {
		s := foreignStream(x.ctx, r, opt.Select, opt.Progress)
		defer s.stop()
		return x.all(&tarParser{s: s})
	})
}

// all extracts the members of a stream, to its end.
func (x *extractor) all(p *tarParser) error { return x.each(p, func(*Member) {}) }

// each is all; begun is called for each member before it is extracted.
func (x *extractor) each(p *tarParser, begun func(*Member)) error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		m, stored, err := p.next()
		if err != nil || m == nil {
			return err
		}
		begun(m)
		end := p.s.pos + stored + padding(stored)
		if err := x.next(p, m, stored); err != nil {
			return err
		}
		if err := p.skip(end - p.s.pos); err != nil {
			return err
		}
	}
}

// foreignStream translates any tar into ours and gives it as frames.
func foreignStream(ctx context.Context, r io.Reader, sel func(string) bool, prog progress.Counter) *frameStream {
	pr, pw := io.Pipe()
	s := pipeStream(ctx, pr, prog)
	s.wg.Go(func() { pw.CloseWithError(translate(pw, r, sel)) })
	return s
}

// plainStream gives a tar stream of ours as frames.
func plainStream(ctx context.Context, r *io.PipeReader) *frameStream { return pipeStream(ctx, r, nil) }

// pipeStream gives a tar stream as frames of FrameSize.
func pipeStream(ctx context.Context, pr *io.PipeReader, prog progress.Counter) *frameStream {
	const bufs = 6
	s := &frameStream{order: make(chan chan frameResult, bufs)}
	ctx, s.cancel = context.WithCancel(ctx)
	home := make(chan []byte, bufs)
	for range bufs {
		home <- nil
	}
	s.wg.Go(func() {
		defer close(s.order)
		defer pr.CloseWithError(context.Canceled)
		for {
			var buf []byte
			select {
			case buf = <-home:
			case <-ctx.Done():
				return
			}
			if buf == nil {
				buf = make([]byte, FrameSize)
			}
			n, err := io.ReadFull(pr, buf)
			if prog != nil {
				prog.Add(int64(n))
			}
			give := func(f frameResult) {
				c := make(chan frameResult, 1)
				c <- f
				s.order <- c
			}
			if n > 0 {
				f := &frameBuf{b: buf[:n], mem: buf, home: home}
				f.refs.Store(1)
				give(frameResult{f: f})
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return
			}
			if err != nil {
				give(frameResult{err: err})
				return
			}
		}
	})
	return s
}

// translate writes the tar stream r as this package writes them.
func translate(w io.Writer, r io.Reader, sel func(string) bool) error {
	end := &zeroTail{r: r}
	t := tar.NewReader(end)
	var hdr []byte
	for {
		h, err := t.Next()
		if err == io.EOF {
			if err := end.check(); err != nil {
				return err
			}
			_, err := w.Write(make([]byte, 2*blockSize))
			return err
		}
		if err != nil {
			return err
		}
		m, err := foreignMember(h)
		if err != nil {
			return err
		}
		// Directories that are not selected may be above what is.
		if m == nil || m.Type != TypeDir && sel != nil && !sel(m.Path) {
			continue
		}
		stored := int64(0)
		if m.Type == TypeFile {
			stored = m.Size
		}
		hdr = appendHeader(hdr[:0], m, stored)
		if _, err := w.Write(hdr); err != nil {
			return err
		}
		if n, err := io.CopyN(w, t, stored); err != nil {
			return fmt.Errorf("%s ends after %d of %d bytes: %w", Quote(m.Path), n, stored, err)
		}
		if _, err := w.Write(make([]byte, padding(stored))); err != nil {
			return err
		}
	}
}

// zeroTail counts the zero bytes at the end of what was read: archive/tar takes
// a stream that is cut off for one that has no blocks of zero at its end.
type zeroTail struct {
	r io.Reader
	n int
}

func (z *zeroTail) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if t := len(bytes.TrimRight(p[:n], "\x00")); t > 0 {
		z.n = n - t
	} else {
		z.n = min(z.n+n, blockSize)
	}
	return n, err
}

func (z *zeroTail) check() error {
	if z.n < blockSize {
		return fmt.Errorf("%w: it is cut off", errHeader)
	}
	return nil
}

// foreignMember reads a header of another program; nil for what is not a file.
func foreignMember(h *tar.Header) (*Member, error) {
	below := func(p string) string {
		if strings.HasPrefix(p, "/") || slices.Contains(strings.Split(p, "/"), "..") {
			return p // refused later, with its name
		}
		return path.Clean(p)
	}
	m := &Member{Path: below(h.Name), Mode: uint32(h.Mode) & 0o7777, UID: int64(h.Uid), GID: int64(h.Gid), Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	switch h.Typeflag {
	case tar.TypeReg, 0, tar.TypeCont, tar.TypeGNUSparse:
		m.Type, m.Size = TypeFile, h.Size
	case tar.TypeLink:
		m.Type, m.Link = TypeHardlink, below(h.Linkname)
	case tar.TypeSymlink:
		m.Type, m.Link = TypeSymlink, h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		m.Type, m.Major, m.Minor = Type(h.Typeflag), uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeDir:
		m.Type = TypeDir
	case tar.TypeFifo:
		m.Type = TypeFifo
	case 'V', tar.TypeXGlobalHeader: // a label of the archive
		return nil, nil
	default:
		return nil, fmt.Errorf("%w: %s is of type %q", errHeader, Quote(h.Name), h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		switch n, ok := strings.CutPrefix(k, "SCHILY.xattr."); {
		case ok:
			m.Xattrs = append(m.Xattrs, Xattr{n, v})
		case k == "SCHILY.acl.access":
			m.ACLAccess = v
		case k == "SCHILY.acl.default":
			m.ACLDefault = v
		case k == "SCHILY.fflags":
			m.Flags = parseFlags(v)
		}
	}
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

// CheckTar reads a foreign tar stream through and gives the number of its
// members.
func CheckTar(ctx context.Context, r io.Reader, prog progress.Counter) (members int64, err error) {
	end := &zeroTail{r: r}
	t := tar.NewReader(end)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return members, end.check()
		}
		if err == nil {
			_, err = foreignMember(h)
		}
		if err == nil {
			var n int64
			n, err = io.Copy(io.Discard, t)
			if prog != nil {
				prog.Add(n)
			}
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return members, err
		}
		members++
	}
}
