package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt/interrupttest"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/internal/usage"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// aSet makes a set of one small archive.
func aSet(t *testing.T, created time.Time, notCovered ...string) string {
	t.Helper()
	return setWith(t, &layout.Layout{}, created, notCovered...)
}

// setWith is aSet with what its layout has.
func setWith(t *testing.T, is *layout.Layout, created time.Time, notCovered ...string) string {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(src+"/file", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	return setOf(t, src, is, created, notCovered...)
}

// setOf makes a set of one archive, of what is below src.
func setOf(t *testing.T, src string, is *layout.Layout, created time.Time, notCovered ...string) string {
	t.Helper()
	is.Version, is.Boot = layout.Version, layout.Boot{Firmware: layout.BIOS}
	set := filepath.Join(t.TempDir(), "set")
	if err := os.Mkdir(set, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	name := manifest.ArchiveName("vda1", "/")
	f, err := os.Create(filepath.Join(set, name))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := archive.Create(t.Context(), f, root, archive.CreateOptions{})
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: "h", Created: created.UTC().Truncate(time.Second), Program: "test", Kernel: "6.1", NotCovered: notCovered,
		Archives: []manifest.Archive{{File: name, Device: "vda1", Type: "ext4", Mount: "/", Size: quantity.Size(sum.Packed), TarSize: quantity.Size(sum.Tar), Members: sum.Members, SHA256: fmt.Sprintf("%x", sum.SHA256)}}}
	l, err := os.Create(filepath.Join(set, manifest.Layout))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(is.Write(l), l.Close()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{name, manifest.Layout} {
		st, err := os.Stat(filepath.Join(set, n))
		if err != nil {
			t.Fatal(err)
		}
		s, err := manifest.SumFile(t.Context(), filepath.Join(set, n), ui.New(ui.Quiet).Phase("x", 0))
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, manifest.FileSum{Name: n, Size: quantity.Size(st.Size()), SHA256: s})
	}
	if err := m.Write(set); err != nil {
		t.Fatal(err)
	}
	writeLists(t, set, m)
	return set
}

// writeLists writes the lists of checksums of a set.
func writeLists(t *testing.T, set string, m *manifest.Manifest) {
	t.Helper()
	var sha, sfv strings.Builder
	for _, f := range m.Files {
		b, err := os.ReadFile(filepath.Join(set, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sha, "%s  %s\n", f.SHA256, f.Name)
		fmt.Fprintf(&sfv, "%s %08X\n", f.Name, crc32.ChecksumIEEE(b))
	}
	if err := errors.Join(os.WriteFile(filepath.Join(set, manifest.SHA256), []byte(sha.String()), 0o600), os.WriteFile(filepath.Join(set, manifest.SFV), []byte(sfv.String()), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestLists: a set whose Checksums.sfv is damaged or missing is not good, and every file can be
// taken out of it all the same.
func TestLists(t *testing.T) {
	for want, change := range map[string]func(name string) error{
		"Checksums.sfv contradicts the manifest: it has the line vda1._.tar.zst 00000000": func(name string) error {
			return os.WriteFile(name, []byte("vda1._.tar.zst 00000000\n"), 0o600)
		},
		"the set is not complete: it lacks Checksums.sfv": os.Remove,
	} {
		set := aSet(t, time.Now())
		if err := change(filepath.Join(set, manifest.SFV)); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := mkcdrec(t, "", "verify", set); status != exit.Failed || !strings.Contains(errs, want) {
			t.Errorf("verify = %d; want %d and %q\n%s%s", status, exit.Failed, want, out, errs)
		}
		if status, out, errs := mkcdrec(t, "", "extract", "-C", t.TempDir(), set); status != exit.OK {
			t.Errorf("extract = %d\n%s%s", status, out, errs)
		}
	}
}

// TestNamesake: of a directory with sets of this machine and newer ones of another machine with
// its name, this machine's are used, also where a signer is named; alone, another's are warned of.
func TestNamesake(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	me := set.This(host)
	if me.ID == "" {
		t.Skip("this machine has no machine-id")
	}
	home := t.TempDir()
	signers := filepath.Join(t.TempDir(), "signers")
	for name, of := range map[string]struct {
		machine set.Machine
		age     time.Duration
	}{"mine": {me, time.Hour}, "theirs": {set.Machine{Host: host, ID: uuid.New()}, time.Minute}} {
		dir := aSet(t, time.Now().Add(-of.age))
		b, err := os.ReadFile(filepath.Join(dir, manifest.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		sums, err := of.machine.Write(dir)
		if err != nil {
			t.Fatal(err)
		}
		m.Host, m.Files = host, append(m.Files, sums...)
		if err := m.Write(dir); err != nil {
			t.Fatal(err)
		}
		writeLists(t, dir, m)
		key, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "key"), host)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = os.ReadFile(filepath.Join(dir, manifest.File)); err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign(b)
		if err := errors.Join(err, os.WriteFile(filepath.Join(dir, manifest.Signature), sig, 0o600), os.Rename(dir, filepath.Join(home, name))); err != nil {
			t.Fatal(err)
		}
		if name == "mine" {
			if err := os.WriteFile(signers, signing.Line(key.Public(), host), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const warning = "is of another machine with the name of this one"
	for _, c := range []struct {
		args   []string
		status int
		warned bool
	}{
		{[]string{"verify", "--signer", signers, home}, exit.OK, false},
		{[]string{"list", "--signer", signers, home}, exit.OK, false},
		{[]string{"extract", "--signer", signers, "-C", t.TempDir(), home}, exit.OK, false},
		{[]string{"list", filepath.Join(home, "theirs")}, exit.OK, true},
		{[]string{"extract", "--signer", signers, "-C", t.TempDir(), filepath.Join(home, "theirs")}, exit.Refused, true},
	} {
		status, out, errs := mkcdrec(t, "", c.args...)
		if status != c.status || strings.Contains(errs, warning) != c.warned {
			t.Errorf("%q = %d; want %d, warned %v\n%s%s", c.args, status, c.status, c.warned, out, errs)
		}
	}
	if err := os.Rename(filepath.Join(home, "mine"), filepath.Join(t.TempDir(), "mine")); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := mkcdrec(t, "", "list", home); status != exit.OK || !strings.Contains(errs, warning) {
		t.Errorf("list = %d; want a warning\n%s%s", status, out, errs)
	}
}

// mkcdrec runs a command line with standard output and error in files, and gives
// the exit status and what was printed to both.
func mkcdrec(t *testing.T, stdout string, args ...string) (status int, out, errs string) {
	t.Helper()
	ownState(t)
	dir := t.TempDir()
	open := func(name string) *os.File {
		t.Helper()
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if stdout == "" {
		stdout = dir + "/out"
	}
	o, e := open(stdout), open(dir+"/err")
	oldOut, oldErr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = o, e
	defer func() { os.Stdout, os.Stderr = oldOut, oldErr }()
	status = run(append([]string{"mkcdrec", "-q"}, args...))
	o.Close()
	e.Close()
	b, err := os.ReadFile(dir + "/err")
	if err != nil {
		t.Fatal(err)
	}
	if stdout == dir+"/out" {
		x, err := os.ReadFile(stdout)
		if err != nil {
			t.Fatal(err)
		}
		out = string(x)
	}
	return status, out, string(b)
}

func TestMain(m *testing.M) { interrupttest.Program(m, main) }

// The exit status of commands that read sets is true.
func TestStatus(t *testing.T) {
	whole := aSet(t, time.Now())
	part := aSet(t, time.Now(), "vdb1: ext4 file system that is not mounted")
	future := aSet(t, time.Now().Add(48*time.Hour))
	image := func(i layout.Image) string {
		i.Device, i.Type, i.Size = "vdb", "ntfs", 1<<30
		return setWith(t, &layout.Layout{Disks: []layout.Disk{{Name: "vdb", Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512}}, Images: []layout.Image{i}}, time.Now())
	}
	byRule, without := image(layout.Image{Excluded: "exclude_devices: vdb"}), image(layout.Image{})
	damaged := aSet(t, time.Now())
	if err := os.Truncate(filepath.Join(damaged, "vda1._.tar.zst"), 40); err != nil {
		t.Fatal(err)
	}
	absent := aSet(t, time.Now())
	if err := os.Remove(filepath.Join(absent, "vda1._.tar.zst")); err != nil {
		t.Fatal(err)
	}
	file, forged := filepath.Join(t.TempDir(), "file"), aSet(t, time.Now())
	key, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "key"), "h")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign([]byte("another manifest"))
	if err != nil {
		t.Fatal(err)
	}
	// A set that this key signed, and files of those whose sets are trusted: it, it for another host, and another key.
	signed, mine, theirs, other := aSet(t, time.Now()), filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "other")
	text, err := os.ReadFile(filepath.Join(signed, manifest.File))
	if err != nil {
		t.Fatal(err)
	}
	good, err := key.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	another, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "key"), "h")
	if err != nil {
		t.Fatal(err)
	}
	line := signing.Line(key.Public(), "h")
	if err := errors.Join(os.WriteFile(filepath.Join(signed, manifest.Signature), good, 0o600), os.WriteFile(mine, line, 0o600),
		os.WriteFile(theirs, append([]byte("elsewhere "), line...), 0o600), os.WriteFile(other, signing.Line(another.Public(), "h"), 0o600)); err != nil {
		t.Fatal(err)
	}
	both := aSet(t, time.Now())
	if err := os.WriteFile(filepath.Join(both, "set.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(file, []byte("mine"), 0o600), os.WriteFile(filepath.Join(forged, manifest.Signature), sig, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		stdout string
		status int
		want   string // on standard error, or output
	}{
		{[]string{"list", whole}, "", exit.OK, "vda1"},
		{[]string{"verify", whole}, "", exit.OK, ""},
		{[]string{"list", part}, "", exit.Partial, "not covered: vdb1"},
		{[]string{"list", part, "/file"}, "", exit.Partial, "vdb1"},
		{[]string{"verify", part}, "", exit.Partial, "vdb1"},
		{[]string{"--json", "list", part}, "", exit.Partial, "vdb1"},
		{[]string{"list", byRule}, "", exit.OK, "left out: vdb (ntfs): exclude_devices: vdb"},
		{[]string{"verify", byRule}, "", exit.OK, ""},
		{[]string{"list", without}, "", exit.Partial, "not covered: vdb (ntfs): its image is not in the set"},
		{[]string{"verify", damaged}, "", exit.Failed, "vda1._.tar.zst"},
		{[]string{"verify", future}, "", exit.OK, "dated in the future"},
		{[]string{"list", whole}, "/dev/full", exit.Failed, "cannot write to standard output: "},
		{[]string{"-n", "rescue", "--kernel", "/nosuch/vmlinuz"}, "", exit.Failed, "/nosuch/vmlinuz"},
		{[]string{"path", "sftp://me:secret@host/dir"}, "", exit.BadUsage, "a password in a URL can be seen by other users"},
		{[]string{"list", "-a", whole}, "/dev/full", exit.Failed, "standard output"},
		{[]string{"list", part}, "/dev/full", exit.Failed, "standard output"},
		{[]string{"version"}, "/dev/full", exit.Failed, "no space left"},
		{[]string{"--help"}, "/dev/full", exit.Failed, "standard output"},
		{[]string{"list", whole, "/nonexistent"}, "", exit.Failed, "/nonexistent"},
		{[]string{"extract", "-C", t.TempDir(), whole, "/nonexistent"}, "", exit.Failed, "/nonexistent"},
		{[]string{"extract", "-C", t.TempDir(), whole, "/file"}, "", exit.OK, ""},
		{[]string{"extract", "-C", t.TempDir(), damaged}, "", exit.Failed, "has 40 bytes, not"},
		{[]string{"extract", "--salvage", "-C", t.TempDir(), damaged}, "", exit.Partial, "nothing behind it can be read"},
		{[]string{"extract", "--salvage", "-C", t.TempDir(), absent, "/file"}, "", exit.Partial, "all of it"},
		{[]string{"verify", whole, damaged}, "", exit.BadUsage, "verify takes SET, not 2 arguments"},
		{[]string{"layout", "save", "a", "b"}, "", exit.BadUsage, "not 2 arguments"},
		{[]string{"version", "x"}, "", exit.BadUsage, `takes no argument "x"`},
		{[]string{"verify", forged}, "", exit.Failed, "the signature of the manifest is not valid"},
		{[]string{"list", forged}, "", exit.OK, "the signature of the backup set is not valid"},
		{[]string{"extract", "-C", t.TempDir(), forged}, "", exit.Failed, "the signature of the backup set is not valid"},
		{[]string{"extract", "--salvage", "-C", t.TempDir(), forged}, "", exit.OK, "the signature of the backup set is not valid"},
		{[]string{"verify", "--signer", mine, signed}, "", exit.OK, ""},
		{[]string{"extract", "--signer", mine, "-C", t.TempDir(), signed}, "", exit.OK, ""},
		{[]string{"verify", "--signer", theirs, signed}, "", exit.Refused, "signed with the key of another host"},
		{[]string{"list", "--signer", other, signed}, "", exit.Refused, "a key that is not known here: SHA256:"},
		{[]string{"verify", "--signer", mine, whole}, "", exit.Refused, "is not signed"},
		{[]string{"extract", "--signer", mine, "-C", t.TempDir(), whole}, "", exit.Refused, "is not signed"},
		{[]string{"verify", "--signer", file, signed}, "", exit.Failed, "it is not a public key"},
		{[]string{"list", "--identity", file, whole}, "", exit.OK, "the backup set is not encrypted"},
		{[]string{"list", both}, "", exit.Failed, "one of them was put there"},
		{[]string{"path", whole}, "", exit.BadUsage, "is a backup set; name the directory that has the sets"},
		{[]string{"prune", "--keep-last", "1", whole}, "", exit.BadUsage, "is a backup set"},
		{[]string{"prune", "-n", "--keep-last", "0x2", filepath.Dir(whole)}, "", exit.BadUsage, "--keep-last"},
		{[]string{"path", "file://host/dir"}, "", exit.BadUsage, "expected a directory, or file:///DIR"},
		{[]string{"path", "https://me:secret@host/dir"}, "", exit.BadUsage, "a password in a URL can be seen by other users"},
		{[]string{"rescue", "-o", "/dev/full"}, "", exit.Refused, "/dev/full: it is a character device"},
		{[]string{"rescue", "-o", whole}, "", exit.Refused, "it is a directory"},
		{[]string{"cdrom", "--size", "1", whole}, "", exit.BadUsage, "too small for a rescue system"},
		{[]string{"cdrom", "--burn", file, whole}, "", exit.Refused, "is not an optical drive"},
		{[]string{"cdrom", "--burn", "/dev/null", whole}, "", exit.Refused, "is not an optical drive"},
		{[]string{"cdrom", "--burn", "/nosuch", whole}, "", exit.Failed, "cannot burn: open /nosuch"},
	} {
		status, out, errs := mkcdrec(t, c.stdout, c.args...)
		if status != c.status || !strings.Contains(out+errs, c.want) {
			t.Errorf("%q > %s = %d; want %d and %q\n%s%s", c.args, c.stdout, status, c.status, c.want, out, errs)
		}
		if c.stdout == "/dev/full" && strings.Contains(errs, "make room at the destination") {
			t.Errorf("%q: a hint that is wrong: %s", c.args, errs)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "mine" {
		t.Errorf("a file in the place of a drive: %q, %v", b, err)
	}
}

// TestOperands: every command without subcommands refuses one word too many.
func TestOperands(t *testing.T) {
	for want, texts := range map[int][]string{0: {""}, 1: {"SET", "[DIR|URL]"}, 2: {"FILE|SET [FILE|SET]"}, -1: {"SET [PATH...]", "[NAME=]SET..."}} {
		for _, s := range texts {
			if got := operands(s); got != want {
				t.Errorf("operands(%q) = %d; want %d", s, got, want)
			}
		}
	}
	var all func(c *cli.Command, before []string)
	all = func(c *cli.Command, before []string) {
		if len(c.Commands) > 0 {
			for _, s := range c.Commands {
				all(s, append(slices.Clone(before), s.Name))
			}
			return
		}
		n := operands(c.ArgsUsage)
		if n < 0 {
			return
		}
		if status, _, errs := mkcdrec(t, "", append(before, slices.Repeat([]string{"/nosuch/x"}, n+1)...)...); status != exit.BadUsage {
			t.Errorf("%q with %d arguments: status %d, %s", before, n+1, status, errs)
		}
	}
	a := &app{out: &output{w: io.Discard}}
	all(a.command(), nil)
}

// An extraction that could not give back all takes what it can, and its exit status is 3.
func TestExtractPartial(t *testing.T) {
	src := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"a", "d/attr", "odd", "z"} {
		write(filepath.Join(src, n), n)
	}
	if err := os.Link(src+"/odd", src+"/odd2"); err != nil {
		t.Fatal(err)
	}
	const attribute = "user.mkcdrec-test"
	attributes := os.Geteuid() == 0 // mounting needs root
	for _, n := range []string{"/d", "/d/attr"} {
		if err := unix.Setxattr(src+n, attribute, []byte("value"), 0); err != nil {
			t.Logf("no attributes in %s: %v", src, err)
			attributes = false
		}
	}
	set := setOf(t, src, &layout.Layout{}, time.Now())

	for _, c := range []struct {
		name  string
		into  func(t *testing.T, dst string) // prepares the directory
		paths []string
		made  []string // files, whose content is their name
		want  []string // on standard error
		not   string
	}{
		{"one path is there and one is not", nil, []string{"/a", "/nonexistent"}, []string{"a"}, []string{"/nonexistent: not in the set"}, "/a:"},
		{"a member that can't be made, and a link to it", func(_ *testing.T, dst string) { write(dst+"/odd/full", "") }, nil, []string{"a", "d/attr", "z"}, []string{"/odd: ", "/odd2: "}, "/d/attr: "},
		{"attributes that can't be set", func(t *testing.T, dst string) {
			if !attributes {
				t.Skip("needs root, and attributes on the file system of temporary files")
			}
			if err := unix.Mount("none", dst, "ramfs", 0, ""); err != nil { // it has no attributes
				t.Skip(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dst, 0); err != nil {
					t.Error(err)
				}
			})
		}, nil, []string{"a", "d/attr", "odd", "odd2=odd", "z"}, []string{"/d: cannot set attribute " + attribute, "/d/attr: cannot set attribute " + attribute}, "/a: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := t.TempDir()
			if c.into != nil {
				c.into(t, dst)
			}
			status, out, errs := mkcdrec(t, "", append([]string{"extract", "-C", dst, set}, c.paths...)...)
			if status != exit.Partial {
				t.Errorf("exit status %d; want %d", status, exit.Partial)
			}
			for _, w := range c.want {
				if !strings.Contains(errs, w) {
					t.Errorf("standard error lacks %q", w)
				}
			}
			if strings.Contains(errs, c.not) {
				t.Errorf("standard error names %q", c.not)
			}
			if t.Failed() {
				t.Logf("output:\n%s%s", out, errs)
			}
			for _, n := range c.made {
				n, text, ok := strings.Cut(n, "=")
				if !ok {
					text = n
				}
				if b, err := os.ReadFile(filepath.Join(dst, n)); err != nil || string(b) != text {
					t.Errorf("%s: %q, %v", n, b, err)
				}
			}
		})
	}
}

// A signal is not damage.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	damage := errors.New("the set is damaged")
	if err := interrupted(ctx, damage); err != damage {
		t.Errorf("without a signal: %v", err)
	}
	cancel()
	if err := exit.Interrupted(interrupted(ctx, damage)); err == nil || !strings.HasPrefix(err.Error(), "interrupted") || exit.Code(err) != exit.Failed {
		t.Errorf("after a signal: %v", err)
	}
	set := aSet(t, time.Now())
	a := &app{ui: ui.New(ui.Quiet), out: &output{w: io.Discard}}
	err := a.command().Run(ctx, []string{"mkcdrec", "-q", "verify", set})
	if err == nil || strings.Contains(err.Error(), "damaged") {
		t.Errorf("verify after a signal: %v", err)
	}
}

// TestSignal: a read of a server that does not answer ends with the first signal.
func TestSignal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan bool)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			c.Read(make([]byte, 1))
			close(asked)
			<-t.Context().Done()
		}
	}()
	code, text := interrupttest.Signal(t, interrupttest.Command("verify", "http://"+l.Addr().String()+"/set"), syscall.SIGINT, func(string) bool { <-asked; return true })
	interrupttest.Interrupted(t, code, text)
}

// Hints are about the command that failed.
func TestHints(t *testing.T) {
	full := fmt.Errorf("cannot write x: %w", unix.ENOSPC)
	for _, c := range []struct{ verb, want string }{{"path", "nothing unfinished"}, {"extract", "make room"}} {
		if got := hint(full, c.verb); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q; want %q", c.verb, got, c.want)
		}
	}
}

// A stick is confirmed by what no other disk has, never by the kernel's name.
func TestConfirmKey(t *testing.T) {
	disk := func(name, serial, slot string) layout.Present {
		return layout.Present{Disk: layout.Disk{Name: name, Model: "Stick", Serial: serial, Size: 8 << 30}, Holds: "vfat PHOTOS", Place: layout.Place{Path: slot + "/block/" + name}}
	}
	all := layout.Identify([]layout.Present{disk("sdb", "S1", "usb1/1-1"), disk("sdc", "", "usb1/1-2"), disk("sdd", "same", "usb1/1-3"), disk("sde", "same", "usb1/1-4"), disk("sdf", "", "x"), disk("sdg", "", "x")})
	for _, c := range []struct {
		disk int
		said string
		ok   bool
	}{
		{0, "S1", true}, {0, "sdb", false}, {0, "/dev/sdb", false}, {0, "Stick", false},
		{1, "/dev/sdc", false}, {1, "sdc", false}, {1, "", false}, {1, "usb1/1-2", true},
		{2, "same", false}, {2, "usb1/1-3", true}, {2, "/dev/sdd", false},
		{4, "/dev/sdf", false}, {4, "x", false},
	} {
		a := &app{ui: ui.New(ui.Quiet)}
		err := a.confirmKey(t.Context(), []string{c.said})(all[c.disk])
		if (err == nil) != c.ok || err != nil && exit.Code(err) != exit.Refused {
			t.Errorf("%s by %q: %v; want it confirmed: %v", all[c.disk].Name, c.said, err, c.ok)
		}
	}
}

// TestWithoutDryRun: what has no --dry-run does not offer it, in its help and in the reference.
func TestWithoutDryRun(t *testing.T) {
	for name, want := range map[string]bool{"path": true, "prune": true, "extract": false, "pxe": false, "serve": false} {
		d := define((&app{out: &output{w: io.Discard}}).command()).Define().Find(name)
		if got := slices.ContainsFunc(d.Options, func(o usage.Option) bool { return o.Names[0] == "dry-run" }); got != want {
			t.Errorf("%s has --dry-run: %v; want %v", name, got, want)
		}
	}
}

// TestKeepRunning: what changes something is not ended by a reader of its messages that ends; what prints is.
func TestKeepRunning(t *testing.T) {
	set := aSet(t, time.Now())
	for _, c := range []struct {
		args []string
		want int // -1: ended by SIGPIPE
	}{{[]string{"extract", "-C", t.TempDir(), set}, exit.OK}, {[]string{"verify", set}, -1}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		p := interrupttest.Command(c.args...)
		p.Stderr = w
		_ = p.Run() // the status tells
		w.Close()
		if got := p.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%q with a closed standard error: %d; want %d", c.args, got, c.want)
		}
	}
}
