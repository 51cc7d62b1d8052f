package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

var ctx = context.Background()

// runner is the programs that are called.
type runner func(c tool.Cmd) error

func (r runner) Run(_ context.Context, c tool.Cmd) ([]byte, error) { return nil, r(c) }

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func command(stdin []byte, env map[string]string, run runner) (IO, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	return IO{In: bytes.NewReader(stdin), Out: &out, Err: &errs, Getenv: func(k string) string { return env[k] }, Run: run}, &out, &errs
}

func none(c tool.Cmd) error { return fmt.Errorf("called %v", c.Args) }

func TestCutPaste(t *testing.T) {
	dir := t.TempDir()
	stream := noise(100_000)
	var facts []string
	s, _, _ := command(stream, nil, func(c tool.Cmd) error {
		facts = append(facts, strings.Join(c.Env[:3], " ")+" "+c.Env[5])
		return nil
	})
	if err := Cut(ctx, s, []string{"-size", "40K", "-name", "home", "-dir", dir, "-exec", "/bin/burn"}); err != nil {
		t.Fatal(err)
	}
	if len(facts) != 3 || !strings.Contains(facts[0], dir+"/home.001 MKCDREC_NUMBER=1 MKCDREC_NAME=home MKCDREC_LAST=0") || !strings.HasSuffix(facts[2], "MKCDREC_LAST=1") {
		t.Errorf("the program was told %q", facts)
	}
	for _, args := range [][]string{{dir}, {dir + "/home.003", dir + "/home.001", dir + "/home.002"}, {"-name", "home", "/no/such", dir}} {
		s, out, errs := command(nil, nil, none)
		if err := Paste(ctx, s, args); err != nil || !bytes.Equal(out.Bytes(), stream) {
			t.Errorf("%v: %v, %d bytes, %s", args, err, out.Len(), errs)
		}
	}
	if l, _ := os.ReadDir(dir); len(l) != 3 {
		t.Errorf("left over: %v", l)
	}
	// Never over what is there.
	s, _, _ = command(stream, nil, none)
	if err := Cut(ctx, s, []string{"-size", "40K", "-name", "home", "-dir", dir}); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a second time: %v", err)
	}
	os.Remove(dir + "/home.001")
	os.Remove(dir + "/home.002")
	s, _, _ = command(stream, nil, none)
	if err := Cut(ctx, s, []string{"-size", "40K", "-name", "home", "-dir", dir}); err == nil || !strings.Contains(err.Error(), "home.003 is there already") {
		t.Errorf("beside the rest of a series: %v", err)
	}
}

func TestCutUsage(t *testing.T) {
	for _, args := range []string{"-size 0", "-size -5", "-size x", "-name a/b", "-nosuch", "file", "-size 1X"} {
		s, _, _ := command(nil, nil, none)
		if err := Cut(ctx, s, strings.Fields(args)); exit.Code(err) != exit.BadUsage {
			t.Errorf("%s: %v", args, err)
		}
	}
	for _, c := range []string{"0", "-3", "many"} {
		s, _, _ := command([]byte("x"), map[string]string{"CAPACITY": c, "MAXCDSIZE": "10", "DESTINATION": t.TempDir() + "/o"}, none)
		if err := Cut(ctx, s, nil); exit.Code(err) != exit.BadUsage {
			t.Errorf("CAPACITY=%s: %v", c, err)
		}
	}
	s, _, _ := command(nil, nil, none)
	if err := Paste(ctx, s, nil); exit.Code(err) != exit.BadUsage {
		t.Errorf("pastestream alone: %v", err)
	}
}

// The program after a volume fails: nothing is lost, and -resume continues.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	stream := noise(100_000)
	args := []string{"-size", "40K", "-name", "home", "-dir", dir, "-exec", "/bin/burn"}
	calls := 0
	fail := 2
	burn := func(tool.Cmd) error {
		if calls++; calls == fail {
			return errors.New("no disc")
		}
		return nil
	}
	s, _, _ := command(stream, nil, burn)
	err := Cut(ctx, s, args)
	if err == nil || !strings.Contains(err.Error(), "volume 2 is whole in "+dir+"/home.002") || !strings.Contains(err.Error(), "-resume") {
		t.Fatalf("%v", err)
	}
	s, _, _ = command(stream, nil, burn)
	if err := Cut(ctx, s, args); err == nil || !strings.Contains(err.Error(), "not finished") {
		t.Errorf("begun again: %v", err)
	}
	s, _, _ = command(noise(100_001), nil, burn)
	if err := Cut(ctx, s, append(args, "-resume")); err == nil || !strings.Contains(err.Error(), "not the one") {
		t.Errorf("with another stream: %v", err)
	}
	fail = calls + 3 // after taking volume 2 and writing 3: the very last
	calls = fail - 2
	s, _, _ = command(stream, nil, burn)
	if err := Cut(ctx, s, append(args, "-resume")); err == nil || !strings.Contains(err.Error(), "volume 3") {
		t.Fatalf("%v", err)
	}
	s, _, _ = command(stream, nil, burn)
	if err := Cut(ctx, s, append(args, "-resume")); err != nil {
		t.Fatal(err)
	}
	s, out, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{dir}); err != nil || !bytes.Equal(out.Bytes(), stream) {
		t.Errorf("pasted: %v, %d bytes", err, out.Len())
	}
	if l, _ := os.ReadDir(dir); len(l) != 3 {
		t.Errorf("left over: %v", l)
	}
}

// A stream that breaks off leaves no volume that looks whole.
func TestBrokenStream(t *testing.T) {
	dir := t.TempDir()
	s, _, _ := command(nil, nil, none)
	s.In = io.MultiReader(bytes.NewReader(noise(10_000)), broken{})
	if err := Cut(ctx, s, []string{"-size", "1M", "-dir", dir}); err == nil || !strings.Contains(err.Error(), "pulled") {
		t.Errorf("%v", err)
	}
	if l, _ := os.ReadDir(dir); len(l) != 0 {
		t.Errorf("left over: %v", l)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("pulled") }

// Wrong media are named and asked for again; without a terminal that is the
// end.
func TestPasteAsks(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	stream := noise(100_000)
	for _, d := range []string{dir, other} {
		s, _, _ := command(stream, nil, none)
		if err := Cut(ctx, s, []string{"-size", "40K", "-name", "home", "-dir", d}); err != nil {
			t.Fatal(err)
		}
	}
	drive := t.TempDir()
	put := func(from, name, as string) {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(drive, as), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	empty := func() { os.RemoveAll(drive); os.Mkdir(drive, 0o700) }
	put(dir, "home.001", "home.001")
	s, out, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{drive}); err == nil || !strings.Contains(err.Error(), "volume 2 of home") {
		t.Errorf("without a terminal: %v", err)
	}
	out.Reset()
	var asked []string
	s.Terminal = func(_ context.Context, q string) (string, error) {
		asked = append(asked, q)
		switch len(asked) {
		case 1:
			empty()
			put(other, "home.002", "home.002")
		case 2:
			empty()
			put(dir, "home.002", "home.002")
			b, _ := os.ReadFile(drive + "/home.002")
			b[len(b)/2] ^= 1
			os.WriteFile(drive+"/home.002", b, 0o600)
		case 3:
			put(dir, "home.002", "home.002")
		case 4:
			put(dir, "home.003", "home.003")
		default:
			return "q\n", nil
		}
		return "\n", nil
	}
	if err := Paste(ctx, s, []string{drive}); err != nil || !bytes.Equal(out.Bytes(), stream) {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
	for i, want := range []string{"volume 2 of home", "this is volume 2 of home", "damaged", "volume 3 of home"} {
		if i >= len(asked) || !strings.Contains(asked[i], want) {
			t.Errorf("question %d: %q; want %q", i, asked, want)
		}
	}
	empty()
	asked = make([]string, 9)
	if err := Paste(ctx, s, []string{drive}); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("given up: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	s.Out = full
	if err := Paste(ctx, s, []string{dir}); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("into a full device: %v", err)
	}
}

// mkCDrec's protocol, and what its program got wrong.
func TestOldProtocol(t *testing.T) {
	for _, c := range []struct {
		n, capacity, max int // bytes, KiB, KiB
		pieces           []int
	}{
		{5000, 10, 10, []int{5000}},
		{10 << 10, 10, 10, []int{10 << 10}}, // exactly one: not a cut and an empty piece
		{10<<10 + 1, 10, 10, []int{10 << 10, 1}},
		{25 << 10, 4, 10, []int{4 << 10, 10 << 10, 10 << 10, 1 << 10}},
		{0, 4, 10, []int{0}},
	} {
		dir := t.TempDir()
		dest, volno := dir+"/Output", dir+"/volno"
		if err := os.WriteFile(volno, []byte("0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		stream := noise(c.n)
		var pieces []string
		take := func(tool.Cmd) error {
			p := fmt.Sprintf("%s/piece%d", dir, len(pieces))
			pieces = append(pieces, p)
			return os.Rename(dest, p)
		}
		env := map[string]string{"CAPACITY": fmt.Sprint(c.capacity), "MAXCDSIZE": fmt.Sprint(c.max), "DESTINATION": dest, "VOLNO_FILE": volno, "MAKE_ISO9660": "/etc/makeISO9660.sh -x"}
		s, _, _ := command(stream, env, take)
		if err := Cut(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, dest)
		var sizes []int
		for _, p := range pieces {
			st, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, int(st.Size()))
		}
		if fmt.Sprint(sizes) != fmt.Sprint(c.pieces) {
			t.Errorf("%+v: pieces of %v", c, sizes)
		}
		if b, _ := os.ReadFile(volno); strings.TrimSpace(string(b)) != fmt.Sprint(len(c.pieces)-1) {
			t.Errorf("%+v: volume number %s", c, b)
		}
		// And back, with the two files.
		restore, more := dir+"/restore", dir+"/more"
		at := 0
		set := func(tool.Cmd) error {
			m := "1"
			if at == len(pieces)-1 {
				m = "0"
			}
			err := errors.Join(os.WriteFile(restore, []byte(pieces[at]+"\n"), 0o600), os.WriteFile(more, []byte(m+"\n"), 0o600))
			at++
			return err
		}
		if err := set(tool.Cmd{}); err != nil {
			t.Fatal(err)
		}
		s, out, _ := command(nil, nil, set)
		if err := Paste(ctx, s, []string{"-old", "-restore-file", restore, "-more-file", more}); err != nil || !bytes.Equal(out.Bytes(), stream) {
			t.Errorf("%+v: pasted %v, %d bytes", c, err, out.Len())
		}
	}
}

// The original ignored a failing program, and lost what came after it.
func TestOldProtocolFails(t *testing.T) {
	dir := t.TempDir()
	dest, volno := dir+"/Output", dir+"/volno"
	stream := noise(20_000)
	env := map[string]string{"CAPACITY": "8", "MAXCDSIZE": "8", "DESTINATION": dest, "VOLNO_FILE": volno, "MAKE_ISO9660": "/etc/makeISO9660.sh"}
	var got []byte
	fails := 1
	take := func(tool.Cmd) error {
		if fails--; fails == 0 {
			return errors.New("exit status 1")
		}
		b, err := os.ReadFile(dest)
		got = append(got, b...)
		return err
	}
	s, _, _ := command(stream, env, take)
	if err := Cut(ctx, s, nil); err == nil || !strings.Contains(err.Error(), "piece 1 is whole in "+dest) {
		t.Fatalf("%v", err)
	}
	if b, err := os.ReadFile(dest); err != nil || !bytes.Equal(b, stream[:8192]) {
		t.Errorf("the piece is lost: %v", err)
	}
	if b, _ := os.ReadFile(volno); strings.TrimSpace(string(b)) != "0" {
		t.Errorf("volume number %s", b)
	}
	s, _, _ = command(stream, env, take)
	if err := Cut(ctx, s, []string{"-resume"}); err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(dest)
	if got = append(got, last...); err != nil || !bytes.Equal(got, stream) {
		t.Errorf("after -resume: %v, %d bytes of %d", err, len(got), len(stream))
	}
	if l, _ := os.ReadDir(dir); len(l) != 2 {
		t.Errorf("left over: %v", l)
	}
	for _, c := range []struct{ restore, more, want string }{{"", "0", "is empty"}, {"/no/such", "0", "no such file"}, {dest, "x", "more to come"}} {
		os.WriteFile(dir+"/r", []byte(c.restore), 0o600)
		os.WriteFile(dir+"/m", []byte(c.more), 0o600)
		s, _, _ := command(nil, nil, none)
		if err := Paste(ctx, s, []string{"-old", "-restore-file", dir + "/r", "-more-file", dir + "/m"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A full file system: what is whole stays, the rest is gone, and -resume goes
// on when there is room.
func TestCutFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small tmpfs: %s; CI can", out)
	}
	defer exec.Command("umount", dir).Run()
	stream := noise(1500_000)
	args := []string{"-size", "600K", "-name", "home", "-dir", dir}
	s, _, _ := command(stream, nil, none)
	err := Cut(ctx, s, args)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "-resume") {
		t.Fatalf("%v; want ENOSPC and how to go on", err)
	}
	if l, _ := os.ReadDir(dir); len(l) != 2 || l[0].Name() != ".home.cutstream" || l[1].Name() != "home.001" {
		t.Errorf("there is %v; want home.001 and the state", l)
	}
	kept, err := os.ReadFile(dir + "/home.001")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "remount,size=8m", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, _, _ = command(stream, nil, none)
	if err := Cut(ctx, s, append(args, "-resume")); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(dir + "/home.001"); err != nil || !bytes.Equal(kept, again) {
		t.Errorf("the whole volume was written again: %v", err)
	}
	s, out, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{dir}); err != nil || !bytes.Equal(out.Bytes(), stream) {
		t.Errorf("pasted: %v, %d bytes", err, out.Len())
	}
}

// A backup of mkCDrec 1.x, made with the programs it used.
func TestPasteLegacy(t *testing.T) {
	dir, src := t.TempDir(), t.TempDir()
	if err := os.WriteFile(src+"/f", noise(50_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-ec", `cd "$1"; : > CDrec-03.04.2009; tar -C "$2" -czf sda1._.tar.gz .`, "sh", dir, src).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s, out, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{"-mkcdrec", "list", dir}); err != nil || out.String() != "/\t/dev/sda1\t\ttar\tsda1._.tar.gz\n" {
		t.Errorf("%v: %q", err, out)
	}
	s, out, _ = command(nil, nil, none)
	if err := Paste(ctx, s, []string{"-mkcdrec", "/", dir}); err != nil {
		t.Fatal(err)
	}
	tar := exec.Command("tar", "-xO", "./f")
	tar.Stdin = out
	if got, err := tar.Output(); err != nil || !bytes.Equal(got, noise(50_000)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	s, _, _ = command(nil, nil, none)
	if err := Paste(ctx, s, []string{"-mkcdrec", "/usr", dir}); err == nil || !strings.Contains(err.Error(), "cannot find /usr") {
		t.Errorf("%v", err)
	}
}

// What zstd(1) writes is one frame, which no volume may take whole: it is
// stored, and is read back as it was.
func TestOneLargeFrame(t *testing.T) {
	c := exec.Command("zstd", "-q", "-c")
	c.Stdin = bytes.NewReader(noise(3 << 20))
	stream, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, _, _ := command(stream, nil, none)
	if err := Cut(ctx, s, []string{"-size", "1M", "-name", "x", "-dir", dir}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", `cat "$1"/x.* | zstd -dcq`, "sh", dir).Output(); err != nil || !bytes.Equal(out, stream) {
		t.Errorf("by hand: %d bytes, %v; want %d", len(out), err, len(stream))
	}
	s, out, _ := command(nil, nil, none)
	if err := Paste(ctx, s, []string{dir}); err != nil || !bytes.Equal(out.Bytes(), stream) {
		t.Errorf("pasted: %v, %d bytes", err, out.Len())
	}
}
