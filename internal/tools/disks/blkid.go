package disks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// tag is one of blkid's.
type tag struct{ name, value string }

// tags are what blkid prints of a device or file.
func tags(path string) []tag {
	var out []tag
	add := func(name, value string) {
		if value != "" {
			out = append(out, tag{name, value})
		}
	}
	if i := look(path); i != nil {
		switch {
		case i.MD != nil:
			add("UUID", mdUUID(i.MD.UUID))
			add("LABEL", i.MD.Name)
		default:
			add("LABEL", i.Label)
			add("UUID", i.UUID)
		}
		if n := fstype.Of(i.Type).UnitOf(&i.Geometry); n > 0 {
			add("BLOCK_SIZE", strconv.FormatInt(n, 10))
		}
		add("TYPE", i.Type)
	}
	if len(out) == 0 {
		if f, size, ss, err := openDisk(path); err == nil {
			defer f.Close()
			if t, err := gpt.Read(f, ss, size); err == nil {
				add("PTUUID", strings.ToLower(t.GUID))
				add("PTTYPE", "gpt")
			} else if t, err := mbr.Read(f, ss); err == nil && len(t.Partitions) > 0 {
				add("PTUUID", fmt.Sprintf("%08x", t.Signature))
				add("PTTYPE", "dos")
			}
		}
	}
	d := &device{name: filepath.Base(path)}
	if n, err := strconv.Atoi(d.sys("partition")); err == nil && strings.HasPrefix(path, "/dev/") {
		if real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name); err == nil {
			p := partitionOf("/dev/"+filepath.Base(filepath.Dir(real)), n)
			add("PARTLABEL", p.label)
			add("PARTUUID", p.uuid)
		}
	}
	return out
}

// mdUUID writes the UUID of an array as blkid does.
func mdUUID(s string) string {
	h := strings.ReplaceAll(s, ":", "")
	if len(h) != 32 {
		return s
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// searched is the tag of which devices are listed, "" for all, and the format of the list.
func searched(e *tools.Env) (tag, string) {
	key, want, _ := strings.Cut(e.Val("t"), "=")
	format := e.Or("o", "full")
	switch {
	case e.On("U"):
		key, want, format = "UUID", e.Val("U"), "device"
	case e.On("L"):
		key, want, format = "LABEL", e.Val("L"), "device"
	}
	return tag{key, strings.Trim(want, `"`)}, format
}

func blkid(e *tools.Env) error {
	paths, err := operands(e, func(*device) bool { return true })
	if err != nil {
		return err
	}
	which, format := searched(e)
	found := false
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil && len(e.Args) > 0 && e.On("p") {
			e.Fault(2, "error: %s: %s", p, tools.Cause(err))
			continue
		}
		ts := tags(p)
		if which.name != "" && !slices.Contains(ts, which) {
			continue
		}
		if e.On("s") {
			ts = slices.DeleteFunc(ts, func(t tag) bool { return !slices.Contains(e.Vals("s"), t.name) })
		}
		if len(ts) == 0 {
			continue
		}
		found = true
		if err := blkidLine(e, format, p, ts); err != nil {
			return err
		}
		if e.On("l", "U", "L") {
			break
		}
	}
	if !found {
		return tools.Status(2)
	}
	return nil
}

func blkidLine(e *tools.Env, format, path string, ts []tag) error {
	clean := func(s string) string { return strings.ReplaceAll(printable.Clean(s), `"`, `\"`) }
	switch format {
	case "device":
		e.Printf("%s\n", path)
	case "value":
		for _, t := range ts {
			e.Printf("%s\n", printable.Clean(t.value))
		}
	case "export", "udev":
		if format == "export" {
			e.Printf("DEVNAME=%s\n", path)
		}
		for _, t := range ts {
			n := t.name
			if format == "udev" {
				n = "ID_FS_" + n
			}
			e.Printf("%s=%s\n", n, strings.ReplaceAll(printable.Clean(t.value), " ", `\ `))
		}
	case "full", "list":
		e.Printf("%s:", path)
		for _, t := range ts {
			e.Printf(" %s=\"%s\"", t.name, clean(t.value))
		}
		e.Printf("\n")
	default:
		return tools.Usage("unsupported output format %s", format)
	}
	return nil
}
