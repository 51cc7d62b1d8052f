package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// setFlags are the options of commands that read a set.
func setFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "identity", Usage: "`FILE` with the age identity or SSH key that decrypts the set; asked for without"},
		&cli.StringFlag{Name: "passphrase-file", Usage: "`FILE` with the passphrase of a set that is encrypted with one, instead of the one that the configuration names; asked for without"},
		&cli.StringFlag{Name: "credentials", Usage: "`FILE` with the secrets of servers, instead of the one that the configuration names"}}
}

// signerFlag is of those commands that refuse sets of others.
func signerFlag() cli.Flag {
	return &cli.StringFlag{Name: "signer", Usage: "`FILE` with public keys of hosts: a set that is not signed with one of them is refused"}
}

// ring has the keys that open sets.
func (a *app) ring(ctx context.Context, c *cli.Command) *keyring.Ring {
	r := &keyring.Ring{Identity: c.String("identity"), Passphrase: cmp.Or(c.String("passphrase-file"), a.cfg.PassphraseFile), Credentials: cmp.Or(c.String("credentials"), a.cfg.Credentials), Signer: c.String("signer")}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		r.Ask = func(prompt string) ([]byte, error) {
			a.ui.End()
			fmt.Fprint(os.Stderr, prompt)
			defer fmt.Fprintln(os.Stderr)
			return interrupt.Secret(ctx, int(os.Stdin.Fd()))
		}
	}
	return r
}

// openSet opens the set at a place.
func (a *app) openSet(ctx context.Context, c *cli.Command, place string, say func(format string, args ...any)) (*manifest.Set, error) {
	want := ofThisHost()
	d, err := a.ring(ctx, c).Door(ctx, want, say)
	if err != nil {
		return nil, err
	}
	d.Salvage = c.Bool("salvage")
	s, err := d.Open(ctx, place)
	if err == nil && want.OtherMachine(s.Manifest.Machine(), s.Manifest.Host) {
		a.ui.Warn("the backup set %s is of another machine with the name of this one, %s", s, s.Manifest.Host)
	}
	return s, err
}

func (a *app) oneSet(ctx context.Context, c *cli.Command) (*manifest.Set, error) {
	if c.Args().Len() < 1 {
		return nil, exit.Usage(errors.New("no set given: name its directory or URL, or tape:/dev/nst0"))
	}
	s, err := a.openSet(ctx, c, c.Args().First(), a.ui.Note)
	if err != nil {
		return nil, err
	}
	// Clocks may differ by minutes.
	if s.Manifest.Created.After(time.Now().Add(time.Hour)) {
		a.ui.Warn("the set is dated in the future, %s: the clock of this machine or of the one that made it is wrong, and the newest set may be another one", s.Manifest.Created.Format(time.RFC3339))
	}
	return s, nil
}

// lacks is the error of a set that does not have everything, nil for one that has.
func lacks(s *manifest.Set) error {
	if l, _ := s.Lacks(); len(l) > 0 {
		return exit.NotCovered(l)
	}
	return nil
}

// ofThisHost means that this machine's sets are meant where there are several, also of machines
// with its name.
func ofThisHost() manifest.Wanted {
	name, err := os.Hostname()
	if err != nil {
		return manifest.Wanted{}
	}
	return manifest.Wanted{Host: name, Machine: set.This(name).Digest()}
}

func (a *app) listCommand() *cli.Command {
	return &cli.Command{Name: "list", Usage: "list a set's archives, or the files in them", ArgsUsage: "SET [PATH...]",
		Flags: append(setFlags(), signerFlag(), &cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "with mode, owner, size and time"}, &cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "every file"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			s, err := a.oneSet(ctx, c)
			if err != nil {
				return err
			}
			defer s.Close()
			if err := a.ring(ctx, c).Trust(s, false, a.ui.Warn); err != nil {
				return err
			}
			w := c.Root().Writer
			paths := manifest.CleanPaths(c.Args().Tail())
			a.ui.Result("set", s.Manifest)
			if len(paths) == 0 && !c.Bool("all") {
				if c.Bool("json") {
					return lacks(s)
				}
				var rows [][]string
				for _, ar := range s.Manifest.Archives {
					rows = append(rows, []string{ar.Name(), ar.Device, ar.Type, fmt.Sprint(ar.Members), ar.DataSize.String(), ar.Size.String(), ar.File})
				}
				fmt.Fprintf(w, "set %s of %s, made %s by mkcdrec %s\n", s.Manifest.ID, s.Manifest.Host, s.Manifest.Created.Format(time.RFC3339), s.Manifest.Program)
				ui.Table(w, []string{"MOUNT", "DEVICE", "TYPE", "MEMBERS", "DATA", "PACKED", "ARCHIVE"}, rows)
				missing, leftOut := s.Lacks()
				for _, n := range leftOut {
					fmt.Fprintf(w, "left out: %s\n", n)
				}
				for _, n := range missing {
					fmt.Fprintf(w, "not covered: %s\n", n)
				}
				return lacks(s)
			}
			found := 0
			for _, ar := range s.Manifest.Archives {
				sel, ok := manifest.Selector(ar.Mount, paths)
				if !ok {
					continue
				}
				r, err := s.Archive(ar.File)
				if err != nil {
					return err
				}
				err = r.Entries(func(e archive.Entry) error {
					if sel != nil && !sel(e.Path) {
						return nil
					}
					found++
					return a.printEntry(c, ar.Name(), e)
				})
				if err = errors.Join(err, r.Close()); err != nil {
					return err
				}
			}
			if found == 0 {
				return fmt.Errorf("cannot list: nothing in the set matches %s", strings.Join(paths, " "))
			}
			return lacks(s)
		}}
}

// below is the path of a member: as the archive has it, also one that an extraction refuses, such as ../x.
func below(mount, member string) string {
	if member == "." {
		return mount
	}
	return strings.TrimSuffix(mount, "/") + "/" + member
}

func (a *app) printEntry(c *cli.Command, mount string, e archive.Entry) error {
	path := below(mount, e.Path)
	kind := map[archive.Type]string{archive.TypeFile: "-", archive.TypeHardlink: "h", archive.TypeSymlink: "l", archive.TypeChar: "c", archive.TypeBlock: "b", archive.TypeDir: "d", archive.TypeFifo: "p"}[e.Type]
	a.ui.Result("entry", builder.EntryResult{Path: path, Type: kind, Mode: int64(e.Mode), UID: int(e.UID), GID: int(e.GID), Size: e.Size, Time: time.Unix(e.Sec, e.Nsec).UTC(), Link: e.Link})
	name := archive.Quote(path)
	if !c.Bool("long") {
		_, err := fmt.Fprintln(c.Root().Writer, name)
		return err
	}
	switch e.Type {
	case archive.TypeSymlink:
		name += " -> " + archive.Quote(e.Link)
	case archive.TypeHardlink:
		name += " link to " + archive.Quote(below(mount, e.Link))
	}
	_, err := fmt.Fprintf(c.Root().Writer, "%s%04o %d:%d %12d %s %s\n", kind, e.Mode, e.UID, e.GID, e.Size, time.Unix(e.Sec, e.Nsec).UTC().Format("2006-01-02T15:04:05.000000000"), name)
	return err
}

var errDamaged = errors.New("the set is damaged")

func (a *app) verifyCommand() *cli.Command {
	return &cli.Command{Name: "verify", Usage: "check every checksum of a set, and decode every archive", ArgsUsage: "SET",
		Flags: append(setFlags(), signerFlag(), &cli.BoolFlag{Name: "fast", Usage: "checksums only, decode nothing"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			s, err := a.oneSet(ctx, c)
			if err != nil {
				return err
			}
			defer s.Close()
			s.AllDiscs = true
			if err := s.Verify(ctx, !c.Bool("fast"), a.ui.Phase("verifying "+s.String(), s.VerifySize(!c.Bool("fast")))); ctx.Err() != nil {
				return fmt.Errorf("the set was not read to its end: %w", ctx.Err())
			} else if err != nil {
				return fmt.Errorf("%w:\n%w", errDamaged, err)
			}
			a.ui.End()
			if s.ListFault != nil {
				return fmt.Errorf("a list of checksums is damaged; all that a restore needs is right: %w", s.ListFault)
			}
			signer, err := signature(s)
			if err == nil {
				err = a.ring(ctx, c).Trust(s, true, a.ui.Warn)
			}
			if err != nil {
				return err
			}
			a.strange(s)
			a.ui.Result("verified", builder.VerifiedResult{Set: s.String(), ID: s.Manifest.ID, Files: len(s.Manifest.Files), Missing: append([]string{}, s.Missing...), Signer: signer})
			if len(s.Missing) > 0 {
				return fmt.Errorf("the set is not complete: it lacks %s; all that a restore needs is there", strings.Join(s.Missing, ", "))
			}
			by := "not signed, so that an unattended restore refuses it"
			if signer != "" {
				by = "signed with " + signer
			}
			a.ui.Note("set %s is good: %d files, %s", s.Manifest.ID, len(s.Manifest.Files), by)
			return lacks(s)
		}}
}

// signature gives the fingerprint of the key that a set is signed with, "" for one that is not signed.
func signature(s *manifest.Set) (string, error) {
	switch {
	case s.SignatureFault != nil:
		return "", fmt.Errorf("every file is what the manifest records, but the signature of the manifest is not valid, and restore refuses the set: %w", s.SignatureFault)
	case s.Signer == nil:
		return "", nil
	}
	return signing.Fingerprint(s.Signer), nil
}

// strange points out a set with this machine's name that this machine did not sign.
func (a *app) strange(s *manifest.Set) {
	key, err := signing.ReadKey(signing.KeyFile)
	if err != nil || s.Manifest.Host != ofThisHost().Host {
		return // without a key it has made no set
	}
	mine := key.Public()
	if s.Signer == nil || !bytes.Equal(s.Signer.Marshal(), mine.Marshal()) {
		a.ui.Warn("the set has the name of this machine, %s, which signs with the key %s, and this set is not signed with it", s.Manifest.Host, signing.Fingerprint(mine))
	}
}

func (a *app) extractCommand() *cli.Command {
	return &cli.Command{Name: "extract", Usage: "take files out of a set", ArgsUsage: "SET [PATH...]", Before: noDryRun,
		Description: "Files appear below the directory given with -C, with their full paths. Without PATH all are taken.",
		Flags: append(setFlags(), signerFlag(), &cli.StringFlag{Name: "directory", Aliases: []string{"C"}, Value: ".", Usage: "`DIR` to put them below"},
			&cli.BoolFlag{Name: "salvage", Usage: "take what can be read of a damaged set, and name what is lost"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			s, err := a.oneSet(ctx, c)
			if err != nil {
				return err
			}
			defer s.Close()
			if err := a.ring(ctx, c).Trust(s, !s.Salvage, a.ui.Warn); err != nil {
				return err
			}
			paths := manifest.CleanPaths(c.Args().Tail())
			members, lost, err := s.ExtractPaths(ctx, paths, c.String("directory"), archive.ExtractOptions{Salvage: c.Bool("salvage"), NoOwner: os.Geteuid() != 0}, a.ui)
			if err != nil {
				return err
			}
			a.ui.End()
			a.ui.Note("members extracted below %s: %d", c.String("directory"), members)
			if len(lost) > 0 {
				return exit.NotCovered(lost)
			}
			return nil
		}}
}

func (a *app) layoutCommand() *cli.Command {
	get := func(ctx context.Context) (*layout.Layout, error) {
		b, err := a.builder()
		if err != nil {
			return nil, err
		}
		l, _, err := b.Probe(ctx)
		return l, err
	}
	return &cli.Command{Name: "layout", Usage: "save, show or compare the storage layout",
		Commands: []*cli.Command{
			{Name: "save", Usage: "write the layout as JSON", ArgsUsage: "[FILE]", Before: noDryRun, Action: func(ctx context.Context, c *cli.Command) error {
				l, err := get(ctx)
				if err != nil {
					return err
				}
				if !c.Args().Present() {
					a.ui.Result("layout", l)
					return l.Write(c.Root().Writer)
				}
				var b strings.Builder
				if err := l.Write(&b); err != nil {
					return err
				}
				return regular.WriteFile(c.Args().First(), []byte(b.String()))
			}},
			{Name: "show", Usage: "draw the layout of this machine, or of a file or set", ArgsUsage: "[FILE|SET]", Flags: setFlags(), Action: func(ctx context.Context, c *cli.Command) (err error) {
				var l *layout.Layout
				if c.Args().Present() {
					l, err = a.readLayout(ctx, c, c.Args().First())
				} else {
					l, err = get(ctx)
				}
				if err != nil {
					return err
				}
				a.ui.Result("layout", l)
				ui.DrawLayout(c.Root().Writer, l) // output keeps its error
				return nil
			}},
			{Name: "diff", Usage: "compare this machine with a file or set; exit 1 when they differ", ArgsUsage: "FILE|SET [FILE|SET]", Flags: setFlags(), Action: func(ctx context.Context, c *cli.Command) error {
				if n := c.Args().Len(); n < 1 || n > 2 {
					return exit.Usage(errors.New("diff wants one or two layout files or sets"))
				}
				was, err := a.readLayout(ctx, c, c.Args().First())
				if err != nil {
					return err
				}
				var is *layout.Layout
				if c.Args().Len() == 2 {
					is, err = a.readLayout(ctx, c, c.Args().Get(1))
				} else {
					is, err = get(ctx)
				}
				if err != nil {
					return err
				}
				ch := layout.Diff(was, is)
				a.ui.Result("differences", ch)
				for _, x := range ch {
					if !c.Bool("json") {
						fmt.Fprintln(c.Root().Writer, x)
					}
				}
				if len(ch) > 0 {
					return fmt.Errorf("the layouts differ in %d places", len(ch))
				}
				return nil
			}},
		}}
}

// readLayout takes a layout file, or a set's.
func (a *app) readLayout(ctx context.Context, c *cli.Command, name string) (*layout.Layout, error) {
	if st, err := os.Stat(name); store.IsHome(name) || err == nil && st.IsDir() {
		s, err := a.openSet(ctx, c, name, nil)
		if err != nil {
			return nil, err
		}
		return s.Layout, s.Close()
	}
	f, err := regular.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read layout: %w", err)
	}
	defer f.Close()
	l, err := layout.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}
