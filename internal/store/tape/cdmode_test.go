package tape

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// A machine with a disk, a CD drive, and a tape drive that is a CD drive now.
func TestCDDrives(t *testing.T) {
	root := t.TempDir()
	put := func(name string, b []byte) {
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sign := append(bytes.Repeat([]byte{0}, 43), "$DR-10"...)
	for i, d := range []struct {
		typ     string
		inquiry []byte
	}{{"0", sign}, {"5", make([]byte, 96)}, {"5", sign}, {"1", sign}, {"5", []byte("short")}} {
		dir := fmt.Sprintf("sys/class/scsi_device/2:0:%d:0/device/", i)
		put(dir+"type", []byte(d.typ+"\n"))
		put(dir+"inquiry", d.inquiry)
		put(dir+"delete", nil)
		put(fmt.Sprintf("%sscsi_generic/sg%d/dev", dir, i), nil)
	}
	put("sys/class/scsi_host/host2/scan", nil)
	got, err := CDDrives(root)
	if err != nil || len(got) != 1 || got[0].Address != "2:0:2:0" || got[0].Generic != root+"/dev/sg2" {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got[0].rescan(); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]string{"sys/class/scsi_device/2:0:2:0/device/delete": "1", "sys/class/scsi_host/host2/scan": "0 2 0"} {
		if b, err := os.ReadFile(filepath.Join(root, f)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", f, b, err, want)
		}
	}
	if err := got[0].Leave(); err == nil {
		t.Error("a drive without a device node left its mode")
	}
	os.RemoveAll(filepath.Join(root, "sys/class/scsi_device/2:0:2:0/device/scsi_generic"))
	if _, err := CDDrives(root); err == nil {
		t.Error("no error without a generic device")
	}
}

// The header is the kernel's, 88 bytes on 64-bit machines.
func TestSGHeader(t *testing.T) {
	if n := unsafe.Sizeof(sgIOHeader{}); n != 88 {
		t.Errorf("sg_io_hdr has %d bytes", n)
	}
	if int(leaveCDModeCommand[4]) != len(leaveCDModeData) {
		t.Error("the parameter list's length is wrong")
	}
}
