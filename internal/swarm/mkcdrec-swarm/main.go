// Command mkcdrec-swarm brings one backup set to many machines at once by BitTorrent,
// in a chain: each machine passes on what it receives. It is a program of its own, since
// the BitTorrent library is as large as all of mkcdrec. mkcdrec-swarm --help describes it.
package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

func main() {
	ctx, stop := interrupt.Context(context.Background())
	err := run(ctx, os.Args[1:])
	stop()
	code := exit.Status(ui.New(ui.Normal), "mkcdrec-swarm", err, "")
	if errors.Is(err, node.ErrRefused) {
		code = exit.Refused
	}
	os.Exit(code)
}

// events prints events as lines of JSON, as mkcdrec --json does.
func events(w io.Writer) func(node.Event) {
	var mu sync.Mutex
	return func(e node.Event) {
		b, err := ui.Event{Event: "result", Kind: fleet.SwarmKind, Data: e}.Line()
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		_, _ = w.Write(b)
	}
}

func run(ctx context.Context, args []string) error {
	seed, torrent := flag.NewFlagSet("", flag.ContinueOnError), flag.NewFlagSet("", flag.ContinueOnError)
	web := seed.String("http", ":8080", "`ADDR` for the tracker and for HTTP; with port 0 the system chooses one, which the event \"serving\" has")
	listen := seed.String("listen", ":6881", "`ADDR` for BitTorrent")
	var g getting
	c := &usage.Command{Name: "mkcdrec-swarm", Summary: "bring a backup set to many machines at once", Flags: flag.NewFlagSet("", flag.ContinueOnError), Text: `
Each machine passes on what it receives, by BitTorrent. Events are lines of JSON on standard output, on standard error with --cat: those of the kind "swarm" in docs/EVENTS.md. They must be read. An error is a text on standard error.`,
		Commands: []*usage.Command{
			{Name: "seed", Summary: "serve a set until interrupted", Args: "SET", Flags: seed, Text: `
SET is a directory with a whole backup set. It contains secrets, and is sent unencrypted: serve it only on a network where everyone may read it.

The event "damaged" has what cannot be read.`},
			{Name: "get", Summary: "fetch a set, and pass it on", Flags: g.flags(), Text: `
HASH and SHA256 are those that seed prints. --serve gives the set at http://ADDR/ while it arrives, for restore, until it gets the line "done" on standard input or SIGUSR1; --cat prints one of its files. With neither, get ends when the set is in DIR. After the end it serves others for TIME at most, while the tracker reports that somebody takes from it.

Pieces are kept in DIR or in SIZE of memory; then only files that are read are fetched. With --serve or --cat, the event "full" reports that DIR is full: its files of the set are removed, and pieces are kept in memory from then on.

The event "trouble" has what cannot be fetched. It is refused (4) if it is not the set that was asked for.`},
			{Name: "torrent", Summary: "make SET/set.torrent", Args: "SET", Flags: torrent},
		}}
	c, words, err := c.Parse(os.Stdout, args)
	switch {
	case err != nil:
		return err
	case c.Name == "get":
		return g.run(ctx, words)
	case c.Name == "mkcdrec-swarm" && len(words) > 0:
		return exit.Usage(fmt.Errorf("unknown command %q: expected seed, get or torrent", words[0]))
	case c.Name == "mkcdrec-swarm":
		return exit.Usage(errors.New("expected seed, get or torrent"))
	case len(words) != 1:
		return exit.Usage(errors.New("expected one SET"))
	}
	set, err := manifest.OpenContext(ctx, words[0])
	if err != nil {
		return err
	}
	if len(set.Manifest.Needs) > 0 {
		return exit.Usage(fmt.Errorf("cannot use %s: it is an increment that needs earlier sets; a torrent has one full set", words[0]))
	}
	t, made, err := settorrent.Open(ctx, set, progress.None{})
	if err != nil {
		return err
	}
	if c.Name == "torrent" {
		kind := "kept"
		if made {
			kind = "made"
		}
		events(os.Stdout)(node.Event{Event: kind, Hash: t.Hash.HexString(), Manifest: t.Manifest, Of: t.Info.NumPieces(), Bytes: t.Total()})
		return nil
	}
	return ended((&node.Seed{Set: set, Torrent: t, HTTP: *web, Listen: *listen, Events: events(os.Stdout)}).Run(ctx))
}

// ended is for what runs until a signal ends it.
func ended(err error) error {
	if interrupt.Is(err) {
		return nil
	}
	return err
}

// getting are the options of get.
type getting struct {
	node.Get
	memory, serve, cat string
}

func (g *getting) flags() *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.StringVar(&g.Server, "server", "", "`URL` of the seeder: http://HOST:PORT/")
	f.StringVar(&g.Hash, "hash", "", "info `HASH` of the torrent; any other is refused")
	f.StringVar(&g.Manifest, "manifest", "", "`SHA256` of the set's manifest; any other is refused")
	f.StringVar(&g.Dir, "dir", "", "`DIR` for the set's files")
	f.StringVar(&g.Listen, "listen", ":6881", "`ADDR` for other machines")
	f.DurationVar(&g.Linger, "linger", 10*time.Minute, "`TIME` for which others are served at most after the end")
	f.StringVar(&g.memory, "memory", "", "keep pieces in this `SIZE` of memory, if there is no DIR or it is full")
	f.StringVar(&g.serve, "serve", "", "`ADDR` of this machine where the set is given while it arrives, 127.0.0.1:0")
	f.StringVar(&g.cat, "cat", "", "`FILE` of the set to write to standard output")
	return f
}

func (g *getting) run(ctx context.Context, words []string) error {
	g.Events = events(os.Stdout)
	if err := g.check(words); err != nil {
		return err
	}
	if g.memory != "" {
		n, err := quantity.Parse(g.memory)
		if err != nil {
			return exit.Usage(err)
		}
		g.Memory = int64(n)
		debug.SetMemoryLimit(g.Memory + 256<<20)
	}
	switch {
	case g.serve != "":
		g.Reader = node.Serve(g.serve, finished(ctx), func(url string) { g.Events(node.Event{Event: "ready", URL: url}) })
	case g.cat != "":
		g.Events = events(os.Stderr)
		g.Reader = node.Copy(os.Stdout, g.cat)
	}
	err := g.Get.Run(ctx)
	if g.serve != "" {
		err = ended(err)
	}
	return err
}

// check refuses options that are wrong or do not fit together.
func (g *getting) check(words []string) error {
	hexOf := func(s string, n int) bool { b, err := hex.DecodeString(s); return err == nil && len(b) == n }
	u, err := url.Parse(g.Server)
	for _, c := range []struct {
		wrong bool
		text  string
	}{
		{len(words) > 0, fmt.Sprintf("unexpected words %q", words)},
		{err != nil || u.Scheme != "http" || u.Host == "", fmt.Sprintf("--server %q: want http://HOST:PORT/", g.Server)},
		{!hexOf(g.Hash, sha1.Size), fmt.Sprintf("--hash %q: want the 40 digits that seed prints", g.Hash)},
		{!hexOf(g.Manifest, sha256.Size), fmt.Sprintf("--manifest %q: want the 64 digits that seed prints", g.Manifest)},
		{g.Dir == "" && g.memory == "", "give --dir or --memory, where pieces are kept"},
		{g.serve != "" && g.cat != "", "--serve and --cat exclude each other"},
		{g.Dir == "" && g.serve == "" && g.cat == "", "--memory without --dir wants --serve or --cat"},
		{g.memory != "" && g.serve == "" && g.cat == "", "--memory wants --serve or --cat"},
	} {
		if c.wrong {
			return exit.Usage(errors.New(c.text))
		}
	}
	return nil
}

// finished is closed when the local reader has read all: by SIGUSR1 or the line "done" on
// standard input.
func finished(ctx context.Context) <-chan struct{} {
	done, line := make(chan struct{}), make(chan struct{})
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGUSR1)
	go func() {
		for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
			if sc.Text() == "done" {
				close(line)
				return
			}
		}
	}()
	go func() {
		select {
		case <-sig:
			close(done)
		case <-line:
			close(done)
		case <-ctx.Done():
		}
	}()
	return done
}
