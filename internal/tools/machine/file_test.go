package machine

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestIdentify: what file(1) of Debian 12 has no or another name for, and what people look for.
func TestIdentify(t *testing.T) {
	at := func(size int, parts map[int]string) []byte {
		b := make([]byte, size)
		for off, s := range parts {
			copy(b[off:], s)
		}
		return b
	}
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"kernel":       {at(2048, map[int]string{510: "\x55\xaa", 514: "HdrS", 526: "\x00\x01", 529: "\x01", 768: "6.1.0-1 (x@y)\x00"}), "Linux kernel x86 boot executable bzImage, version 6.1.0-1 (x@y)"},
		"kernel's end": {at(532, map[int]string{510: "\x55\xaa", 514: "HdrS", 526: "\xff\xff"}), "Linux kernel x86 boot executable zImage, version "},
		"arm64":        {at(64, map[int]string{0: "MZ", 56: "ARMd"}), "Linux kernel ARM64 boot executable Image, little-endian, 4K pages"},
		"UEFI":         {at(512, map[int]string{0: "MZ", 60: "\x40", 64: "PE\x00\x00\x64\x86", 88: "\x0b\x02", 156: "\x0a"}), "PE32+ executable (EFI application) x86-64"},
		"initramfs":    {[]byte("070701" + strings.Repeat("0", 104)), "ASCII cpio archive (SVR4 with no CRC)"},
		"journal":      {at(300, map[int]string{0: "LPKSHHRH"}), "Journal file"},
		"LVM":          {at(1<<20, map[int]string{512: "LABELONE", 532: "\x20", 536: "LVM2 001", 544: "0123456789abcdef0123456789abcdef"}), "LVM2 PV (Linux Logical Volume Manager), UUID: 012345-6789-abcd-ef01-2345-6789-abcdef"},
		"LUKS":         {at(1<<20, map[int]string{0: "LUKS\xba\xbe\x00\x01aes", 40: "xts-plain64", 72: "sha256", 168: "66b7d1a4-f835-486e-86ef-baed0e313d20"}), "LUKS encrypted file, ver 1 [aes, xts-plain64, sha256] UUID: 66b7d1a4-f835-486e-86ef-baed0e313d20"},
		"ELF, cut off": {[]byte("\x7fELF\x02\x01\x01"), "ELF"},
		"JPEG":         {[]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01"), "JPEG image data, JFIF standard 1.01"},
		"one byte":     {[]byte("x"), "very short file (no magic)"},
		"a cut rune":   {append(bytes.Repeat([]byte("aä\n"), headSize/4), "ä"...), "Unicode text, UTF-8 text"},
	} {
		if got := identify(bytes.NewReader(c.content), int64(len(c.content))).text; got != c.want {
			t.Errorf("%s: identify = %q; want %q", name, got, c.want)
		}
	}
}

// TestIdentifyDisks: the disks and containers that programs make.
func TestIdentifyDisks(t *testing.T) {
	for name, c := range map[string]struct {
		size       int64
		line, want string
	}{
		"GPT":  {9 << 20, "printf 'label: gpt\\nlabel-id: 3357D288-FC9E-48FE-A614-F51FA55C8EF3\\nsize=1M\\nsize=1M\\n' | sfdisk -q IMAGE", "DOS/MBR boot sector; GPT partition table, GUID: 3357d288-fc9e-48fe-a614-f51fa55c8ef3, 2 partitions"},
		"MBR":  {9 << 20, "printf 'label: dos\\nsize=1M, bootable\\n' | sfdisk -q IMAGE", "DOS/MBR boot sector; partition 1 : ID=0x83, active, startsector 2048, 2048 sectors"},
		"FAT":  {9 << 20, "mkfs.vfat -n LAB -i 12345678 IMAGE", `DOS/MBR boot sector, FAT filesystem, UUID=1234-5678, volume name "LAB"`},
		"NTFS": {9 << 20, "mkfs.ntfs -qFf -L data IMAGE", "DOS/MBR boot sector, NTFS filesystem, UUID="},
	} {
		f, err := os.Create(t.TempDir() + "/image")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(c.size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("/bin/sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; "+strings.ReplaceAll(c.line, "IMAGE", f.Name())).CombinedOutput(); err != nil {
			t.Logf("%s is skipped: %v %s", name, err, out)
			continue
		}
		if got := identify(f, c.size).text; !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: identify = %q; want %q", name, got, c.want)
		}
	}
}

// FuzzIdentify: no content ends the program.
func FuzzIdentify(f *testing.F) {
	for _, s := range []string{"\x7fELF\x02\x01\x01", "\x1f\x8b\x08\x08", "PK\x03\x04", "#!/bin/sh\n", "MZ", "\x89LZO\x00\r\n\x1a\n", "LUKS\xba\xbe\x00\x02"} {
		f.Add([]byte(s))
	}
	if b, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(b[:min(len(b), 4096)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k := identify(bytes.NewReader(b), int64(len(b))); k.text == "" || k.mime == "" {
			t.Errorf("identify(%q) = %+v", b, k)
		}
	})
}
