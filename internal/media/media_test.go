package media

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tools skips where the oracles are missing; make test installs them.
func tools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is not installed; make test installs it", n)
		}
	}
}

// epoch is the date in test images.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func image(t *testing.T) string {
	t.Helper()
	bios, err := FindBIOS("")
	if err != nil {
		t.Skipf("%v; make test installs isolinux", err)
	}
	uefi, err := FindUEFI("", "/.mkcdrec")
	if err != nil {
		t.Skipf("%v; make test installs grub-efi-amd64-bin", err)
	}
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcde\n"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "iso")
	s := ISO{Label: "MKCDREC", Files: map[string]string{"boot/initrd.img": big}, Content: map[string][]byte{".mkcdrec": []byte("id\n"), "boot/grub/grub.cfg": []byte("# cfg\n"), "isolinux/isolinux.cfg": []byte("DEFAULT x\n")}, BIOS: bios, UEFI: uefi, Time: epoch}
	if err := s.Write(out); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(dir + "/.iso-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if got, err := os.ReadFile(big); err != nil || len(got) != 4<<20 {
		t.Errorf("the input file was touched: %d bytes, %v", len(got), err)
	}
	return out
}

// TestReadFile: files of an image are read as they are, small and large ones.
func TestReadFile(t *testing.T) {
	iso := image(t)
	for _, name := range []string{"boot/initrd.img", "/boot/grub/grub.cfg"} {
		want, err := exec.Command("isoinfo", "-R", "-x", "/"+strings.TrimPrefix(name, "/"), "-i", iso).Output()
		if err != nil {
			t.Skipf("isoinfo: %v", err)
		}
		if got, err := ReadFile(iso, name, 1<<30); err != nil || len(got) == 0 || !bytes.Equal(got, want) {
			t.Errorf("ReadFile(%s) = %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	if _, err := ReadFile(iso, "boot/none", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile() of what is not there = %v; want fs.ErrNotExist", err)
	}
	if _, err := ReadFile(iso, "boot/initrd.img", 1); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile() of more than the limit = %v; want an error", err)
	}
}

// TestISO has xorriso and isoinfo judge the image.
func TestISO(t *testing.T) {
	tools(t, "xorriso", "isoinfo")
	iso := image(t)
	out, err := exec.Command("xorriso", "-indev", iso, "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/", "-exec", "lsdl").CombinedOutput()
	if err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	for _, want := range []string{"El Torito boot img :   1  BIOS  y", "El Torito boot img :   2  UEFI  y", "boot-info-table isohybrid-suitable", "MBR isohybrid", "'/boot/initrd.img'", "Volume id    : 'MKCDREC'"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("xorriso does not say %q", want)
		}
	}
	if t.Failed() || strings.Contains(string(out), "FAILURE") || strings.Contains(string(out), "SORRY") {
		t.Logf("%s", out)
		t.Fail()
	}
	b, err := exec.Command("isoinfo", "-R", "-x", "/boot/initrd.img", "-i", iso).Output()
	if err != nil || len(b) != 4<<20 || !bytes.HasPrefix(b, []byte("0123456789abcde\n")) {
		t.Errorf("isoinfo takes out %d bytes, %v", len(b), err)
	}
}

// TestReproducible: the same input, another directory, another time and umask:
// the same bytes.
func TestReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(epoch.Unix(), 10))
	a, err := os.ReadFile(image(t))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // dates in ISO 9660 have seconds
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	b, err := os.ReadFile(image(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			t.Fatalf("the images differ from byte %d (sector %d) on", i, i/sector)
		}
	}
	if len(a) != len(b) {
		t.Errorf("sizes %d and %d", len(a), len(b))
	}
}

// TestSum has isomd5sum's programs judge the implanted sum, and compares every
// byte with what they would implant.
func TestSum(t *testing.T) {
	tools(t, "checkisomd5", "implantisomd5", "isovfy")
	iso := image(t)
	if out, err := exec.Command("checkisomd5", iso).CombinedOutput(); err != nil {
		t.Errorf("checkisomd5: %v: %s", err, out)
	}
	if out, err := exec.Command("isovfy", iso).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors found") {
		t.Errorf("isovfy: %v: %s", err, out)
	}
	ours, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	blank := bytes.Clone(ours)
	copy(blank[appOffset:], bytes.Repeat([]byte(" "), appLen))
	other := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(other, blank, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("implantisomd5", "--supported-iso", other).CombinedOutput(); err != nil {
		t.Fatalf("implantisomd5: %v: %s", err, out)
	}
	theirs, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := string(ours[appOffset:appOffset+appLen]), string(theirs[appOffset:appOffset+appLen]); a != b {
		t.Errorf("we implant\n%s\nimplantisomd5\n%s", a, b)
	}
	nothing := func(int64) {}
	if _, err := CheckSum(bytes.NewReader(ours), nothing); err != nil {
		t.Errorf("CheckSum(whole) = %v", err)
	}
	for _, at := range []int{100, 40 * sector, len(ours) / 2, len(ours) - 1<<20 - 40*sector} {
		bad := bytes.Clone(ours)
		bad[at] ^= 4
		if _, err := CheckSum(bytes.NewReader(bad), nothing); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("CheckSum with byte %d changed = %v", at, err)
		}
	}
	if _, err := CheckSum(bytes.NewReader(blank), nothing); !errors.Is(err, ErrNoSum) {
		t.Errorf("CheckSum without a sum = %v", err)
	}
	if _, err := CheckSum(bytes.NewReader(ours[:len(ours)/2]), nothing); err == nil {
		t.Error("a cut image is whole")
	}
}

// TestDates: no date but the given one is in the image.
func TestDates(t *testing.T) {
	tools(t, "isoinfo")
	out, err := exec.Command("isoinfo", "-l", "-R", "-i", image(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, l := range strings.Split(string(out), "\n") {
		if strings.Contains(l, "[") {
			files++
			if !strings.Contains(l, "Jan  2 2026") {
				t.Errorf("another date: %s", l)
			}
		}
	}
	if files < 10 {
		t.Errorf("only %d files listed", files)
	}
}

// TestLargeSet: more than 4 GiB in one image, each file below.
func TestLargeSet(t *testing.T) {
	if os.Getenv("MKCDREC_ALL") == "" {
		t.Skip("5 GB are written with make test-all")
	}
	tools(t, "isoinfo")
	bios, err := FindBIOS("")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	files := map[string]string{}
	for _, n := range []string{"a", "b"} {
		f, err := os.Create(dir + "/" + n)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(5 << 29); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("end of "+n), 5<<29-16); err != nil {
			t.Fatal(err)
		}
		f.Close()
		files["set/"+n] = dir + "/" + n
	}
	if err := (ISO{Label: "X", Files: files, BIOS: bios, Time: epoch}).Write(dir + "/iso"); err != nil {
		t.Fatal(err)
	}
	for n := range files {
		c := exec.Command("sh", "-c", `isoinfo -R -x "$1" -i "$2" | tail -c 16`, "sh", "/"+n, dir+"/iso")
		if out, err := c.Output(); err != nil || !strings.HasPrefix(string(out), "end of "+path.Base(n)) {
			t.Errorf("%s ends with %q, %v", n, out, err)
		}
	}
}

func FuzzStamp(f *testing.F) {
	f.Add([]byte("\x22"), uint32(0))
	f.Fuzz(func(t *testing.T, dir []byte, at uint32) {
		img := make([]byte, 40*sector)
		copy(img[16*sector:], "\x01CD001")
		binary.LittleEndian.PutUint32(img[16*sector+158:], 20+at%25)
		binary.LittleEndian.PutUint32(img[16*sector+166:], sector)
		copy(img[20*sector:], dir)
		_ = stamp(&memory{img}, epoch, nil) // must only not panic
		_, _ = CheckSum(bytes.NewReader(img), func(int64) {})
	})
}

type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, errors.New("outside")
	}
	return copy(m.b[off:], p), nil
}

func TestISOFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full")
	}
	// A file system that is full: a tmpfs of 3 MiB, where we may mount one.
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=3m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small tmpfs: %s; CI can", out)
	}
	defer exec.Command("umount", dir).Run()
	bios, err := FindBIOS("")
	if err != nil {
		t.Skip(err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (ISO{Label: "X", Files: map[string]string{"f": big}, Content: map[string][]byte{"isolinux/isolinux.cfg": nil}, BIOS: bios}).Write(dir + "/iso"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("an image on a full file system: %v; want ENOSPC", err)
	}
	uefi, err := FindUEFI("", "/.x")
	if err != nil {
		t.Skip(err)
	}
	if err := (ISO{Label: "X", Content: map[string][]byte{"boot/grub/grub.cfg": nil}, UEFI: uefi}).Write(dir + "/iso2"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("an EFI partition on a full file system: %v; want ENOSPC", err)
	}
}

func TestISORefuses(t *testing.T) {
	dir := t.TempDir()
	if err := (ISO{Label: "X"}).Write(dir + "/iso"); err == nil || !strings.Contains(err.Error(), "boot loader") {
		t.Errorf("Write without loaders = %v", err)
	}
	big := dir + "/big"
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5 << 30); err != nil {
		t.Fatal(err)
	}
	f.Close()
	bios, err := FindBIOS("")
	if err != nil {
		t.Skip(err)
	}
	if err := (ISO{Label: "X", Files: map[string]string{"big": big}, BIOS: bios}).Write(dir + "/iso"); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Write of a file of 5 GiB = %v; want a refusal", err)
	}
}

func TestISOLargerThanMedium(t *testing.T) {
	dir := t.TempDir()
	bios, err := FindBIOS("")
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(dir+"/big", make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err = ISO{Label: "X", Files: map[string]string{"boot/initrd.img": dir + "/big"}, BIOS: bios, Time: epoch, Max: 3 << 20}.Write(dir + "/iso")
	if err == nil || !strings.Contains(err.Error(), "the medium holds 3145728") || !strings.Contains(err.Error(), "boot/initrd.img 4194304") {
		t.Errorf("Write = %v; want the size and the largest file", err)
	}
}

func TestSigner(t *testing.T) {
	for f, want := range map[string]string{"/usr/lib/shim/shimx64.efi.signed": "Microsoft", "/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi": ""} {
		if _, err := os.Stat(f); err != nil {
			continue
		}
		if got, err := Signer(f); err != nil || !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("Signer(%s) = %q, %v; want %q", f, got, err, want)
		}
	}
}

// TestUKI has debug/pe read the sections back.
func TestUKI(t *testing.T) {
	stub := FindStub("")
	if stub == "" {
		t.Skip("systemd's EFI stub is not installed; make test installs systemd-boot-efi")
	}
	dir := t.TempDir()
	for n, b := range map[string][]byte{"k": bytes.Repeat([]byte("kernel"), 1000), "i": bytes.Repeat([]byte("initrd"), 3333)} {
		if err := os.WriteFile(dir+"/"+n, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := UKI{Stub: stub, Kernel: dir + "/k", Initrd: dir + "/i", Cmdline: "console=ttyS0", Title: "a host'\n\x1b$(x)"}
	if err := u.Write(dir + "/out"); err != nil {
		t.Fatal(err)
	}
	f, err := pe.Open(dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string]string{".cmdline": "console=ttyS0\x00", ".osrel": "ID=mkcdrec\nNAME=mkcdrec\nPRETTY_NAME='a host_\\n\\x1b$(x)'\n", ".linux": strings.Repeat("kernel", 1000), ".initrd": strings.Repeat("initrd", 3333)} {
		s := f.Section(name)
		if s == nil {
			t.Errorf("no section %s", name)
			continue
		}
		if b, err := s.Data(); err != nil || !strings.HasPrefix(string(b), want) || s.VirtualSize != uint32(len(want)) {
			t.Errorf("section %s: %d bytes, %v", name, s.VirtualSize, err)
		}
	}
	u.Cmdline = "a\nb"
	if err := u.Write(dir + "/out1"); err == nil {
		t.Error("a command line of two lines is accepted")
	}
	if err := os.WriteFile(dir+"/bad", []byte("MZ nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.Stub = dir + "/bad"
	if err := u.Write(dir + "/out2"); err == nil {
		t.Error("a bad stub is accepted")
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	if _, err := FindBIOS(root); err == nil || !strings.Contains(err.Error(), "isolinux.bin") {
		t.Errorf("FindBIOS(empty) = %v", err)
	}
	if _, err := FindUEFI(root, "/.x"); err == nil || !strings.Contains(err.Error(), "gcdx64") {
		t.Errorf("FindUEFI(empty) = %v", err)
	}
	put := func(p string) {
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi")
	if l, err := FindUEFI(root, "/.x"); err != nil || l.Name != "GRUB, unsigned" {
		t.Errorf("FindUEFI = %+v, %v", l, err)
	}
	put("/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed")
	put("/usr/lib/shim/shimx64.efi.signed")
	if l, err := FindUEFI(root, "/.x"); err != nil || len(l.Files) != 2 {
		t.Errorf("FindUEFI(signed) = %+v, %v", l, err)
	}
	for _, n := range []string{"isolinux.bin", "isohdpfx.bin", "ldlinux.c32"} {
		put("/usr/share/syslinux/" + n)
	}
	if _, err := FindBIOS(root); err != nil {
		t.Errorf("FindBIOS(Fedora's places) = %v", err)
	}
}
