//go:build vmtest

package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oldBackup makes, with the programs of its day, the two volumes that mkCDrec
// 1.x wrote of a machine with one disk, hda: / cut over both volumes, /home as
// bzip2 on a logical partition, swap, LILO.
const oldBackup = `
mkdir -p src/etc src/bin src/home src/difficult home/user rec/etc/recovery v1 v2
printf '/dev/hda2 / ext3 defaults 1 1\n/dev/hda5 /home xfs defaults 0 2\n/dev/hda3 swap swap defaults 0 0\n' > src/etc/fstab
head -c 9000000 /dev/urandom > src/bin/large; ln src/bin/large src/bin/hard; ln -s ../etc/fstab src/bin/soft; mkfifo src/difficult/fifo
printf x > 'src/difficult/a
b'; chmod 4711 src/bin/large; chown 12:34 src/difficult; mknod src/difficult/null c 1 3; touch -d 2009-04-03T12:00:00 src/etc/fstab
seq 100000 > home/user/numbers; touch -d 2009-01-01 home/user
tar -C src --format=gnu -czf root.tgz .
head -c 5000000 root.tgz > v1/hda2._.tar.gz_; tail -c +5000001 root.tgz > v2/hda2._.tar.gz
tar -C home --format=gnu -cjf v2/hda5._home.tar.bz2 .
: > v1/CDrec-03.04.2009_1; : > v2/CDrec-03.04.2009_2
cat > rec/etc/recovery/partitions.hda <<E
unit: sectors
/dev/hda1 : start=       63, size=    16002, Id=12
/dev/hda2 : start=    16065, size=   401625, Id=83, bootable
/dev/hda3 : start=   417690, size=   128520, Id=82
/dev/hda4 : start=   546210, size=   771120, Id= 5
/dev/hda5 : start=   546273, size=   771057, Id=83
E
printf '/dev/hda2\t/\text3\trw\n/dev/hda5\t/home\txfs\trw\n' > rec/etc/recovery/To_Restore
echo 'mkswap -v1 /dev/hda3' > rec/etc/recovery/mkswap.sh; echo LILO > rec/etc/recovery/BOOTLOADER; echo 786432 > rec/etc/recovery/size.hda; cp src/etc/fstab rec/etc/recovery/fstab.elephant
tar -C rec -czf v1/recovery.tgz etc
(cd v1 && md5sum ./hda* > Checksums.md5); (cd v2 && cksfv hda2._.tar.gz hda5._home.tar.bz2 > Checksums.sfv)
cp -r v2 bad; printf X | dd of=bad/hda2._.tar.gz bs=1 seek=100000 conv=notrunc 2>/dev/null
`

// TestImport restores a backup of mkCDrec 1.x onto a disk of another kind,
// after a damaged copy of it was refused. GNU tar compares what is on the disk
// afterwards with the archives.
func TestImport(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	dir := workDir(t)
	sh := func(script string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(ctx, "sh", append([]string{"-ec", script, "sh"}, args...)...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	sh(oldBackup)
	sh(`mkdir set && mv v1 v2 bad set && mke2fs -q -t ext4 -d set set.img 64M && truncate -s 1G target.img`)
	iso := filepath.Join(dir, "rescue.iso")
	rescueISO(ctx, t, "linux-image-cloud-amd64", iso, "--append", consoles)
	vm, err := Start(ctx, Machine{Name: "import", CDROM: iso, Display: filepath.Join(dir, "qmp"), Disks: []Disk{{File: filepath.Join(dir, "set.img"), Serial: "OLDSET", RO: true}, {File: filepath.Join(dir, "target.img"), Serial: "NEWDISK"}, {File: filepath.Join(dir, "set.img"), Serial: "STICK", Bus: "scsi", Removable: true, Snapshot: true}}, Log: filepath.Join(dir, "import.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	// Somebody pulls out the stick while the serial number is asked for.
	if _, err := must(vm, "dmesg -n 7 && mkdir /stick && mount -t ext4 -o ro /dev/sda /stick", bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := vm.Send("restore /stick/v1 /stick/v2; echo ended=$?\n"); err != nil {
		t.Fatal(err)
	}
	// The rescue system knows the key of the machine that made it; nobody signed in 2009.
	if _, err := vm.Expect(`Type "unsigned" to restore it anyway: `, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := vm.Send("unsigned\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`type its serial number \(NEWDISK\): `, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := vm.Pull(2); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`sda.*Synchroniz`, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := vm.Send("NEWDISK\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`(?s)/dev/sda, which holds the backup set, is disconnected.*no disk was touched.*ended=4`, bootLimit); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cmd  string
		code int
		want []string
	}{
		{"mkdir /set && mount -t ext4 -o ro /dev/vda /set", 0, nil},
		{"restore --plan /set/v1", 1, []string{"CDrec-03.04.2009_2, which is not there", "no disk was touched"}},
		{"restore --yes --confirm NEWDISK /set/v1 /set/v2", 4, []string{"is not signed", "--signer none", "no disk was touched"}},
		{"restore --yes --signer none --confirm NEWDISK /set/v1 /set/bad", 1, []string{"hda2._.tar.gz", "no disk was touched"}},
		{"restore --plan /set/v2 /set/v1", 0, []string{"elephant", "ext3", "xfs", "NEWDISK"}},
		{"restore --json --plan /set/v2 /set/v1", 0, []string{`"kind":"write-table"`, `"elephant"`}},
		// No program here installs LILO: that is said, and everything else is done.
		{"restore --yes --signer none --confirm NEWDISK --keep-sizes /set/v1 /set/v2", 1, []string{"is replaced by UUID", "cannot install a boot loader", "/mnt/target is mounted"}},
		{"cat /mnt/target/etc/fstab; umount /mnt/target/home && umount /mnt/target && sync", 0, []string{"UUID="}},
	} {
		out, code, err := vm.Run(c.cmd, jobLimit)
		if err != nil {
			t.Fatal(err)
		}
		if code != c.code {
			t.Errorf("%s: exit status %d, want %d:\n%s", c.cmd, code, c.code, out)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s", c.cmd, w, out)
			}
		}
	}
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
	// The restored /etc/fstab was changed, and its old text is beside it.
	sh(`mkdir root && debugfs -R "rdump / root" 'target.img?offset='$((16065*512)) 2>&1
e2fsck -fn 'target.img?offset='$((16065*512))
mv root/etc/fstab.before-restore root/etc/fstab
rm -rf root/lost+found root/var; tar -C root --exclude=./difficult/null --exclude=./difficult/fifo -df root.tgz > diff.txt || true
! grep -v -e ': Mod time differs' -e '^\.: ' -e '^\./etc' diff.txt
dd if=target.img of=home.img bs=512 skip=546273 count=771057 status=none; xfs_repair -n home.img
xfs_db -r -c 'sb 0' -c 'p icount' home.img`)
	if out := sh(`sfdisk -d target.img`); !strings.Contains(out, "start=       16065, size=      401625, type=83, bootable") || !strings.Contains(out, "start=      546273, size=      771057, type=83") {
		t.Errorf("the table:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "root/bin/hard")); err != nil {
		t.Error(err)
	}
}
