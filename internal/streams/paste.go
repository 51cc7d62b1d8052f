package streams

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/legacy"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

const pasteText = `
Prints the stream that cutstream split into volumes. In directories it looks for NAME.001, NAME.002, ... Each chunk is compared with its digest before a byte of it is printed. A volume that is missing, or is another one, is asked for on the terminal.

With --mkcdrec it reads a backup of mkCDrec 1.x, whose volumes are the directories: list prints what is in it, a mount point its tar archive, decompressed:

  pastestream --mkcdrec /usr /mnt/1 /mnt/2 | tar -xp -C /mnt/target/usr

--old is mkCDrec's protocol: the file named in /tmp/restore, again after /etc/recovery/ask.for.cd.sh while /tmp/more_to_come is not 0.
`

// waitStep is how often places are looked at with -wait.
const waitStep = time.Second

// Paste is the command pastestream. Every wait, also for the standard output,
// ends with the context.
func Paste(ctx context.Context, s IO, args []string) error {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	name := f.String("name", "", "`NAME` of the volumes, where there are several streams")
	id := f.String("id", "", "`UUID` of the stream, where there are several")
	wait := f.Bool("wait", false, "look for a missing volume every second instead of asking for it")
	old := f.Bool("old", false, "work as mkCDrec's pastestream")
	mkcdrec := f.String("mkcdrec", "", "print the archive of this `MOUNTPOINT` of a backup of mkCDrec 1.x; list prints what is in it")
	restoreFile := f.String("restore-file", "/tmp/restore", "with --old, the `FILE` that names the volume")
	moreFile := f.String("more-file", "/tmp/more_to_come", "with --old, the `FILE` that is 0 after the last volume")
	askProgram := f.String("ask-program", "/etc/recovery/ask.for.cd.sh", "with --old, the `PROGRAM` that asks for the next volume")
	c := usage.Command{Name: "pastestream", Summary: "join the volumes of a stream again", Args: "FILE|DIR...", Text: pasteText, Flags: f}
	_, words, err := c.Parse(s.Out, args)
	if err != nil {
		return err
	}
	s.Out = interrupt.Writer(ctx, s.Out)
	if *old {
		if len(words) > 0 {
			return badUsage("--old takes its files from %s", *restoreFile)
		}
		return oldPaste(ctx, s, *restoreFile, *moreFile, *askProgram)
	}
	if len(words) == 0 {
		return badUsage("no volumes: name files, or directories that they are in")
	}
	if *mkcdrec != "" {
		return pasteLegacy(s, *mkcdrec, words)
	}
	p := &volume.Paster{Name: *name}
	if *id != "" {
		if p.ID, err = volume.ParseID(*id); err != nil {
			return badUsage("--id: %w", err)
		}
	}
	p.Next = s.finder(*name, words, *wait).Next
	out := bufio.NewWriterSize(s.Out, 1<<20)
	err = p.Chunks(ctx, func(b []byte) error {
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("cannot write the stream: %w", err)
		}
		return nil
	})
	// What was checked is passed on, even if an error came after it.
	if e := out.Flush(); err == nil && e != nil {
		err = fmt.Errorf("cannot write the stream: %w", e)
	}
	return err
}

// finder looks for volumes in places. It waits for those that are missing, or asks the
// terminal for them.
func (s IO) finder(name string, places []string, wait bool) *volume.Finder {
	said := ""
	say := func(err error) {
		if t := err.Error(); t != said {
			fmt.Fprintf(s.Err, "pastestream: %s\n", printable.CleanLines(t))
			said = t
		}
	}
	finder := &volume.Finder{Name: name, Places: places, Note: say}
	switch {
	case wait:
		finder.Ask = func(ctx context.Context, w volume.Want, problem error) error {
			if problem == nil {
				problem = fmt.Errorf("waiting for %v", w)
			}
			say(problem)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(waitStep):
				return nil
			}
		}
	case s.Terminal != nil:
		finder.Ask = func(ctx context.Context, w volume.Want, problem error) error {
			q := ""
			if problem != nil {
				q = problem.Error() + "\n"
			}
			a, err := s.Terminal(ctx, printable.CleanLines(q+fmt.Sprintf("Put in %v, then press Enter (q gives up): ", w)))
			if err != nil {
				return err
			}
			if strings.HasPrefix(strings.ToLower(strings.TrimSpace(a)), "q") {
				return fmt.Errorf("given up: %v was not there", w)
			}
			return nil
		}
	}
	return finder
}

// pasteLegacy gives an archive of a backup of mkCDrec 1.x.
func pasteLegacy(s IO, what string, dirs []string) error {
	set, err := legacy.Open(dirs...)
	if err != nil {
		return err
	}
	if what == "list" {
		for _, a := range set.Archives {
			kind := "tar"
			if a.Raw {
				kind = "image"
			}
			if _, err := fmt.Fprintf(s.Out, "%s\t/dev/%s\t%s\t%s\t%s\n", a.Mount, a.Device, a.Type, kind, a.Name); err != nil {
				return err
			}
		}
		return nil
	}
	for _, a := range set.Archives {
		if a.Mount != what && a.Name != what {
			continue
		}
		r, err := set.Stream(a)
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := io.Copy(s.Out, r); err != nil {
			return fmt.Errorf("cannot pass on %s: %w", a.Name, err)
		}
		return nil
	}
	return fmt.Errorf("cannot find %s in the backup of %s; pastestream -mkcdrec list shows what is there", what, set.Date)
}

// maxSmall bounds the files of mkCDrec's protocols that hold a number or a name,
// in bytes.
const maxSmall = 64 << 10

// oldPaste is the protocol of mkCDrec's pastestream.
func oldPaste(ctx context.Context, s IO, restoreFile, moreFile, askProgram string) error {
	for {
		more, err := readInt(moreFile)
		if err != nil {
			return err
		}
		b, err := volume.ReadSmall(restoreFile, maxSmall)
		if err != nil {
			return fmt.Errorf("cannot read the name of the next piece: %w", err)
		}
		piece := strings.TrimSpace(string(b))
		if piece == "" {
			return fmt.Errorf("cannot read the name of the next piece: %s is empty", restoreFile)
		}
		in, err := volume.Open(piece, true)
		if err != nil {
			return fmt.Errorf("cannot read piece: %w", err)
		}
		_, err = io.Copy(s.Out, in)
		in.Close()
		if err != nil {
			return fmt.Errorf("cannot pass on %s: %w", piece, err)
		}
		if more == 0 {
			return nil
		}
		if _, err := s.Run.Run(ctx, tool.Cmd{Args: []string{askProgram}}); err != nil {
			return fmt.Errorf("cannot get the next medium: %w", err)
		}
		if after, err := volume.ReadSmall(restoreFile, maxSmall); err == nil && string(after) == string(b) {
			if m, err := readInt(moreFile); err == nil && m == more {
				if st, err := os.Stat(piece); err == nil && st.Size() == 0 {
					return fmt.Errorf("cannot continue: %s still names %s, which is empty", restoreFile, piece)
				}
			}
		}
	}
}

func readInt(file string) (int, error) {
	b, err := volume.ReadSmall(file, maxSmall)
	if err != nil {
		return 0, fmt.Errorf("cannot tell whether there is more to come: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("cannot tell whether there is more to come: %s: %w", file, err)
	}
	return n, nil
}
