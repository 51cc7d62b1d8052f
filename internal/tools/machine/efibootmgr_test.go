package machine

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// variables are a machine's: path, and content without attributes in hexadecimal.
var variables = map[string]string{
	"BootOrder": "0100000002000300", "BootCurrent": "0100", "Timeout": "0300", "BootNext": "0200",
	"Boot0000": "010000006200640065006200690061006e000000" + "04012a0001000000000800000000000000001000000000" + "00e4b9bef12b81204aa3971c6079e5bac20202" + "04040c0061002e00650000007fff0400",
	"Boot0001": "010000001c005000580045000000" + "02010c00d041030a00000000" + "0101060000037f01040003010800",
	"Boot0002": "090000002c0055000000" + "04071400c9bdb87cebf8344faaea3ee4af6516a1" + "0406140021aa2c4614760345836e8ab6f46623317fff0400",
	"Boot0003": "00000000240053004100540041000000" + "02010c00d041030a00000000" + "0101060002" + "1f" + "03120a000000ffff00007fff04002e0072006f00",
}

func firmware(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range variables {
		b, err := hex.DecodeString(content)
		if err != nil {
			t.Fatal(name, err)
		}
		// The length of the device path is counted here.
		if strings.HasPrefix(name, "Boot0") {
			end := 6
			for b[end] != 0 || b[end+1] != 0 {
				end += 2
			}
			n := len(b) - end - 2
			if name == "Boot0003" {
				n -= 6 // data
			}
			b[4], b[5] = byte(n), byte(n>>8)
		}
		if err := os.WriteFile(dir+"/"+name+"-8be4df61-93ca-11d2-aa0d-00e098032b8c", append([]byte{7, 0, 0, 0}, b...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir + "/"
}

// content is all variables of a firmware.
func content(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(dir + "*")
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s += filepath.Base(f)[:8] + " " + hex.EncodeToString(b) + "\n"
	}
	return s
}

// TestEfibootmgr: Debian's efibootmgr prints and leaves the same.
func TestEfibootmgr(t *testing.T) {
	if _, err := exec.LookPath("efibootmgr"); err != nil {
		t.Skip("efibootmgr is not installed")
	}
	for _, line := range []string{"", "-v", "-v -u", "-o 3,2,1,0", "-n 3", "-N", "-b 3 -a", "-b 0 -A", "-t 9", "-T", "-q -t 1", "-O", "-o 77", "-b 99 -B", "-B", "-n 99", "-o x", "-D", "-Z"} {
		args := strings.Fields(line)
		theirs, ours := firmware(t), firmware(t)
		t.Setenv("EFIVARFS_PATH", theirs)
		c := exec.Command("efibootmgr", args...)
		want, err := c.Output()
		failed := err != nil
		t.Setenv("EFIVARFS_PATH", ours)
		rc, out, errs := run(t, nil, "efibootmgr", args...)
		if failed && rc != 0 && content(t, ours) == content(t, firmware(t)) {
			continue
		}
		if rc != 0 != failed || out != string(want) || content(t, ours) != content(t, theirs) {
			t.Errorf("efibootmgr %s = %d (%s)\n%s%s   want %v\n%s%s", line, rc, errs, out, content(t, ours), err, want, content(t, theirs))
		}
	}
	t.Setenv("EFIVARFS_PATH", "/nosuch/")
	if rc, _, errs := run(t, nil, "efibootmgr"); rc == 0 || !strings.Contains(errs, "not supported") {
		t.Errorf("without variables: %d, %q", rc, errs)
	}
}

// TestEfibootmgrChanges: entries are deleted with their places in the order, which Debian 12's
// efibootmgr does not do, and made for a file on a partition.
func TestEfibootmgrChanges(t *testing.T) {
	disk := t.TempDir() + "/disk"
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 100<<20)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/usr/sbin/sfdisk", "-q", disk)
	c.Stdin = strings.NewReader("label: gpt\nsize=10M, type=U\nsize=20M\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Skipf("sfdisk: %v %s", err, out)
	}
	const head = "BootNext: 0002\nBootCurrent: 0001\nTimeout: 3 seconds\n"
	uuid, err := exec.Command("/usr/sbin/sfdisk", "--part-uuid", disk, "2").Output()
	if err != nil {
		t.Fatal(err)
	}
	hd := "HD(2,GPT," + strings.ToLower(strings.TrimSpace(string(uuid))) + ",0x5800,0xa000)"
	for line, want := range map[string]string{
		"-b 2 -B": head + "BootOrder: 0001,0000,0003\nBoot0000* debian\nBoot0001* PXE\nBoot0003  SATA\n",
		"-c -d DISK -p 2 -L new -l \\EFI\\x.efi -v":             "Boot0004* new\t" + hd + "/File(\\EFI\\x.efi)\n",
		"-c -d DISK -p 2 -L new":                                "BootOrder: 0004,0001,0000,0002,0003\n",
		"-C -d DISK -p 2 -L new":                                "BootOrder: 0001,0000,0002,0003\n",
		"-c -d DISK -p 2 -l \\b.efi -u -v quiet root=/dev/vda1": "Boot0004* Linux\t" + hd + "/File(\\b.efi)quiet root=/dev/vda1\n",
		"-c -d DISK -p 2 -l \\b.efi -v quiet":                   "File(\\b.efi)quiet\n",
		"-c -d DISK -p 9":                                       "has no partition 9",
		"-c -d /dev/null":                                       "no GPT",
		"-c -d DISK -L debian":                                  "Boot0000 has same label debian",
	} {
		t.Setenv("EFIVARFS_PATH", firmware(t))
		_, out, errs := run(t, nil, "efibootmgr", strings.Fields(strings.ReplaceAll(line, "DISK", disk))...)
		if !strings.Contains(out+errs, want) {
			t.Errorf("efibootmgr %s:\n%s%s   want\n%s", line, out, errs, want)
		}
	}
}
