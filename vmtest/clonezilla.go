package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// imageName is the name of an image directory.
const imageName = "debian-2026-11-29"

// clonezillaDisk makes a disk with an image directory of the source's disk.
func (r *circle) clonezillaDisk(ctx context.Context) (Disk, error) {
	d := Disk{File: filepath.Join(r.Work, "images.img"), Serial: "IMAGES01"}
	stage, raw := filepath.Join(r.Work, "images"), filepath.Join(r.Work, "source.raw")
	defer os.RemoveAll(stage)
	defer os.Remove(raw)
	if err := command(ctx, "qemu-img", "convert", "-O", "raw", r.sources()[0].File, raw); err != nil {
		return d, err
	}
	if err := saveDisk(ctx, raw, r.src.Serial, filepath.Join(stage, imageName)); err != nil {
		return d, err
	}
	return d, command(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0", "-d", stage, d.File, "1500M")
}

// saved is how partitions of the types of blkid are saved: the program, and what packs its
// image in parts.
var saved = map[string][3]string{
	"ext4":  {"partclone.ext4", "zstd -q -3", "zst"},
	"exfat": {"partclone.exfat", "gzip -1", "gz"},
	"ntfs":  {"partclone.ntfs", "gzip -1", "gz"},
	"vfat":  {"partclone.vfat", "zstd -q -3", "zst"},
}

// partition is what sfdisk reports of one, in sectors of 512 bytes.
type partition struct {
	Node, Type  string
	Start, Size int64
}

// diskSaver saves an image of a disk with an MBR as `ocs-sr savedisk` of Clonezilla does, with
// partclone's own programs. The machine called the disk sda.
type diskSaver struct {
	raw, dir string
	// text are files of text in dir, by their names.
	text map[string]string
	// parts are the partitions with an image.
	parts []string
}

func saveDisk(ctx context.Context, raw, serial, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s := &diskSaver{raw: raw, dir: dir}
	partitions, err := s.table(ctx, serial)
	if err != nil {
		return err
	}
	for i, p := range partitions {
		if p.Type == "5" || p.Type == "f" {
			continue
		}
		if err := s.save(ctx, p, filepath.Join(dir, fmt.Sprint("../part", i))); err != nil {
			return err
		}
	}
	s.text["parts"] = strings.Join(s.parts, " ") + "\n"
	for name, text := range s.text {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// table saves the partition table and what describes the disk.
func (s *diskSaver) table(ctx context.Context, serial string) ([]partition, error) {
	var table struct {
		PartitionTable struct{ Partitions []partition }
	}
	out, err := exec.CommandContext(ctx, "sfdisk", "-J", s.raw).Output()
	if err == nil {
		err = json.Unmarshal(out, &table)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the table of %s: %w", s.raw, err)
	}
	dump, err := exec.CommandContext(ctx, "sfdisk", "-d", s.raw).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read the table of %s: %w", s.raw, err)
	}
	st, err := os.Stat(s.raw)
	if err != nil {
		return nil, err
	}
	s.text = map[string]string{
		"clonezilla-img": "This image was saved by Clonezilla at 2026-11-29 12:00:00 UTC.\n",
		"disk":           "sda\n",
		"sda-pt.sf":      strings.ReplaceAll(string(dump), s.raw, "/dev/sda"),
		"sda-pt.parted":  fmt.Sprintf("Model: Virtio Block Device (virtblk)\nDisk /dev/sda: %ds\nSector size (logical/physical): 512B/512B\nPartition Table: msdos\nDisk Flags: \n\nNumber  Start  End  Size  Type  File system  Flags\n", st.Size()/512),
		"blkdev.list":    "KNAME NAME    SIZE TYPE FSTYPE MOUNTPOINT MODEL\nsda   sda       5G disk                   QEMU HARDDISK\n",
		"blkdev.json":    fmt.Sprintf(`{"blockdevices": [{"name":"sda","kname":"sda","size":"%d","type":"disk","model":"QEMU HARDDISK","serial":"%s","log-sec":512,"phy-sec":512}]}`, st.Size(), serial),
		"dev-fs.list":    "# <Device name>   <File system>   <Size>\n",
	}
	partitions := table.PartitionTable.Partitions
	return partitions, errors.Join(
		bash(ctx, `dd if="$1" of="$2/sda-mbr" bs=512 count=1 status=none`, s.raw, s.dir),
		bash(ctx, `dd if="$1" of="$2/sda-hidden-data-after-mbr" bs=512 skip=1 count="$3" status=none`, s.raw, s.dir, fmt.Sprint(partitions[0].Start-1)),
	)
}

// save saves one partition by way of a temporary file.
func (s *diskSaver) save(ctx context.Context, p partition, file string) error {
	name := "sda" + strings.TrimPrefix(p.Node, s.raw)
	if err := bash(ctx, `dd if="$1" of="$2" bs=1M iflag=skip_bytes,count_bytes skip="$3" count="$4" conv=sparse status=none && truncate -s "$4" "$2"`, s.raw, file, fmt.Sprint(p.Start*512), fmt.Sprint(p.Size*512)); err != nil {
		return err
	}
	defer os.Remove(file)
	id := func(tag string) string {
		b, err := exec.CommandContext(ctx, "blkid", "-p", "-s", tag, "-o", "value", file).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	kind := id("TYPE")
	s.text["dev-fs.list"] += fmt.Sprintf("/dev/%s %s %dM\n", name, kind, p.Size/2048)
	s.text["blkid.list"] += fmt.Sprintf("/dev/%s: LABEL=%q UUID=%q TYPE=%q\n", name, id("LABEL"), id("UUID"), kind)
	if kind == "swap" {
		s.text["swappt-"+name+".info"] = fmt.Sprintf("UUID=%q\nLABEL=%q\n", id("UUID"), id("LABEL"))
		return nil
	}
	how, ok := saved[kind]
	if !ok {
		return fmt.Errorf("cannot save %s: nothing is known of %q", name, kind)
	}
	s.parts = append(s.parts, name)
	return bash(ctx, how[0]+` -L /dev/null -c -s "$1" -o - | `+how[1]+` -c | split -a 2 -b 50M - "$2"`, file, filepath.Join(s.dir, name+"."+kind+"-ptcl-img."+how[2]+"."))
}

// bash runs a script that fails with its first command that does.
func bash(ctx context.Context, script string, args ...string) error {
	return command(ctx, append([]string{"bash", "-e", "-o", "pipefail", "-c", script, "bash"}, args...)...)
}
