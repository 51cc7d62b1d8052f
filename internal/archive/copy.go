package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Copy puts the files below the directory root, of one file system, below dest: what
// Create would save and Extract would restore, in one process, without compressing and
// with nothing stored between. It gives the summary of the extraction, with the problems
// of reading and of writing.
func Copy(ctx context.Context, root *os.File, dest string, from CreateOptions, to ExtractOptions) (*Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	var saved *Summary
	read := make(chan error, 1)
	go func() {
		var err error
		saved, err = createPlain(ctx, pw, root, from)
		pw.CloseWithError(err)
		read <- err
	}()
	to.Progress = nil // it is counted once, while reading
	made, err := extractInto(ctx, root.Name(), dest, to, func(x *extractor) error {
		s := plainStream(x.ctx, pr)
		defer s.stop()
		return x.all(&tarParser{s: s})
	})
	if err != nil {
		pr.CloseWithError(err)
		cancel()
		// The reader fails with the writer's error, or is the cause of it.
		if e := <-read; e != nil && !errors.Is(err, e) && !errors.Is(e, err) && !errors.Is(e, context.Canceled) {
			err = errors.Join(e, err)
		}
		return nil, fmt.Errorf("cannot copy %s: %w", root.Name(), err)
	}
	if err := <-read; err != nil {
		return nil, fmt.Errorf("cannot copy %s: %w", root.Name(), err)
	}
	made.Problems = append(saved.Problems, made.Problems...)
	made.Excluded = saved.Excluded
	return made, nil
}

// createPlain writes the tar stream of an archive to w, and nothing around it.
func createPlain(ctx context.Context, w io.Writer, root *os.File, opt CreateOptions) (*Summary, error) {
	fw := newPlainWriter(ctx, w)
	defer fw.stop()
	c := &creator{walker: walker{ctx: ctx, opt: opt, sum: &Summary{}}, fw: fw, links: map[inode]savedFile{}}
	c.visit = c.member
	err := c.walk(root)
	if e := fw.failed(); err != nil && e != nil {
		err = e
	}
	if err == nil {
		err = fw.finish(nil, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", root.Name(), err)
	}
	return c.sum, nil
}
