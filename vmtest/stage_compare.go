package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// change is a difference that has a name; Pattern matches paths.
type change struct{ Name, Pattern string }

// changes are the differences that a running system makes, each named.
var changes = []change{
	{"systemd's own state (random seed, timers, catalog)", `^/var/lib/systemd(/|$)`},
	{"the system's journal", `^/var/log/journal(/.*)?$`},
	{"log-in records", `^/var/log/(wtmp|btmp|lastlog|faillog)$`},
	{"the restore's own log", `^/var/log(/mkcdrec(/.*)?)?$`},
	{"the key that signs sets, and the states of increments and of snapshots, which no set has", `^/var/lib/mkcdrec/(signing\.key|increments(/.*)?|snapshots)$`},
	{"the restore's record", `^/var/lib(/mkcdrec(/restored\.json)?)?$|^(/boot|/boot/efi|/efi)(/\.|/mkcdrec-restored\.json)?$`},
	{"the boot loader, reinstalled", `^/boot/grub(/(grubenv|i386-pc|x86_64-efi|fonts|locale)(/.*)?)?$`},
	{"the boot loader on the EFI partition, reinstalled", `^/boot/efi(/EFI.*)?$`},
	{"root's shell history", `^/root(/\.bash_history)?$`},
	{"time stamps of systemd-update-done", `^/(etc|var)/\.updated$`},
	{"the clock's drift file", `^/etc/adjtime$`},
	{"LVM's own archive of metadata", `^/etc/lvm(/(archive|backup)(/.*)?)?$`},
	{"the time of an exFAT's root directory, which is kept nowhere", `^/srv/exchange(/\.)?$`},
	{"swap files, recreated", `^(/swapfile|/home/\.swap/file)$`},
	{"temporary files", `^/(tmp|var/tmp)(/.*)?$`},
}

func (r *circle) describe(ctx context.Context, name string) ([]tree.Entry, error) {
	file := filepath.Join(r.Work, name)
	if err := r.dump(ctx, "/"+name, file); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var es []tree.Entry
	return es, json.Unmarshal(b, &es)
}

// compare sorts every difference into those that a running system makes and
// the others, of which there must be none.
func (r *circle) compare(ctx context.Context) error {
	before, err := r.describe(ctx, "before.json")
	if err != nil {
		return err
	}
	after, err := r.describe(ctx, "after.json")
	if err != nil {
		return err
	}
	if r.ByHand { // GNU tar restores no flags, and RESTORE.txt describes that
		for _, es := range [][]tree.Entry{before, after} {
			for i := range es {
				es[i].Text = regexp.MustCompile(` (flags|project)=[0-9a-f]+`).ReplaceAllString(es[i].Text, "")
			}
		}
	}
	r.out.Paths = len(before)
	if r.out.Paths < 3000 {
		return fmt.Errorf("only %d paths were described: that is not a Debian", r.out.Paths)
	}
	if r.out.Differences, err = sortOut(tree.Compare(before, after), r.expected(), r.out.Named); err != nil {
		return err
	}
	if r.Wishes != "" || r.Spoil != "" { // what is spoiled is not restored; Wished looks
		return nil
	}
	return r.compareStorage(ctx)
}

// sortOut counts the differences that known has a name for, and returns the others.
func sortOut(all []tree.Difference, known []change, named map[string]int) (others []tree.Difference, err error) {
	patterns := make([]*regexp.Regexp, len(known))
	for i, c := range known {
		if patterns[i], err = regexp.Compile(c.Pattern); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		p := d.Path
		fmt.Sscanf(d.Path, "%q", &p)
		if i := slices.IndexFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(p) }); i >= 0 {
			named[known[i].Name]++
		} else {
			others = append(others, d)
		}
	}
	return others, nil
}

// expected are the differences that the scenario makes, each named.
func (r *circle) expected() []change {
	known := append(slices.Clone(changes), loaders[r.Loader].changes...)
	add := func(name, pattern string) { known = append(known, change{name, pattern}) }
	if strings.HasSuffix(r.Kind, "-btrfs") {
		add("numbers of subvolumes in fstab, which are paths now", `^/etc(/fstab(\.before-restore)?)?$`)
		add("a snapshot, left out", `^/\.snapshots/1(/home)?$`)
	}
	if r.TargetBus != "" {
		add("the initramfs, recreated for the other kind of disk", `^/boot(/\.|/initrd\.img-.*)?$|^/var/lib/initramfs-tools(/.*)?$`)
	}
	if r.Renewed {
		add("what names devices and the machine, changed for another identity", `^/etc(/\.|/(hostname|hosts|machine-id|(fstab|crypttab|default/grub)(\.before-restore)?|ssh(/\.|/ssh_host_.*)?|initramfs-tools(/.*)?))?$|^/boot(/\.|/initrd\.img-.*|/grub(/.*)?|/efi(/.*)?)?$|^/var/lib/(initramfs-tools|dhcp)(/.*)?$|^/var/lib/systemd(/.*)?$`)
	}
	if r.Firmware != "" {
		add("the boot loader of the other firmware", `^/boot(/\.|/efi(/.*)?|/grub(/.*)?)?$`)
	}
	if r.Wishes != "" || r.Walk != "" {
		add("what was wished for, and touched", `^/etc(/(hostname|(fstab|mdadm/mdadm\.conf)(\.before-restore)?|mdadm))?$|^/home/lost\+found$`)
		if r.Mate || strings.Contains(r.Wishes, "mirror") || strings.Contains(r.Wishes, "fs-type /=") {
			add("initramfs and GRUB's configuration, recreated for other arrays or another type of /", `^/boot(/\.|/initrd\.img-.*|/grub/grub\.cfg)?$|^/var/lib/initramfs-tools(/.*)?$`)
		}
	}
	return known
}

// compareStorage compares what sfdisk, blkid, dumpe2fs, xfs_info and LVM say
// of both machines' storage.
func (r *circle) compareStorage(ctx context.Context) error {
	if r.Renewed {
		return nil // the UUIDs are others
	}
	var lines [2][]string
	for i, n := range []string{"storage-before.txt", "storage-after.txt"} {
		file := filepath.Join(r.Work, n)
		if err := r.dump(ctx, "/"+n, file); err != nil {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines[i] = strings.Split(r.comparable(string(b)), "\n")
	}
	line := func(which, n int) string {
		if n < len(lines[which]) {
			return lines[which][n]
		}
		return ""
	}
	for i := range max(len(lines[0]), len(lines[1])) {
		if x, y := line(0, i), line(1, i); x != y {
			r.out.Differences = append(r.out.Differences, tree.Difference{Path: "storage, line " + fmt.Sprint(i+1), Before: x, After: y})
		}
	}
	return nil
}

// comparable leaves out of a description of storage what may differ.
func (r *circle) comparable(text string) string {
	remove := func(patterns ...string) {
		for _, p := range patterns {
			text = regexp.MustCompile(p).ReplaceAllString(text, "")
		}
	}
	// Sizes, when the disk has another; and its sectors.
	if r.TargetSector > 0 {
		remove(`(?m)^(BLOCK_SIZE|SECTOR_SIZE|SEC_TYPE|VERSION=FAT|FSBLOCKSIZE|first-lba).*\n`, `sectsz=\d+`, `sunit=\d+ blks, lazy`, `  +`)
	}
	if r.TargetSize != "" || r.TargetSector > 0 {
		remove(`(start|size)=\s*\d+`, `(?m)^(Inode count|Reserved block count|Journal size|Total journal size|Flex block group size):.*$`, `(agcount|agsize|blocks|imaxpct)=\d+( blks)?`, `(?m)<?\d+\.\d+[gm]$`, `PART_ENTRY_(SIZE|OFFSET)=\d+`, `(FSSIZE|FSLASTBLOCK)=\d+`, `(?m)[ \t]+$`)
	}
	// Device names, and where a larger disk ends, are not compared.
	remove(`/dev/([sv]d[a-d]|nvme[0-3]n1)p?`, `(?m)^(Journal features:|UUID_SUB=|PART_ENTRY_DISK|last-lba|sector-size|device|DEVNAME|PTUUID|.*needs_recovery).*$`, ` orphan_present`, ` needs_recovery`)
	return text
}
