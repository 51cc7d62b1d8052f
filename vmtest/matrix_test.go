package vmtest

import (
	"strings"
	"testing"
)

func TestSetCell(t *testing.T) {
	m := setCell("", "ext4, UEFI", "200 %", "seen")
	m = setCell(m, "LVM + xfs, BIOS", "same", "too")
	if !strings.Contains(m, "| ext4, UEFI | never run | never run | seen | never run |\n") || !strings.Contains(m, "| LVM + xfs, BIOS | too | never run |") || strings.Count(m, "\n| ") != len(matrixRows)+1 {
		t.Error(m)
	}
	if again := setCell(m, "", "", ""); again != m {
		t.Errorf("reading and writing changes it:\n%s", again)
	}
	for c, want := range map[*Circle]string{{Kind: BIOSLVM}: "LVM + xfs, BIOS|same", {Kind: UEFIPlain, TargetSize: "10G"}: "ext4, UEFI;ext4 + NTFS, UEFI|200 %", {Kind: UEFIPlain, TargetBus: "nvme", TargetSize: "10G"}: "ext4, UEFI;ext4 + NTFS, UEFI|other bus", {Kind: BIOSLVM, Key: true}: "LVM + xfs, BIOS|same", {Kind: BIOSLVM, ByHand: true}: "|"} {
		if r, col := c.cell(); strings.Join(r, ";")+"|"+col != want {
			t.Errorf("%+v is %s|%s", c, r, col)
		}
	}
}
