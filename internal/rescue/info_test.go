package rescue

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	o, err := ParseCmdline("BOOT_IMAGE=/x console=ttyS0 mkcdrec.auto=restore mkcdrec.confirm=A1,B2 mkcdrec.source=UUID=12-34:/sets,cdrom mkcdrec.map=vda=sda mkcdrec.answers=http://h/a.yaml mkcdrec.after=poweroff mkcdrec.debug mkcdrec.host=web mkcdrec.again")
	if err != nil || fmt.Sprintf("%+v", o) != "{Source:[UUID=12-34:/sets cdrom] Host:web Again:true Auto:restore Confirm:[A1 B2] Map:[vda=sda] Answers:http://h/a.yaml Net:{IP: NIC: VLAN:0 Bond: DNS:[]} NTP: SSHKeys:[] After:poweroff Medium: Check:false Shell:false Debug:true Fleet: FleetCert:}" {
		t.Errorf("ParseCmdline = %+v, %v", o, err)
	}
	o, err = ParseCmdline("mkcdrec.auto=erase mkcdrec.nosuch=1 mkcdrec.shell")
	if err == nil || !strings.Contains(err.Error(), "erase") || !strings.Contains(err.Error(), "nosuch") || !o.Shell || o.Auto != "" {
		t.Errorf("ParseCmdline(bad) = %+v, %v; want both words named", o, err)
	}
}

func TestParseNetwork(t *testing.T) {
	o, err := ParseCmdline("mkcdrec.ip=192.0.2.7/24,192.0.2.1 mkcdrec.nic=52:54:00:00:00:01 mkcdrec.vlan=7 mkcdrec.bond=active-backup:eth0+eth1 mkcdrec.dns=192.0.2.53 mkcdrec.ntp=ntp.example mkcdrec.sshkey=ssh-ed25519,AAAA mkcdrec.check")
	if want := (Network{"192.0.2.7/24,192.0.2.1", "52:54:00:00:00:01", 7, "active-backup:eth0+eth1", []string{"192.0.2.53"}}); err != nil || !reflect.DeepEqual(o.Net, want) || o.NTP != "ntp.example" || o.SSHKeys[0] != "ssh-ed25519 AAAA" || !o.Check {
		t.Errorf("ParseCmdline = %+v, %v", o, err)
	}
	if o, err := ParseCmdline("mkcdrec.source=http://192.0.2.1/set"); err != nil || o.Net.IP != "dhcp" {
		t.Errorf("a set on a server: %+v, %v; want DHCP", o, err)
	}
	for _, w := range []string{"01-52-54-00-AA-00-01", "52:54:00:aa:00:01"} {
		if o, err := ParseCmdline("BOOTIF=" + w); err != nil || o.Net.NIC != "52:54:00:aa:00:01" {
			t.Errorf("BOOTIF=%s: card %q, %v", w, o.Net.NIC, err)
		}
	}
	for _, bad := range []string{"mkcdrec.vlan=5000", "mkcdrec.bond=x", "mkcdrec.vlan="} {
		if _, err := ParseCmdline(bad); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestParseFleet(t *testing.T) {
	const cert = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if o, err := ParseCmdline("mkcdrec.fleet=https://192.0.2.1:8443 mkcdrec.fleetcert=" + cert); err != nil || o.Fleet != "https://192.0.2.1:8443" || o.FleetCert != cert || o.Net.IP != "dhcp" {
		t.Errorf("ParseCmdline = %+v, %v", o, err)
	}
	for _, bad := range []string{"mkcdrec.fleet=https://192.0.2.1:8443", "mkcdrec.fleetcert=" + cert, "mkcdrec.fleet=http://192.0.2.1 mkcdrec.fleetcert=" + cert, "mkcdrec.fleet=https://192.0.2.1 mkcdrec.fleetcert=abc"} {
		if o, err := ParseCmdline(bad); err == nil || o.Fleet != "" || o.FleetCert != "" {
			t.Errorf("%s is accepted: %+v", bad, o)
		}
	}
}

func TestCarryOver(t *testing.T) {
	in := "BOOT_IMAGE=/vmlinuz-6.1 root=/dev/mapper/vg0-root ro quiet console=tty0 console=ttyS0,115200 net.ifnames=0 mitigations=off resume=UUID=1 rd.lvm.lv=a mkcdrec.auto=restore nomodule crashkernel=1G -- --daemon console=ttyS9"
	if got, want := CarryOver(in), "console=tty0 console=ttyS0,115200 net.ifnames=0 mitigations=off"; got != want {
		t.Errorf("CarryOver = %q; want %q", got, want)
	}
	if got, want := CarryOver(`root="LABEL=my root" dyndbg="file x.c +p" ro`), `dyndbg="file x.c +p"`; got != want {
		t.Errorf("CarryOver = %q; want %q", got, want)
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("mkcdrec.auto=restore mkcdrec.confirm=,")
	f.Fuzz(func(t *testing.T, s string) { _, _ = ParseCmdline(s); CarryOver(s) })
}
