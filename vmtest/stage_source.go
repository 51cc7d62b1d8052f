package vmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// again takes the backup of the circle in From.
func (r *circle) again(ctx context.Context) (err error) {
	if r.src, err = Prepare(ctx, r.Kind, r.Say); err != nil {
		return err
	}
	if machines[r.Kind].passphrase {
		b, err := os.ReadFile(filepath.Join(r.From, "identity"))
		if err != nil {
			return err
		}
		if r.identity, err = age.ParseX25519Identity(string(b)); err != nil {
			return err
		}
	}
	return command(ctx, "cp", "--sparse=always", filepath.Join(r.From, "set.img"), r.setDisk)
}

func (r *circle) prepare(ctx context.Context) (err error) {
	if r.src, err = Prepare(ctx, r.Kind, r.Say); err != nil {
		return err
	}
	// The disk for the set brings the programs into the machine.
	stage := filepath.Join(r.Work, "stage")
	if err := os.MkdirAll(stage+"/bin", 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	for _, p := range append([]string{r.Mkcdrec, r.Guest}, loaders[r.Loader].programs...) {
		if err := command(ctx, "cp", p, stage+"/bin/"); err != nil {
			return err
		}
	}
	// The set's disk has more than sets on it, which would not be covered.
	config := "exclude_devices: [/backup]\n"
	if machines[r.Kind].passphrase {
		if r.identity, err = age.GenerateX25519Identity(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.Work, "identity"), []byte(r.identity.String()), 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(stage+"/luks.yaml", []byte(config+"recipients: ["+r.identity.Recipient().String()+"]\n"), 0o600); err != nil {
			return err
		}
	}
	if r.Sealed {
		config += "encrypt: true\npassphrase_file: /backup/passphrase\n"
		if err := os.WriteFile(stage+"/passphrase", []byte(phrase+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(stage+"/mkcdrec.yaml", []byte(config), 0o600); err != nil {
		return err
	}
	if r.Home != nil {
		if err := r.Home.prepare(r, stage); err != nil {
			return err
		}
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "SETDISK", "-E", "root_owner=0:0", "-d", stage, r.setDisk, "2G")
}

// source boots the source machine and describes it, and leaves it running.
func (r *circle) source(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	m, err := r.sourceMachine(ctx)
	if err != nil {
		return err
	}
	if r.vm, err = r.started(ctx, m); err != nil {
		return err
	}
	if l := loaders[r.Loader]; l.install != "" {
		if err := errors.Join(all(r.vm, l.install), powerOff(r.vm)); err != nil {
			return err
		}
		if r.vm, err = r.started(ctx, m); err != nil {
			return err
		}
		if err := all(r.vm, l.proof); err != nil {
			return err
		}
	}
	return all(r.vm,
		r.onDisks(r.Spoil),
		"mkdir -p /backup && mount LABEL=SETDISK /backup",
		r.onDisks(r.Before),
		r.swapFile(),
		"/backup/bin/guest tree /srv/difficult huge",
		"if [ -d /home ]; then /backup/bin/guest tree /home/difficult; fi",
		r.locked(),
		r.storage(r.src.Serial, "before"),
		"/backup/bin/guest describe "+r.mounts()+" > /backup/before.json && sync",
	)
}

// started starts a machine and logs in; the machine is nil if that fails.
func (r *circle) started(ctx context.Context, m Machine) (*VM, error) {
	vm, err := Start(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := r.login(vm); err != nil {
		return nil, errors.Join(err, vm.Kill())
	}
	return vm, nil
}

// sources are the disks of the source machine: overlays of the installed ones.
func (r *circle) sources() []Disk {
	sector := machines[r.Kind].sector
	out := []Disk{{File: filepath.Join(r.Work, "source.qcow2"), Serial: r.src.Serial, Sector: sector}}
	if r.src.Second != "" {
		out = append(out, Disk{File: filepath.Join(r.Work, "source-2.qcow2"), Serial: r.src.SerialSecond, Sector: sector})
	}
	return out
}

// sourceMachine is the machine that is backed up: with the set's disk, and what
// the set is written to.
func (r *circle) sourceMachine(ctx context.Context) (Machine, error) {
	m := Machine{Name: r.Kind + "-source", Net: r.Home != nil, CPUs: r.CPUs, Log: r.log("source"), Disks: r.sources()}
	for i, installed := range []string{r.src.Disk, r.src.Second}[:len(m.Disks)] {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", installed, m.Disks[i].File); err != nil {
			return m, err
		}
	}
	m.Disks = append(m.Disks, Disk{File: r.setDisk, Serial: "SETDISK01"})
	if machines[r.Kind].uefi {
		m.UEFI = filepath.Join(r.Work, "source.vars")
		if err := command(ctx, "cp", r.src.NVRAM(), m.UEFI); err != nil {
			return m, err
		}
	}
	if len(r.Tapes) > 0 {
		var err error
		if r.tapes, err = StartTapes(ctx, r.Work, r.Tapes...); err != nil {
			return m, err
		}
		m.Extra = r.tapes.Args()
	}
	if r.Key {
		// A cloud kernel has no USB; a SCSI disk may say that it can be taken out.
		if err := command(ctx, "truncate", "-s", "2G", r.stick().File); err != nil {
			return m, err
		}
		m.Disks = append(m.Disks, r.stick())
	}
	return m, nil
}

// onDisks gives a command of a scenario with the source's disks in ${A} and ${B}.
func (r *circle) onDisks(cmd string) string {
	if cmd == "" {
		return ""
	}
	return "A=" + byID(r.src.Serial) + " B=" + byID(r.src.SerialSecond) + "; " + cmd
}

// swapFileOf is where machines of some kinds get a swap file: on ext4, on xfs.
func (r *circle) swapFileOf() string {
	switch r.Kind {
	case BIOSPlain, UEFIPlain, UEFIPlain4K:
		return "/swapfile"
	case BIOSLVM, UEFILVM:
		return "/home/.swap/file"
	}
	return ""
}

// swapFile is the command that makes it. It is only reserved: a copy that had
// holes in such places is not a swap file.
func (r *circle) swapFile() string {
	f := r.swapFileOf()
	if f == "" {
		return ""
	}
	return "S=" + f + "; mkdir -p ${S%/*}; fallocate -l 40M $S && chmod 600 $S && mkswap -q -L swapfile $S && swapon $S && echo \"$S none swap sw,pri=5 0 0\" >> /etc/fstab"
}

// locked makes files immutable that a restore onto other disks has to change.
func (r *circle) locked() string {
	if !strings.HasSuffix(r.Kind, "-plain") && !strings.HasSuffix(r.Kind, "-btrfs") {
		return ""
	}
	return "chattr +i /etc/fstab " + loaders[r.Loader].locked
}

// storage is the command that has other people's tools describe partitions,
// file systems and LVM; compareStorage compares what they say.
func (r *circle) storage(serial, when string) string {
	disks := byID(serial)
	if r.src.Second != "" {
		disks += " " + byID(second(serial))
	}
	return "(for D in " + disks + "; do sfdisk -d $D; done; for m in /dev/md0 /dev/md1 /dev/md/parity /dev/md/ten /dev/md4; do [ -e $m ] && mdadm --detail $m | grep -E 'Version|Raid Level|Raid Devices|Total Devices|Spare Devices|Layout|Chunk Size|Name|UUID|Bitmap|Consistency'; done; " +
		"for d in $(for D in " + disks + "; do ls -d $D*[0-9] | grep -vx $D; done) /dev/md0 /dev/md4 /dev/md/parity /dev/md/ten /dev/mapper/secret /dev/mapper/data /dev/mapper/vg0-* /dev/mapper/vg1-*; do [ -e $d ] || continue; case $d in *_m*) continue ;; esac; blkid -p -o export $d; " +
		"dumpe2fs -h $d 2>/dev/null | grep -E 'features|Inode size|Block size|Inode count|Reserved block count|Default mount|Maximum mount|Journal size'; btrfs inspect-internal dump-super $d 2>/dev/null | grep -E '^(csum_type|fsid|label|num_devices|sectorsize|nodesize|compat_ro_flags|incompat_flags)'; cryptsetup luksDump $d 2>/dev/null; if blkid -p $d | grep -q ntfs; then ntfsls -f $d; for f in 1 2 3; do ntfscat -f $d file$f | sha256sum; done; fi; done; btrfs subvolume list -q / 2>/dev/null | grep 'parent_uuid - ' | sed 's/.* path //' | sort; " +
		"xfs_info /home 2>/dev/null; lvs --noheadings -S 'segtype!=thin&&segtype!=thin-pool' -o lv_name,lv_uuid,lv_size 2>/dev/null; lvs --noheadings -o lv_name,segtype,stripes,stripe_size,pool_lv,chunk_size,discards,zero,lv_size 2>/dev/null; vgs --noheadings -o vg_uuid; pvs --noheadings -o pv_uuid) > /backup/storage-" + when + ".txt 2>/dev/null; sync"
}

// byID is a shell's word for a disk: the kernel's names change from start to
// start, where there are several.
func byID(serial string) string {
	return "$(readlink -f $(ls /dev/disk/by-id/*" + serial + " | head -n 1))"
}

// login waits for the system to ask for a passphrase, if it has to, and logs in.
func (r *circle) login(vm *VM) error {
	if machines[r.Kind].passphrase {
		if _, err := vm.Expect(`Please unlock disk [^:]*: `, bootLimit); err != nil {
			return err
		}
		if err := vm.Send(Password + "\n"); err != nil {
			return err
		}
	}
	return vm.Login(Password, bootLimit)
}
