package recreate

import (
	"context"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// simple is a layout with a system partition, a root and swap on one GPT disk.
func simple() *layout.Layout {
	const id = "00000000-0000-4000-8000-00000000000"
	return &layout.Layout{
		Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.UEFI, ESP: "sda1"},
		Disks: []layout.Disk{{Name: "sda", Size: 128 * mib, LogicalSector: 512, PhysicalSector: 512, Serial: "OLD", Table: &layout.Table{Label: layout.GPT, GUID: id + "1", Partitions: []layout.Partition{
			{Number: 1, Device: "sda1", Start: mib, Size: 40 * mib, Type: layout.TypeESP, GUID: id + "2"},
			{Number: 2, Device: "sda2", Start: 41 * mib, Size: 64 * mib, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: id + "3"},
			{Number: 3, Device: "sda3", Start: 105 * mib, Size: 16 * mib, Type: "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", GUID: id + "4"},
		}}}},
		Filesystems: []layout.Filesystem{
			{Device: "sda1", Type: fstype.TypeVFAT, UUID: "1234-ABCD", Size: 40 * mib, Geometry: fstype.Geometry{VFAT: &fstype.VFAT{Bits: 16, SectorSize: 512, SectorsPerCluster: 4, Reserved: 4, FATs: 2, RootEntries: 512, Media: 0xf8}}, Mounts: []layout.Mount{{Path: "/boot/efi", Options: "rw,uid=7,umask=0077"}}},
			{Device: "sda2", Type: fstype.TypeXFS, UUID: id + "5", Size: 64 * mib, Geometry: fstype.Geometry{XFS: &fstype.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 1368, CRC: true, FType: true}}, Mounts: []layout.Mount{{Path: "/"}}},
		},
		Swap: []layout.Swap{{Device: "sda3", UUID: id + "6", Size: 16 * mib, Active: true}},
	}
}

// onto makes a machine with one disk, and a plan of the layout for it.
func onto(t *testing.T, l *layout.Layout) (*machinetest.Machine, *Recreator) {
	t.Helper()
	m := machinetest.New(t)
	m.AddDisk("vda", 128*mib, "NEW")
	m.Answer("", "mkfs.fat", "mkfs.xfs", "mke2fs", "xfs_admin")
	have, err := m.Probe().Present(nil)
	if err != nil || len(have) != 1 {
		t.Fatalf("Present() = %v, %v; want one disk", have, err)
	}
	p, err := plan.Make(l, have, plan.Wish{Map: map[string]string{"sda": "vda"}})
	if err != nil {
		t.Fatal(err)
	}
	return m, &Recreator{Plan: p, Run: m, Machine: m.Probe(), Report: progress.None{}, Target: m.Path("/mnt/target"), Keys: map[string]Key{}}
}

// all does the steps of a plan to the first that fails.
func all(r *Recreator) error {
	for n := range r.Plan.Steps {
		if err := r.Do(context.Background(), n); err != nil {
			return err
		}
	}
	return nil
}

// acts are the lines of a log that change something.
func acts(m *machinetest.Machine) string {
	return strings.Join(m.Did("open", "reread", "run", "mount", "unmount", "sync", "ioctl"), "\n")
}

// A plan is carried out in its order: every device is opened for writing just before its
// program runs, and the root is mounted before what is below it.
func TestOrder(t *testing.T) {
	m, r := onto(t, simple())
	if err := all(r); err != nil {
		t.Fatal(err)
	}
	golden(t, "simple.log", acts(m))
	if got, want := m.Mounted(), []string{"/dev/vda2 /mnt/target", "/dev/vda1 /mnt/target/boot/efi"}; !slices.Equal(got, want) {
		t.Errorf("Mounted() = %q; want %q", got, want)
	}
	disks, err := r.Machine.Disks()
	if err != nil || disks[0].Table == nil || disks[0].Table.GUID != simple().Disks[0].Table.GUID || len(disks[0].Table.Partitions) != 3 {
		t.Errorf("Disks() = %+v, %v; want the table of the layout", disks, err)
	}
	if got := m.Read("/dev/vda3"); !strings.Contains(got[:8192], "SWAPSPACE2") {
		t.Error("Read(/dev/vda3) has no swap header")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got+"\n" != string(want) {
		t.Errorf("%s = %s; want %s (%v)", name, got, want, err)
	}
}

// A disk that is no longer the one that was confirmed, or that is in use, is refused, and
// nothing is opened.
func TestRefusesChangedDisk(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *machinetest.Machine)
		want   string
	}{
		"serial number": {func(m *machinetest.Machine) { m.Write("/sys/block/vda/serial", "OTHER") }, `its serial number was "NEW" then, and is "OTHER" now`},
		"size":          {func(m *machinetest.Machine) { m.Write("/sys/block/vda/size", "4096") }, "its size was"},
		"exchanged":     {func(m *machinetest.Machine) { m.Write("/sys/block/vda/diskseq", "9") }, "its sequence number was"},
		"mounted": {func(m *machinetest.Machine) {
			if err := m.Mount("/dev/vda", m.Path("/mnt"), "ext4", 0, ""); err != nil {
				t.Fatal(err)
			}
		}, "/dev/vda is mounted on"},
		"swap": {func(m *machinetest.Machine) {
			m.Write("/proc/swaps", "Filename Type Size Used Priority\n/dev/vda partition 1 0 -2\n")
		}, "is in use as swap"},
		"held":      {func(m *machinetest.Machine) { m.AddVirtual("dm-0", "vg0-root", mib, "vda") }, "in use by LVM (vg0/root)"},
		"unplugged": {func(m *machinetest.Machine) { m.Remove("vda") }, "cannot open /dev/vda: it is disconnected"},
		"node": {func(m *machinetest.Machine) {
			m.AddDisk("vdb", 128*mib, "B")
			if err := errors.Join(os.Remove(m.Path("/dev/vda")), os.Symlink("vdb", m.Path("/dev/vda"))); err != nil {
				t.Fatal(err)
			}
		}, "leads to the device"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := onto(t, simple())
			c.change(m)
			err := all(r)
			var ref *exit.Refusal
			if err == nil || !strings.Contains(err.Error(), c.want) || name != "unplugged" && !errors.As(err, &ref) {
				t.Errorf("Do(1) = %v; want a refusal with %q", err, c.want)
			}
			var step *StepError
			if errors.As(err, &step); step == nil || step.Touched() != (name == "unplugged") {
				t.Errorf("Do(1) = %+v; want that nothing was touched", step)
			}
			if got := m.Did("run", "reread"); len(got) > 0 {
				t.Errorf("Log() = %q; want nothing done", got)
			}
		})
	}
}
