// Package streams is the work of the commands cutstream and pastestream: their
// command lines, mkCDrec's old protocols, the programs and people they call.
package streams

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// IO are a command's streams and environment.
type IO struct {
	In     io.Reader
	Out    io.Writer
	Err    io.Writer
	Getenv func(string) string
	Run    tool.Runner
	// Terminal asks a person and returns what was typed, or the cause of the
	// context's end; nil without a terminal.
	Terminal func(ctx context.Context, question string) (string, error)
}

func badUsage(f string, a ...any) error { return exit.Usage(fmt.Errorf(f, a...)) }

const cutText = `
Cuts the stream from standard input into volumes DIR/NAME.001, NAME.002, ... of at most SIZE. pastestream checks them and joins them again; by hand this does it:

  cat NAME.* | zstd -dc

A zstd stream of frames that fit into volumes is kept as it is, and that line prints it decompressed; any other stream is printed as it was.

SIZE is bytes, with K, M, G or T, or CD, DVD, DVD-DL, BD, USB.

PROGRAM is run after each volume, with MKCDREC_VOLUME (file), MKCDREC_NUMBER, MKCDREC_NAME, MKCDREC_ID, MKCDREC_SIZE, MKCDREC_LAST (0 or 1) and MKCDREC_DIGEST in its environment. If it fails, nothing is lost: give the same stream again with --resume.

With CAPACITY, DESTINATION, MAKE_ISO9660 and VOLNO_FILE in the environment it works as mkCDrec's cutstream: bare pieces in DESTINATION.
`

// overhead is what the file system of a disc takes besides its files: more
// than enough for a handful of them.
const overhead = 2 * quantity.MiB

// VolumeSize reads a size, or what a volume on a medium of a usual kind may
// have.
func VolumeSize(text string) (quantity.Size, error) {
	if strings.EqualFold(text, "USB") {
		return 4*quantity.GiB - 1, nil // FAT's largest file
	}
	if s, ok := quantity.Medium(text); ok {
		return s - overhead, nil
	}
	s, err := quantity.Parse(text)
	if err != nil {
		return 0, err
	}
	if s <= 0 {
		return 0, fmt.Errorf("a volume of %s holds nothing", text)
	}
	return s, nil
}

// Cut is the command cutstream. Every wait, also for the standard input, ends with
// the context.
func Cut(ctx context.Context, s IO, args []string) error {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	size := f.String("size", "CD", "`SIZE` of a volume")
	name := f.String("name", "", "`NAME` of the volumes; stream if not given")
	dir := f.String("dir", ".", "`DIR` for the volumes")
	program := f.String("exec", "", "run `PROGRAM` after each volume")
	plain := f.Bool("plain", false, "bare pieces, without headers and digests")
	resume := f.Bool("resume", false, "continue after a failure, with the same stream")
	c := usage.Command{Name: "cutstream", Summary: "split a stream into volumes", Text: cutText, Flags: f}
	_, words, err := c.Parse(s.Out, args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return badUsage("unknown word %q: the stream comes from the standard input", words[0])
	}
	s.In = interrupt.Reader(ctx, s.In)
	for _, v := range []string{"CAPACITY", "DESTINATION", "MAKE_ISO9660", "VOLNO_FILE"} {
		if s.Getenv(v) != "" && *name == "" {
			return oldCut(ctx, s, *size, *resume)
		}
	}
	n, err := VolumeSize(*size)
	if err != nil {
		return badUsage("--size: %w", err)
	}
	if *name == "" {
		*name = "stream"
	}
	if strings.ContainsAny(*name, "/\n") || len(*name) > volume.MaxName {
		return badUsage("--name %q: want at most %d bytes without a slash", *name, volume.MaxName)
	}
	w := &volume.Files{Dir: *dir, Name: *name, First: int64(n), Size: int64(n), Plain: *plain}
	w.Done = func(ctx context.Context, v volume.Written) error {
		fmt.Fprintf(s.Err, "%s: %d bytes\n", printable.Clean(v.Path), v.Size)
		if *program == "" {
			return nil
		}
		last := "0"
		if v.End.Last {
			last = "1"
		}
		path, err := filepath.Abs(v.Path)
		if err != nil {
			return err
		}
		_, err = s.Run.Run(ctx, tool.Cmd{Args: []string{*program}, Env: []string{"MKCDREC_VOLUME=" + path, "MKCDREC_NUMBER=" + strconv.Itoa(v.Header.Number), "MKCDREC_NAME=" + v.Header.Name, "MKCDREC_ID=" + v.Header.ID.String(), "MKCDREC_SIZE=" + strconv.FormatInt(v.Size, 10), "MKCDREC_LAST=" + last, "MKCDREC_DIGEST=" + v.End.Digest.String()}})
		if err != nil {
			return fmt.Errorf("volume %d is whole in %s, but the program after it failed: %w", v.Header.Number, v.Path, err)
		}
		return nil
	}
	return cut(ctx, s, w, *resume, "cutstream -resume -name "+*name+" -dir "+*dir)
}

// cut runs or takes up a run, and returns how to continue after a failure.
func cut(ctx context.Context, s IO, w *volume.Files, resume bool, again string) error {
	var err error
	if resume {
		err = w.Resume(ctx, s.In)
	} else {
		err = w.Cut(ctx, s.In)
	}
	if err = interrupt.Err(ctx, err); err == nil {
		return nil
	}
	if _, e := os.Stat(filepath.Join(w.Dir, "."+w.Name+".cutstream")); e == nil {
		return fmt.Errorf("%w\nhint: nothing that was written is lost; give the same stream again to: %s", err, again)
	}
	return err
}

// headerFile is where mkCDrec's cutstream looks for MAXCDSIZE.
const headerFile = "/tmp/cutstream.h"

// oldCut is mkCDrec's own protocol: pieces in one file, DESTINATION, which a
// program takes away before the next one is written. CAPACITY is in KiB and
// that of the first medium; the others have MAXCDSIZE.
func oldCut(ctx context.Context, s IO, size string, resume bool) error {
	dest := s.Getenv("DESTINATION")
	if dest == "" {
		dest = "Output"
	}
	full, err := maxCDSize(s)
	if err != nil {
		if full, err = VolumeSize(size); err != nil {
			return exit.Usage(err)
		}
	}
	first := full
	if c := s.Getenv("CAPACITY"); c != "" {
		kib, err := strconv.ParseInt(c, 10, 40)
		if err != nil || kib <= 0 {
			return badUsage("CAPACITY=%s: want the KiB that the medium has left, more than zero", c)
		}
		first = quantity.Size(kib) * quantity.KiB
	}
	volno, volnoFile := 0, s.Getenv("VOLNO_FILE")
	if volnoFile != "" {
		if b, err := volume.ReadSmall(volnoFile, maxSmall); err == nil {
			if volno, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
				return fmt.Errorf("cannot read the volume's number in %s: %w", volnoFile, err)
			}
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot read the volume's number: %w", err)
		}
	}
	w := &volume.Files{Dir: filepath.Dir(dest), Name: filepath.Base(dest), First: int64(first), Size: int64(full), Plain: true, Path: func(int) string { return dest }}
	program := strings.Fields(s.Getenv("MAKE_ISO9660"))
	w.Done = func(ctx context.Context, v volume.Written) error {
		if v.End.Last {
			return nil // its caller makes the last medium, as it always did
		}
		volno++
		if volnoFile != "" {
			if err := writeNumber(volnoFile, volno); err != nil {
				return err
			}
		}
		if len(program) == 0 {
			return fmt.Errorf("piece %d is whole in %s, and MAKE_ISO9660 names no program that would take it away", v.Header.Number, dest)
		}
		if _, err := s.Run.Run(ctx, tool.Cmd{Args: program}); err != nil {
			if volnoFile != "" {
				volno--
				err = errors.Join(err, writeNumber(volnoFile, volno))
			}
			return fmt.Errorf("piece %d is whole in %s, but the program after it failed: %w", v.Header.Number, dest, err)
		}
		return nil
	}
	return cut(ctx, s, w, resume, "cutstream -resume, with the same environment")
}

func writeNumber(file string, n int) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o644)
	if err == nil {
		var st os.FileInfo
		if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%s: %w", file, volume.ErrNotRegular)
		}
		if err == nil {
			err = f.Truncate(0)
		}
		if err == nil {
			_, err = f.WriteString(strconv.Itoa(n) + "\n")
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write the volume's number: %w", err)
	}
	return nil
}

func maxCDSize(s IO) (quantity.Size, error) {
	t := s.Getenv("MAXCDSIZE")
	if t == "" {
		b, err := volume.ReadSmall(headerFile, maxSmall)
		if err != nil {
			return 0, err
		}
		t = string(b)
	}
	kib, err := strconv.ParseInt(strings.TrimSpace(t), 10, 40)
	if err != nil || kib <= 0 {
		return 0, badUsage("MAXCDSIZE=%s: want KiB, more than zero", strings.TrimSpace(t))
	}
	return quantity.Size(kib) * quantity.KiB, nil
}
