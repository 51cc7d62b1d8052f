package builder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// fakeMachine is a builder whose kernel and executable are small files of the test, which
// has no modules, and which runs nothing.
func fakeMachine(t *testing.T) *Builder {
	t.Helper()
	if _, err := media.FindBIOS(""); err != nil {
		t.Skipf("%v; make deps installs isolinux", err)
	}
	dir := t.TempDir()
	const release = "6.1.0-test"
	kernel := make([]byte, 4096) // Documentation/arch/x86/boot.rst
	copy(kernel[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(kernel[0x206:], 0x20f)
	kernel[0x236] = 1 // XLF_KERNEL_64
	binary.LittleEndian.PutUint16(kernel[0x20e:], 0x600)
	copy(kernel[0x800:], release+" (builder@host) #1 SMP")
	for name, text := range map[string]string{
		"vmlinuz": string(kernel), "mkcdrec": "the program", "modules/modules.dep": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := LoadConfig("", false)
	if err != nil {
		t.Fatal(err)
	}
	c.Rescue.Kernel, c.Rescue.ModulesDir, c.Rescue.Programs = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "modules"), "none"
	return &Builder{Run: &tool.Recorder{Answers: map[string]string{filepath.Join(dir, "mkcdrec"): "init restore sh modprobe\n"}}, Report: progress.None{}, Version: "test", Config: c, Executable: filepath.Join(dir, "mkcdrec")}
}

// machinePlan plans one archive of a new directory.
func machinePlan(t *testing.T) *Plan {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(src+"/file", bytes.Repeat([]byte("content "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	p := planFor("/dev/no-such-disk", src, "ext4")
	p.Layout.Hostname, p.Layout.Kernel.Release = "host", "6.1.0-test"
	p.archives()
	p.Archives[0].File = "sda1._.tar.zst"
	return p
}

// inISO lists what others find in an image.
func inISO(t *testing.T, iso string) []string {
	t.Helper()
	out, err := exec.Command("isoinfo", "-f", "-R", "-i", iso).Output()
	if err != nil {
		t.Fatalf("isoinfo: %v", err)
	}
	return strings.Fields(strings.ReplaceAll(string(out), "\n/", "\n"))
}

func verified(t *testing.T, dir string) *manifest.Set {
	t.Helper()
	s, err := manifest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), true, progress.None{}); err != nil {
		t.Error(err)
	}
	return s
}

// TestPath: a set with its rescue medium; a failure of the medium leaves nothing.
func TestPath(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	r, err := b.Path(t.Context(), machinePlan(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	s := verified(t, r.Dir)
	st, err := os.Stat(filepath.Join(r.Dir, manifest.RescueISO))
	if err != nil || st.Size() != r.ISO || len(s.Manifest.Archives) != 1 || len(r.NotCovered) > 0 {
		t.Errorf("Path = %+v, %v; want one archive and the medium", r, err)
	}
	for _, want := range []string{"boot/vmlinuz", "boot/initrd.img", "isolinux/isolinux.cfg"} {
		if got := inISO(t, filepath.Join(r.Dir, manifest.RescueISO)); !slices.Contains(got, want) {
			t.Errorf("the medium has no %s: %q", want, got)
		}
	}
	b.Config.Rescue.Kernel += "-gone"
	other := t.TempDir()
	if _, err := b.Path(t.Context(), machinePlan(t), other); err == nil || !strings.Contains(err.Error(), "vmlinuz-gone") {
		t.Errorf("Path without a kernel = %v; want its name", err)
	}
	if left, err := os.ReadDir(other); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := b.Path(t.Context(), machinePlan(t), other+"/none"); err == nil {
		t.Error("Path into what is not there = nil; want an error")
	}
}

// TestRescueAlone: a medium appears whole, or nothing does.
func TestRescueAlone(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	if err := b.Maker().Medium(t.Context(), machinePlan(t).Machine(), rescue.Hint{}, dir+"/rescue.iso"); err != nil {
		t.Fatal(err)
	}
	b.Executable += "-gone"
	if err := b.Maker().Medium(t.Context(), machinePlan(t).Machine(), rescue.Hint{}, dir+"/none.iso"); err == nil {
		t.Error("Rescue without the executable = nil; want an error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "rescue.iso" {
		t.Errorf("there: %v, %v; want rescue.iso", left, err)
	}
}

// TestDiscs: a set on one disc, whose directory is not left beside it unless that is
// wanted; and discs made of a set that is there.
func TestDiscs(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	r, err := b.Discs(t.Context(), machinePlan(t), dir, DiscOptions{Size: 64 << 20, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	verified(t, filepath.Join(dir, r.Set))
	if in := inISO(t, r.Images[0].File); len(r.Images) != 1 || !slices.Contains(in, r.Set+"/"+manifest.DiscsFile) || !slices.Contains(in, "boot/vmlinuz") {
		t.Errorf("discs %+v with %q", r.Images, in)
	}
	if err := os.Remove(r.Images[0].File); err != nil {
		t.Fatal(err)
	}
	again, err := b.Discs(t.Context(), machinePlan(t), dir, DiscOptions{Size: 64 << 20, From: filepath.Join(dir, r.Set)})
	if err != nil || len(again.Images) != 1 || again.Set != r.Set {
		t.Errorf("Discs of a set = %+v, %v", again, err)
	}
	other := t.TempDir()
	if r, err = b.Discs(t.Context(), machinePlan(t), other, DiscOptions{Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(other); err != nil || len(left) != 1 || left[0].Name() != filepath.Base(r.Images[0].File) {
		t.Errorf("there: %v, %v; want the image", left, err)
	}
	// Too small: the set stays, and is named.
	if _, err = b.Discs(t.Context(), machinePlan(t), t.TempDir(), DiscOptions{Size: 1 << 20}); err == nil || !strings.Contains(err.Error(), "cdrom --from") {
		t.Errorf("Discs of 1 MiB = %v; want how to go on", err)
	}
}

// TestTape: a set on tape with its medium beside it, or, with OBDR, in front of it.
func TestTape(t *testing.T) {
	for _, obdr := range []bool{false, true} {
		b, dir := fakeMachine(t), t.TempDir()
		drive := &model.Drive{Tape: &model.Tape{}}
		r, err := b.Tape(t.Context(), machinePlan(t), TapeOptions{Drives: []tape.Drive{drive}, Device: "/dev/nst0", ISO: dir + "/rescue.iso", OBDR: obdr})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir + "/rescue.iso"); (err == nil) == obdr || (r.ISO == "") != obdr {
			t.Errorf("OBDR %v: medium %q, %v", obdr, r.ISO, err)
		}
		st, err := tape.Open(t.Context(), []tape.Drive{drive}, t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := manifest.OpenTape(st, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.AllDiscs = true
		if err := s.Verify(t.Context(), true, progress.None{}); err != nil || s.Manifest.ID != r.ID || len(s.Manifest.Archives) != 1 || r.Reels != 1 {
			t.Errorf("OBDR %v: Verify = %v; set %+v, result %+v", obdr, err, s.Manifest, r)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 1 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestPXE: a tree for servers, renewed in place.
func TestPXE(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	for range 2 {
		if err := b.Maker().PXE(t.Context(), machinePlan(t).Machine(), dir, rescue.PXEOptions{URL: "http://192.0.2.1/tree/", Source: "http://127.0.0.1:1/set", Host: "host"}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"boot.ipxe": "http://192.0.2.1/tree/vmlinuz", "README.txt": "http://192.0.2.1/tree", "vmlinuz": "HdrS", "initrd.img": ""} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Contains(got, []byte(want)) {
			t.Errorf("%s = %.100q, %v; want %q in it", name, got, err, want)
		}
	}
	if left, err := filepath.Glob(dir + "/.*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestChecks: each check finds what the fake machine has, and names what is taken away.
func TestChecks(t *testing.T) {
	b := fakeMachine(t)
	p := machinePlan(t)
	check := func() map[string]Check {
		c := &tester{b: b, scope: ForPath}
		c.root()
		c.binary(t.Context())
		c.clock()
		if k := c.kernel(p); k != nil {
			c.modules(p, k)
			c.loaders(p, k)
		}
		c.localMenu()
		c.programs(t.Context(), p)
		c.rest(p)
		out := map[string]Check{}
		for _, x := range c.out {
			out[x.ID] = x
			if x.Severity != OK && x.Remedy == "" {
				t.Errorf("%s has no remedy", x.ID)
			}
		}
		return out
	}
	got := check()
	for id, want := range map[string]Severity{"binary": OK, "clock": OK, "kernel": OK, "kernel-config": Warning, "loader-bios": OK, "programs": OK, "command-line": OK, "ssh-keys": OK, "medium-size": OK} {
		if got[id].Severity != want {
			t.Errorf("%s = %+v; want severity %v", id, got[id], want)
		}
	}
	if _, there := got["local-menu"]; there {
		t.Error("local-menu is checked for a backup")
	}
	b.Config.Rescue.Kernel, b.Config.Rescue.Append, b.Config.Rescue.SSHKeys = "/no/such/kernel", "nfs.password=x", []string{"-----BEGIN OPENSSH PRIVATE KEY-----"}
	b.Run = &tool.Recorder{Answers: map[string]string{b.Executable: "restore\n"}}
	got = check()
	for id, want := range map[string]string{"binary": "no command init", "kernel": "/no/such/kernel", "ssh-keys": "private key"} {
		if got[id].Severity != Error || !strings.Contains(got[id].Seen, want) {
			t.Errorf("%s = %+v; want an error with %q", id, got[id], want)
		}
	}
}

// TestList: what would be saved is listed with what a rule leaves out; what can't be
// opened is not covered.
func TestList(t *testing.T) {
	p := machinePlan(t)
	if err := p.leaveOut(&Config{}, p.Archives[0].Mount+"/left"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Archives[0].Mount+"/left", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.Archives = append(p.Archives, PlannedArchive{Device: "gone", Mount: "/no/such", Type: "ext4"})
	var listed, left []string
	total, err := p.List(t.Context(), &Builder{}, func(_ PlannedArchive, m *archive.Member) error {
		listed = append(listed, m.Path)
		return nil
	}, func(l Left) { left = append(left, filepath.Base(l.Path)) })
	if err != nil || total != 8000 || !slices.Equal(listed, []string{".", "file"}) || !slices.Equal(left, []string{"left"}) || len(p.NotCovered) != 1 {
		t.Errorf("List = %d, %v; listed %q, left out %q, not covered %q", total, err, listed, left, p.NotCovered)
	}
	stop := errors.New("enough")
	if _, err := p.List(t.Context(), &Builder{}, func(PlannedArchive, *archive.Member) error { return stop }, nil); !errors.Is(err, stop) {
		t.Errorf("List = %v; want %v", err, stop)
	}
}

// TestOmitted: what each rule leaves out is measured, all that is below a directory too, and files of several names once.
func TestOmitted(t *testing.T) {
	p := machinePlan(t)
	at := p.Archives[0].Mount
	for name, n := range map[string]int{"cache/a": 100000, "cache/deep/b": 50000, "x.iso": 300000, "keep": 70000} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(at, name)), 0o700), os.WriteFile(filepath.Join(at, name), make([]byte, n), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(at+"/cache/a", at+"/linked.iso"); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.exclude, err = archive.NewMatcher([]string{at + "/cache/*", at + "/*.iso"}); err != nil {
		t.Fatal(err)
	}
	got, err := p.Omitted(t.Context(), &Builder{})
	if err != nil || len(got) != 2 {
		t.Fatalf("Omitted() = %+v, %v; want two rules", got, err)
	}
	for _, o := range got {
		want := coverage.Omitted{Rule: at + "/*.iso", Device: p.Archives[0].Device, Paths: 2, Files: 1}
		least, most := quantity.Size(300000), quantity.Size(300000+2*8192)
		if o.Rule == at+"/cache/*" { // where the last name of the file with two is found
			want.Rule, want.Files = o.Rule, 2
			least, most = 150000, 150000+3*8192
		}
		size := o.Size
		if o.Size = 0; o != want || size < least || size > most {
			t.Errorf("Omitted() has %+v, %d bytes; want %+v, %d to %d bytes", o, size, want, least, most)
		}
	}
}

// TestPathRefuses: a kernel command line that can't be used is refused before anything is
// written.
func TestPathRefuses(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	b.Config.Rescue.Append = "mkcdrec.source=http://u:geheim@h/set"
	if _, err := b.Path(t.Context(), machinePlan(t), dir); err == nil || !strings.Contains(err.Error(), "rescue.append") {
		t.Errorf("Path = %v; want an error about rescue.append", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
