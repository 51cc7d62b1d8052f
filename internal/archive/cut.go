package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// ExtractCut extracts what there is of an archive whose end is missing, by the rules of Extract with Salvage: r gives
// its bytes from the first one on. What is lost is listed as one Problem, since the table of contents was at
// the end; so are members whose bytes an earlier archive has.
func ExtractCut(ctx context.Context, r io.Reader, name, dest string, opt ExtractOptions) (*Summary, error) {
	return extractInto(ctx, name, dest, opt, func(x *extractor) error {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(FrameSize), zstd.WithDecoderMaxWindow(FrameSize))
		if err != nil {
			return err
		}
		defer z.Close()
		pr, pw := io.Pipe()
		s := pipeStream(x.ctx, pr, x.opt.Progress)
		s.wg.Go(func() {
			_, err := io.Copy(pw, z)
			pw.CloseWithError(err)
		})
		defer s.stop()
		last := "."
		err = x.each(&tarParser{s: s}, func(m *Member) { last = m.Path })
		if err == nil {
			return nil // only what is behind the last member is missing
		}
		if e := x.err.Load(); e != nil || x.ctx.Err() != nil || fatal(err) {
			return err
		}
		x.fail(Problem{last, Lost, fmt.Sprintf("the archive is cut off or damaged here, and nothing behind it can be read: %v", unexpected(err))})
		return nil
	})
}

// unexpected is err, which is not nil, with another word for the end of what there is.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
