package sysconf

import "testing"

// TestLVMDevices: entries are read, one is changed, the rest stays as it was but for the sum.
func TestLVMDevices(t *testing.T) {
	const in = "# LVM uses devices listed in this file.\n# HASH=3524113\nVERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda5 PVID=aB1 PART=5\n  IDTYPE=devname IDNAME=/dev/vdb DEVNAME=/dev/vdb PVID=cD2"
	d := ParseLVMDevices(in)
	if len(d.Entries) != 2 || d.Entries[0].IDType != "sys_wwid" || d.Entries[0].PVID != "aB1" || d.Entries[1].PVID != "cD2" || d.String() != in {
		t.Fatalf("ParseLVMDevices(%q) = %+v, %q", in, d.Entries, d)
	}
	if !d.SetDevice(d.Entries[0], "vda5") || d.SetDevice(d.Entries[0], "vda5") {
		t.Error("SetDevice does not report what it changes")
	}
	const want = "# LVM uses devices listed in this file.\nVERSION=1.1.2\nIDTYPE=devname IDNAME=/dev/vda5 DEVNAME=/dev/vda5 PVID=aB1\n  IDTYPE=devname IDNAME=/dev/vdb DEVNAME=/dev/vdb PVID=cD2"
	if d.String() != want {
		t.Errorf("after SetDevice: %q; want %q", d, want)
	}
}

func FuzzLVMDevices(f *testing.F) {
	f.Add("HASH=1\nIDTYPE=sys_wwid IDNAME=x DEVNAME=/dev/a PVID=b\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		d := ParseLVMDevices(text)
		if d.String() != text {
			t.Fatalf("ParseLVMDevices(%q).String() = %q", text, d)
		}
		for _, e := range d.Entries {
			d.SetDevice(e, "vda")
			if again := ParseLVMDevices(d.String()); len(again.Entries) != len(d.Entries) {
				t.Fatalf("%q has %d entries, after a change %d", text, len(d.Entries), len(again.Entries))
			}
		}
	})
}
