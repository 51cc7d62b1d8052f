package machine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func hardwareCommands() []tools.Command {
	return []tools.Command{
		{Name: "lspci", Opts: "n k v D m s: d: sysfsroot:", Synopsis: "", Run: lspci},
		{Name: "lsusb", Opts: "t/tree v/verbose s: d: sysfsroot:", Synopsis: "", Run: lsusb},
		{Name: "lsscsi", Opts: "g/generic s/size d/device H/hosts b/brief y/sysfsroot: N/no-nvme", Synopsis: "[H:C:T:L]", Run: lsscsi},
	}
}

// pciDevice is a device of the PCI bus.
type pciDevice struct {
	dir, slot, class, vendor, device, subVendor, subDevice, revision string
}

func lspci(e *tools.Env) error {
	if err := e.Need(0, 0); err != nil {
		return err
	}
	root := e.Or("sysfsroot", "/sys") + "/bus/pci/devices"
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("cannot read %s: %s", root, tools.Cause(err))
	}
	var list []pciDevice
	vendors := map[string]bool{}
	domains := e.On("D")
	for _, x := range entries {
		hex := func(name string) string { return strings.TrimPrefix(value(root, x.Name(), name), "0x") }
		d := pciDevice{filepath.Join(root, x.Name()), x.Name(), hex("class"), hex("vendor"), hex("device"), hex("subsystem_vendor"), hex("subsystem_device"), hex("revision")}
		if len(d.class) != 6 || !selected(e, d) {
			continue
		}
		domains = domains || !strings.HasPrefix(d.slot, "0000:")
		vendors[d.vendor], vendors[d.subVendor] = true, true
		list = append(list, d)
	}
	if !domains {
		for i := range list {
			list[i].slot = strings.TrimPrefix(list[i].slot, "0000:")
		}
	}
	names := readIDs("pci.ids", func(v string) bool { return vendors[v] })
	var index *kmod.Index
	if e.On("k", "v") {
		var u unix.Utsname
		if err := unix.Uname(&u); err == nil {
			index, _ = kmod.Open("/lib/modules/" + unix.ByteSliceToString(u.Release[:])) // without it no modules are named
		}
	}
	for _, d := range list {
		if e.On("m") {
			d.machine(e, names)
			continue
		}
		d.print(e, names)
		if e.On("k", "v") {
			d.details(e, names, index)
		}
	}
	return nil
}

// selected applies -s [[DOMAIN:]BUS:]SLOT[.FUNCTION] and -d VENDOR:DEVICE.
func selected(e *tools.Env, d pciDevice) bool {
	same := func(want, have string) bool {
		a, err := strconv.ParseUint(want, 16, 32)
		b, err2 := strconv.ParseUint(have, 16, 32)
		return want == "" || want == "*" || err == nil && err2 == nil && a == b
	}
	if s := e.Val("d"); s != "" {
		v, dev, _ := strings.Cut(s, ":")
		if !same(v, d.vendor) || !same(dev, d.device) {
			return false
		}
	}
	s := e.Val("s")
	if s == "" {
		return true
	}
	at := strings.Split(d.slot, ":")
	last, function, _ := strings.Cut(at[len(at)-1], ".")
	want := strings.Split(s, ":")
	slot, fn, _ := strings.Cut(want[len(want)-1], ".")
	have := append(at[:len(at)-1:len(at)-1], last)
	for i, w := range slices.Backward(append(want[:len(want)-1:len(want)-1], slot)) {
		if j := len(have) - len(want) + i; j < 0 || !same(w, have[j]) {
			return false
		}
	}
	return same(fn, function)
}

func (d pciDevice) print(e *tools.Env, names ids) {
	s := styleOf(e)
	e.Printf("%s %s: %s", d.slot, s.class(names, d.class[:4]), s.device(names[d.vendor], names[d.vendor+" "+d.device], strings.TrimPrefix(d.vendor, "0x"), d.device))
	if n, err := strconv.ParseUint(d.revision, 16, 8); err == nil && n != 0 {
		e.Printf(" (rev %02x)", n)
	}
	if name := names["C "+d.class[:2]+" "+d.class[2:4]+" "+d.class[4:]]; e.On("v") && (name != "" || d.class[4:] != "00") {
		e.Printf(" (prog-if %s)", strings.TrimRight(d.class[4:]+" ["+name+"]", " []"))
	}
	e.Printf("\n")
}

// subsystem gives the names of who made the card; ok is false for a device without them.
func (d pciDevice) subsystem(names ids) (vendor, device string, ok bool) {
	device = names[d.vendor+" "+d.device+" "+d.subVendor+" "+d.subDevice]
	if device == "" && d.subVendor == d.vendor && d.subDevice == d.device {
		device = names[d.vendor+" "+d.device]
	}
	return names[d.subVendor], device, d.subVendor != "" && d.subVendor != "0000" && d.subVendor != "ffff"
}

func (d pciDevice) details(e *tools.Env, names ids, index *kmod.Index) {
	if v, n, ok := d.subsystem(names); ok {
		e.Printf("\tSubsystem: %s\n", styleOf(e).device(v, n, d.subVendor, d.subDevice))
	}
	if e.On("v") {
		if irq := value(d.dir, "irq"); irq != "" && irq != "0" {
			e.Printf("\tIRQ %s\n", irq)
		}
		if node := value(d.dir, "numa_node"); node != "" && node != "-1" {
			e.Printf("\tNUMA node %s\n", node)
		}
		d.regions(e)
	}
	if to := linkName(d.dir, "driver"); to != "" {
		e.Printf("\tKernel driver in use: %s\n", to)
	}
	if index != nil {
		if m := index.Match(value(d.dir, "modalias")); len(m) > 0 {
			e.Printf("\tKernel modules: %s\n", strings.Join(m, ", "))
		}
	}
	if e.On("v") {
		e.Printf("\n")
	}
}

// regions prints the places in memory and of ports; linux/ioport.h has the flags.
func (d pciDevice) regions(e *tools.Env) {
	for i, l := range strings.Split(value(d.dir, "resource"), "\n") {
		var first, last, flags uint64
		if n, err := fmt.Sscanf(l, "0x%x 0x%x 0x%x", &first, &last, &flags); n != 3 || err != nil || i > 5 || flags == 0 {
			continue
		}
		size := tools.Human(last-first+1, 1024)
		if flags&0x100 != 0 {
			e.Printf("\tI/O ports at %04x [size=%s]\n", first, size)
			continue
		}
		width, fetch := "32", "non-prefetchable"
		if flags&0x100000 != 0 {
			width = "64"
		}
		if flags&0x2000 != 0 {
			fetch = "prefetchable"
		}
		e.Printf("\tMemory at %08x (%s-bit, %s) [size=%s]\n", first, width, fetch, strings.Replace(size, ".0", "", 1))
	}
}

// machine prints the forms that programs read, -mm and -vmm.
func (d pciDevice) machine(e *tools.Env, names ids) {
	s := styleOf(e)
	one := func(vendor, device string, name string, isDevice bool) string {
		number := vendor
		if isDevice {
			number = device
		}
		switch {
		case s == 1:
			return number
		case name == "" && s == 2 && isDevice:
			return "Device [" + number + "]"
		case name == "" && isDevice:
			return "Device " + number
		case name == "":
			return "Unknown vendor " + number
		case s == 2:
			return name + " [" + number + "]"
		}
		return name
	}
	sv, sd, sub := d.subsystem(names)
	f := []string{s.class(names, d.class[:4]), one(d.vendor, "", names[d.vendor], false), one("", d.device, names[d.vendor+" "+d.device], true), "", ""}
	if sub {
		f[3], f[4] = one(d.subVendor, "", sv, false), one("", d.subDevice, sd, true)
	}
	rev, _ := strconv.ParseUint(d.revision, 16, 8) // 0 if there is none
	if !e.On("v") {
		e.Printf("%s \"%s\" \"%s\" \"%s\"", d.slot, f[0], f[1], f[2])
		if rev != 0 {
			e.Printf(" -r%02x", rev)
		}
		e.Printf(" -p%s \"%s\" \"%s\"\n", d.class[4:], f[3], f[4])
		return
	}
	e.Printf("Slot:\t%s\nClass:\t%s\nVendor:\t%s\nDevice:\t%s\n", d.slot, f[0], f[1], f[2])
	if sub {
		e.Printf("SVendor:\t%s\nSDevice:\t%s\n", f[3], f[4])
	}
	if rev != 0 {
		e.Printf("Rev:\t%02x\n", rev)
	}
	e.Printf("ProgIf:\t%s\n", d.class[4:])
	if to := linkName(d.dir, "driver"); to != "" && e.On("k") {
		e.Printf("Driver:\t%s\n", to)
	}
	e.Printf("\n")
}

// usbDevice is a device of the USB, which has a number on its bus.
type usbDevice struct {
	name, dir, vendor, product, text string
	bus, number                      int
}

func usbDevices(root string) ([]usbDevice, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("unable to initialize libusb: no USB here, or no driver for it")
	}
	if err != nil {
		return nil, err
	}
	var list []usbDevice
	vendors := map[string]bool{}
	for _, x := range entries {
		d := usbDevice{name: x.Name(), dir: filepath.Join(root, x.Name())}
		d.vendor, d.product = value(d.dir, "idVendor"), value(d.dir, "idProduct")
		bus, err := strconv.Atoi(value(d.dir, "busnum"))
		number, err2 := strconv.Atoi(value(d.dir, "devnum"))
		if d.vendor == "" || err != nil || err2 != nil {
			continue // an interface
		}
		d.bus, d.number, vendors[d.vendor] = bus, number, true
		list = append(list, d)
	}
	names := readIDs("usb.ids", func(v string) bool { return vendors[v] })
	for i, d := range list {
		vendor, product := names[d.vendor], names[d.vendor+" "+d.product]
		if vendor == "" {
			vendor = value(d.dir, "manufacturer")
		}
		if product == "" {
			product = value(d.dir, "product")
		}
		list[i].text = strings.TrimSpace(vendor + " " + product)
	}
	slices.SortFunc(list, func(a, b usbDevice) int { return cmp.Or(cmp.Compare(a.bus, b.bus), cmp.Compare(a.number, b.number)) })
	return list, nil
}

func lsusb(e *tools.Env) error {
	if err := e.Need(0, 0); err != nil {
		return err
	}
	list, err := usbDevices(e.Or("sysfsroot", "/sys") + "/bus/usb/devices")
	if err != nil {
		return err
	}
	if e.On("t") {
		for _, d := range slices.Backward(list) {
			if strings.HasPrefix(d.name, "usb") {
				usbTree(e, list, d, "")
			}
		}
		return nil
	}
	bus, number, _ := strings.Cut(e.Val("s"), ":")
	if !strings.Contains(e.Val("s"), ":") {
		bus, number = "", bus
	}
	vendor, product, _ := strings.Cut(strings.ToLower(e.Val("d")), ":")
	is := func(want string, n int) bool { m, err := strconv.Atoi(want); return want == "" || err == nil && m == n }
	shown := 0
	for _, d := range list {
		if !is(bus, d.bus) || !is(number, d.number) || vendor != "" && vendor != d.vendor || product != "" && product != d.product {
			continue
		}
		shown++
		e.Printf("Bus %03d Device %03d: ID %s:%s %s\n", d.bus, d.number, d.vendor, d.product, d.text)
		for _, x := range []struct{ file, name string }{{"serial", "iSerial"}, {"version", "bcdUSB"}, {"speed", "speed (Mbit/s)"}, {"bMaxPower", "MaxPower"}} {
			if v := value(d.dir, x.file); v != "" && e.On("v") {
				e.Printf("  %-16s %s\n", x.name, strings.TrimSpace(v))
			}
		}
	}
	if shown == 0 {
		e.Set(1)
	}
	return nil
}

var usbClasses = map[string]string{"00": "[unknown]", "01": "Audio", "02": "Communications", "03": "Human Interface Device", "05": "Physical Interface Device", "06": "Imaging", "07": "Printer", "08": "Mass Storage", "09": "Hub", "0a": "CDC Data", "0b": "Chip/SmartCard", "0e": "Video", "e0": "Wireless", "ef": "Miscellaneous Device", "fe": "Application Specific Interface", "ff": "Vendor Specific Class"}

// usbTree prints a device with its interfaces and what is behind it.
func usbTree(e *tools.Env, list []usbDevice, d usbDevice, indent string) {
	speed := value(d.dir, "speed") + "M"
	children := strings.TrimPrefix(d.name, "usb") + "-"
	if indent == "" {
		driver := linkName(d.dir, "..", "driver")
		if driver == "" {
			driver = linkName(d.dir, "driver")
		}
		e.Printf("/:  Bus %02d.Port 1: Dev %d, Class=root_hub, Driver=%s/%sp, %s\n", d.bus, d.number, driver, value(d.dir, "maxchild"), speed)
	} else {
		children = d.name + "."
		port := d.name[strings.LastIndexAny(d.name, "-.")+1:]
		matches, _ := filepath.Glob(d.dir + "/" + d.name + ":*") // the pattern is correct
		for _, m := range matches {
			n, _ := strconv.ParseUint(value(m, "bInterfaceNumber"), 16, 8) // 0 if it is missing
			driver := linkName(m, "driver")
			if hub := value(d.dir, "maxchild"); hub != "0" && hub != "" {
				driver += "/" + hub + "p"
			}
			e.Printf("%s|__ Port %s: Dev %d, If %d, Class=%s, Driver=%s, %s\n", indent, port, d.number, n, usbClasses[value(m, "bInterfaceClass")], driver, speed)
		}
	}
	for _, c := range list {
		if rest, ok := strings.CutPrefix(c.name, children); ok && !strings.ContainsAny(rest, ".-") {
			usbTree(e, list, c, indent+"    ")
		}
	}
}

var scsiTypes = map[string]string{"0": "disk", "1": "tape", "2": "printer", "3": "process", "4": "worm", "5": "cd/dvd", "6": "scanner", "7": "optical", "8": "mediumx", "9": "comms", "12": "storage", "13": "enclosu", "14": "sim dsk", "17": "osd", "20": "zbc"}

func lsscsi(e *tools.Env) error {
	root := e.Or("y", "/sys")
	if e.On("H") {
		hosts, _ := filepath.Glob(root + "/class/scsi_host/host*") // the pattern is correct
		for _, h := range hosts {
			e.Printf("[%s]    %-14s\n", strings.TrimPrefix(filepath.Base(h), "host"), value(h, "proc_name"))
		}
		return nil
	}
	devices, _ := filepath.Glob(root + "/bus/scsi/devices/[0-9]*:*") // likewise
	slices.SortFunc(devices, func(a, b string) int { return tools.Version(filepath.Base(a), filepath.Base(b)) })
	for _, d := range devices {
		name := filepath.Base(d)
		if len(e.Args) > 0 && !slices.Contains(e.Args, name) {
			continue
		}
		typ, ok := scsiTypes[value(d, "type")]
		if !ok {
			typ = "type " + value(d, "type")
		}
		e.Printf("%-13s%-8s", "["+name+"]", typ)
		if !e.On("b") {
			e.Printf("%-8s %-16s %-4s  ", value(d, "vendor"), value(d, "model"), value(d, "rev"))
		}
		scsiNode(e, d)
	}
	names, _ := filepath.Glob(root + "/class/nvme/nvme*/nvme*n*") // likewise
	for _, n := range names {
		c := filepath.Dir(n)
		if e.On("N") || value(n, "dev") == "" {
			continue
		}
		id := value(n, "nsid")
		e.Printf("%-13s%-8s", fmt.Sprintf("[N:%s:%s:%s]", strings.TrimPrefix(filepath.Base(c), "nvme"), value(c, "cntlid"), id), "disk")
		e.Printf("%-30s  ", value(c, "model")+"__"+id)
		scsiNode(e, n)
	}
	return nil
}

// scsiNode prints the device's node, and what options ask for.
func scsiNode(e *tools.Env, d string) {
	node := func(dirs ...string) (name, number, size string) {
		for _, pattern := range dirs {
			m, _ := filepath.Glob(pattern) // the pattern is correct
			for _, p := range m {
				if number = value(p, "dev"); number == "" {
					continue
				}
				if name = "/dev/" + filepath.Base(p); !exists(name) {
					name = "-"
				}
				return name, number, value(p, "size")
			}
		}
		return "-", "", ""
	}
	block := []string{d + "/block/*", d + "/scsi_tape/st[0-9]", d + "/scsi_changer/*"}
	if value(d, "nsid") != "" {
		block = []string{d}
	}
	name, number, size := node(block...)
	e.Printf("%-9s", name)
	if e.On("d") && number != "" {
		e.Printf("[%s]", number)
	}
	if e.On("g") {
		generic, _, _ := node(d + "/scsi_generic/*")
		e.Printf("  %-9s", generic)
	}
	if e.On("s") {
		e.Printf("  %6s", decimal(size))
	}
	e.Printf("\n")
}

func exists(p string) bool { _, err := os.Lstat(p); return err == nil }

// decimal is a number of sectors of 512 bytes in three digits: "1.07GB".
func decimal(sectors string) string {
	n, err := strconv.ParseUint(sectors, 10, 54)
	if err != nil {
		return "-"
	}
	f, i := float64(n*512), 0
	for f >= 1000 && i < 6 {
		f, i = f/1000, i+1
	}
	unit := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[i]
	digits := strconv.FormatFloat(f, 'f', 3, 64)[:4]
	return strings.TrimSuffix(digits, ".") + unit
}
