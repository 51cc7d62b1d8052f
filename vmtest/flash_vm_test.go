//go:build vmtest

package vmtest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// flashReadOnly cuts the power of a machine whose file systems are in use, and has the
// rescue system look at what is left, with restore --plan and restore mount --ro:
// the disks' files keep every byte.
func flashReadOnly(ctx context.Context, t *testing.T, vm *VM, dir, mount string) {
	t.Helper()
	f := newFaults(t, vm)
	f.want(0, "mount -t ext4 /dev/vda /set && "+mount+" && for d in /set /d /d/data /d/fold /d/log; do echo before the power cut > $d/cut && sync && exec 9> $d/removed && rm $d/removed && echo lost >&9; done; sync")
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	disks := vm.m.Disks
	sums := func() (out []string) {
		for _, d := range disks {
			b, err := exec.CommandContext(ctx, "sha256sum", d.File).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, b)
			}
			out = append(out, string(b))
		}
		return out
	}
	before := sums()
	m := vm.m
	m.Name, m.Log = "flash-cut", filepath.Join(dir, "flash-cut.log")
	vm, err := Start(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if _, err := vm.Expect(`backup set: /mnt/set/(?s:.*)rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	f = newFaults(t, vm)
	f.want(0, "PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1 2>/dev/null; true")
	f.want(0, "restore --plan --map sda=FLASH01 </dev/null > /tmp/p 2>&1; S=$?; tail -n 5 /tmp/p; grep -q OVERWRITTEN /tmp/p")
	f.want(0, "restore mount --ro $(cat /run/mkcdrec/set) && ls /mnt/target/data /mnt/target/fold /mnt/target/log && ! touch /mnt/target/x && restore umount", "cut", "difficult")
	// It has no operating system, which is looked for on each of them.
	f.want(1, "restore mount --ro --disks", "none of /dev/mmcblk0p1 (jfs), /dev/sda (f2fs), /dev/vda (ext4), /dev/vdb (ext4), /dev/vdc (nilfs2) has")
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
	if now := sums(); !slices.Equal(before, now) {
		t.Errorf("read-only wrote to a disk: %v; want %v", now, before)
	}
}

// TestFlash backs up a machine with F2FS, JFS and NILFS2 and restores it. Debian's cloud
// kernel has none of them, so this one is no Debian: the rescue system of the kernel
// for all machines, with a root directory on F2FS that the backup is made in.
// It has no boot loader, which the restore says. One of its disks is an SD card,
// which has the kernel's names of eMMC.
//
// A third one has an ext4 that takes names without regard to case and keeps
// projects for quotas, as Debian's installer makes none.
//
// The other one is on AHCI, and the network card an e1000: hardware that no cloud
// has.
//
// Disks: vda (the set's), sda (F2FS, FLASH01), mmcblk0 (JFS on its first partition),
// vdb (ext4, FOLD01).
func TestFlash(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	dir := workDir(t)
	exe, guest := programs(t)
	iso, initrd, set := filepath.Join(dir, "r.iso"), filepath.Join(dir, "initrd.img"), filepath.Join(dir, "set.img")
	k := rescueISO(ctx, t, "linux-image-amd64", iso, "--module-set", "all")
	extractInitrd(ctx, t, iso, initrd)
	stage := filepath.Join(dir, "stage")
	for _, c := range [][]string{
		{"mkdir", "-p", stage + "/bin"}, {"cp", exe, guest, stage + "/bin"}, {"cp", k.Image, stage + "/vmlinuz"}, {"cp", "-r", k.Modules, stage + "/modules"},
		{"mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", stage, set, "1500M"}, {"rm", "-r", stage},
		{"truncate", "-s", "700M", dir + "/f2fs.img"}, {"truncate", "-s", "256M", dir + "/card.img"}, {"truncate", "-s", "200M", dir + "/fold.img"}, {"truncate", "-s", "700M", dir + "/log.img"}, {"sgdisk", "-n1:0:0", "-c1:data", dir + "/card.img"},
	} {
		if err := command(ctx, c...); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := Start(ctx, Machine{Name: "flash", Kernel: k.Image, Initrd: initrd, NIC: []string{"user e1000"}, Append: "console=ttyS0 rootfstype=ramfs panic=1 mkcdrec.ip=dhcp", Log: filepath.Join(dir, "flash.log"),
		Disks: []Disk{{File: set, Serial: "SETDISK01"}, {File: dir + "/f2fs.img", Serial: "FLASH01", Bus: "ahci"}, {File: dir + "/card.img", Bus: "sd"}, {File: dir + "/fold.img", Serial: "FOLD01"}, {File: dir + "/log.img", Serial: "LOG01"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if _, err := vm.Expect(`network: 10\.0\.2\.15/24 on eth0(?s:.*)rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	mount := "mount -t f2fs /dev/sda /d && mount -t jfs /dev/mmcblk0p1 /d/data && mount -t ext4 /dev/vdb /d/fold && mount -t nilfs2 /dev/vdc /d/log"
	describe := "/set/bin/guest describe /d/difficult /d/data/difficult /d/fold/difficult /d/log/difficult > /set/"
	umount := "umount /d/data && umount /d/fold && umount /d/log && umount /d"
	// A NILFS2 has no extended attributes.
	const simple = "mkdir -p /d/log/difficult/sub && echo log > /d/log/difficult/sub/file && ln /d/log/difficult/sub/file /d/log/difficult/hard && ln -s sub/file /d/log/difficult/link && " +
		"chown 4711:4712 /d/log/difficult/sub && chmod 750 /d/log/difficult/sub/file && cp /set/vmlinuz /d/log/difficult/kernel"
	f := newFaults(t, vm)
	f.want(0, "PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1 2>/dev/null; true")
	for _, c := range []string{
		"modprobe f2fs && modprobe jfs && modprobe nilfs2 && mkdir -p /set /d && mount -t ext4 /dev/vda /set",
		"mkfs.f2fs -q -l flashy -O extra_attr,inode_checksum /dev/sda && mkfs.jfs -q -L journ /dev/mmcblk0p1 && mkfs.nilfs2 -q -L log /dev/vdc",
		"mke2fs -q -t ext4 -L folding -O casefold,quota,project -E encoding=utf8 -I 256 /dev/vdb",
		"mount -t f2fs /dev/sda /d && mkdir -p /d/data /d/fold /d/log /d/proc /d/sys /d/dev /d/set /d/tmp /d/run /d/etc && mount -t jfs /dev/mmcblk0p1 /d/data && mount -t ext4 /dev/vdb /d/fold && mount -t nilfs2 /dev/vdc /d/log",
		"/set/bin/guest tree /d/difficult && /set/bin/guest tree /d/data/difficult && /set/bin/guest tree /d/fold/difficult && " + simple + " && " + describe + "before.json",
		"grep 'without case' /d/fold/difficult/folded/sUB/nAME",
		`printf 'LABEL=flashy / f2fs defaults 0 1\nLABEL=journ /data jfs defaults 0 2\nLABEL=folding /fold ext4 defaults 0 2\nLABEL=log /log nilfs2 defaults 0 0\n' > /d/etc/fstab; printf 'exclude_devices: [vda]\n' > /d/etc/mkcdrec.yaml; for d in proc sys dev set; do mount --bind /$d /d/$d; done`,
		"chroot /d /set/bin/mkcdrec -q path --kernel /set/vmlinuz --modules /set/modules --module-set host --programs none /set > /tmp/path 2>&1; grep 'exit status 3' /tmp/path", // which u-root's chroot says, and ends with 1
		"tail -n 3 /tmp/path; grep 'boot loader: neither' /tmp/path; for d in proc sys dev set data fold log; do umount /d/$d; done; umount /d",
		"for d in sda mmcblk0 vdb vdc; do dd if=/dev/zero of=/dev/$d bs=1M; done; test \"$(head -n 1 /dev/sda)\" = ''",
	} {
		f.want(0, c)
	}
	f.want(1, "restore --yes --signer none --confirm FLASH01,FOLD01,LOG01,"+SDSerial+" /set/*T*Z", "make nilfs2 on /dev/vdc", "make f2fs on /dev/sda", "write GPT with 1 partition on /dev/mmcblk0", "make jfs on /dev/mmcblk0p1", "cannot install a boot loader: the source machine's is not known")
	f.want(0, "umount -R /mnt/target; "+mount+" && "+describe+"after.json && cat /d/etc/fstab", "LABEL=journ /data jfs")
	// And one of them alone, onto what is there.
	f.want(0, umount+" && dd if=/dev/zero of=/dev/mmcblk0p1 bs=1M count=8")
	f.want(0, "restore --yes --signer none --confirm "+SDSerial+" --only /data --onto /dev/mmcblk0p1 /set/*T*Z")
	f.want(0, "umount -R /mnt/target; "+mount+" && "+describe+"only.json && "+umount+" && umount /set")
	flashReadOnly(ctx, t, vm, dir, mount)
	var seen [3][]tree.Entry
	for i, n := range []string{"before", "after", "only"} {
		file := filepath.Join(dir, n+".json")
		if err := command(ctx, "debugfs", "-R", "dump /"+n+".json "+file, set); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &seen[i]); err != nil || len(seen[i]) < 60 {
			t.Fatalf("%s: %d paths, %v", n, len(seen[i]), err)
		}
	}
	for path, text := range map[string]string{"folded": " flags=40000000", "undumped": " flags=c0 project=4711"} {
		if !slices.ContainsFunc(seen[0], func(e tree.Entry) bool {
			return strings.Contains(e.Path, "fold/difficult/"+path) && strings.HasSuffix(e.Text, text)
		}) {
			t.Errorf("nothing called %s had%s", path, text)
		}
	}
	for _, after := range seen[1:] {
		for _, d := range tree.Compare(seen[0], after) {
			t.Errorf("differs: %+v", d)
		}
	}
}
