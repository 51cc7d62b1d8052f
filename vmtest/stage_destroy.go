package vmtest

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
)

func (r *circle) target() Disk {
	return Disk{File: filepath.Join(r.Work, "target.qcow2"), Serial: r.targetSerial(), Bus: r.TargetBus, FailAt: r.FailAt, Sector: r.sector()}
}

// targets are the restored machine's disks.
func (r *circle) targets() []Disk {
	out := []Disk{r.target()}
	if r.src.Second != "" || r.Mate {
		out = append(out, Disk{File: filepath.Join(r.Work, "target-2.qcow2"), Serial: second(r.targetSerial()), Bus: r.TargetBus, Sector: r.sector()})
	}
	return out
}

// sector is the size of the new disks' sectors.
func (r *circle) sector() int { return cmp.Or(r.TargetSector, machines[r.Kind].sector) }

func (r *circle) targetSerial() string { return machines[r.Kind].target }

// destroy leaves nothing of the source machine but its backup, unless that is the
// source itself.
func (r *circle) destroy(context.Context) error {
	if r.Cloned {
		return nil
	}
	for _, d := range r.sources() {
		if err := os.Remove(d.File); err != nil {
			return err
		}
	}
	return nil
}

// makeTargets makes them blank.
func (r *circle) makeTargets(ctx context.Context) error {
	size := r.TargetSize
	if size == "" {
		size = r.src.Size
	}
	for _, d := range r.targets() {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", d.File, size); err != nil {
			return err
		}
	}
	return nil
}
