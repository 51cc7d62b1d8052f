package sysconf

import "strings"

// LVMDevices is the text of LVM's devices file, lvmdevices(8).
type LVMDevices struct {
	Entries []*LVMDevice
	lines   []*line
}

// LVMDevice is a line about one physical volume.
type LVMDevice struct {
	IDType string // by what LVM finds it: "sys_wwid", "devname"
	PVID   string // its UUID without dashes

	l *line
}

// ParseLVMDevices reads LVM's devices file.
func ParseLVMDevices(text string) *LVMDevices {
	d := &LVMDevices{lines: splitLines(text)}
	for _, l := range d.lines {
		e := &LVMDevice{l: l}
		for i, w := range strings.Fields(l.body) {
			k, v, _ := strings.Cut(w, "=")
			switch {
			case i == 0 && k == "IDTYPE":
				e.IDType = v
			case k == "PVID":
				e.PVID = v
			}
		}
		if e.IDType != "" && e.PVID != "" {
			d.Entries = append(d.Entries, e)
		}
	}
	return d
}

// SetDevice has LVM find an entry's physical volume by the name of its device, "vda5": it
// looks for it elsewhere when names change. It returns false if the line is so already. A
// change removes the sum over the lines, which LVM writes again.
func (d *LVMDevices) SetDevice(e *LVMDevice, dev string) bool {
	is := "IDTYPE=devname IDNAME=/dev/" + dev + " DEVNAME=/dev/" + dev + " PVID=" + e.PVID
	if e.l.body == is {
		return false
	}
	e.IDType, e.l.body, e.l.end = "devname", is, "\n"
	for _, l := range d.lines {
		if strings.HasPrefix(l.body, "# HASH=") || strings.HasPrefix(l.body, "HASH=") {
			l.body, l.end = "", ""
		}
	}
	return true
}

// String is the text.
func (d *LVMDevices) String() string { return joinLines(d.lines) }
