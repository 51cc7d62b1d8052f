//go:build vmtest

package vmtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNetboot: boot-*-pxe and the like: guests with an empty disk start from
// dnsmasq and a web server, fetch the set from there, and restore unattended;
// the restored machine is compared with the source.
func TestNetboot(t *testing.T) {
	short(t)
	if err := command(context.Background(), "sh", "-c", "test -c /dev/net/tun"); err != nil {
		t.Skip("there is no /dev/net/tun")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	dir := workDir(t)
	n, err := StartNetwork(ctx, dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("dnsmasq:\n%s\nhttp: %v", n.Log(), n.Asked())
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}()
	k, err := FetchKernel(ctx, "linux-image-cloud-amd64")
	if err != nil {
		t.Fatal(err)
	}
	exe, guest := programs(t)
	pxe := func(args ...string) {
		t.Helper()
		if err := command(ctx, append([]string{exe, "-q", "pxe", n.Root, "--kernel", k.Image, "--modules", k.Modules, "--url", "http://" + ServerIP}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	pxe("--append", consoles, "--default", "rescue")
	for _, c := range []struct {
		name   string
		kind   int
		uefi   bool
		loaded string // by HTTP
	}{
		{"boot-bios-ipxe", ScriptNIC, false, "/boot.ipxe"},
		{"boot-bios-pxe", PlainNIC, false, "/initrd.img"},
		{"boot-uefi-http", HTTPNIC, true, "/mkcdrec.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nic, mac, err := n.NIC(ctx, c.kind)
			if err != nil {
				t.Fatal(err)
			}
			m := Machine{Name: c.name, NIC: []string{nic}, NetBoot: true, Log: filepath.Join(dir, c.name+".log")}
			if c.uefi {
				if m.UEFI, err = NVRAM(filepath.Join(dir, c.name+".vars")); err != nil {
					t.Fatal(err)
				}
			}
			vm, err := Start(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			if _, err := vm.Expect(`network: 10\.77\.23\.\d+/24 on eth0(?s:.*)rescue system ready`, bootLimit); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(n.Asked(), "\n"), "GET "+c.loaded) {
				t.Errorf("%s (%s) did not load %s", c.name, mac, c.loaded)
			}
		})
	}
	t.Run("net-dhcp6", func(t *testing.T) {
		nic, _, err := n.NIC(ctx, PlainNIC)
		if err != nil {
			t.Fatal(err)
		}
		vm, err := Start(ctx, Machine{Name: "dhcp6", NIC: []string{nic}, Kernel: k.Image, Initrd: filepath.Join(n.Root, "initrd.img"), Append: "console=ttyS0 rootfstype=ramfs mkcdrec.ip=dhcp6", Log: filepath.Join(dir, "dhcp6.log")})
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Kill()
		if _, err := vm.Expect(`network: fd77:23::\S+ on eth0(?s:.*)rescue system ready`, bootLimit); err != nil {
			t.Error(err)
		}
	})
	kinds := map[string]string{"boot-uefi-pxe": UEFIPlain}
	if os.Getenv("MKCDREC_ALL") != "" {
		kinds["boot-bios-pxe-restore"] = BIOSLVM
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			work := filepath.Join(dir, kind)
			if err := os.MkdirAll(work, 0o755); err != nil {
				t.Fatal(err)
			}
			r := Circle{Kind: kind, TargetSize: machines[kind].smaller, Work: work, Say: t.Logf, Mkcdrec: exe, Guest: guest}.new()
			for _, step := range []func(context.Context) error{r.source, r.backup, r.destroy} {
				if err := step(ctx); err != nil {
					t.Fatal(err)
				}
			}
			set, err := r.setDir(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := command(ctx, "debugfs", "-R", "rdump /"+set+" "+n.Root, r.setDisk); err != nil {
				t.Fatal(err)
			}
			pxe("--append", consoles+" mkcdrec.auto=restore mkcdrec.confirm="+r.targetSerial(), "--source", "http://"+ServerIP+"/"+set)
			if err := r.makeTargets(ctx); err != nil {
				t.Fatal(err)
			}
			nic, _, err := n.NIC(ctx, PlainNIC)
			if err != nil {
				t.Fatal(err)
			}
			m := Machine{Name: "pxe-" + kind, Memory: 768, NIC: []string{nic}, NetBoot: true, Disks: []Disk{r.target()}, Log: r.log("pxe")}
			if err := r.nvram(&m, "pxe"); err != nil {
				t.Fatal(err)
			}
			vm, err := Start(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			if err := vm.Menu("r", bootLimit); err != nil {
				t.Fatal(err)
			}
			if g, err := vm.Expect(`UNATTENDED RESTORE (DONE|FAILED.*)|the unattended job is not begun(?s:.*)rescue system ready`, jobLimit); err != nil || g[1] != "DONE" {
				t.Fatal(g, err)
			}
			if err := vm.Wait(bootLimit); err != nil {
				t.Fatal(err)
			}
			for _, step := range []func(context.Context) error{r.boot, r.compare} {
				if err := step(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range r.out.Differences {
				t.Errorf("differs: %v", d)
			}
			t.Logf("%d paths compared; named differences: %v", r.out.Paths, r.out.Named)
			record(t, r.Circle, r.out)
			if os.Getenv("MKCDREC_ALL") != "" {
				bootsAgain(ctx, t, r, m)
			}
		})
	}
}

// bootsAgain starts a machine whose network stays first in the boot order once more:
// nothing is restored again, and the restored system starts, by the firmware's entry or by
// kexec: OVMF drops entries of disks from its order where QEMU has one of the network alone.
func bootsAgain(ctx context.Context, t *testing.T, r *circle, m Machine) {
	t.Helper()
	for i := range m.Disks {
		m.Disks[i].Snapshot = true
	}
	start := func(name string) *VM {
		m.Log = r.log(name)
		vm, err := Start(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = vm.Kill() })
		return vm
	}
	vm := start("again")
	if err := vm.Menu("r", bootLimit); err != nil {
		t.Fatal(err)
	}
	g, err := vm.Expect(`NOT RESTORED AGAIN: this machine was restored(?s:.*?)(the firmware's entry Boot[0-9A-F]{4} is started next|booted from its disk, without the firmware)`, jobLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(g[1])
	if strings.HasSuffix(g[1], "next") { // QEMU ends in the place of a reset
		if err := vm.Wait(bootLimit); err != nil {
			t.Fatal(err)
		}
		vm = start("next")
	}
	if _, err := vm.Expect(r.Kind+` login: `, bootLimit); err != nil {
		t.Error(err)
	}
}
