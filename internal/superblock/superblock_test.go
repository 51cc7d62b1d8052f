package superblock

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// TestProbe has the real mkfs programs make file systems and compares with
// blkid(8): other people's tools on both sides.
func TestProbe(t *testing.T) {
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	for _, c := range []struct {
		name string
		size int64
		args []string
		want func(*Info) bool
	}{
		{"ext2", 8 << 20, []string{"mke2fs", "-qF", "-t", "ext2", "-U", id, "-L", "two", "FILE"}, func(i *Info) bool { return i.Type == fstype.TypeExt2 && i.Label == "two" }},
		{"ext3", 16 << 20, []string{"mke2fs", "-qF", "-t", "ext3", "-b", "1024", "-U", id, "FILE"}, func(i *Info) bool { return i.Type == fstype.TypeExt3 && i.Ext.BlockSize == 1024 }},
		{"ext4", 64 << 20, []string{"mke2fs", "-qF", "-t", "ext4", "-b", "4096", "-I", "512", "-N", "5000", "-m", "3", "-O", "^64bit,^metadata_csum,uninit_bg,quota", "-U", id, "-L", "sixteen-chars-ab", "-G", "32", "FILE"}, func(i *Info) bool {
			f := strings.Join(i.Ext.Features, ",")
			return i.Type == fstype.TypeExt4 && i.Label == "sixteen-chars-ab" && i.Ext.InodeSize == 512 && i.Ext.FlexBG == 32 && i.Ext.Reserved == 491 &&
				!strings.Contains(f, "64bit") && !strings.Contains(f, "metadata_csum") && strings.Contains(f, "uninit_bg") && strings.Contains(f, "quota")
		}},
		{"xfs", 512 << 20, []string{"mkfs.xfs", "-q", "-m", "uuid=" + id + ",rmapbt=1,reflink=0,bigtime=1", "-i", "size=1024", "-n", "size=8192", "-L", "ex", "FILE"}, func(i *Info) bool {
			x := i.XFS
			return i.Label == "ex" && x.CRC && x.RMapBT && !x.Reflink && x.BigTime && x.InodeSize == 1024 && x.DirBlock == 8192 && x.AGCount == 4 && i.Size == 512<<20
		}},
		{"vfat32", 64 << 20, []string{"mkfs.fat", "-F", "32", "-i", "1234abcd", "-n", "ESP", "-s", "1", "FILE"}, func(i *Info) bool {
			return i.VFAT.Bits == 32 && i.Label == "ESP" && i.VFAT.SectorsPerCluster == 1
		}},
		{"vfat16", 16 << 20, []string{"mkfs.fat", "-F", "16", "-i", "1234abcd", "FILE"}, func(i *Info) bool { return i.VFAT.Bits == 16 && i.Label == "" }},
		{"vfat12", 1 << 20, []string{"mkfs.fat", "-F", "12", "-i", "1234abcd", "FILE"}, func(i *Info) bool { return i.VFAT.Bits == 12 }},
		{"btrfs", 128 << 20, []string{"mkfs.btrfs", "-q", "-U", id, "-L", "a label", "-n", "32k", "-m", "single", "--csum", "xxhash", "-O", "^no-holes", "FILE"}, func(i *Info) bool {
			b := i.Btrfs
			return i.Label == "a label" && i.Size == 128<<20 && b.NodeSize == 32768 && b.SectorSize == 4096 && b.Checksum == "xxhash" && b.Devices == 1 && b.DevID == 1 &&
				strings.Join(b.Features, ",") == "extref,skinny-metadata,free-space-tree"
		}},
		{"exfat", 64 << 20, []string{"mkfs.exfat", "-c", "8K", "-L", "Über alles", "FILE"}, func(i *Info) bool {
			return i.Label == "Über alles" && i.ExFAT.Cluster == 8192 && i.Size == 64<<20
		}},
		{"f2fs", 128 << 20, []string{"mkfs.f2fs", "-q", "-f", "-U", id, "-l", "flash", "-O", "extra_attr,inode_checksum,sb_checksum", "FILE"}, func(i *Info) bool {
			return i.Label == "flash" && i.F2FS.Segments == 1 && i.F2FS.Sections == 1 && i.Size == 128<<20 && strings.Join(i.F2FS.Features, ",") == "extra_attr,inode_checksum,sb_checksum"
		}},
		{"jfs", 64 << 20, []string{"mkfs.jfs", "-q", "-L", "old one", "FILE"}, func(i *Info) bool { return i.Label == "old one" && i.JFS != nil && i.Size > 60<<20 }},
		{"nilfs2", 256 << 20, []string{"mkfs.nilfs2", "-q", "-f", "-b", "2048", "-B", "1024", "-m", "7", "-O", "block_count", "-L", "logs of a log", "FILE"}, func(i *Info) bool {
			n := i.Nilfs2
			return i.Label == "logs of a log" && i.Size == 256<<20 && n.BlockSize == 2048 && n.Segment == 1024 && n.Reserved == 7 && strings.Join(n.Features, ",") == "block_count"
		}},
		{"luks1", 32 << 20, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks1", "--uuid", id, "--pbkdf-force-iterations", "1000", "--key-size", "256", "--key-file", "/etc/hostname", "FILE"}, func(i *Info) bool {
			return *i.LUKS == LUKS{Version: 1, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 256, SectorSize: 512, Offset: 2 << 20}
		}},
		{"luks2", 32 << 20, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--uuid", id, "--label", "secret", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096", "--key-file", "/etc/hostname", "FILE"}, func(i *Info) bool {
			return *i.LUKS == LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 4096, Offset: 16 << 20}
		}},
		{"swap", 4 << 20, []string{"mkswap", "-q", "-U", id, "-L", "sw", "FILE"}, func(i *Info) bool { return i.Type == fstype.TypeSwap && i.Label == "sw" && i.Size == 4<<20 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "img")
			f, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			args := strings.Split(strings.ReplaceAll(strings.Join(c.args, "\x00"), "FILE", file), "\x00")
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("%s is not installed; make test installs it", args[0])
			}
			if args[0] == "mkfs.btrfs" && os.Geteuid() != 0 {
				t.Skip("mkfs.btrfs looks into loop devices: needs root")
			}
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
			i, err := Probe(f, c.size)
			if err != nil || i == nil {
				t.Fatalf("Probe = %v, %v", i, err)
			}
			if !c.want(i) {
				t.Errorf("Probe = %+v %+v %+v %+v %+v %+v", i, i.Ext, i.XFS, i.VFAT, i.Btrfs, i.LUKS)
			}
			for tag, got := range map[string]string{"TYPE": i.Type, "UUID": i.UUID, "LABEL": i.Label} {
				out, _ := exec.Command("blkid", "-p", "-o", "value", "-s", tag, file).Output()
				if want := strings.TrimSpace(string(out)); got != want {
					t.Errorf("%s = %q; blkid says %q", tag, got, want)
				}
			}
		})
	}
}

func TestProbeNothing(t *testing.T) {
	for _, n := range []int{0, 1, 511, 4096, 200 << 10} {
		if i, err := Probe(bytes.NewReader(make([]byte, n)), int64(n)); i != nil || err != nil && n > 0 {
			t.Errorf("Probe(%d zero bytes) = %v, %v", n, i, err)
		}
	}
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte("XFSB"), 0)
	f.Add([]byte("LABELONE\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00LVM2 001"), 512)
	f.Add([]byte("\x53\xef"), 1024+56)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if at < 0 || at > 1<<17 {
			return
		}
		img := append(make([]byte, at), b...)
		_, _ = Probe(bytes.NewReader(img), int64(len(img)))
	})
}

// TestOutsideLog: file systems whose log is on another device, made by their
// own programs. mke2fs wants a device for that, so tune2fs's bytes are set here.
func TestOutsideLog(t *testing.T) {
	dir := t.TempDir()
	fs, log := filepath.Join(dir, "fs"), filepath.Join(dir, "log")
	for _, f := range []string{fs, log} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, 512<<20); err != nil {
			t.Fatal(err)
		}
	}
	probe := func() *Info {
		t.Helper()
		f, err := os.Open(fs)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		i, err := Probe(f, 512<<20)
		if err != nil || i == nil {
			t.Fatalf("%v %v", i, err)
		}
		return i
	}
	run := func(args ...string) {
		t.Helper()
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip(err)
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	run("mkfs.xfs", "-q", "-l", "logdev="+log+",size=64m", fs)
	if i := probe(); !i.OutsideLog || i.XFS.LogBlocks != 0 {
		t.Errorf("%+v %+v", i, i.XFS)
	}
	run("mkfs.xfs", "-q", "-f", fs)
	if i := probe(); i.OutsideLog || i.XFS.LogBlocks == 0 {
		t.Errorf("%+v %+v", i, i.XFS)
	}
	run("mke2fs", "-qF", "-t", "ext4", fs)
	if i := probe(); i.OutsideLog {
		t.Errorf("%+v", i)
	}
	run("debugfs", "-w", "-R", "ssv journal_inum 0", fs)
	run("debugfs", "-w", "-R", "ssv journal_dev 0x0810", fs)
	if i := probe(); !i.OutsideLog {
		t.Errorf("%+v", i)
	}
}

// TestStaleExFAT: LVM made where an exFAT was, whose boot sector is still there, is
// LVM.
func TestStaleExFAT(t *testing.T) {
	b := make([]byte, headLen)
	copy(b[3:], "EXFAT   ")
	b[108], b[109] = 9, 3
	read := func() string {
		i, err := Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || i == nil {
			t.Fatal(i, err)
		}
		return i.Type
	}
	if typ := read(); typ != fstype.TypeExFAT {
		t.Error(typ)
	}
	copy(b[512:], "LABELONE")
	copy(b[512+20:], "\x20\x00\x00\x00LVM2 001abcdefghijklmnopqrstuvwxyz012345")
	if typ := read(); typ != TypeLVM {
		t.Error(typ)
	}
}
