//go:build vmtest

package vmtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recipe is what a repairer types, and what the machine must then print. In both, HOST is
// this host and PORT(x) a server's port.
type recipe struct {
	name, line string
	want       []string
	status     int
}

// recipes are typed in this order into a rescue system that has the disk of an installed
// system (vda, LVM), a blank disk (vdb, 2 GiB) and one of 64 MiB (vdc).
var recipes = []recipe{
	// What is there?
	{"the disks", "lsblk -o NAME,SIZE,TYPE,FSTYPE,SERIAL", []string{"BLANK01", "LVM2_member", "part"}, 0},
	{"a device's UUID", "blkid -s UUID -o value /dev/vda2 | tee /tmp/uuid && grep -c . /tmp/uuid", []string{"1"}, 0},
	{"the partition table", "fdisk -l /dev/vda", []string{"Disklabel type: gpt", "Linux LVM"}, 0},
	{"what a file is", "file /bbin/mkcdrec && file -s /dev/vda2", []string{"ELF 64-bit", "ext4"}, 0},
	{"memory", "free -m | grep Mem: && uptime", []string{"load average"}, 0},
	{"the kernel's messages", "dmesg | grep -c virtio && dmesg -T | tail -n 2", nil, 0},
	{"processes", "ps aux | grep '[i]nit' && pgrep init", []string{"init"}, 0},
	{"devices on the bus", "lspci -nn | grep -i 1af4", []string{"1af4:", "Virtio"}, 0},
	{"SCSI devices", "lsscsi | grep -i cd", []string{"QEMU"}, 0},
	{"the clock", "hwclock -r && date -u +%Y", []string{"20"}, 0},

	// The installed system.
	{"open it", "restore mount /dev/vda", []string{"the system is open"}, 0},
	{"what is mounted", "findmnt /mnt/target && findmnt -rno FSTYPE /mnt/target/home", []string{"ext4", "xfs"}, 0},
	{"how full it is", "df -hT /mnt/target && du -xsh /mnt/target/etc", []string{"ext4"}, 0},
	{"large files", "find /mnt/target -xdev -type f -size +10M -exec ls -lh {} + | sort -k5 -h | tail -n 3", []string{"M "}, 0},
	{"what is large", "du -xk /mnt/target/usr | sort -n | tail -n 2", []string{"/mnt/target/usr"}, 0},
	{"files of the last day", "find /mnt/target/etc -xdev -newer /mnt/target/etc/debian_version -type f | head -n 3", []string{"/mnt/target/etc/"}, 0},
	{"edit fstab", "cp -a /mnt/target/etc/fstab /tmp/f && sed -i 's/defaults/defaults,noatime/' /mnt/target/etc/fstab && ! diff -u /tmp/f /mnt/target/etc/fstab && cp -a /tmp/f /mnt/target/etc/fstab", []string{"+", "noatime"}, 0},
	{"reset a password", "echo 'root:neu' | chpasswd -R /mnt/target && grep -c '^root:\\$6\\$' /mnt/target/etc/shadow", []string{"1"}, 0},
	{"lock an account", "passwd -R /mnt/target -l root && grep -c '^root:!' /mnt/target/etc/shadow && passwd -R /mnt/target -u root", []string{"1"}, 0},
	{"who has an account", "awk -F: '$7 ~ /sh$/ {print $1, $3}' /mnt/target/etc/passwd", []string{"root 0"}, 0},
	{"the target's journal", "journalctl -D /mnt/target/var/log/journal -n 3 --no-pager", []string{"systemd"}, 0},
	{"errors of the last boot", "journalctl -D /mnt/target/var/log/journal -b -p warning -n 2 -o cat && grep -rl kernel /mnt/target/var/log | head -n 1", nil, 0},
	{"search in a tree", "grep -rIn --include='*.conf' -m 1 -i storage /mnt/target/etc/systemd | head -n 3", []string{"journald.conf"}, 0},
	{"save a directory", "tar -czf /tmp/etc.tgz -C /mnt/target etc && tar -tzf /tmp/etc.tgz | grep -x etc/fstab", []string{"etc/fstab"}, 0},
	{"and get it back", "mkdir /tmp/x && tar -xf /tmp/etc.tgz -C /tmp/x etc/fstab && cmp /tmp/x/etc/fstab /mnt/target/etc/fstab && echo same", []string{"same"}, 0},
	{"copy a tree and compare", "cp -a /mnt/target/etc/default /tmp/d && diff -r /tmp/d /mnt/target/etc/default && rm -rf /tmp/d && echo equal", []string{"equal"}, 0},
	{"checksums", "cd /mnt/target/etc && sha256sum fstab passwd > /tmp/sums && sha256sum -c /tmp/sums; cd", []string{"fstab: OK", "passwd: OK"}, 0},
	{"attributes", "touch /mnt/target/root/a && chattr +i /mnt/target/root/a && lsattr /mnt/target/root/a && ! rm -f /mnt/target/root/a; chattr -i /mnt/target/root/a && rm /mnt/target/root/a", []string{"----i"}, 0},
	{"access lists", "touch /mnt/target/root/b && setfacl -m u:1000:r /mnt/target/root/b && getfacl -n /mnt/target/root/b && rm /mnt/target/root/b", []string{"user:1000:r--"}, 0},
	{"GRUB again", "chroot /mnt/target /bin/bash -c 'grub-install /dev/vda && update-grub'", []string{"Installation finished. No error reported."}, 0},
	{"the initramfs again", "chroot /mnt/target /bin/bash -c 'ls /boot/initrd.img-* && lsinitramfs /boot/initrd.img-* | grep -c virtio_blk'", nil, 0},
	{"who uses a directory", "cd /mnt/target; lsof +D /mnt/target 2>/dev/null | grep -c cwd; cd", nil, 0},
	{"close it", "restore umount && ! grep -q /mnt/target /proc/mounts", nil, 0},
	{"check a file system", "e2fsck -fy /dev/vda2", []string{"non-contiguous"}, 0},
	{"check an XFS", "lvm vgchange -ay vg0 && xfs_repair -n /dev/vg0/home-dirs; lvm vgchange -an vg0", []string{"Phase"}, 0},

	// Disks.
	{"partitions by a script", "printf 'label: gpt\\n,512M\\n,256M\\n' | sfdisk -q /dev/vdb && lsblk -rno NAME /dev/vdb", []string{"vdb1", "vdb2"}, 0},
	{"partitions by hand", "printf 'n\\n3\\n\\n+100M\\np\\nw\\n' | fdisk /dev/vdb; lsblk -rno NAME,SIZE /dev/vdb", []string{"vdb3 100M"}, 0},
	{"a file system", "mkfs.ext4 -q -L data /dev/vdb1 && mkdir -p /mnt/d && mount LABEL=data /mnt/d && echo x > /mnt/d/file && umount /mnt/d && blkid /dev/vdb1", []string{`LABEL="data"`}, 0},
	{"grow a partition", "sfdisk -q -d /dev/vdb > /tmp/t && sfdisk --delete /dev/vdb 2 3 && echo ',1G' | sfdisk -q --no-reread -N 1 /dev/vdb && partprobe /dev/vdb && e2fsck -fp /dev/vdb1 && resize2fs /dev/vdb1 && blockdev --getsize64 /dev/vdb1", []string{"1073741824"}, 0},
	{"swap", "echo ',256M' | sfdisk -q --append /dev/vdb && partprobe /dev/vdb && mkswap -L sw /dev/vdb2 && swapon /dev/vdb2 && cat /proc/swaps && swapoff /dev/vdb2", []string{"/dev/vdb2"}, 0},
	{"a file as a disk", "truncate -s 32M /tmp/img && mkfs.ext4 -q /tmp/img && mount -o loop /tmp/img /mnt/d && touch /mnt/d/there && losetup -a && umount /mnt/d", []string{"/tmp/img"}, 0},
	{"read-only", "mount -o ro /dev/vdb1 /mnt/d && ! touch /mnt/d/no; mount -o remount,rw /dev/vdb1 /mnt/d && touch /mnt/d/yes && umount /mnt/d", []string{"Read-only file system"}, 0},
	{"the first sector", "dd if=/dev/vda of=/tmp/mbr bs=512 count=1 2>&1 && hexdump -C /tmp/mbr | tail -n 2 && xxd -s 510 /tmp/mbr", []string{"55 aa", "55aa"}, 0},
	{"LUKS", "printf pass > /tmp/k && echo ',100M' | sfdisk -q --append /dev/vdb && partprobe /dev/vdb; cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vdb3 /tmp/k && cryptsetup open --key-file /tmp/k /dev/vdb3 c && blkid /dev/vdb3 && cryptsetup close c", []string{"crypto_LUKS"}, 0},
	{"a volume group", "wipefs -a /dev/vdb3 && lvm pvcreate -q -y /dev/vdb3 && lvm vgcreate -q vgx /dev/vdb3 && lvm lvcreate -q -y -W n -L 40M -n a vgx && lvm lvextend -q -L +20M vgx/a && lvm lvs --noheadings -o size vgx && lvm vgremove -q -y vgx", []string{"60.00m"}, 0},
	{"a failing disk", "printf '0 8192 linear /dev/vdc 0\\n8192 8 error\\n8200 122872 linear /dev/vdc 8200\\n' | dmsetup create bad && ! dd if=/dev/mapper/bad of=/dev/null bs=64k 2>/tmp/e; cat /tmp/e; dd if=/dev/mapper/bad of=/tmp/copy bs=4k conv=noerror,sync 2>&1; ls -l /tmp/copy", []string{"Input/output error", "16384+0 records out"}, 0},
	{"rescue what can be read", "ddrescue /dev/mapper/bad /tmp/rescued /tmp/map; cat /tmp/map; cmp -n 4194304 /tmp/rescued /dev/vdc && echo good", []string{"0x00400000", "-", "good"}, 0},
	{"where it is bad", "badblocks -b 4096 /dev/mapper/bad; dmsetup remove bad", []string{"1024"}, 0},
	{"signatures", "wipefs /dev/vdb1 && wipefs -a /dev/vdb1 && test -z \"$(blkid -s TYPE -o value /dev/vdb1)\"", []string{"ext4"}, 0},

	// The network.
	{"an address", "dhclient eth0 && ip -4 addr show eth0 && ip route", []string{"10.0.2.15", "default via 10.0.2.2 dev eth0"}, 0},
	{"is it there", "ping -c 1 HOST", []string{"1 received, 0% packet loss"}, 0},
	{"is a port open", "nc -z -w 5 HOST PORT(ssh) && ! nc -z -w 2 HOST 1 && echo asked", []string{"asked"}, 0},
	{"names", "dig +short @HOST -p PORT(dns) server.example && nslookup -port=PORT(dns) server.example HOST", []string{"192.0.2.77"}, 0},
	{"fetch a file", "curl -sS -O http://HOST:PORT(http)/big && wget -q -O big2 http://HOST:PORT(http)/big && cmp big big2 && sha256sum big", []string{"SUM"}, 0},
	{"go on with a part of it", "head -c 1000000 big2 > big && curl -sS -C - -o big http://HOST:PORT(http)/big && cmp big big2 && head -c 999 big2 > big && wget -q -c http://HOST:PORT(http)/big && cmp big big2 && rm big && echo resumed", []string{"resumed"}, 0},
	{"over https", "curl -sS -o ca http://HOST:PORT(http)/ca.pem && ! curl -sS https://HOST:PORT(https)/hello 2>/tmp/e; cat /tmp/e; curl -sS --cacert ca https://HOST:PORT(https)/hello", []string{"certificate", "hello from the host"}, 0},
	{"what is not there", "curl -sS -f http://HOST:PORT(http)/none", []string{"404"}, 22},
	{"a command elsewhere", "curl -sS -o key http://HOST:PORT(http)/key && chmod 600 key && ssh -i key -p PORT(ssh) -o StrictHostKeyChecking=accept-new root@HOST 'cat SHARE/hello; exit 7'", []string{"hello from the host"}, 7},
	{"a file to it and back", "scp -q -i key -P PORT(ssh) big2 root@HOST:SHARE/from && scp -q -i key -P PORT(ssh) root@HOST:SHARE/from back && cmp big2 back && echo both ways", []string{"both ways"}, 0},
	{"a tree to it", "mkdir -p t/u && echo 1 > t/u/f && scp -q -r -p -i key -P PORT(ssh) t root@HOST:SHARE/ && tar -cf - t | ssh -i key -p PORT(ssh) root@HOST 'tar -tf -'", []string{"t/u/f"}, 0},
	{"by sftp", "printf 'cd SHARE\\nget hello h\\nls\\n' > b && sftp -i key -P PORT(ssh) -b b root@HOST && cat h", []string{"hello from the host"}, 0},
	{"by rsync", "rsync -a -e 'ssh -i key -p PORT(ssh)' t/ root@HOST:SHARE/synced/ && ssh -i key -p PORT(ssh) root@HOST cat SHARE/synced/u/f", []string{"1"}, 0},
	{"a changed host key", "sed -i 's/ssh-ed25519 AAAA.*/ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/' ~/.ssh/known_hosts; ssh -i key -p PORT(ssh) -o BatchMode=yes root@HOST true", []string{"HOST"}, 255},
	{"NFS", "mkdir -p /mnt/n && mount -t nfs -o vers=4.2,port=PORT(nfs) HOST:/share /mnt/n && cat /mnt/n/hello && echo from the rescue system > /mnt/n/nfs && umount /mnt/n", []string{"hello from the host"}, 0},
	{"NFS that is not there", "mount -t nfs -o vers=4,port=PORT(nfs) HOST:/nothing /mnt/n", []string{"no export /nothing"}, 32},
	{"SMB", "printf 'username=root\\npassword=geheim\\n' > /tmp/cred && mount -t cifs -o credentials=/tmp/cred,port=PORT(smb),vers=3.1.1 //HOST/share /mnt/n && cat /mnt/n/nfs && echo too > /mnt/n/smb && umount /mnt/n", []string{"from the rescue system"}, 0},
	{"SMB with another password", "printf 'username=root\\npassword=wrong\\n' > /tmp/cred; mount -t cifs -o credentials=/tmp/cred,port=PORT(smb) //HOST/share /mnt/n", []string{"wrong user name or password"}, 32},

	// The shell.
	{"a time limit", "timeout 1 sleep 100", nil, 124},
	{"many at a time", "seq 20 | xargs -n 1 -P 4 echo n | sort | uniq -c | wc -l", []string{"20"}, 0},
	{"what goes on without us", "screen -d -m -S work sleep 1000 && sleep 1 && screen -ls && pgrep -f 'sleep 1000' && pkill -f 'sleep 1000' && sleep 1; screen -ls; true", []string{"work", "Detached"}, 0},
	// The second system on the medium.
	{"the second system", "superrescue && cat /mnt/superrescue/note && chroot /mnt/superrescue /bin/guest describe /empty && echo w > /mnt/superrescue/written && superrescue; test $? = 1 && superrescue -u && ls -A /mnt/superrescue | wc -l", []string{"from the second system", `"Path"`, "is open already", "0"}, 0},
	{"what there is", "help", []string{"restore --plan", "dhclient"}, 0},
}

// TestRecipes types what repairers type, and looks at what comes out.
//
// Disks: vda (the installed system of bios-lvm), vdb (2 GiB, BLANK01), vdc (64 MiB, OLD01).
func TestRecipes(t *testing.T) {
	short(t)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	dir := workDir(t)
	exe, guest := programs(t)
	s, err := StartServers(ctx, filepath.Join(dir, "servers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	big := strings.Repeat("a line of a file that is fetched in parts\n", 100_000)
	for name, text := range map[string]string{"hello": "hello from the host\n", "big": big} {
		if err := os.WriteFile(filepath.Join(s.Share, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := Circle{Kind: BIOSLVM, Work: dir, Say: t.Logf, Mkcdrec: exe, Guest: guest}.new()
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	disks := []Disk{{File: filepath.Join(dir, "system.qcow2"), Serial: r.src.Serial}, {File: filepath.Join(dir, "blank.qcow2"), Serial: "BLANK01"}, {File: filepath.Join(dir, "old.qcow2"), Serial: "OLD01"}}
	for i, args := range [][]string{{"-b", r.src.Disk, "-F", "qcow2"}, {"", "2G"}, {"", "64M"}} {
		words := []string{"qemu-img", "create", "-q", "-f", "qcow2"}
		if args[0] != "" {
			words = append(words, append(args, disks[i].File)...)
		} else {
			words = append(words, disks[i].File, args[1])
		}
		if err := command(ctx, words...); err != nil {
			t.Fatal(err)
		}
	}
	// It has run once, and has a journal.
	vm, err := Start(ctx, Machine{Name: "recipes-source", Disks: disks[:1], Log: filepath.Join(dir, "source.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	err = vm.Login(Password, bootLimit)
	if err == nil {
		err = vm.Send("journalctl --sync; systemctl poweroff\n")
	}
	if err == nil {
		err = vm.Wait(bootLimit)
	}
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "mkcdrec.yaml")
	second := filepath.Join(dir, "second")
	err = errors.Join(os.WriteFile(config, []byte("rescue:\n  carry: [rsync, resize2fs]\n  extra_tree: "+second+"\n"), 0o600),
		os.MkdirAll(second+"/bin", 0o755), os.Mkdir(second+"/empty", 0o755), os.WriteFile(second+"/note", []byte("from the second system\n"), 0o644),
		command(ctx, "cp", guest, second+"/bin/guest"))
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(dir, "rescue.iso")
	k, err := FetchKernel(ctx, "linux-image-amd64")
	if err != nil {
		t.Fatal(err)
	}
	if err := command(ctx, exe, "-q", "-c", config, "rescue", "-o", iso, "--kernel", k.Image, "--modules", k.Modules); err != nil {
		t.Fatal(err)
	}
	vm, err = Start(ctx, Machine{Name: "recipes", Memory: 768, CDROM: iso, Net: true, Disks: disks, Log: filepath.Join(dir, "recipes.log")})
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
	f := newFaults(t, vm)
	f.want(0, "PS1=; bind 'set enable-bracketed-paste off'; cd; true")
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(big)))
	fill := func(line string) string {
		return strings.NewReplacer("SHARE", s.Share, "SUM", sum).Replace(s.Fill(line))
	}
	for _, c := range recipes {
		began := time.Now()
		for i, w := range c.want {
			c.want[i] = fill(w)
		}
		f.want(c.status, fill(c.line), c.want...)
		if d := time.Since(began); d > 20*time.Second {
			t.Logf("%s: %.0f s", c.name, d.Seconds())
		}
	}
	for name, want := range map[string]string{"nfs": "from the rescue system\n", "smb": "too\n", "t/u/f": "1\n"} {
		if b, err := os.ReadFile(filepath.Join(s.Share, name)); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v; want %q", name, b, err, want)
		}
	}
}
