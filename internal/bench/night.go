package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
	"github.com/mkcdrec/mkcdrec/vmtest"
)

// What the measured processes get besides two arguments: each may be empty.
const (
	envIdentity    = "BENCH_IDENTITY"    // of age; the archive is encrypted for it
	envGeneration  = "BENCH_GENERATION"  // number of the archive, from 0 on
	envStates      = "BENCH_STATES"      // directory of states
	envCredentials = "BENCH_CREDENTIALS" // file of store.ReadCredentials
	envKnown       = "BENCH_KNOWN_HOSTS"
)

const nightArchive = "a.tar.zst"

func nightSet(n string) string { return "set-" + n }

// nightHome opens the home at a place.
func nightHome(ctx context.Context, place string) (store.Home, error) {
	a := store.Access{KnownHosts: os.Getenv(envKnown)}
	if f := os.Getenv(envCredentials); f != "" {
		var err error
		if a.Credentials, err = store.ReadCredentials(f); err != nil {
			return nil, err
		}
	}
	return store.OpenHome(ctx, place, a)
}

// nightIdentity is the identity, nil for sets that are not encrypted.
func nightIdentity() (*age.X25519Identity, error) {
	s := os.Getenv(envIdentity)
	if s == "" {
		return nil, nil
	}
	return age.ParseX25519Identity(s)
}

// save writes the archive of a directory, as a run of mkcdrec path does: the first one is full, the others
// are increments.
func save(ctx context.Context, src, place string) (err error) {
	home, err := nightHome(ctx, place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	n := os.Getenv(envGeneration)
	opt := archive.CreateOptions{}
	state, err := os.Create(filepath.Join(os.Getenv(envStates), n))
	if err != nil {
		return err
	}
	defer state.Close()
	if opt.Keep, err = archive.NewStateWriter(state, archive.Source{Set: nightSet(n), Dir: nightSet(n), File: nightArchive}); err != nil {
		return err
	}
	if n != "0" {
		var last int
		if _, err := fmt.Sscan(n, &last); err != nil {
			return err
		}
		if opt.Since, err = archive.OpenState(filepath.Join(os.Getenv(envStates), fmt.Sprint(last-1))); err != nil {
			return err
		}
		defer opt.Since.Close()
	}
	root, err := os.Open(src)
	if err != nil {
		return err
	}
	defer root.Close()
	id, err := nightIdentity()
	if err != nil {
		return err
	}
	put := func(name string, produce func(ctx context.Context, w io.Writer) error) error {
		u, err := home.Create(ctx, nightSet(n)+"/"+name)
		if err != nil {
			return err
		}
		if err := produce(ctx, u); err != nil {
			return errors.Join(err, u.Abort())
		}
		return u.Commit()
	}
	create := func(ctx context.Context, w io.Writer) error {
		_, err := archive.Create(ctx, w, root, opt)
		return err
	}
	if id == nil {
		return errors.Join(put(nightArchive, create), opt.Keep.Err())
	}
	seal := sealed.NewWriter([]age.Recipient{id.Recipient()})
	if err := put(seal.Object(), func(ctx context.Context, w io.Writer) error { return seal.File(ctx, nightArchive, w, create) }); err != nil {
		return err
	}
	index, head, err := seal.Finish(sealed.Head{ID: uuid.New(), Host: "bench", Created: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{sealed.IndexFile: index, sealed.HeadFile: head} {
		if err := put(name, func(_ context.Context, w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			return err
		}
	}
	return opt.Keep.Err()
}

// fetch extracts the archive that save wrote last.
func fetch(ctx context.Context, place, dst string) (err error) {
	home, err := nightHome(ctx, place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	id, err := nightIdentity()
	if err != nil {
		return err
	}
	var open func(dir string) (*archive.Reader, error)
	open = func(dir string) (*archive.Reader, error) {
		st := home.At(ctx, dir)
		if id != nil {
			s, err := sealed.Open(st, func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil })
			if err != nil {
				return nil, err
			}
			st = s
		}
		f, err := st.Open(nightArchive)
		if err != nil {
			return nil, err
		}
		r, err := archive.Open(f, f.Size(), nightArchive)
		if err == nil {
			r.OpenEarlier(func(s archive.Source) (*archive.Reader, error) { return open(s.Dir) })
		}
		return r, err
	}
	r, err := open(nightSet(os.Getenv(envGeneration)))
	if err != nil {
		return err
	}
	_, err = r.Extract(ctx, dst, archive.ExtractOptions{})
	return err
}

// nightWay is a program that keeps generations. Each of its functions returns a command line.
type nightWay struct {
	name  string
	begin []string // makes what the first run needs; not measured
	save  func(n int) []string
	load  func(to string) []string
	took  [4][]usage // first, unchanged, changed, restore
	size  int64
}

// night measures a first backup, one of an unchanged tree, one after a change of 1 %, and a restore
// beside restic and borg; then the first one to servers on this machine.
func (b *bench) night(ctx context.Context) error {
	src, bytes, files, err := b.data(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(src)
	disk, err := os.MkdirTemp("/var/tmp", "mkcdrec-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	ways := nightWays(self, src, disk, id.String())
	for range runs {
		if err := b.nights(ctx, ways, src, disk); err != nil {
			return err
		}
	}
	b.say("## Every night\n\n%d MB of /usr in %d files, from memory to directories on this machine's disk, each run a process of its own; the restore is into memory. For the third run the content of every 100th file is new. mkcdrec compresses with its fastest level; restic %s and borg %s with their defaults, borg's is lz4.\n", bytes/1e6, files, version(ctx, "restic", "version"), version(ctx, "borg", "--version"))
	b.say("| method | first s | unchanged s | 1 %% changed s | restore s | first, CPU s | peak memory MB | MB after all |\n|---|---|---|---|---|---|---|---|")
	for _, w := range ways {
		var m [4]usage
		rss := int64(0)
		for i := range m {
			m[i] = median(w.took[i])
			rss = max(rss, m[i].rss)
		}
		b.say("| %s | %.2f | %.2f | %.2f | %.2f | %.1f | %d | %.1f |", w.name, m[0].seconds, m[1].seconds, m[2].seconds, m[3].seconds, m[0].cpu, rss>>10, float64(w.size)/1e6)
	}
	at := func(way, run int) float64 { return median(ways[way].took[run]).seconds }
	b.say("\n| | measured | goal |\n|---|---|---|")
	for _, g := range []struct {
		what string
		is   float64
		goal string
	}{
		{"first backup, encrypted, restic's time relative to it", at(2, 0) / at(1, 0), "at least 3"},
		{"first backup, encrypted, borg's time relative to it", at(3, 0) / at(1, 0), "at least 3"},
		{"unchanged, relative to the first", at(1, 1) / at(1, 0), "at most 0.05"},
		{"unchanged, restic's time relative to it", at(2, 1) / at(1, 1), "at least 1"},
		{"1 % changed, relative to the first", at(1, 2) / at(1, 0), "at most 0.10"},
		{"restore, restic's time relative to it", at(2, 3) / at(1, 3), "at least 2"},
		{"first backup, encrypted relative to not encrypted", at(1, 0) / at(0, 0), "at most 1.15"},
		{"MB after all, relative to restic", float64(ways[1].size) / float64(ways[2].size), "at most 1"},
		{"MB after all, relative to borg", float64(ways[1].size) / float64(ways[3].size), "at most 1"},
	} {
		b.say("| %s | %.2f | %s |", g.what, g.is, g.goal)
	}
	return b.servers(ctx, self, src, disk, id.String())
}

func nightWays(self, src, disk, identity string) []*nightWay {
	ours := func(name, id string) *nightWay {
		dir := filepath.Join(disk, name)
		env := func(n int) []string {
			return []string{"env", envIdentity + "=" + id, envStates + "=" + dir + ".states", fmt.Sprintf("%s=%d", envGeneration, n), self}
		}
		return &nightWay{name: name, begin: []string{"mkdir", "-p", dir + ".states", dir},
			save: func(n int) []string { return append(env(n), "save", src, dir) },
			load: func(to string) []string { return append(env(2), "fetch", dir, to) }}
	}
	restic := []string{"env", "RESTIC_PASSWORD=x", "RESTIC_CACHE_DIR=" + disk + "/restic.cache", "restic", "-q", "-r", disk + "/restic"}
	borg := []string{"env", "BORG_PASSPHRASE=x", "BORG_BASE_DIR=" + disk + "/borg.base", "borg"}
	with := func(base []string, more ...string) []string { return append(append([]string{}, base...), more...) }
	return []*nightWay{
		ours("mkcdrec, not encrypted", ""),
		ours("mkcdrec, encrypted", identity),
		{name: "restic", begin: with(restic, "init"),
			save: func(int) []string { return with(restic, "backup", src) },
			load: func(to string) []string { return with(restic, "restore", "latest", "--target", to) }},
		{name: "borg", begin: with(borg, "init", "-e", "repokey-blake2", disk+"/borg"),
			save: func(n int) []string {
				return with(borg, "create", "-C", "lz4", fmt.Sprintf("%s/borg::%d", disk, n), src)
			},
			load: func(to string) []string {
				return []string{"env", "-C", to, "BORG_PASSPHRASE=x", "BORG_BASE_DIR=" + disk + "/borg.base", "borg", "extract", disk + "/borg::2"}
			}},
	}
}

// nights is one round of all programs.
func (b *bench) nights(ctx context.Context, ways []*nightWay, src, disk string) error {
	if err := empty(disk); err != nil {
		return err
	}
	for _, w := range ways {
		if _, err := pipe(ctx, "", w.begin); err != nil {
			return err
		}
	}
	for n := range 3 {
		if n == 2 {
			if err := change(src, 100); err != nil {
				return err
			}
		}
		// What was changed just now is read again: times have the resolution of a tick.
		time.Sleep(4 * time.Second)
		for _, w := range ways {
			u, err := pipe(ctx, "", w.save(n))
			if err != nil {
				return err
			}
			w.took[n] = append(w.took[n], u)
		}
	}
	for _, w := range ways {
		to := filepath.Join(b.dir, "restored")
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		u, err := pipe(ctx, "", w.load(to))
		if err = errors.Join(err, os.RemoveAll(to)); err != nil {
			return err
		}
		w.took[3] = append(w.took[3], u)
	}
	for i, w := range ways {
		w.size = tree(filepath.Join(disk, []string{ways[0].name, ways[1].name, "restic", "borg"}[i]))
	}
	return nil
}

// empty removes what is in a directory.
func empty(dir string) error {
	list, err := os.ReadDir(dir)
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// change gives every nth file new content of the same size.
func change(dir string, nth int) error {
	n := 0
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n++; n%nth != 0 {
			return nil
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		b := make([]byte, i.Size())
		if _, err := rand.Read(b); err != nil {
			return err
		}
		return os.WriteFile(p, b, 0)
	})
}

// tree is what the files below a directory have, in bytes.
func tree(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if i, err := d.Info(); err == nil {
				n += i.Size()
			}
		}
		return nil
	})
	return n
}

// version is the second word of what a program prints of its version.
func version(ctx context.Context, args ...string) string {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
	if err != nil {
		return err.Error()
	}
	f := strings.Fields(string(out))
	return f[min(1, len(f)-1)]
}

// servers measures a first backup to OpenSSH and versitygw on this machine.
func (b *bench) servers(ctx context.Context, self, src, disk, identity string) error {
	if err := empty(disk); err != nil {
		return err
	}
	s, err := vmtest.StartServers(ctx, filepath.Join(disk, "servers"))
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := s.S3(ctx); err != nil {
		return err
	}
	host, err := os.ReadFile(s.Dir + "/host.pub")
	if err != nil {
		return err
	}
	known, secrets := filepath.Join(disk, "known"), filepath.Join(disk, "credentials")
	places := []struct{ name, place, service string }{
		{"directory", filepath.Join(disk, "home"), ""},
		{"sftp (OpenSSH)", fmt.Sprintf("sftp://root@127.0.0.1:%d%s/sftp", s.Ports["ssh"], disk), "ssh"},
		{"s3 (versitygw, TLS)", fmt.Sprintf("s3://127.0.0.1:%d/sets/bench", s.Ports["s3"]), "s3"},
	}
	text := fmt.Sprintf("- url: %s\n  key: %s/key\n- url: %s\n  access_key: mkcdrec\n  secret_key: geheimgeheim\n  ca: %s/ca.pem\n", places[1].place, s.Share, places[2].place, s.Share)
	err = errors.Join(os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.Ports["ssh"], host), 0o600), os.WriteFile(secrets, []byte(text), 0o600),
		os.MkdirAll(places[0].place, 0o700), os.MkdirAll(filepath.Join(disk, "sftp"), 0o700), os.MkdirAll(filepath.Join(disk, "states"), 0o700))
	if err != nil {
		return err
	}
	var took [3][]usage
	var served [3]float64 // processor time of the servers, of all runs
	for n := range runs {
		if err := errors.Join(os.Mkdir(fmt.Sprintf("%s/home/%d", disk, n), 0o700), os.Mkdir(fmt.Sprintf("%s/sftp/%d", disk, n), 0o700)); err != nil {
			return err
		}
		for i, p := range places {
			before := s.CPU(p.service)
			u, err := pipe(ctx, "", []string{"env", envIdentity + "=" + identity, envStates + "=" + disk + "/states", envGeneration + "=0", envCredentials + "=" + secrets, envKnown + "=" + known, self, "save", src, fmt.Sprintf("%s/%d", p.place, n)})
			if err != nil {
				return err
			}
			took[i] = append(took[i], u)
			served[i] += s.CPU(p.service) - before
		}
	}
	b.say("\nThe first, encrypted, to servers on this machine, whose work is on the same two cores. Goal: at least 0.8 of a directory's rate. The last column is the rate at which client and server would use all of both processors.\n\n| home | s | CPU s | CPU s of the server | peak memory MB | rate relative to the directory | most that the processors allow |\n|---|---|---|---|---|---|---|")
	for i, p := range places {
		m := median(took[i])
		server := served[i] / runs
		b.say("| %s | %.2f | %.1f | %.1f | %d | %.2f | %.2f |", p.name, m.seconds, m.cpu, server, m.rss>>10, median(took[0]).seconds/m.seconds, median(took[0]).seconds*float64(runtime.NumCPU())/(m.cpu+server))
	}
	b.say("")
	return nil
}
