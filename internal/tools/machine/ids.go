package machine

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// ids are names of hardware in the form of pci.ids(5): "8086", "8086 1237", "8086 1237 1af4 1100",
// and classes as "C 02", "C 02 00", "C 02 00 01".
type ids map[string]string

// idFiles are where distributions have a list of names, and the installed system's when
// it is mounted.
var idFiles = []string{"/usr/share/misc/", "/usr/share/hwdata/", "/usr/share/", "/var/lib/usbutils/", "/mnt/medium/boot/", "/mnt/target/usr/share/misc/", "/mnt/target/usr/share/hwdata/"}

// readIDs reads the names for which wanted is true of the vendor, and all classes. Without a
// list there are no names.
func readIDs(file string, wanted func(vendor string) bool) ids {
	for _, d := range idFiles {
		for _, suffix := range []string{"", ".gz"} {
			f, err := os.Open(d + file + suffix)
			if err != nil {
				continue
			}
			defer f.Close()
			var r io.Reader = f
			if suffix != "" {
				if r, err = gzip.NewReader(f); err != nil {
					continue
				}
			}
			return parseIDs(r, wanted)
		}
	}
	return nil
}

func parseIDs(r io.Reader, wanted func(vendor string) bool) ids {
	out := ids{}
	var path [3]string
	for l, err := range tools.Lines(r, '\n') {
		if err != nil {
			break // what was read is of use
		}
		l = bytes.TrimRight(l, "\r\n")
		depth := len(l) - len(bytes.TrimLeft(l, "\t"))
		if depth > 2 || len(l) == depth || l[depth] == '#' || depth > 0 && path[depth-1] == "" {
			continue
		}
		key, name, ok := strings.Cut(string(l[depth:]), "  ")
		if !ok {
			continue
		}
		if depth > 0 {
			key = path[depth-1] + " " + key
		}
		path = [3]string{path[0], path[1]}
		path[depth] = key
		if depth == 0 && !strings.HasPrefix(key, "C ") && (len(key) != 4 || !wanted(key)) {
			path[0] = ""
			continue
		}
		if depth < 2 {
			path[depth+1] = ""
		}
		out[key] = strings.TrimSpace(name)
	}
	return out
}

// value is a file of sysfs, without the end of its line.
func value(parts ...string) string {
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n ")
}

// linkName is the last element of where a link leads.
func linkName(parts ...string) string {
	to, err := os.Readlink(filepath.Join(parts...))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// style is how numbers and names are shown: -n numbers, -nn both.
type style int

func styleOf(e *tools.Env) style { return style(min(len(e.Vals("n")), 2)) }

// device names a device or a subsystem, as lspci does.
func (s style) device(vendorName, deviceName, vendor, device string) string {
	number := vendor + ":" + device
	if s == 1 {
		return number
	}
	tail := ""
	switch {
	case vendorName == "" && s == 2:
		return "Device [" + number + "]"
	case vendorName == "":
		return "Device " + number
	case s == 2:
		tail = " [" + number + "]"
	case deviceName == "":
		tail = " " + device
	}
	if deviceName == "" {
		deviceName = "Device"
	}
	return vendorName + " " + deviceName + tail
}

// class names a class of four digits.
func (s style) class(names ids, class string) string {
	base, sub := names["C "+class[:2]], names["C "+class[:2]+" "+class[2:]]
	switch {
	case s == 1:
		return class
	case sub != "" && s == 2:
		return fmt.Sprintf("%s [%s]", sub, class)
	case sub != "":
		return sub
	case base != "":
		return fmt.Sprintf("%s [%s]", base, class)
	case s == 2:
		return "Class [" + class + "]"
	}
	return "Class " + class
}
