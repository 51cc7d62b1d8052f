// Command mkcdrec-swarm brings one backup set to many machines at once by BitTorrent,
// in a chain: each machine passes on what it receives. It is a program of its own, since
// the BitTorrent library is as large as all of mkcdrec.
//
// Synopsis:
//
//	mkcdrec-swarm seed [--http ADDR] [--listen ADDR] SET
//	mkcdrec-swarm get --server URL --hash HASH --manifest SHA256 [--dir DIR] [--memory SIZE]
//	        [--listen ADDR] [--serve ADDR | --cat FILE] [--linger TIME]
//	mkcdrec-swarm torrent SET
//
// seed serves SET, a directory with a whole backup set, until it is interrupted. The set
// contains secrets, and is sent unencrypted: serve it only on a network where everyone
// may read it. With ADDR:0 the system chooses a port, which the event "serving" has.
// get fetches it; HASH and SHA256 are those that seed prints. --serve gives
// the set at http://ADDR/ while it arrives, for `restore URL`, until it gets the line
// "done" on standard input or SIGUSR1; --cat writes one of its
// files to standard output. With neither, get ends when the set is in DIR. After the end
// it serves others for TIME at most, while the tracker says that somebody takes from it.
// torrent makes SET/set.torrent.
//
// Pieces are kept in DIR or in SIZE of memory; then only files that are read are fetched.
// With --serve or --cat, the event "full" says that DIR is full: its files of the set are
// removed, and pieces are kept in memory from then on.
//
// Events are lines of JSON on standard output, on standard error with --cat. They must be
// read.
//
// The events "trouble" of get and "damaged" of seed say what cannot be had, or read.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 4 refused: it is not the set that was
// asked for. A signal ends seed and get --serve with 0.
package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

func main() {
	ctx, stop := interrupt.Context(context.Background())
	err := run(ctx, os.Args[1:])
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "mkcdrec-swarm:", err)
	switch {
	case errors.Is(err, node.ErrRefused):
		os.Exit(exit.Refused)
	case errors.As(err, new(usage)):
		os.Exit(exit.BadUsage)
	}
	os.Exit(exit.Failed)
}

// usage is an error of the command line.
type usage struct{ error }

// events prints events as lines of JSON.
func events(w io.Writer) func(node.Event) {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	return func(e node.Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(e)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usage{errors.New("expected seed, get or torrent; each has --help")}
	}
	if args[0] == "--help" || args[0] == "-h" || args[0] == "help" {
		fmt.Println("Usage: mkcdrec-swarm seed|get|torrent OPTIONS\nseed serves a backup set to many machines, get fetches it, torrent makes its torrent. Each has --help.")
		return nil
	}
	f := flag.NewFlagSet("mkcdrec-swarm "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "seed", "torrent":
		web := f.String("http", ":8080", "`ADDR` for the tracker and for HTTP")
		listen := f.String("listen", ":6881", "`ADDR` for BitTorrent")
		if err := f.Parse(args[1:]); err != nil {
			return parsed(err)
		}
		if f.NArg() != 1 {
			return usage{errors.New("expected one SET")}
		}
		set, err := manifest.OpenContext(ctx, f.Arg(0))
		if err != nil {
			return err
		}
		t, made, err := settorrent.Open(ctx, set, progress.None{})
		if err != nil {
			return err
		}
		if args[0] == "torrent" {
			kind := "kept"
			if made {
				kind = "made"
			}
			events(os.Stdout)(node.Event{Event: kind, Hash: t.Hash.HexString(), Set: t.Manifest, Of: t.Info.NumPieces(), Bytes: t.Total()})
			return nil
		}
		return ended((&node.Seed{Set: set, Torrent: t, HTTP: *web, Listen: *listen, Events: events(os.Stdout)}).Run(ctx))
	case "get":
		return get(ctx, f, args[1:])
	}
	return usage{fmt.Errorf("unknown command %q: expected seed, get or torrent", args[0])}
}

// ended is for what runs until a signal ends it.
func ended(err error) error {
	if interrupt.Is(err) {
		return nil
	}
	return err
}

func parsed(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return usage{err}
}

func get(ctx context.Context, f *flag.FlagSet, args []string) error {
	g := &node.Get{Events: events(os.Stdout)}
	f.StringVar(&g.Server, "server", "", "`URL` of the seeder: http://HOST:PORT/")
	f.StringVar(&g.Hash, "hash", "", "info `HASH` of the torrent; any other is refused")
	f.StringVar(&g.Manifest, "manifest", "", "`SHA256` of the set's manifest; any other is refused")
	f.StringVar(&g.Dir, "dir", "", "`DIR` for the set's files")
	f.StringVar(&g.Listen, "listen", ":6881", "`ADDR` for other machines")
	f.DurationVar(&g.Linger, "linger", 10*time.Minute, "`TIME` for which others are served at most after the end")
	memory := f.String("memory", "", "keep pieces in this `SIZE` of memory, if there is no DIR or it is full")
	serve := f.String("serve", "", "`ADDR` of this machine where the set is given while it arrives, 127.0.0.1:0")
	cat := f.String("cat", "", "`FILE` of the set to write to standard output")
	if err := f.Parse(args); err != nil {
		return parsed(err)
	}
	hexOf := func(s string, n int) bool { b, err := hex.DecodeString(s); return err == nil && len(b) == n }
	u, err := url.Parse(g.Server)
	for _, c := range []struct {
		wrong bool
		text  string
	}{
		{f.NArg() != 0, fmt.Sprintf("unexpected argument %q", f.Arg(0))},
		{err != nil || u.Scheme != "http" || u.Host == "", fmt.Sprintf("--server %q: want http://HOST:PORT/", g.Server)},
		{!hexOf(g.Hash, sha1.Size), fmt.Sprintf("--hash %q: want the 40 digits that seed prints", g.Hash)},
		{!hexOf(g.Manifest, sha256.Size), fmt.Sprintf("--manifest %q: want the 64 digits that seed prints", g.Manifest)},
		{g.Dir == "" && *memory == "", "give --dir or --memory, where pieces are kept"},
		{*serve != "" && *cat != "", "--serve and --cat exclude each other"},
		{g.Dir == "" && *serve == "" && *cat == "", "--memory without --dir wants --serve or --cat"},
		{*memory != "" && *serve == "" && *cat == "", "--memory wants --serve or --cat"},
	} {
		if c.wrong {
			return usage{errors.New(c.text)}
		}
	}
	if *memory != "" {
		n, err := quantity.Parse(*memory)
		if err != nil {
			return usage{err}
		}
		g.Memory = int64(n)
		debug.SetMemoryLimit(g.Memory + 256<<20)
	}
	switch {
	case *serve != "":
		g.Reader = node.Serve(*serve, finished(ctx), func(url string) { g.Events(node.Event{Event: "ready", URL: url}) })
	case *cat != "":
		g.Events = events(os.Stderr)
		g.Reader = node.Copy(os.Stdout, *cat)
	}
	err = g.Run(ctx)
	if *serve != "" {
		err = ended(err)
	}
	return err
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
