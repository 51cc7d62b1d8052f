package machine

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sysfs makes a tree of files, and of links where the content begins with "->".
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = errors.Join(err, os.Symlink(to, p))
		} else {
			err = errors.Join(err, os.WriteFile(p, []byte(text+"\n"), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestLsscsi compares with Debian's lsscsi on the same tree.
func TestLsscsi(t *testing.T) {
	files := map[string]string{"class/scsi_host/host0/proc_name": "ahci", "class/scsi_host/host12/proc_name": "virtio_scsi"}
	for at, d := range map[string][6]string{
		"0:0:0:0":  {"0", "ATA     ", "VBOX HARDDISK   ", "1.0 ", "block/sda", "209715200"},
		"1:0:0:0":  {"5", "QEMU    ", "QEMU DVD-ROM    ", "2.5+", "block/sr0", "2097152"},
		"10:0:3:1": {"13", "DP      ", "BP              ", "4.3", "", ""},
		"2:0:0:0":  {"1", "IBM     ", "ULT3580-TD4     ", "C7QH", "", ""},
	} {
		dir := "devices/p/" + at + "/"
		files["bus/scsi/devices/"+at] = "->../../../" + dir
		files[dir+"type"], files[dir+"vendor"], files[dir+"model"], files[dir+"rev"] = d[0], d[1], d[2], d[3]
		if d[4] != "" {
			files[dir+d[4]+"/dev"] = "8:0"
		}
		if d[5] != "" {
			files[dir+d[4]+"/size"] = d[5]
		}
	}
	root := sysfs(t, files)
	if _, err := exec.LookPath("lsscsi"); err != nil {
		t.Skip("lsscsi is not installed")
	}
	for _, o := range [][]string{nil, {"-g"}, {"-s"}, {"-d"}, {"-H"}, {"-gs"}, {"10:0:3:1"}} {
		args := append([]string{"--sysfsroot=" + root}, o...)
		want, err := exec.Command("lsscsi", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if rc, out, errs := run(t, nil, "lsscsi", args...); rc != 0 || out != string(want) {
			t.Errorf("lsscsi %v = %d (%s)\n%s   want\n%s", o, rc, errs, out, want)
		}
	}
	for sectors, want := range map[string]string{"1": "512B", "2": "1.02kB", "20971520": "10.7GB", "7814037168": "4.00TB", "": "-"} {
		if got := decimal(sectors); got != want {
			t.Errorf("decimal(%s) = %s; want %s", sectors, got, want)
		}
	}
}

// TestLsusb: devices in the order of their buses, and as a tree.
func TestLsusb(t *testing.T) {
	const d = "bus/usb/devices/"
	files := map[string]string{}
	for name, v := range map[string][6]string{"usb1": {"1", "1", "1d6b", "0002", "xHCI Host Controller", "480"}, "1-2": {"1", "3", "ffff", "5678", "USB DISK", "480"}, "1-3": {"1", "2", "ffff", "0608", "Hub", "480"}, "1-3.1": {"1", "10", "ffff", "c31c", "Keyboard", "1.5"}} {
		for i, f := range []string{"busnum", "devnum", "idVendor", "idProduct", "product", "speed"} {
			files[d+name+"/"+f] = v[i]
		}
		files[d+name+"/maxchild"] = "0"
	}
	files[d+"usb1/maxchild"], files[d+"1-3/maxchild"], files[d+"usb1/driver"] = "6", "4", "->../../drivers/xhci_hcd"
	for _, i := range [][3]string{{"1-2/1-2:1.0", "08", "usb-storage"}, {"1-3/1-3:1.0", "09", "hub"}, {"1-3.1/1-3.1:1.0", "03", "usbhid"}} {
		files[d+i[0]+"/bInterfaceClass"], files[d+i[0]+"/bInterfaceNumber"], files[d+i[0]+"/driver"] = i[1], "00", "->../../drivers/"+i[2]
	}
	root := "--sysfsroot=" + sysfs(t, files)
	for _, c := range []struct {
		rc         int
		args, want string
	}{
		{0, "-d ffff:", "Bus 001 Device 002: ID ffff:0608 Hub\nBus 001 Device 003: ID ffff:5678 USB DISK\nBus 001 Device 010: ID ffff:c31c Keyboard\n"},
		{0, "-s 1:3", "Bus 001 Device 003: ID ffff:5678 USB DISK\n"},
		{0, "-s 10", "Bus 001 Device 010: ID ffff:c31c Keyboard\n"},
		{1, "-d 1234:5678", ""},
		{0, "-t", "/:  Bus 01.Port 1: Dev 1, Class=root_hub, Driver=xhci_hcd/6p, 480M\n    |__ Port 3: Dev 2, If 0, Class=Hub, Driver=hub/4p, 480M\n        |__ Port 1: Dev 10, If 0, Class=Human Interface Device, Driver=usbhid, 1.5M\n    |__ Port 2: Dev 3, If 0, Class=Mass Storage, Driver=usb-storage, 480M\n"},
	} {
		if rc, out, errs := run(t, nil, "lsusb", append(strings.Fields(c.args), root)...); rc != c.rc || out != c.want {
			t.Errorf("lsusb %s = %d (%s)\n%s   want %d\n%s", c.args, rc, errs, out, c.rc, c.want)
		}
	}
	if rc, _, errs := run(t, nil, "lsusb", "--sysfsroot="+t.TempDir()); rc != 1 || !strings.Contains(errs, "no USB") {
		t.Errorf("lsusb without a bus = %d, %q", rc, errs)
	}
}

const someIDs = "# names\n8086  Intel Corporation\n\t1237  440FX\n\t\t1af4 1100  Qemu virtual machine\n\tffff\n1af4  Red Hat, Inc.\n\t1041  Virtio network\nC 02  Network controller\n\t00  Ethernet controller\n\t\t01  Odd\n"

// TestIDs: names of the vendors that are wanted, and all classes.
func TestIDs(t *testing.T) {
	got := parseIDs(strings.NewReader(someIDs), func(v string) bool { return v == "8086" })
	for k, want := range map[string]string{"8086": "Intel Corporation", "8086 1237": "440FX", "8086 1237 1af4 1100": "Qemu virtual machine", "1af4": "", "1af4 1041": "", "C 02 00": "Ethernet controller", "C 02 00 01": "Odd"} {
		if got[k] != want {
			t.Errorf("ids[%s] = %q; want %q", k, got[k], want)
		}
	}
	for s, want := range map[style][2]string{0: {"Device 1111:2222", "Intel Corporation Device 2222"}, 1: {"1111:2222", "8086:2222"}, 2: {"Device [1111:2222]", "Intel Corporation Device [8086:2222]"}} {
		if a, b := s.device("", "", "1111", "2222"), s.device("Intel Corporation", "", "8086", "2222"); a != want[0] || b != want[1] {
			t.Errorf("style %d: %q, %q; want %q", s, a, b, want)
		}
	}
}

func FuzzIDs(f *testing.F) {
	f.Add([]byte(someIDs))
	f.Add([]byte("\t\tx  y\n\tz  w\nC 1\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseIDs(strings.NewReader(string(b)), func(string) bool { return true })
	})
}

// TestClock: the clock's fields and the time, in both zones; a clock that stands still is an error.
func TestClock(t *testing.T) {
	zone := time.FixedZone("x", 2*3600)
	at := time.Date(2026, 2, 28, 23, 30, 15, 0, time.UTC)
	if r := clockTo(at, zone); *r != (unix.RTCTime{Sec: 15, Min: 30, Hour: 1, Mday: 1, Mon: 2, Year: 126}) || !clockFrom(r, zone).Equal(at) {
		t.Errorf("clockTo = %+v, clockFrom = %v; want %v", r, clockFrom(r, zone), at)
	}
	n := 0
	got, err := tick(func() (time.Time, error) { n++; return at.Add(time.Duration(n/3) * time.Second), nil })
	if err != nil || !got.Equal(at.Add(time.Second)) {
		t.Errorf("tick = %v, %v", got, err)
	}
	if _, err := tick(func() (time.Time, error) { return at, nil }); err == nil {
		t.Error("a clock that stands still is read")
	}
}
