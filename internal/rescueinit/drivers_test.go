package rescueinit

import (
	"os"
	"testing"
)

func TestUSBPending(t *testing.T) {
	sys := t.TempDir()
	mk := func(p string) {
		t.Helper()
		if err := os.MkdirAll(sys+p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mk("/bus/usb/drivers/usb-storage")
	if usbPending(sys) {
		t.Error("pending without a device")
	}
	mk("/bus/usb/drivers/usb-storage/2-1:1.0/host6")
	if !usbPending(sys) {
		t.Error("a device without a disk is not pending")
	}
	mk("/bus/usb/drivers/usb-storage/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sda")
	if usbPending(sys) {
		t.Error("pending with its disk")
	}
}
