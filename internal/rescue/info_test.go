package rescue

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	o, err := ParseCmdline("BOOT_IMAGE=/x console=ttyS0 mkcdrec.auto=restore mkcdrec.confirm=A1,B2 mkcdrec.source=UUID=12-34:/sets,cdrom mkcdrec.map=vda=sda mkcdrec.after=poweroff mkcdrec.debug")
	if err != nil || fmt.Sprintf("%+v", o) != "{Source:[UUID=12-34:/sets cdrom] Auto:restore Confirm:[A1 B2] Map:[vda=sda] IP: After:poweroff Medium: Shell:false Debug:true}" {
		t.Errorf("ParseCmdline = %+v, %v", o, err)
	}
	o, err = ParseCmdline("mkcdrec.auto=erase mkcdrec.nosuch=1 mkcdrec.shell")
	if err == nil || !strings.Contains(err.Error(), "erase") || !strings.Contains(err.Error(), "nosuch") || !o.Shell || o.Auto != "" {
		t.Errorf("ParseCmdline(bad) = %+v, %v; want both words named", o, err)
	}
}

func TestCarryOver(t *testing.T) {
	in := "BOOT_IMAGE=/vmlinuz-6.1 root=/dev/mapper/vg0-root ro quiet console=tty0 console=ttyS0,115200 net.ifnames=0 mitigations=off resume=UUID=1 rd.lvm.lv=a mkcdrec.auto=restore nomodule crashkernel=1G -- --daemon console=ttyS9"
	if got, want := CarryOver(in), "console=tty0 console=ttyS0,115200 net.ifnames=0 mitigations=off"; got != want {
		t.Errorf("CarryOver = %q; want %q", got, want)
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("mkcdrec.auto=restore mkcdrec.confirm=,")
	f.Fuzz(func(t *testing.T, s string) { _, _ = ParseCmdline(s); CarryOver(s) })
}
