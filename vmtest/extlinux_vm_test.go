//go:build vmtest

package vmtest

import "testing"

// TestExtlinux: a machine that extlinux starts is restored, and started by its own loader: from a GPT with /boot on
// a partition of its own, and from an MBR on another bus, with all in one file system.
func TestExtlinux(t *testing.T) {
	long(t)
	t.Run("gpt", func(t *testing.T) {
		t.Parallel()
		runCircle(t, Circle{Kind: BIOSLVM, Loader: Extlinux})
	})
	t.Run("mbr", func(t *testing.T) {
		t.Parallel()
		runCircle(t, Circle{Kind: BIOSPlain, Loader: Extlinux, TargetBus: "scsi"})
	})
}
