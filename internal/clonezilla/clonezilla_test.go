package clonezilla

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/gzip"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/partclone"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func TestExample(t *testing.T) {
	m := example(t)
	if !IsSet(m) || IsSet(fstest.MapFS{}) {
		t.Error("IsSet")
	}
	s, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Unsupported) > 0 || !s.Whole || !s.UEFI || len(s.Disks) != 1 || len(s.Groups) != 1 {
		t.Fatalf("%+v", s)
	}
	d := s.Disks[0]
	if d.Model != "QEMU_HD" || d.Serial != "QM00001" || d.Size != 20*quantity.GiB || d.PhysicalSector != 4096 || len(d.MBR) != 512 || d.Hidden != "" || d.GPT != [3]string{"sda-gpt-1st", "sda-gpt-2nd", "sda-gpt.gdisk"} {
		t.Errorf("disk %+v", d)
	}
	p := d.Table.Partitions[0]
	if want := (layout.Partition{Number: 1, Device: "sda1", Start: quantity.MiB, Size: 512 * quantity.MiB, Type: layout.TypeESP, GUID: "11111111-2222-3333-4444-555555555555", Name: `EFI System, "x"`, Attributes: 1 | 1<<60 | 1<<63}); p != want {
		t.Errorf("partition %+v; want %+v", p, want)
	}
	if d.Table.FirstUsable != quantity.MiB || d.Table.Entries != 0 {
		t.Errorf("table %+v", d.Table)
	}
	var got []string
	for _, c := range s.Contents {
		line := fmt.Sprintf("%s %s %s %q", c.Device, c.Type, c.UUID, c.Label)
		if !c.Swap() {
			line += fmt.Sprintf(" %s %s %s %v", c.Image.Name, c.Image.Kind, c.Image.Compression, c.Image.Files)
		}
		got = append(got, line)
	}
	want := []string{
		`sda1 vfat 1234-ABCD "" sda1.vfat-ptcl-img.zst partclone zst [sda1.vfat-ptcl-img.zst]`,
		`sda2 ext4  "" sda2.ext4-ptcl-img.zst partclone zst [sda2.ext4-ptcl-img.zst.aa sda2.ext4-ptcl-img.zst.ab sda2.ext4-ptcl-img.zst.ac]`,
		`sda4 swap 92d422f0-3a17-4e69-93f0-f8fd1091e5eb "SWAP-sda4"`,
		`vg-0/root ext4 0a0a0a0a-0b0b-0c0c-0d0d-0e0e0e0e0e0e "my \"root\"" vg-0-root.ext4-ptcl-img.zst partclone zst [vg-0-root.ext4-ptcl-img.zst]`,
		`vg-0/swap_1 swap 82d422f0-3a17-4e69-93f0-f8fd1091e5eb ""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("contents:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	l, err := s.Layout()
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Unsupported) > 0 || l.Boot.Firmware != layout.UEFI || len(l.Images) != 3 || len(l.Swap) != 2 || l.VolumeGroup[0].LVs[0].Size != 2*quantity.GiB || l.VolumeGroup[0].LVs[0].Type != "" {
		t.Errorf("layout %+v", l)
	}
	for _, c := range s.Contents {
		if !c.Swap() {
			restored(t, s, c.Image)
		}
	}
}

// restored reads an image of ptcl to its end.
func restored(t *testing.T, s *Set, i *Image) {
	t.Helper()
	r, err := s.Stream(i)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := partclone.Open(r)
	if err != nil {
		t.Fatalf("%s: %v", i.Name, err)
	}
	_, want := ptcl(t)
	dev := make([]byte, len(want))
	for {
		off, data, err := p.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", i.Name, err)
		}
		copy(dev[off:], data)
	}
	if !bytes.Equal(dev, want) {
		t.Errorf("%s: content differs", i.Name)
	}
}

// TestCompressions reads one image packed in every way, as one stream and, where the
// parallel programs write several (pigz does not; lbzip2, pbzip2, pzstd, lz4mt and xz -T
// may), as two after each other.
func TestCompressions(t *testing.T) {
	img, _ := ptcl(t)
	close := func(w io.WriteCloser, err error, b []byte) {
		if err == nil {
			if _, err = w.Write(b); err == nil {
				err = w.Close()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pack := map[string]func(b []byte) []byte{
		"uncomp": func(b []byte) []byte { return b },
		"zst":    func(b []byte) []byte { return packZstd(t, b) },
		"gz": func(b []byte) []byte {
			var o bytes.Buffer
			close(gzip.NewWriter(&o), nil, b)
			return o.Bytes()
		},
		"lz4": func(b []byte) []byte {
			var o bytes.Buffer
			close(lz4.NewWriter(&o), nil, b)
			return o.Bytes()
		},
		"xz": func(b []byte) []byte {
			var o bytes.Buffer
			w, err := xz.NewWriter(&o)
			close(w, err, b)
			return o.Bytes()
		},
		"lzma": func(b []byte) []byte {
			var o bytes.Buffer
			w, err := lzma.NewWriter(&o)
			close(w, err, b)
			return o.Bytes()
		},
		"bz2": func(b []byte) []byte {
			c := exec.Command("bzip2", "-c")
			c.Stdin = bytes.NewReader(b)
			out, err := c.Output()
			if errors.Is(err, exec.ErrNotFound) {
				t.Log("bzip2 is not installed")
				return nil
			}
			if err != nil {
				t.Fatal(err)
			}
			return out
		},
	}
	for _, c := range slices.Sorted(maps.Keys(pack)) {
		one := pack[c](img)
		if one == nil {
			continue
		}
		packed := [][]byte{one}
		if c != "uncomp" && c != "lzma" {
			packed = append(packed, slices.Concat(pack[c](img[:5000]), pack[c](img[5000:])))
		}
		for _, b := range packed {
			m := example(t)
			delete(m, "sda1.vfat-ptcl-img.zst")
			put(m, "sda1.vfat-ptcl-img."+c+".aaa", string(b[:2000]))
			put(m, "sda1.vfat-ptcl-img."+c+".aab", string(b[2000:]))
			s, err := Open(m)
			if err != nil || len(s.Unsupported) > 0 {
				t.Fatalf("%s: %v, %v", c, err, s.Unsupported)
			}
			restored(t, s, s.Contents[0].Image)
			// Cut off: every format finds it out, or the image does.
			put(m, "sda1.vfat-ptcl-img."+c+".aab", string(b[2000:len(b)-3]))
			r, err := s.Stream(s.Contents[0].Image)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err == nil && len(got) >= len(img) {
				t.Errorf("%s cut off: nothing was found", c)
			}
			r.Close()
		}
	}
	// The name says one compression, the content is of another.
	m := example(t)
	delete(m, "sda1.vfat-ptcl-img.zst")
	put(m, "sda1.vfat-ptcl-img.gz", string(img))
	s, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stream(s.Contents[0].Image); err == nil || !strings.Contains(err.Error(), "is not gz") {
		t.Errorf("%v", err)
	}
}

// TestRealPrograms reads an image directory whose table was dumped by sfdisk, and whose
// image was made by partclone, packed by the programs that Clonezilla runs and cut by
// split.
func TestRealPrograms(t *testing.T) {
	for _, p := range []string{"sfdisk", "split", "mkfs.ext4", "partclone.ext4"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed; make deps installs it", p)
		}
	}
	dir, work := t.TempDir(), t.TempDir()
	sh := func(stdout, name string, args ...string) {
		t.Helper()
		c := exec.Command(name, args...)
		if stdout != "" {
			f, err := os.Create(stdout)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c.Stdout = f
		}
		var msg bytes.Buffer
		c.Stderr = &msg
		if err := c.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", c.Args, err, msg.Bytes())
		}
	}
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, img := filepath.Join(work, "part"), filepath.Join(work, "img")
	sh("", "mkfs.ext4", "-q", "-d", "/usr/share/zoneinfo", src, "32M")
	sh("", "partclone.ext4", "-q", "-c", "-z", "10485760", "-s", src, "-O", img, "-L", filepath.Join(work, "log"))
	source, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	put("disk", "nvme0n1\n")
	put("parts", "nvme0n1p1\n")
	put("nvme0n1-pt.sf", "label: dos\nlabel-id: 0x12345678\ndevice: /dev/nvme0n1\nunit: sectors\nsector-size: 512\n\n/dev/nvme0n1p1 : start=        2048, size=       65536, type=83\n")
	for _, c := range []struct {
		suffix, program string
		args            []string
	}{
		{"gz", "gzip", []string{"-c", "--fast", "--rsyncable"}}, {"gz", "pigz", []string{"-c", "-p4"}}, {"zst", "zstd", []string{"-c", "-T0", "-3", "-q"}},
		{"xz", "xz", []string{"-c", "-T0", "-3", "--block-size=262144"}}, {"lz4", "lz4", []string{"-c", "-1", "-q"}}, {"bz2", "bzip2", []string{"-c", "-3"}}, {"bz2", "lbzip2", []string{"-c"}}, {"lzma", "lzma", []string{"-c", "-3"}}, {"uncomp", "cat", nil},
	} {
		if _, err := exec.LookPath(c.program); err != nil {
			t.Logf("%s is not installed", c.program)
			continue
		}
		packed := filepath.Join(work, "packed")
		sh(packed, c.program, append(c.args, img)...)
		base := "nvme0n1p1.ext4-ptcl-img." + c.suffix
		sh("", "split", "-a", "2", "-b", "100000", packed, filepath.Join(dir, base+"."))
		s, err := OpenDir(dir)
		if err != nil || len(s.Unsupported) > 0 || len(s.Contents) != 1 {
			t.Fatalf("%s: %v, %+v", c.program, err, s)
		}
		i := s.Contents[0].Image
		r, err := s.Stream(i)
		if err != nil {
			t.Fatal(err)
		}
		p, err := partclone.Open(r)
		if err != nil {
			t.Fatalf("%s: %v", c.program, err)
		}
		n := int64(0)
		for {
			off, data, err := p.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.program, err)
			}
			if !bytes.Equal(data, source[off:][:len(data)]) {
				t.Fatalf("%s: %d bytes at %d differ", c.program, len(data), off)
			}
			n += int64(len(data))
		}
		r.Close()
		if n != p.UsedBlocks*p.BlockSize || n < 1<<20 || len(i.Files) < 2 {
			t.Errorf("%s: %d bytes from %d files", c.program, n, len(i.Files))
		}
		for _, f := range i.Files {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOldNames: names before Clonezilla's option -q2, and images by dd.
func TestOldNames(t *testing.T) {
	img, dev := ptcl(t)
	m := example(t)
	for n := range m {
		if strings.HasPrefix(n, "sda1.") || strings.HasPrefix(n, "sda2.") || strings.HasPrefix(n, "vg-0-root.") {
			delete(m, n)
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(img)
	w.Close()
	put(m, "sda1.hfs+-img.aa", z.String()[:100])
	put(m, "sda1.hfs+-img.ab", z.String()[100:])
	put(m, "sda2.dd-img", string(dev))
	put(m, "sda2.dd-img.info", "partition=BSD_slice")
	put(m, "vg-0-root.dd-ptcl-img.zst", string(packZstd(t, dev)))
	s, err := Open(m)
	if err != nil || len(s.Unsupported) > 0 {
		t.Fatal(err, s.Unsupported)
	}
	restored(t, s, s.Contents[0].Image)
	if c := s.Contents[0]; c.Type != "hfs+" {
		t.Errorf("%+v", c)
	}
	for _, i := range []int{1, 3} {
		c := s.Contents[i]
		if c.Image.Kind != Raw || c.Type != "ext4" {
			t.Errorf("%+v", c)
		}
		r, err := s.Stream(c.Image)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, dev) {
			t.Errorf("%s: %d bytes, %v", c.Image.Name, len(b), err)
		}
		r.Close()
	}
}

// TestRefused: what can't be restored of an image is named with the reason, the rest is
// still read.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, dev, want string
		change          func(m fstest.MapFS)
	}{
		{"part missing", "sda2", "part sda2.ext4-ptcl-img.zst.ab is missing", func(m fstest.MapFS) { delete(m, "sda2.ext4-ptcl-img.zst.ab") }},
		{"first part missing", "sda2", "part sda2.ext4-ptcl-img.zst.aa is missing", func(m fstest.MapFS) { delete(m, "sda2.ext4-ptcl-img.zst.aa") }},
		{"whole and parts", "sda2", "there are both", func(m fstest.MapFS) { put(m, "sda2.ext4-ptcl-img.zst", "x") }},
		{"no image", "sda1", "there is no image", func(m fstest.MapFS) { delete(m, "sda1.vfat-ptcl-img.zst") }},
		{"no image of a volume", "vg-0/root", "there is no image", func(m fstest.MapFS) { delete(m, "vg-0-root.ext4-ptcl-img.zst") }},
		{"ntfsclone", "sda1", "ntfsclone", func(m fstest.MapFS) { delete(m, "sda1.vfat-ptcl-img.zst"); put(m, "sda1.ntfs-img.aa", "x") }},
		{"partimage", "sda1", "partimage", func(m fstest.MapFS) { delete(m, "sda1.vfat-ptcl-img.zst"); put(m, "sda1.000", "x") }},
		{"lzop", "sda1", "compression lzo is not supported", func(m fstest.MapFS) { delete(m, "sda1.vfat-ptcl-img.zst"); put(m, "sda1.vfat-ptcl-img.lzo", "x") }},
		{"other device", "sdq1", "not in the tables", func(m fstest.MapFS) { put(m, "sdq1.vfat-ptcl-img.zst", "x") }},
		{"raid", "md0", "software RAID", func(m fstest.MapFS) { put(m, "md0-detail.info", "x") }},
		{"no group text", "vg-0", "there is no such file", func(m fstest.MapFS) { delete(m, "lvm_vg-0.conf") }},
		{"thin", "vg-0", `type "thin" is not read`, func(m fstest.MapFS) {
			put(m, "lvm_vg-0.conf", strings.Replace(vgConf, `"striped"`, `"thin"`, 1))
		}},
		{"missing PV", "vg-0", "physical volume pv0 (other) was not saved", func(m fstest.MapFS) {
			put(m, "lvm_vg-0.conf", strings.Replace(vgConf, "qdlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y", "other", 1))
		}},
		{"inactive", "vg-0/swap_1", "was not active", func(m fstest.MapFS) { put(m, "lvm_logv.list", "/dev/vg-0/root ext4\n") }},
		{"no group", "sda3", "of no volume group", func(m fstest.MapFS) {
			put(m, "lvm_vg_dev.list", "vg-0 /dev/sda3 qdlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y\n/NOT_FOUND /dev/sda3 x\n")
		}},
	} {
		m := example(t)
		c.change(m)
		s, err := Open(m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.ContainsFunc(s.Unsupported, func(u layout.Unsupported) bool { return u.Device == c.dev && strings.Contains(u.Reason, c.want) }) {
			t.Errorf("%s: %v; want %s: %s", c.name, s.Unsupported, c.dev, c.want)
		}
		if l, err := s.Layout(); err != nil || len(l.Images) == 0 {
			t.Errorf("%s: layout: %v", c.name, err)
		}
		for _, x := range s.Contents {
			if !x.Swap() && x.Image.Refused != "" {
				if _, err := s.Stream(x.Image); err == nil || !strings.Contains(err.Error(), x.Image.Refused) {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		}
	}
}

// TestHostile: directories that no Clonezilla wrote.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(m fstest.MapFS)
	}{
		{"ecryptfs", "encrypted with ecryptfs", func(m fstest.MapFS) { put(m, "ecryptfs.info", "disk_of_img=\"sda\"\n") }},
		{"gocryptfs", "encrypted with gocryptfs", func(m fstest.MapFS) { put(m, "gocryptfs.info", "") }},
		{"pseudo", "has no content", func(m fstest.MapFS) { put(m, "00-pseudo-img-note.txt", "") }},
		{"not an image", "is not a Clonezilla image", func(m fstest.MapFS) { delete(m, "disk"); delete(m, "parts") }},
		{"file name", "characters", func(m fstest.MapFS) { put(m, "sda1\n.ext4-ptcl-img.zst", "") }},
		{"escape", "characters", func(m fstest.MapFS) { put(m, "sda1\x1b[2J", "") }},
		{"disk up", "is not the name of a device", func(m fstest.MapFS) { put(m, "disk", "../../etc") }},
		{"disk path", "is not the name of a device", func(m fstest.MapFS) { put(m, "disk", "a/b/c") }},
		{"disk dots", "is not the name of a device", func(m fstest.MapFS) { put(m, "disk", "a/..") }},
		{"disk option", "is not the name of a device", func(m fstest.MapFS) { put(m, "disk", "-rf") }},
		{"disk twice", "is listed twice", func(m fstest.MapFS) { put(m, "disk", "sda sda") }},
		{"part", "is not the name of a device", func(m fstest.MapFS) { put(m, "parts", "sda1 $(id)") }},
		{"device", "dev-fs.list: line 1", func(m fstest.MapFS) { put(m, "dev-fs.list", "/dev/../x ext4 1G\n") }},
		{"group", "is not the name of a volume group", func(m fstest.MapFS) { put(m, "lvm_vg_dev.list", "../vg /dev/sda3 x\n") }},
		{"volume", "is not the name of a device", func(m fstest.MapFS) { put(m, "lvm_logv.list", "/dev/vg-0/.. x\n") }},
		{"volume's group", "that lvm_vg_dev.list does not have", func(m fstest.MapFS) { put(m, "lvm_logv.list", "/dev/vg1/x x\n") }},
		{"luks", "luks-dev.list: line 1", func(m fstest.MapFS) { put(m, "luks-dev.list", "/dev/sda2 u ../x\n") }},
		{"swap", "swappt-sda4.info: line 1", func(m fstest.MapFS) { put(m, "swappt-sda4.info", "UUID=`id`\n") }},
		{"swap text", "is not text", func(m fstest.MapFS) { put(m, "swappt-sda4.info", "UUID=\"a\x1b\"\n") }},
		{"table", "sda-pt.sf: line", func(m fstest.MapFS) { put(m, "sda-pt.sf", "label: gpt\n/dev/sdb1 : start=1, size=1\n") }},
		{"pipe", "is not a file", func(m fstest.MapFS) { m["parts"].Mode = fs.ModeNamedPipe }},
		{"endless list", "has more than", func(m fstest.MapFS) { m["dev-fs.list"].Data = bytes.Repeat([]byte("#\n"), maxText) }},
		{"two images", "has two images", func(m fstest.MapFS) { put(m, "sda1.ext4-ptcl-img.zst", "") }},
		{"one name", "have the same name", func(m fstest.MapFS) { put(m, "parts", "vg/0-root") }},
	} {
		m := example(t)
		c.change(m)
		if _, err := Open(m); err == nil || !strings.Contains(err.Error(), c.want) || !layout.Text(err.Error()) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// TestOpenDir: links lead out of a directory nowhere.
func TestOpenDir(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	for n, f := range example(t) {
		if err := os.WriteFile(filepath.Join(dir, n), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	restored(t, s, s.Contents[1].Image)
	part := filepath.Join(dir, "sda2.ext4-ptcl-img.zst.ab")
	if err := os.Rename(part, out); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, part); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenDir(dir); err != nil {
		t.Fatal(err)
	}
	r, err := s.Stream(s.Contents[1].Image)
	if err == nil {
		_, err = io.ReadAll(r)
		r.Close()
	}
	if err == nil {
		t.Error("a link out of the directory was followed")
	}
	if _, err := OpenDir(filepath.Join(dir, "missing")); err == nil || !strings.Contains(err.Error(), "cannot read Clonezilla image") {
		t.Errorf("%v", err)
	}
}

// TestLUKS: the inside of an open device is an image, the outside is made from the header.
func TestLUKS(t *testing.T) {
	m := example(t)
	delete(m, "sda2.ext4-ptcl-img.zst.aa")
	delete(m, "sda2.ext4-ptcl-img.zst.ab")
	delete(m, "sda2.ext4-ptcl-img.zst.ac")
	img, _ := ptcl(t)
	put(m, "ocs_luks_vQX.ext4-ptcl-img.zst", string(packZstd(t, img)))
	put(m, "luks-dev.list", "# <Block device> <UUID> <Device mapped name>\n/dev/sda2 0c0c0c0c-0b0b-0c0c-0d0d-0e0e0e0e0e0e ocs_luks_vQX\n")
	h := make([]byte, 1<<20)
	copy(h, "LUKS\xba\xbe\x00\x01")
	copy(h[8:], "aes")
	copy(h[40:], "xts-plain64")
	copy(h[72:], "sha256")
	h[106] = 0x10 // data begins at sector 4096
	h[111] = 64   // bytes of the key
	copy(h[168:], "0c0c0c0c-0b0b-0c0c-0d0d-0e0e0e0e0e0e")
	put(m, "sda2-luksHeader.bin", string(h))
	s, err := Open(m)
	if err != nil || len(s.Unsupported) > 0 {
		t.Fatal(err, s.Unsupported)
	}
	l, err := s.Layout()
	if err != nil || len(l.Unsupported) > 0 || len(l.Crypts) != 1 {
		t.Fatalf("%v %+v", err, l)
	}
	if c := l.Crypts[0]; c.Device != "sda2" || c.Name != "ocs_luks_vQX" || c.Size != 2*quantity.GiB-2*quantity.MiB || c.LUKS.Cipher != "aes-xts-plain64" {
		t.Errorf("%+v", c)
	}
	if !slices.ContainsFunc(l.Images, func(i layout.Image) bool {
		return i.Device == "mapper/ocs_luks_vQX" && i.Size == 2*quantity.GiB-2*quantity.MiB
	}) {
		t.Errorf("%+v", l.Images)
	}
	delete(m, "sda2-luksHeader.bin")
	if s, err = Open(m); err != nil {
		t.Fatal(err)
	}
	if l, err = s.Layout(); err != nil || len(l.Crypts) != 0 || len(l.Unsupported) != 2 {
		t.Errorf("without a header: %v, %+v", err, l.Unsupported)
	}
}

// TestParts: an image of partitions, of a disk whose name has a slash.
func TestParts(t *testing.T) {
	m := fstest.MapFS{}
	put(m, "parts", "cciss/c0d0p1\n")
	put(m, "cciss-c0d0-pt.sf", "# partition table of /dev/cciss/c0d0\nunit: sectors\n\n/dev/cciss/c0d0p1 : start=       63, size=   401562, Id=83, bootable\n/dev/cciss/c0d0p2 : start=   401700, size=   401562, Id=83\n/dev/cciss/c0d0p3 : start=        0, size=        0, Id= 0\n")
	put(m, "cciss-c0d0p1.ext3-ptcl-img.gz.torrent", "x")
	put(m, "cciss-c0d0-mbr", strings.Repeat("\x00", 440)+"\x78\x56\x34\x12"+strings.Repeat("\x00", 68))
	put(m, "cciss-c0d0-hidden-data-after-mbr", "x")
	put(m, "cciss-c0d0p1.ext3-ptcl-img.gz.aa", "x")
	s, err := Open(m)
	if err != nil || s.Whole || len(s.Disks) != 1 || len(s.Contents) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	d := s.Disks[0]
	if d.Name != "cciss/c0d0" || d.Table.Signature != "0x12345678" || d.Hidden == "" || len(d.Table.Partitions) != 2 || len(s.Unsupported) > 0 || d.Table.Partitions[0].Start != 63*512 || !d.Table.Partitions[0].Active {
		t.Errorf("%+v", d)
	}
	if c := s.Contents[0]; c.Device != "cciss/c0d0p1" || c.Type != "ext3" {
		t.Errorf("%+v", c)
	}
	if _, err := s.Layout(); err != nil {
		t.Error(err)
	}
}

// FuzzOpen puts a text into one of the files that are read, and one under a name of its
// own.
func FuzzOpen(f *testing.F) {
	names := []string{"disk", "parts", "dev-fs.list", "lvm_vg_dev.list", "lvm_logv.list", "lvm_vg-0.conf", "luks-dev.list", "swappt-sda4.info", "blkid.list", "blkdev.list", "blkdev.json", "sda-pt.sf", "sda-pt.parted", "sda-mbr", "sda2-luksHeader.bin"}
	base := example(f)
	for i, n := range names {
		text := ""
		if base[n] != nil {
			text = string(base[n].Data)
		}
		f.Add(uint8(i), text, "sda1.ext4-ptcl-img.gz.aa")
	}
	f.Add(uint8(6), "/dev/sda2 x y\n", "-pt.sf")
	f.Fuzz(func(t *testing.T, n uint8, text, name string) {
		m := maps.Clone(base)
		put(m, names[int(n)%len(names)], text)
		if fs.ValidPath(name) && !strings.Contains(name, "/") && name != "." {
			put(m, name, text)
		}
		s, err := Open(m)
		if err != nil {
			if !layout.Text(strings.ReplaceAll(err.Error(), "\n", "")) {
				t.Errorf("error %q", err)
			}
			return
		}
		for _, c := range s.Contents {
			if _, err := device(c.Device); err != nil || !layout.Text(c.Type+c.UUID+c.Label) {
				t.Errorf("%+v", c)
			}
		}
		if l, err := s.Layout(); err == nil {
			if err := l.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSingle: an image by itself is found by its name, by that of its first part, and
// without the suffix of its parts; names beside it are not taken for parts.
func TestSingle(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"one.gz": "x", "sda1.img.aa": "1", "sda1.img.ab": "2", "sda1.img.txt1": "no", "sda1.image": "no", "hole.aa": "1", "hole.ac": "3"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"sda1.img.aa": "12", "sda1.img": "12", "one.gz": "", "hole.aa": "part hole.ab is missing", "none": "not exist"} {
		s, i, err := Single(filepath.Join(dir, name))
		if err == nil && i.Refused != "" {
			err = errors.New(i.Refused)
		}
		if err != nil || want == "" {
			if want == "" && (err != nil || len(i.Files) != 1) || want != "" && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", name, err, want)
			}
			continue
		}
		r, err := s.Stream(i)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || string(b) != want {
			t.Errorf("%s has %q, %v; want %q", name, b, err, want)
		}
	}
}
