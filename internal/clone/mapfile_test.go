package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestMapParts: what becomes of a device is at the device's places of the disk, in one map.
func TestMapParts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "map")
	f, err := openMap(name, 1000, false)
	if err != nil {
		t.Fatal(err)
	}
	volume := []place{{0, 100, 500}, {100, 50, 200}} // in two pieces, the other way round
	if err := f.save(volume, ddrescue.New(150).Overlay([]ddrescue.Block{{Pos: 90, Size: 20, Status: ddrescue.BadSector}, {Pos: 110, Size: 40, Status: ddrescue.Finished}})); err != nil {
		t.Fatal(err)
	}
	if err := f.save([]place{{0, 100, 800}}, ddrescue.New(100).Overlay([]ddrescue.Block{{Pos: 0, Size: 100, Status: ddrescue.Finished}})); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	g, err := openMap(name, 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range g.m.Blocks {
		fmt.Fprintf(&b, "%d+%d%c ", x.Pos, x.Size, x.Status)
	}
	if got, want := b.String(), "0+200? 200+10- 210+40+ 250+340? 590+10- 600+200? 800+100+ 900+100? "; got != want {
		t.Errorf("the map is %s; want %s", got, want)
	}
	p := g.part(volume)
	if p.End() != 150 || p.Bytes(ddrescue.BadSector) != 20 || p.Bytes(ddrescue.Finished) != 40 {
		t.Errorf("the volume's part is %+v", p)
	}
	var no *exit.Refusal
	if _, err := openMap(name, 1000, false); !errors.As(err, &no) || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("a map that is there: %v", err)
	}
	if _, err := openMap(name, 2000, true); !errors.As(err, &no) || !strings.Contains(err.Error(), "another disk") {
		t.Errorf("a map of another disk: %v", err)
	}
	if err := os.WriteFile(name, []byte("0x0 ?\n0x0 0x10"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openMap(name, 1000, true); err == nil {
		t.Error("a map that is cut off")
	}
	if _, err := openMap("/none/map", 1000, false); err == nil {
		t.Error("a map that cannot be written")
	}
}

// failing gives an image of an ext4 of which a sector of /file cannot be read, and at which
// byte of the image: a btrfs whose checksum of the block is wrong returns EIO for it.
func failing(t *testing.T) (name string, at int64) {
	t.Helper()
	needsLoops(t)
	dir := t.TempDir()
	lower, mnt := filepath.Join(dir, "btrfs"), filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "-s", "256M", lower)
	run(t, "mkfs.btrfs", "-q", "-d", "single", "-m", "single", lower)
	mount := func() {
		if out, err := exec.Command("mount", "-o", "loop", lower, mnt).CombinedOutput(); err != nil {
			t.Skipf("cannot mount a btrfs: %s", out)
		}
	}
	mount()
	t.Cleanup(func() { exec.Command("umount", "-l", mnt).Run() })
	name = filepath.Join(mnt, "src")
	ext4(t, name, "64M")
	mark := bytes.Repeat([]byte("this block is lost. "), 1000)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Block 100 of the file.
	at = int64(bytes.Index(b, []byte("content content ")))
	if at < 0 || at%4096 != 0 {
		t.Fatalf("the file is at byte %d", at)
	}
	at += 100 << 12
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(mark[:4096], at)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "umount", mnt)
	raw, err := os.ReadFile(lower)
	if err != nil {
		t.Fatal(err)
	}
	where := bytes.Index(raw, mark[:4096])
	if where < 0 || bytes.Count(raw, mark[:4096]) != 1 {
		t.Fatalf("the block is %d times in the btrfs", bytes.Count(raw, mark[:4096]))
	}
	l, err := os.OpenFile(lower, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.WriteAt([]byte("X"), int64(where))
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	mount()
	if _, err := os.ReadFile(name); !errors.Is(err, unix.EIO) {
		t.Skipf("the kernel does not refuse the block: %v", err)
	}
	return name, at
}

// loopOver puts a loop device over a file, and gives its name.
func loopOver(t *testing.T, name string, flags uint32) string {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dev, hold, err := blockdev.Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: flags}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.IoctlSetInt(int(hold.Fd()), unix.LOOP_CLR_FD, 0); hold.Close() })
	return dev
}

// TestFailingSource: a sector that cannot be read ends a clone with exit status 3, the file
// is named, and the map file has the place. With --resume it is read again.
func TestFailingSource(t *testing.T) {
	src, at := failing(t)
	dir := t.TempDir()
	dst, mapName := filepath.Join(dir, "dst"), filepath.Join(dir, "map")
	run(t, "truncate", "-s", "64M", dst)
	from, to := loopOver(t, src, unix.LO_FLAGS_READ_ONLY), loopOver(t, dst, 0)
	clone := func(resume bool) (*restore.Report, string, error) {
		s := &recorder{}
		o := Options{Source: []string{from}, Target: []string{to}, Identity: Keep, Map: mapName, only: []string{to}}
		o.Restore.Outside, o.Restore.Yes, o.Restore.Resume = true, true, resume
		o.Restore.Wish.Confirmed = []string{probe.Machine{}.Place(to).Slot()}
		rep, err := Run(context.Background(), tool.Exec{}, s, o)
		return rep, s.text.String(), err
	}
	rep, text, err := clone(false)
	if err != nil || exit.Code(screen.Lacking(rep)) != exit.Partial {
		t.Fatalf("%v %+v\n%s", err, rep, text)
	}
	lost := strings.Join(rep.NotCovered, "\n")
	for _, want := range []string{fmt.Sprintf("/dev/%s (ext4): 4096 bytes from byte %d could not be read", from, at), "/file: bytes 409600 to 413695 could not be read, and are zero"} {
		if !strings.Contains(lost, want) {
			t.Errorf("not named: %s\n%s", want, lost)
		}
	}
	if strings.Contains(lost, "in no file") {
		t.Errorf("more is lost than was: %s", lost)
	}
	list := func() string {
		out, err := exec.Command("ddrescuelog", "-b", "4096", "--list-blocks=-", mapName).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip("ddrescuelog is missing")
		} else if err != nil {
			t.Fatalf("ddrescuelog: %v %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := list(); got != fmt.Sprint(at>>12) {
		t.Errorf("ddrescuelog lists the bad blocks %q; want %d", got, at>>12)
	}
	// GNU ddrescue continues with it.
	again := filepath.Join(dir, "again")
	b, err := os.ReadFile(mapName)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(again, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ddrescue", "-f", "/dev/"+from, filepath.Join(dir, "other"), again).CombinedOutput(); err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("ddrescue: %v %s", err, out)
	}
	// The disk can read it now.
	f, err := os.OpenFile(src, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(data[:4096], at)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	rep, text, err = clone(true)
	if err != nil || screen.Lacking(rep) != nil {
		t.Fatalf("resumed: %v %+v\n%s", err, rep, text)
	}
	if !strings.Contains(text, "was done before") || strings.Contains(text, "phase: copying") {
		t.Errorf("what was finished was copied again:\n%s", text)
	}
	if got := list(); got != "" {
		t.Errorf("ddrescuelog still lists %q", got)
	}
	checkExt4(t, dst)
}

// TestFailingFiles: a file that is copied as a file and cannot be read is named, and ends
// the clone with exit status 3.
func TestFailingFiles(t *testing.T) {
	src, _ := failing(t)
	s := &recorder{}
	rep, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{filepath.Join(t.TempDir(), "dst")}, Identity: New, TargetSize: 40 << 20, Verify: true})
	if err != nil || exit.Code(screen.Lacking(rep)) != exit.Partial || !strings.Contains(strings.Join(rep.NotCovered, "\n"), "file: unreadable: ") {
		t.Errorf("%v %+v\n%s", err, rep, s.text.String())
	}
}

// TestPieces: linear tables and those of LUKS are followed, others are refused.
func TestPieces(t *testing.T) {
	got, err := piecesOf("0 8 linear 8:1 100\n8 8 linear 8:2 0\n", 6*512, 4*512)
	if want := []piece{{place{0, 1024, 106 * 512}, "8:1"}, {place{1024, 1024, 0}, "8:2"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	got, err = piecesOf("0 100 crypt aes-xts-plain64 :64:logon:cryptsetup:x 0 253:0 32768 1 allow_discards\n", 0, 100*512)
	if want := []piece{{place{0, 100 * 512, 32768 * 512}, "253:0"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, table := range []string{"0 8 striped 2 128 8:1 0 8:2 0\n", "0 8 linear 8:1\n", "0 8 linear 8:1 x\n", "0\n", "0 8 crypt a b 0\n"} {
		if got, err := piecesOf(table, 0, 4096); !errors.Is(err, errNoPlace) {
			t.Errorf("%q: %v, %v", table, got, err)
		}
	}
}

// TestPlaces: a disk is at its own bytes.
func TestPlaces(t *testing.T) {
	needsLoops(t)
	file := filepath.Join(t.TempDir(), "disk")
	run(t, "truncate", "-s", "8M", file)
	dev := loopOver(t, file, 0)
	at, err := placesOf(context.Background(), tool.Exec{}, "/dev/"+dev)
	if err != nil || len(at) != 1 || at[0] != (place{0, 8 << 20, 0}) {
		t.Errorf("%v, %v", at, err)
	}
}
