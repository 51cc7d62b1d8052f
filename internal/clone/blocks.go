package clone

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// copyBlocks copies what is in use of a device of the layout to dst. Sectors that can't be
// read are zero there, and are named by Lost.
func (s *Source) copyBlocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	if f := s.layout.On(m.Device); f != nil && s.live.freezes(f) {
		return s.frozenBlocks(ctx, f, m, dst, rep)
	}
	used, _, err := s.mapOf(m.Device)
	if err != nil {
		return err
	}
	return s.copyUsed(ctx, m, dst, used, rep)
}

// copyUsed copies what a map has of a device of the layout.
func (s *Source) copyUsed(ctx context.Context, m *layout.Image, dst *os.File, used *blockcopy.Map, rep progress.Reporter) error {
	src, err := blockcopy.OpenDevice(s.path(m.Device))
	if err != nil {
		return fmt.Errorf("cannot read /dev/%s: %w", m.Device, err)
	}
	defer src.Close()
	to, err := blockcopy.TargetOf(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	o := blockcopy.CopyOptions{Map: used, Clear: blockcopy.ClearDiscard, Progress: rep.Phase("copying "+m.Device, used.Bytes())}
	if at := s.onMap(ctx, m.Device); at != nil {
		o.Rescue = s.state(at, dst)
		o.Checkpoint = func(m *ddrescue.Map) error { return s.mapFile.save(at, m) }
	}
	res, err := blockcopy.Copy(ctx, to, src, o)
	if err != nil {
		return err
	}
	rep.Note("copied %s; the time went to: %v", m.Device, res.Waits)
	if s.verify {
		if err := verifyBlocks(ctx, dst, src, used, res.Bad, rep.Phase("comparing "+m.Device, used.Bytes())); err != nil {
			return err
		}
	}
	s.unread(m, res, rep)
	return nil
}

// unread records what a copy could not read.
func (s *Source) unread(m *layout.Image, res *blockcopy.CopyResult, rep progress.Reporter) {
	n := int64(0)
	for _, e := range res.Bad {
		n += e.Length
	}
	if n > 0 {
		rep.Warn("%d bytes of /dev/%s could not be read, the first at byte %d: %v", n, m.Device, res.Bad[0].Start, res.ReadError)
	}
	s.lose(m.Device, m.What(), res.Bad)
}

// Again implements restore.Again: what an earlier run could not read is tried once more, if
// the map file has it.
func (s *Source) Again(ctx context.Context, m *layout.Image, open func() (*os.File, error), rep progress.Reporter) error {
	at := s.onMap(ctx, m.Device)
	if at == nil {
		return nil
	}
	state := s.mapFile.part(at)
	if state.Bytes(bad...) == 0 {
		return nil
	}
	dst, err := open()
	if err != nil {
		return err
	}
	defer dst.Close()
	src, err := blockcopy.OpenDevice(s.path(m.Device))
	if err != nil {
		return fmt.Errorf("cannot read /dev/%s: %w", m.Device, err)
	}
	defer src.Close()
	was, err := reread(dst)
	if err != nil {
		return err
	}
	left, err := onlyZero(was, src.Size(), state.Ranges(bad...))
	if err = errors.Join(err, was.Close()); err != nil {
		return err
	}
	to, err := blockcopy.TargetOf(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	res, err := blockcopy.Copy(ctx, to, src, blockcopy.CopyOptions{Map: left, Rescue: state, Progress: rep.Phase("reading bad sectors of "+m.Device+" again", left.Bytes()), Checkpoint: func(m *ddrescue.Map) error { return s.mapFile.save(at, m) }})
	if err != nil {
		return err
	}
	s.unread(m, res, rep)
	return nil
}

// Lost implements restore.Content.
func (s *Source) Lost() []string { return s.lost }
