package builder

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	made "github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// homeOf opens the home at a directory.
func homeOf(t *testing.T, dir string) store.Home {
	t.Helper()
	h, err := store.OpenHome(t.Context(), dir, store.Access{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestToHome: a set in a home, encrypted or not, has all that one in a directory has, is
// signed, and can be read only with the identity.
func TestToHome(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, encrypt := range map[string]bool{"plain": false, "encrypted": true} {
		b, dir := fakeMachine(t), t.TempDir()
		b.SigningKey, b.Work = filepath.Join(t.TempDir(), "key"), t.TempDir()
		b.Config.Encrypt, b.Config.Recipients = encrypt, []string{id.Recipient().String()}
		r, err := b.ToHome(t.Context(), machinePlan(t), homeOf(t, dir), dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		door := manifest.Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		s, err := door.Open(t.Context(), dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k, _, err := signing.LoadKey(b.SigningKey, "")
		if err != nil || s.Signer == nil || s.SignatureFault != nil || !bytes.Equal(k.Public().Marshal(), s.Signer.Marshal()) {
			t.Errorf("%s: signed by %v, %v, %v; want the key of this machine", name, s.Signer, s.SignatureFault, err)
		}
		to := t.TempDir()
		if _, lost, err := s.ExtractPaths(t.Context(), nil, to, archive.ExtractOptions{}, progress.None{}); err != nil || len(lost) > 0 {
			t.Errorf("%s: ExtractPaths = %v, %v", name, lost, err)
		}
		found := 0
		_ = filepath.WalkDir(to, func(p string, d fs.DirEntry, _ error) error {
			if got, err := os.ReadFile(p); err == nil && d.Name() == "file" && bytes.Equal(got, bytes.Repeat([]byte("content "), 1000)) {
				found++
			}
			return nil
		})
		if found != 1 {
			t.Errorf("%s: the file is there %d times", name, found)
		}
		if r.Dir != filepath.Join(dir, filepath.Base(r.Dir)) || r.ISO == 0 {
			t.Errorf("%s: %+v", name, r)
		}
		checkHome(t, r.Dir, encrypt)
		if left, err := os.ReadDir(b.Work); err != nil || len(left) > 0 {
			t.Errorf("%s: left in the working directory: %v, %v", name, left, err)
		}
		if !encrypt {
			continue
		}
		for what, d := range map[string]manifest.Door{"no": {}, "another": {Identities: func(bool) ([]age.Identity, error) {
			x, err := age.GenerateX25519Identity()
			return []age.Identity{x}, err
		}}} {
			if _, err := d.Open(t.Context(), dir); err == nil {
				t.Errorf("the set opens with %s identity", what)
			}
		}
	}
}

// checkHome looks at the files of a set: what may be read without a key, and that nothing is
// left of writing it.
func checkHome(t *testing.T, dir string, encrypt bool) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if encrypt && err == nil && (bytes.Contains(b, []byte("sda1")) || bytes.Contains(b, []byte("content content"))) {
			t.Errorf("%s can be read without a key", e.Name())
		}
	}
	if slices.Contains(names, set.UnfinishedFile) || slices.Contains(names, manifest.File) == encrypt || slices.Contains(names, sealed.HeadFile) != encrypt {
		t.Errorf("files of the set: %q", names)
	}
}

// failingHome fails the nth call of Create.
type failingHome struct {
	store.Home
	left int
}

var errFull = errors.New("no space left on the server")

func (h *failingHome) Create(ctx context.Context, name string) (store.Upload, error) {
	if h.left--; h.left == 0 {
		return nil, errFull
	}
	return h.Home.Create(ctx, name)
}

// TestHomeFails: whichever file can't be written, the run fails, nothing is left, and the
// earlier set is still the newest.
func TestHomeFails(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, dir := fakeMachine(t), t.TempDir()
	b.Work = t.TempDir()
	b.Config.Encrypt, b.Config.Recipients = true, []string{id.Recipient().String()}
	first, err := b.ToHome(t.Context(), machinePlan(t), homeOf(t, dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for n := 1; n < 40; n++ {
		p := machinePlan(t)
		p.Layout.Hostname = "other" // the first set may be of the same second
		_, err := b.ToHome(t.Context(), p, &failingHome{homeOf(t, dir), n}, dir)
		if err == nil {
			break
		}
		failed++
		if !errors.Is(err, errFull) {
			t.Errorf("file %d: %v; want the server's error", n, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Fatalf("file %d: left %v, %v; want the first set only", n, left, err)
		}
	}
	if failed < 8 {
		t.Errorf("%d files failed; want more than 8", failed)
	}
	found, damaged := manifest.Look(dir, 1)
	if len(found) != 2 || len(damaged) > 0 || !slices.ContainsFunc(found, func(f manifest.Found) bool { return f.Dir == first.Dir && f.Encrypted }) {
		t.Errorf("Look = %v, %v", found, damaged)
	}
}

// TestMediumKeys: the medium has the public key, and never the private one; secrets of servers
// only if that is wanted.
func TestMediumKeys(t *testing.T) {
	b := fakeMachine(t)
	b.SigningKey = filepath.Join(t.TempDir(), "key")
	b.Config.Credentials = filepath.Join(t.TempDir(), "credentials")
	b.Config.Destination = "sftp://backup:geheim@server/srv"
	sshKey := filepath.Join(t.TempDir(), "sshkey")
	if err := errors.Join(os.WriteFile(sshKey, []byte("ssh key"), 0o600), os.WriteFile(b.Config.Credentials, []byte("- url: sftp://server\n  password: geheim\n  key: "+sshKey+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	private, err := func() ([]byte, error) {
		if _, _, err := signing.LoadKey(b.SigningKey, "h"); err != nil {
			return nil, err
		}
		return os.ReadFile(b.SigningKey)
	}()
	if err != nil {
		t.Fatal(err)
	}
	for _, include := range []string{"ask", "include"} {
		b.Config.Rescue.Credentials = include
		files := mediumFiles(t, b)
		if k := files[rescue.SignersFile]; !strings.HasPrefix(k, "ssh-ed25519 ") {
			t.Errorf("%s: signers %q", include, k)
		}
		if got := files[rescue.CredentialsFile]; (got != "") != (include == "include") {
			t.Errorf("%s: credentials %q", include, got)
		}
		if got := files[sshKey]; (got == "ssh key") != (include == "include") {
			t.Errorf("%s: key of ssh %q", include, got)
		}
		if info := files[rescue.InfoFile]; !strings.Contains(info, `"source": "sftp://backup`) || strings.Contains(info, "geheim") || strings.Contains(info, `"credentials": true`) != (include == "include") {
			t.Errorf("%s: %s", include, info)
		}
		for name, text := range files {
			if strings.Contains(text, string(private[40:80])) || include == "ask" && strings.Contains(text, "geheim") {
				t.Errorf("%s: %s has a secret", include, name)
			}
		}
	}
}

// mediumFiles are the files below etc/mkcdrec of the rescue system on a medium of the builder.
func mediumFiles(t *testing.T, b *Builder) map[string]string {
	t.Helper()
	s, err := b.Maker().System(t.Context(), machinePlan(t).Machine(), made.Hint{}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(s.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	head, err := in.Peek(8)
	if err != nil {
		t.Fatal(err)
	}
	r, err := unpack.Reader(in, head)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("cpio", "-id", "--quiet")
	c.Dir, c.Stdin = t.TempDir(), r
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v %s", err, out)
	}
	files := map[string]string{}
	_ = filepath.WalkDir(c.Dir, func(p string, d fs.DirEntry, _ error) error {
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Error(err)
			}
			files[strings.TrimPrefix(p, c.Dir)] = string(b)
		}
		return nil
	})
	return files
}

// addOnly is a home whose login may add files and read those that it names, and nothing else.
type addOnly struct{ store.Home }

func (addOnly) refuse(what string) error {
	return fmt.Errorf("cannot %s: the server answers AccessDenied: %w", what, fs.ErrPermission)
}
func (h addOnly) Dirs(context.Context) ([]string, error)              { return nil, h.refuse("list") }
func (h addOnly) Files(context.Context, string) ([]store.Info, error) { return nil, h.refuse("list") }
func (h addOnly) Remove(context.Context, string) error                { return h.refuse("remove") }

// TestAddOnly: with a login that may only add files sets are made, increments too, after a run that failed as well.
func TestAddOnly(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, encrypt := range map[string]bool{"plain": false, "encrypted": true} {
		b, dir := fakeMachine(t), t.TempDir()
		said := &notes{}
		b.Work, b.States, b.Report = t.TempDir(), t.TempDir(), said
		b.Config.Encrypt, b.Config.Recipients = encrypt, []string{id.Recipient().String()}
		b.Config.Generations.FullEvery = 10
		home := nextSecond{addOnly{homeOf(t, dir)}}
		p := machinePlan(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.ToHome(ctx, p, home, "s3://host/b"); err == nil {
			t.Fatalf("%s: a run that was cancelled makes a set", name)
		}
		for n := range 3 {
			p = planOf(t, p)
			r, err := b.ToHome(t.Context(), p, home, "s3://host/b")
			if err != nil {
				t.Fatalf("%s: run %d: %v", name, n, err)
			}
			if len(r.Manifest.Needs) != n {
				t.Errorf("%s: run %d needs %d sets; want %d\n%s", name, n, len(r.Manifest.Needs), n, strings.Join(said.lines, "\n"))
			}
		}
		if got := strings.Join(said.lines, "\n"); regexp.MustCompile(`warning:.*(unfinished|AccessDenied)`).MatchString(got) || !strings.Contains(got, "its mark unfinished.json stays") {
			t.Errorf("%s: the runs print\n%s\nwant that the mark stays, and no warning", name, got)
		}
	}
}

// TestHomeIncrement: sets in a home, encrypted or not, are increments of one another; each gives
// the tree as it was, also when it is named itself; what a kept set needs is kept.
func TestHomeIncrement(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, encrypt := range map[string]bool{"plain": false, "encrypted": true} {
		b, dir := fakeMachine(t), t.TempDir()
		b.Work, b.States = t.TempDir(), t.TempDir()
		b.Config.Encrypt, b.Config.Recipients = encrypt, []string{id.Recipient().String()}
		b.Config.Generations.FullEvery = 10
		big := make([]byte, 3<<20)
		if _, err := rand.Read(big); err != nil {
			t.Fatal(err)
		}
		p := machinePlan(t)
		src := p.Layout.Filesystems[0].Mounts[0].Path
		if err := os.WriteFile(src+"/big", big, 0o600); err != nil {
			t.Fatal(err)
		}
		door := manifest.Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
		home := homeOf(t, dir)
		var sets []string
		for n := range 3 {
			if n > 0 {
				if err := errors.Join(os.WriteFile(src+"/file", []byte{byte(n)}, 0o600), os.WriteFile(fmt.Sprintf("%s/new%d", src, n), nil, 0o600)); err != nil {
					t.Fatal(err)
				}
				p = planOf(t, p)
			}
			r, err := b.ToHome(t.Context(), p, nextSecond{home}, dir)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			sets = append(sets, r.Dir)
			if len(r.Manifest.Needs) != n || n > 0 && r.Manifest.Archives[0].Size > 1<<20 {
				t.Errorf("%s: set %d needs %d sets, and has %d bytes", name, n, len(r.Manifest.Needs), r.Manifest.Archives[0].Size)
			}
		}
		for n, place := range append(slices.Clone(sets), dir) {
			s, err := door.Open(t.Context(), place)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			to := t.TempDir()
			if _, lost, err := s.ExtractPaths(t.Context(), nil, to, archive.ExtractOptions{}, progress.None{}); err != nil || len(lost) > 0 {
				t.Errorf("%s: set %d: %v, %v", name, n, lost, err)
			}
			if got, err := os.ReadFile(to + src + "/big"); err != nil || !bytes.Equal(got, big) {
				t.Errorf("%s: set %d: the large file has %d bytes, %v", name, n, len(got), err)
			}
			news, _ := filepath.Glob(to + src + "/new*")
			if len(news) != min(n, 2) {
				t.Errorf("%s: set %d has %q", name, n, news)
			}
		}
		verdicts, err := retention.Keep{Last: 1}.PlanHome(t.Context(), home, "host", nil, time.Now())
		if err != nil || len(verdicts) != 3 {
			t.Fatalf("%s: PlanHome = %+v, %v", name, verdicts, err)
		}
		for _, v := range verdicts {
			if v.Remove {
				t.Errorf("%s: %s would be removed: %v", name, v.Set, v.Reasons)
			}
		}
		b.Config.Generations, b.Config.Keep.Last = Generations{}, 1
		r, err := b.ToHome(t.Context(), planOf(t, p), nextSecond{home}, dir)
		if err != nil || len(r.Removed) != 3 || len(r.Manifest.Needs) != 0 {
			t.Errorf("%s: the next full set: removed %v, needs %v, %v; want the other three removed", name, r.Removed, r.Manifest.Needs, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// planOf plans the same archive once more.
func planOf(t *testing.T, p *Plan) *Plan {
	t.Helper()
	f := p.Layout.Filesystems[0]
	n := planFor("/dev/no-such-disk", f.Mounts[0].Path, "ext4")
	n.Layout.Hostname, n.Layout.Kernel.Release, n.Layout.Filesystems[0].UUID = "host", "6.1.0-test", f.UUID
	n.archives()
	n.Archives[0].File = "sda1._.tar.zst"
	return n
}

// nextSecond is a home; sets that begin in the same second would have the same name.
type nextSecond struct{ store.Home }

func (n nextSecond) Create(ctx context.Context, name string) (store.Upload, error) {
	if filepath.Base(name) == set.UnfinishedFile {
		time.Sleep(1100 * time.Millisecond)
	}
	return n.Home.Create(ctx, name)
}

// TestHomeBase: what makes a backup to a server full although increments are configured: no set is an
// increment of one that its readers can't open, or that is damaged.
func TestHomeBase(t *testing.T) {
	t.Parallel()
	ids := []string{}
	for range 2 {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id.Recipient().String())
	}
	for what, c := range map[string]struct {
		change func(b *Builder, full string) error
		want   string // "" for an increment
	}{
		"nothing":           {func(*Builder, string) error { return nil }, ""},
		"order of keys":     {func(b *Builder, _ string) error { b.Config.Recipients = []string{ids[0], ids[0]}; return nil }, ""},
		"another recipient": {func(b *Builder, _ string) error { b.Config.Recipients = ids; return nil }, "is not encrypted for the same recipients"},
		"not encrypted":     {func(b *Builder, _ string) error { b.Config.Encrypt = false; return nil }, "is not encrypted for the same recipients"},
		"an object is gone": {func(_ *Builder, full string) error {
			list, err := filepath.Glob(full + "/0*.age")
			if err != nil || len(list) == 0 {
				return fmt.Errorf("objects: %q, %w", list, err)
			}
			return os.Remove(list[0])
		}, "is damaged: it has"},
	} {
		t.Run(what, func(t *testing.T) {
			b, dir, said := fakeMachine(t), t.TempDir(), &notes{}
			b.Work, b.States, b.Report = t.TempDir(), t.TempDir(), said
			b.Config.Encrypt, b.Config.Recipients = true, ids[:1]
			b.Config.Generations.FullEvery = 10
			p := machinePlan(t)
			home := nextSecond{homeOf(t, dir)}
			r, err := b.ToHome(t.Context(), p, home, dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(b, r.Dir); err != nil {
				t.Fatal(err)
			}
			said.lines = nil
			if r, err = b.ToHome(t.Context(), planOf(t, p), home, dir); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(said.lines, "\n")
			if full := len(r.Manifest.Needs) == 0; full != (c.want != "") || !strings.Contains(got, c.want) {
				t.Errorf("full: %v; reported %q; want %q", full, got, c.want)
			}
		})
	}
}

// TestDiscsEncrypted: discs of a machine that encrypts with a passphrase have nothing that can be read without it, and
// the increments of sets with another passphrase are not made.
func TestDiscsEncrypted(t *testing.T) {
	t.Parallel()
	b, dir := fakeMachine(t), t.TempDir()
	b.SigningKey, b.Work = filepath.Join(t.TempDir(), "key"), t.TempDir()
	file := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(file, []byte("four words of mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Config.Encrypt, b.Config.PassphraseFile = true, file
	r, err := b.Discs(t.Context(), machinePlan(t), dir, DiscOptions{Size: 64 << 20, Keep: true})
	if err != nil || len(r.Images) != 1 {
		t.Fatalf("Discs = %+v, %v; want one image", r, err)
	}
	at := filepath.Join(t.TempDir(), "disc")
	if out, err := exec.Command("xorriso", "-osirrox", "on", "-indev", r.Images[0].File, "-extract", "/"+r.Set, filepath.Join(at, r.Set)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	known, err := agekey.FromPassphrase([]byte("four words of mine"))
	if err != nil {
		t.Fatal(err)
	}
	door := manifest.Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{known}, nil }}
	for _, place := range []string{filepath.Join(at, r.Set), filepath.Join(dir, r.Set)} {
		s, err := door.Open(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), true, progress.None{}); err != nil || s.Signer == nil || s.SignatureFault != nil {
			t.Errorf("%s: %v, signed by %v, %v; want a whole set that is signed", place, err, s.Signer, s.SignatureFault)
		}
		checkHome(t, place, true)
	}
	_, first, err := b.encryptFor()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("four other words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, second, err := b.encryptFor(); err != nil || first == second || first == "" {
		t.Errorf("digests of two passphrases: %q, %q, %v; want different ones", first, second, err)
	}
	for name, c := range map[string]struct {
		mode os.FileMode
		text string
		want string
	}{"readable by others": {0o644, "four words of mine", "mode 0644"}, "short": {0o600, "1234567\n", "at least 8"}, "empty": {0o600, "", "at least 8"}} {
		if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte(c.text), c.mode)); err != nil {
			t.Fatal(err)
		}
		if err := b.Config.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Validate = %v; want %q", name, err, c.want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.encryptFor(); err == nil || b.Config.Validate() != nil {
		t.Errorf("without the file: encryptFor = %v, Validate = %v; want an error of the first only", err, b.Config.Validate())
	}
	b.Config.Recipients = []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"}
	if err := b.Config.Validate(); err == nil || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("Validate(both) = %v; want that they exclude each other", err)
	}
}
