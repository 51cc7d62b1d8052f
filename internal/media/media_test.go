package media

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

func image(t *testing.T) string {
	t.Helper()
	bios, err := FindBIOS("")
	if err != nil {
		t.Skipf("%v; make test installs isolinux", err)
	}
	uefi, err := FindUEFI("")
	if err != nil {
		t.Skipf("%v; make test installs grub-efi-amd64-bin", err)
	}
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcde\n"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "iso")
	s := ISO{Label: "MKCDREC", Files: map[string]string{"boot/initrd.img": big}, Content: map[string][]byte{".mkcdrec": []byte("id\n"), "boot/grub/grub.cfg": []byte("# cfg\n"), "isolinux/isolinux.cfg": []byte("DEFAULT x\n")}, BIOS: bios, UEFI: uefi}
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
	if err := (ISO{Label: "X", Files: map[string]string{"f": big}, Content: map[string][]byte{"isolinux/isolinux.cfg": nil}, BIOS: bios}).Write(dir + "/iso"); err == nil {
		t.Error("an image on a full file system counts as written")
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

func TestFind(t *testing.T) {
	root := t.TempDir()
	if _, err := FindBIOS(root); err == nil || !strings.Contains(err.Error(), "isolinux.bin") {
		t.Errorf("FindBIOS(empty) = %v", err)
	}
	if _, err := FindUEFI(root); err == nil || !strings.Contains(err.Error(), "gcdx64") {
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
	if l, err := FindUEFI(root); err != nil || l.Name != "GRUB, unsigned" {
		t.Errorf("FindUEFI = %+v, %v", l, err)
	}
	put("/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed")
	put("/usr/lib/shim/shimx64.efi.signed")
	if l, err := FindUEFI(root); err != nil || len(l.Files) != 2 {
		t.Errorf("FindUEFI(signed) = %+v, %v", l, err)
	}
	for _, n := range []string{"isolinux.bin", "isohdpfx.bin", "ldlinux.c32"} {
		put("/usr/share/syslinux/" + n)
	}
	if _, err := FindBIOS(root); err != nil {
		t.Errorf("FindBIOS(Fedora's places) = %v", err)
	}
}
