package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Rows and columns of docs/MATRIX.md: what storage, and onto what.
var (
	matrixRows = []string{"ext4, BIOS", "ext4, UEFI", "LVM + xfs, BIOS", "LVM + xfs, UEFI", "md1 + LVM on md0, BIOS", "md1 + LVM on md0, UEFI", "thin, BIOS", "thin, UEFI", "LUKS2 + LVM, BIOS", "LUKS2 + LVM, UEFI",
		"btrfs subvolumes, BIOS", "btrfs subvolumes, UEFI", "btrfs raid1, BIOS", "btrfs raid1, UEFI", "ext4 + NTFS, BIOS", "ext4 + NTFS, UEFI", "ext4 + NTFS, 4Kn, UEFI"}
	matrixColumns = []string{"same", "60 %", "200 %", "other bus"}
)

// cell returns where a circle is in the matrix; "" when it is not part of it.
// A machine may stand in several rows: it has all of that.
func (c Circle) cell() (rows []string, column string) {
	if c.ByHand || c.Loader != "" || c.Wishes != "" || c.Spoil != "" || c.TargetSector > 0 {
		return nil, ""
	}
	k := machines[c.Kind]
	rows = k.rows
	switch {
	case c.TargetBus != "":
		column = "other bus"
	case c.TargetSize == "":
		column = "same"
	case c.TargetSize == k.smaller:
		column = "60 %"
	case c.TargetSize == k.larger:
		column = "200 %"
	}
	return rows, column
}

const matrixHead = `# Recovery matrix: what was restored onto what

Each cell is a machine in QEMU that was backed up, destroyed, restored by its own rescue medium onto blank disks, booted
by its own firmware and boot loader, and compared path by path. The column gives the size or kind of the new disks.

- "never run": this combination was never tested.
- A BIOS machine with plain partitions has an MBR.
- 4Kn: a disk with sectors of 4 KiB.
- md1: RAID 0, 1, 5 and 10, and LVM striped, raid1 and mirror.
- other bus: NVMe with UEFI, SCSI with BIOS; the old disks are virtio disks.
- The commit is that of the program.
- A machine that has several of these properties is in the row of each.

` + "`make matrix`" + ` runs the tests and writes this table.

`

// Record writes a cell's outcome into the matrix in file, with date and
// commit.
func (c Circle) Record(file string, out *Outcome) error {
	rows, column := c.cell()
	if len(rows) == 0 || column == "" {
		return nil
	}
	// The program's own: the checkout may be newer than the build.
	version, err := exec.Command(c.Mkcdrec, "version").Output()
	if err != nil {
		return fmt.Errorf("cannot find the commit: %w", err)
	}
	g := regexp.MustCompile(`\+([0-9a-f]{7})`).FindSubmatch(version)
	if g == nil {
		return fmt.Errorf("cannot find the commit of %s in its version %q", c.Mkcdrec, version)
	}
	text := fmt.Sprintf("restored, booted, %d differences in %d paths (%s, %s)", len(out.Differences), out.Paths, g[1], time.Now().UTC().Format("2006-01-02"))
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, row := range rows {
		b = []byte(setCell(string(b), row, column, text))
	}
	return os.WriteFile(file, b, 0o644)
}

// setCell gives the matrix with one cell changed; cells that are not in the
// old text were never run.
func setCell(old, row, column, text string) string {
	have := map[string][]string{}
	for _, line := range strings.Split(old, "\n") {
		if f := strings.Split(line, "|"); len(f) == len(matrixColumns)+3 {
			var cells []string
			for _, c := range f[2 : len(f)-1] {
				cells = append(cells, strings.TrimSpace(c))
			}
			have[strings.TrimSpace(f[1])] = cells
		}
	}
	var b strings.Builder
	b.WriteString(matrixHead + "| storage, firmware | " + strings.Join(matrixColumns, " | ") + " |\n|---" + strings.Repeat("|---", len(matrixColumns)) + "|\n")
	for _, r := range matrixRows {
		cells := have[r]
		if cells == nil {
			cells = slices.Repeat([]string{"never run"}, len(matrixColumns))
		}
		if i := slices.Index(matrixColumns, column); r == row && i >= 0 {
			cells[i] = text
		}
		fmt.Fprintf(&b, "| %s | %s |\n", r, strings.Join(cells, " | "))
	}
	return b.String()
}
