package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// parts are the first 64 partitions that are on a disk of a size.
func parts(ts []layout.Partition, size quantity.Size) (out []fleet.Part) {
	for _, t := range ts {
		if t.Extended() || t.Size <= 0 || t.Start < 0 || t.Start+t.Size > size || len(out) >= 64 {
			continue
		}
		out = append(out, fleet.Part{Start: int64(t.Start), Size: int64(t.Size), What: strings.TrimSpace(t.Device + " " + t.Name)})
	}
	return out
}

// Facts describes the machine that this runs on, as it is on the way to a server.
func Facts(ctx context.Context, server string) (*fleet.Registration, error) {
	mac, err := cardTo(ctx, server)
	if err != nil {
		return nil, err
	}
	r := facts("")
	r.MAC = mac
	if all, err := net.Interfaces(); err == nil {
		for _, i := range all {
			if m, err := fleet.ParseMAC(i.HardwareAddr.String()); err == nil && len(r.MACs) < 32 {
				r.MACs = append(r.MACs, m)
			}
		}
	}
	disks, err := (probe.Machine{Run: tool.Exec{}}).Present(nil)
	if err != nil {
		return nil, err
	}
	for _, p := range disks {
		d := fleet.Disk{Disk: p.Disk, Busy: p.Busy}
		d.Table = nil
		if p.Table != nil {
			d.Parts = parts(p.Table.Partitions, p.Size)
		}
		if len(r.Disks) < 64 {
			r.Disks = append(r.Disks, d)
		}
	}
	return r, nil
}

// facts reads what does not depend on a server, below root.
func facts(root string) *fleet.Registration {
	read := func(f string) string {
		b, err := os.ReadFile(root + f)
		if err != nil {
			return "" // many virtual machines have none of these
		}
		return strings.TrimSpace(string(b))
	}
	const dmi = "/sys/class/dmi/id/"
	r := &fleet.Registration{Serial: read(dmi + "product_serial"), Vendor: read(dmi + "sys_vendor"), Model: read(dmi + "product_name"), UUID: read(dmi + "product_uuid"), Boot: read("/proc/sys/kernel/random/boot_id"), Firmware: "bios"}
	if s := read(dmi + "chassis_serial"); !fleet.Usable(r.Serial) && fleet.Usable(s) {
		r.Serial = s
	}
	if _, err := os.Stat(root + "/sys/firmware/efi"); err == nil {
		r.Firmware = "uefi"
	}
	for _, l := range strings.Split(read("/proc/meminfo"), "\n") {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "MemTotal:" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				r.Memory = n << 10
			}
		}
	}
	return r
}

// cardTo gives the address of the network card that leads to a server.
func cardTo(ctx context.Context, server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer c.Close()
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return "", errors.New("cannot find the network card: it is not a TCP connection")
	}
	all, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("cannot list network cards: %w", err)
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(local.IP) {
				return fleet.ParseMAC(i.HardwareAddr.String())
			}
		}
	}
	return "", fmt.Errorf("cannot find the network card with the address %s", local.IP)
}
