package recreate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestRehearse: a feature that the program here does not know is found by the plan, and
// nothing is written to the device, which is not even there.
func TestRehearse(t *testing.T) {
	oracle(t, "mke2fs", "-V")
	oracle(t, "mkfs.xfs", "-V")
	with := func(features ...string) error {
		l := &layout.Layout{Disks: []layout.Disk{{Name: "vda", Size: 8 << 40, LogicalSector: 512}, {Name: "vdb", Size: 200 << 20, LogicalSector: 512}}, Filesystems: []layout.Filesystem{
			{Device: "vda", Type: "ext4", Size: 8 << 40, Ext: &superblock.Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 256, Inodes: 1 << 28, Features: append([]string{"has_journal", "extent", "64bit", "filetype"}, features...)}},
			// Of less than 300 MiB, which mkfs.xfs refuses today.
			{Device: "vdb", Type: "xfs", Size: 200 << 20, XFS: &superblock.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 1368, CRC: true, FType: true, FinoBT: true, SparseIno: true}}}}
		p, err := plan.New(l, plan.Mapping{"vda": {Disk: layout.Disk{Name: "no-such-disk", Size: 8 << 40, LogicalSector: 512}}, "vdb": {Disk: layout.Disk{Name: "no-such-disk2", Size: 200 << 20, LogicalSector: 512}}})
		if err != nil {
			t.Fatal(err)
		}
		return (&Recreator{Plan: p, Run: tool.Exec{}}).Rehearse(context.Background())
	}
	if err := with(); err != nil {
		t.Errorf("what every version knows: %v", err)
	}
	var r *plan.Refused
	if err := with("of_the_future"); !errors.As(err, &r) || !strings.Contains(err.Error(), "step 1 would fail: make ext4") || !strings.Contains(err.Error(), "of_the_future") {
		t.Errorf("a feature of a newer version: %v", err)
	}
}
