package legacy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func sh(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	c := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// backup makes three volumes as mkCDrec did, with the programs it used: /usr
// cut over all three, one piece in parts; / on the first; /home_2 as bzip2.
func backup(t *testing.T) (dirs []string, usr []byte) {
	t.Helper()
	top := t.TempDir()
	src := t.TempDir()
	rng := rand.New(rand.NewPCG(4, 4))
	b := make([]byte, 300_000)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(src+"/file", b, 0o644); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		d := fmt.Sprintf("%s/v%d", top, n)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
		if err := os.WriteFile(fmt.Sprintf("%s/CDrec-03.04.2009_%d", d, n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, top, `
tar -C "$1" -czf all .
tar -C "$1" -cf plain . && cmp plain plain
head -c 100000 all > v1/sda2._usr.tar.gz_
tail -c +100001 all | head -c 100000 > mid
tail -c +200001 all > v3/sda2._usr.tar.gz
: > v2/sda2._usr.tar.gz_
head -c 60000 mid > v2/sda2._usr.tar.gz_.part0
tail -c +60001 mid > v2/sda2._usr.tar.gz_.part1
cp all v1/sda1._.tar.gz
tar -C "$1" -cjf v3/vg%137sd_home._home_2.tar.bz2 .
echo log | gzip > v1/sda1._.log.gz
mkdir rec && printf '/dev/sda1\t/\text3\trw\n/dev/sda2\t/usr\text3\trw\n/dev/vg_sd/home\t/home_2\txfs\trw\n' > rec/To_Restore && tar -czf v1/recovery.tgz rec
(cd v1 && md5sum ./sda* > Checksums.md5)
(cd v2 && cksfv sda2._usr.tar.gz_.part0 sda2._usr.tar.gz_.part1 > Checksums.sfv)
gzip -dc all > plain`, src)
	plain, err := os.ReadFile(top + "/plain")
	if err != nil {
		t.Fatal(err)
	}
	return dirs, plain
}

func stream(t *testing.T, s *Set, mount string) ([]byte, error) {
	t.Helper()
	for _, a := range s.Archives {
		if a.Mount == mount {
			r, err := s.Stream(a)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		}
	}
	t.Fatalf("no %s among %+v", mount, s.Archives)
	return nil, nil
}

func TestSet(t *testing.T) {
	dirs, usr := backup(t)
	if !IsSet(dirs[0]) || IsSet(t.TempDir()) {
		t.Error("IsSet is wrong")
	}
	s, err := Open(dirs[2], dirs[0], dirs[1])
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range s.Archives {
		all = append(all, a.Device+" "+a.Mount+" "+a.Type)
	}
	if strings.Join(all, ", ") != "sda1 / ext3, vg_sd/home /home_2 xfs, sda2 /usr ext3" || s.Date != "03.04.2009" {
		t.Errorf("%s of %s", all, s.Date)
	}
	for _, m := range []string{"/", "/usr"} {
		if got, err := stream(t, s, m); err != nil || !bytes.Equal(got, usr) {
			t.Errorf("%s: %d bytes, %v; want %d", m, len(got), err, len(usr))
		}
	}
	got, err := stream(t, s, "/home_2")
	if err != nil || len(got) < 300_000 {
		t.Errorf("/home_2: %d bytes, %v", len(got), err)
	}
	c := exec.Command("tar", "-t")
	c.Stdin = bytes.NewReader(got)
	if out, err := c.Output(); err != nil || !strings.Contains(string(out), "./file") {
		t.Errorf("tar of /home_2: %s, %v", out, err)
	}
}

func TestBadSets(t *testing.T) {
	dirs, _ := backup(t)
	s, err := Open(dirs[0], dirs[2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream(t, s, "/usr"); err == nil || !strings.Contains(err.Error(), "CDrec-03.04.2009_2") {
		t.Errorf("volume 2 missing: %v", err)
	}
	if s, err = Open(dirs[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := stream(t, s, "/usr"); err == nil || !strings.Contains(err.Error(), "CDrec-03.04.2009_2") {
		t.Errorf("only the first volume: %v", err)
	}
	if _, err := Open(dirs[0], dirs[0]); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice the same: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a volume of mkCDrec") {
		t.Errorf("an empty directory: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(other+"/CDrec-01.01.2010_4", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dirs[0], other); err == nil || !strings.Contains(err.Error(), "01.01.2010") {
		t.Errorf("of two backups: %v", err)
	}
	for f, m := range map[string]string{"sda1._.tar.gz": "/", "../v2/sda2._usr.tar.gz_.part1": "/usr"} {
		p := filepath.Join(dirs[0], f)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dirs...); err != nil {
			t.Fatal(err)
		}
		if _, err := stream(t, s, m); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s damaged: %v", f, err)
		}
	}
	for name, want := range map[string]string{"sdb1._x.tar.gz.bf": "encrypted (bf): copy", "sdb2._y.tar.Z": "compression \"Z\""} {
		if err := os.WriteFile(filepath.Join(dirs[0], name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dirs...); err != nil {
			t.Fatal(err)
		}
		if _, err := stream(t, s, "/"+name[6:7]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("sda1._.tar.gz", []byte("; comment\nsda1._.tar.gz 01234567\n"))
	f.Fuzz(func(t *testing.T, name string, sums []byte) {
		if strings.ContainsAny(name, "/\x00") || len(name) > 200 || name == "" || name == "." || name == ".." {
			return
		}
		dir := t.TempDir()
		for n, b := range map[string][]byte{"CDrec-01.02.2003": nil, name: sums, "Checksums.sfv": sums} {
			if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
				return
			}
		}
		s, err := Open(dir)
		if err != nil {
			return
		}
		for _, a := range s.Archives {
			if r, err := s.Stream(a); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
				r.Close()
			}
		}
	})
}

// oldRecovery is /etc/recovery of a machine of 2009, as mkCDrec left it.
var oldRecovery = map[string]string{
	"To_Restore": "/dev/hda1\t/boot\text2\trw\n/dev/hda3\t/\text3\trw,errors=remount-ro\n/dev/hda5\t/home\txfs\trw\n/dev/hda6\t/windows\tvfat\trw\n/dev/vg0/data\t/data\text3\trw\n/dev/hda7\t/old\treiserfs\trw\n",
	"partitions.hda": `# partition table of /dev/hda
unit: sectors

/dev/hda1 : start=       63, size=   208782, Id=83, bootable
/dev/hda2 : start=   208845, size=  1028160, Id=82
/dev/hda3 : start=  1237005, size=  4192965, Id=83
/dev/hda4 : start=  5429970, size= 10297665, Id= 5
/dev/hda5 : start=  5430033, size=  4192902, Id=83
/dev/hda6 : start=  9622998, size=  2104452, Id= b
/dev/hda7 : start= 11727513, size=  4000122, Id=83
`,
	"size.hda":       "8388608\n",
	"mkswap.sh":      "#!/bin/sh\nmkswap -L SWAP-hda2 -v1 /dev/hda2\nswapon /dev/hda2\n",
	"mke2label.sh":   "e2label /dev/hda1 /boot\n",
	"BOOTLOADER":     "GRUB\n",
	"fstab.elephant": "LABEL=/boot /boot ext2 defaults 1 2\nUUID=0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11 / ext3 defaults 1 1\n/dev/hda5 /home xfs defaults 0 0\n/dev/hda2 swap swap defaults 0 0\n",
	"df.elephant":    "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/hda3 2063504 1000000 958684 52% /\n",
}

// oldSet makes a volume with that recovery.tgz and an archive for each line.
func oldSet(t *testing.T, change map[string]string) string {
	t.Helper()
	d := t.TempDir()
	src := t.TempDir()
	for n, c := range oldRecovery {
		if v, ok := change[n]; ok {
			c = v
		}
		if c == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(src, n), []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, d, `
: > CDrec-03.04.2009
mkdir -p etc && mv "$1" etc/recovery && mkdir etc/recovery/lvm && echo "vgcreate vg0 /dev/hdb" > etc/recovery/lvm/vgcreate.sh && tar -czf recovery.tgz etc/recovery && mkdir data && echo hello > data/file
for a in hda1._boot hda3._ hda5._home vg0_data._data hda7._old; do tar -C data -czf $a.tar.gz .; done
head -c 1000 /dev/zero | gzip > hda6._windows.dd.gz`, src)
	return d
}

// TestLayout reads the storage of a machine of 2009.
func TestLayout(t *testing.T) {
	s, err := Open(oldSet(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Layout()
	if err != nil {
		t.Fatal(err)
	}
	if l.Hostname != "elephant" || len(l.Disks) != 1 || l.Disks[0].Size != 8<<30 || len(l.Disks[0].Table.Partitions) != 7 {
		t.Fatalf("%+v", l)
	}
	p := l.Disks[0].Table.Partitions
	if !p[0].Active || p[0].Start != 63*512 || p[3].Type != "0x05" || p[4].EBR != 5429970*512 || p[5].EBR != 9622935*512 || p[5].Type != "0x0b" {
		t.Errorf("partitions %+v", p)
	}
	var fs []string
	for _, f := range l.Filesystems {
		fs = append(fs, fmt.Sprintf("%s %s %s %q", f.Device, f.Mounts[0].Path, f.Type, f.Label))
	}
	if got := strings.Join(fs, ", "); got != `hda3 / ext3 "", hda1 /boot ext2 "/boot", hda5 /home xfs ""` {
		t.Errorf("file systems %s", got)
	}
	root := l.Mounted("/")
	if root.UUID != "0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11" || root.Used != 1000000<<10 || root.Ext.InodeSize != 128 {
		t.Errorf("root %+v %+v", root, root.Ext)
	}
	if len(l.Swap) != 1 || l.Swap[0].Label != "SWAP-hda2" || l.Boot.Loader != "grub" || strings.Join(l.Boot.Disks, " ") != "hda" {
		t.Errorf("swap %+v, boot %+v", l.Swap, l.Boot)
	}
	var not []string
	for _, u := range l.Unsupported {
		not = append(not, u.What)
	}
	if strings.Join(not, " ") != "/data /old /windows" {
		t.Errorf("unsupported %+v", l.Unsupported)
	}
	again, err := s.Layout()
	if err != nil || again.Filesystems[1].UUID != l.Filesystems[1].UUID {
		t.Errorf("UUIDs change from one reading to the next: %v", err)
	}
}

// TestBadLayouts: each is an error or a refusal by name, never a wrong table.
func TestBadLayouts(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]string
		want   string
	}{
		"no list":        {map[string]string{"To_Restore": ""}, "no volume has a recovery.tgz"},
		"number":         {map[string]string{"partitions.hda": "/dev/hda1 : start= 6x3, size= 100, Id=83\n"}, "line 1: no number of sectors"},
		"other disk":     {map[string]string{"partitions.hda": "\n/dev/sdb1 : start= 63, size= 100, Id=83\n"}, "line 2: no partition of hda"},
		"overlap":        {map[string]string{"partitions.hda": "/dev/hda1 : start= 63, size= 1000, Id=83\n/dev/hda2 : start= 100, size= 1000, Id=83\n"}, "overlaps"},
		"lonely logical": {map[string]string{"partitions.hda": "/dev/hda5 : start= 63, size= 1000, Id=83\n"}, "without an extended one"},
		"type":           {map[string]string{"partitions.hda": "/dev/hda1 : start= 63, size= 1000, Id=xx\n"}, "no partition type"},
	} {
		s, err := Open(oldSet(t, c.change))
		if err == nil {
			_, err = s.Layout()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	s, err := Open(oldSet(t, map[string]string{"partitions.hda": "label: gpt\n/dev/hda1 : start= 63, size= 1000, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := s.Layout(); err != nil || len(l.Disks) != 0 || len(l.Filesystems) != 0 {
		t.Errorf("a GPT: %+v, %v", l, err)
	}
}

func FuzzSfdisk(f *testing.F) {
	f.Add(oldRecovery["partitions.hda"])
	f.Fuzz(func(t *testing.T, s string) { _, _ = parseSfdisk(s, "hda") })
}

// TestFstabIDs: names of fstab are read with quotes and escapes, and comments are not.
func TestFstabIDs(t *testing.T) {
	got := fstabIDs("LABEL=My\\040Data /srv/my\\040data ext3 defaults 1 2\nUUID=\"0D5F4D2B-5a86-4a0e-8d0a-7a1c5f0e6b11\" / ext3 defaults 1 1\r\n  # LABEL=x /x ext3\nLABEL='s' swap swap sw 0 0\nUUID=short /short ext3\n")
	want := map[string]fsID{"/srv/my data": {label: "My Data"}, "/": {uuid: "0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11"}, "swap": {label: "s"}}
	if len(got) != len(want) {
		t.Errorf("%v; want %v", got, want)
	}
	for at, w := range want {
		if got[at] != w {
			t.Errorf("%s is %v; want %v", at, got[at], w)
		}
	}
}

// TestByHand: an archive that lzop has packed is read; what is encrypted, on LVM or on RAID is
// named with commands that work.
func TestByHand(t *testing.T) {
	list := oldRecovery["To_Restore"] + "/dev/hda8\t/secret\text3\trw\n/dev/md0\t/raid\text3\trw\n"
	d := oldSet(t, map[string]string{"To_Restore": list})
	for _, p := range []string{"lzop", "openssl"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is missing", p)
		}
	}
	sh(t, d, `tar -C data -cf - . > plain
lzop -c < plain > 'sda9._packed.tar.lzo'
gzip -c plain > plain.gz
echo secret > FILE
openssl enc -bf -md md5 -kfile FILE -provider legacy -provider default < plain.gz > 'hda8._secret.tar.gz.bf' 2>/dev/null
cp plain.gz md0._raid.tar.gz`)
	open := func() *Set {
		t.Helper()
		s, err := Open(d)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want, err := os.ReadFile(d + "/plain")
	if err != nil {
		t.Fatal(err)
	}
	s := open()
	if got, err := stream(t, s, "/packed"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("lzo: %d bytes, %v; want %d", len(got), err, len(want))
	}
	l, err := s.Layout()
	if err != nil {
		t.Fatal(err)
	}
	how := map[string]string{}
	for _, u := range l.Unsupported {
		how[u.What] = u.Reason
	}
	if r := how["/data"]; !strings.Contains(r, "vg0/data is on LVM") || !strings.Contains(r, "tar -xzOf "+d+"/recovery.tgz etc/recovery/lvm/vgcreate.sh") || !strings.Contains(r, "pastestream --mkcdrec /data "+d+" | tar -xp -C /mnt/target/data") {
		t.Errorf("/data: %s", r)
	}
	if r := how["/raid"]; !strings.Contains(r, "md0 is on software RAID") || strings.Contains(r, "tar -xzOf") {
		t.Errorf("/raid: %s", r)
	}
	_, run, _ := strings.Cut(how["/secret"], "and run ")
	run, _, _ = strings.Cut(run, ";")
	if !strings.Contains(how["/secret"], "encrypted (bf)") || run == "" {
		t.Fatalf("/secret: %s", how["/secret"])
	}
	if _, err := stream(t, s, "/secret"); err == nil || !strings.Contains(err.Error(), run) {
		t.Errorf("Stream(encrypted) = %v", err)
	}
	sh(t, d, run)
	if got, err := stream(t, open(), "/secret"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("decrypted: %d bytes, %v; want %d", len(got), err, len(want))
	}
}
