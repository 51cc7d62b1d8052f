//go:build vmtest

package vmtest

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed odd.sh
var oddScript string

// oddDisks are the disks that odd.sh knows, with their sizes. Those that are blank in
// the restored machine have the same serial numbers there.
var oddDisks = []struct {
	serial, size string
	blank        bool
}{
	{"ODDTHIN", "500M", true},
	{"ODDSUSE", "400M", true},
	{"ODDMBR", "160M", true},
	{"ODDGPT", "80M", true},
	{"ODDNONE", "64M", false},
	{"ODDNIGHT", "48M", false},
}

// oddMounts are what is described before the backup and after the restore.
const oddMounts = `/ /boot /home /srv/plain '/srv/my data' /srv/first /srv/m1 /srv/m5 /srv/m6 /srv/suse /srv/suse/.snapshots /srv/suse/.snapshots/1/snapshot ` +
	`/srv/suse/var /srv/suse/var/lib/base /srv/suse/var/lib/clone /srv/suse/home /srv/suse/boot/grub2/x86_64-efi /srv/suse/usr/local`

// oddStorage has other people's tools describe the odd disks. A read-only snapshot that
// nobody uses is left out.
const oddStorage = `for s in ODDMBR ODDGPT; do sfdisk -d $(readlink -f /dev/disk/by-id/virtio-$s) | grep -v -e ^device -e ^last-lba | sed 's|^/dev/vd.||'; done; ` +
	`lvs --noheadings -o lv_name,segtype,lv_size,lv_tags vg1; for v in base-100-disk-0 vm-101-disk-0 snap_vm-102-disk-0_pre vm-102-disk-0 child; do lvchange -ay -K vg1/$v; echo $v $(sha256sum < /dev/vg1/$v); done; ` +
	`btrfs subvolume list /srv/suse | sed 's/.* path //' | grep -vx @/.snapshots/2/snapshot | sort; btrfs subvolume get-default /srv/suse | sed 's/.* path //'; lsattr -d /srv/suse/var | grep -c C; swapon --show=SIZE --noheadings | sort; ` +
	`for l in plain odd1 odd5 odd6 oddswap first 'My Data' suse; do blkid -p -o value -s UUID $(blkid -L "$l"); done`

// TestOdd backs up a machine with as many oddities as fit into one, restores it
// onto blank disks, boots it and compares.
//
// Disks: the machine's own, the set's, and oddDisks.
func TestOdd(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r := Circle{Kind: BIOSLVM, Work: workDir(t), Say: t.Logf, Wishes: "odd"}.new()
	r.Mkcdrec, r.Guest = programs(t)
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(r.Work, "odd.sh")
	if err := os.WriteFile(script, []byte(oddScript), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := command(ctx, "debugfs", "-w", "-R", "write "+script+" odd.sh", r.setDisk); err != nil {
		t.Fatal(err)
	}
	if !t.Run("backup", func(t *testing.T) { oddBackup(ctx, t, r) }) || !t.Run("restore", func(t *testing.T) { oddRestore(ctx, t, r) }) {
		return
	}
	t.Run("boot", func(t *testing.T) { oddBoot(ctx, t, r) })
	if err := r.compare(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d paths; named differences: %v", r.out.Paths, r.out.Named)
	for _, d := range r.out.Differences {
		if strings.Contains(d.Path, "/srv/suse/.snapshots/2/snapshot") {
			continue // read-only, and nobody uses it: left out
		}
		t.Errorf("differs: %v", d)
	}
}

// oddFiles makes the odd disks' files and gives them as disks of a machine.
func oddFiles(ctx context.Context, t *testing.T, r *circle, when string, blankOnly bool) []Disk {
	t.Helper()
	var out []Disk
	for _, o := range oddDisks {
		if blankOnly && !o.blank {
			continue
		}
		d := Disk{File: filepath.Join(r.Work, when+"-"+o.serial+".qcow2"), Serial: o.serial}
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", d.File, o.size); err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func oddBackup(ctx context.Context, t *testing.T, r *circle) {
	disk := filepath.Join(r.Work, "source.qcow2")
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Disk, disk); err != nil {
		t.Fatal(err)
	}
	disks := append([]Disk{{File: disk, Serial: r.src.Serial}, {File: r.setDisk, Serial: "SETDISK01"}}, oddFiles(ctx, t, r, "source", false)...)
	vm, err := Start(ctx, Machine{Name: "odd-source", Net: true, Log: r.log("source"), Disks: disks})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Login(Password, bootLimit); err != nil {
		t.Fatal(err)
	}
	f := newFaults(t, vm)
	f.want(0, "mkdir -p /backup && mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /usr/local/bin/ && cp /backup/mkcdrec.yaml /etc/")
	f.want(0, "bash /backup/odd.sh > /tmp/odd 2>&1 || tail -n 20 /tmp/odd; tail -n 1 /tmp/odd", "ODD-MADE")
	if t.Failed() {
		return
	}
	f.want(0, "("+oddStorage+") > /backup/odd-before.txt 2>/dev/null; cat /backup/odd-before.txt; /backup/bin/guest describe "+oddMounts+" > /backup/before.json && sync")

	none := strings.TrimSpace(f.want(0, "basename $(readlink -f /dev/disk/by-id/virtio-ODDNONE)"))
	night := strings.TrimSpace(f.want(0, "basename $(readlink -f /dev/disk/by-id/virtio-ODDNIGHT)"))
	t.Log("the odd disks are named; the administrator's rule leaves them out")
	f.want(3, "mkcdrec -n path /backup 2>&1 > /tmp/n", none+":", night+":", "not mounted")
	f.want(0, "printf 'exclude_devices:\\n  - /backup\\n  - "+none+"\\n  - "+night+"\\n' > /tmp/c.yaml; mkcdrec -c /tmp/c.yaml -n path /backup 2>&1 > /tmp/n", "left out: "+none, "left out: "+night)
	f.want(0, "mkcdrec layout show", "vm-101-disk-0", "quota groups", "NOT COVERED: "+none)
	out := f.want(3, "mkcdrec -q path --append '"+KernelWords+"' /backup 2>&1", none, night)
	r.out.Backup = out
	f.want(0, "grep -A4 '\"name\": \"br0\"' /backup/*Z/layout.json", "10.9.8.7/24")
	f.want(3, "mkcdrec -q verify /backup 2>&1", none, night)
	f.want(3, "mkcdrec list /backup 2>&1 > /tmp/l", none, night)
	f.want(0, "umount /backup")
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
}

func oddRestore(ctx context.Context, t *testing.T, r *circle) {
	set, err := r.setDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/"+set+"/rescue.iso", iso); err != nil {
		t.Fatal(err)
	}
	if err := r.makeTargets(ctx); err != nil {
		t.Fatal(err)
	}
	odd := oddFiles(ctx, t, r, "target", true)
	confirm := r.targetSerial()
	for _, d := range odd {
		confirm += "," + d.Serial
	}
	vm, err := Start(ctx, Machine{Name: "odd-rescue", Memory: 1024, CDROM: iso, Log: r.log("rescue"), Disks: append([]Disk{{File: r.setDisk, Serial: "SETDISK01"}, r.target()}, odd...)})
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
	f.want(0, "PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1 2>/dev/null; true")
	f.want(3, "restore --plan --map vda="+r.targetSerial(), "not covered", "ODDTHIN", "ODDSUSE")
	r.out.Restore = f.want(3, "restore --map vda="+r.targetSerial()+" --yes --confirm "+confirm+" 2>&1", "not covered")
	f.want(0, "restore mount --ro && restore verify && restore umount")
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
}

func oddBoot(ctx context.Context, t *testing.T, r *circle) {
	disks := []Disk{r.target(), {File: r.setDisk, Serial: "SETDISK01"}}
	for _, o := range oddDisks {
		if o.blank {
			disks = append(disks, Disk{File: filepath.Join(r.Work, "target-"+o.serial+".qcow2"), Serial: o.serial})
		}
	}
	vm, err := Start(ctx, Machine{Name: "odd-restored", Log: r.log("restored"), Disks: disks})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Login(Password, bootLimit); err != nil {
		t.Fatal(err)
	}
	f := newFaults(t, vm)
	f.want(0, "mkdir -p /backup && mount LABEL=SETDISK /backup && cat /etc/fstab")
	f.want(0, `test -z "$(systemctl --failed --plain --no-legend | tee /dev/stderr)"`)
	f.want(0, "("+oddStorage+") > /backup/odd-after.txt 2>/dev/null; diff /backup/odd-before.txt /backup/odd-after.txt")
	f.want(0, "head -c 11 /dev/vg1/vm-101-disk-0", "CUSTOMER101")
	f.want(0, "head -c 3 /dev/vg1/vm-102-disk-0", "NEW")
	f.want(0, "head -c 3 /dev/vg1/snap_vm-102-disk-0_pre", "OLD")
	f.want(0, "cat /srv/suse/etc/f /srv/suse/var/lib/clone/c", "rolled", "livedata")
	f.want(0, "/backup/bin/guest describe "+oddMounts+" > /backup/after.json && sync && umount /backup")
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
}
