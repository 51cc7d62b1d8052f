package clonezilla

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// deviceRE are names of devices below /dev: those that a layout takes.
var deviceRE = lazyregexp.New(`^[0-9A-Za-z_][0-9A-Za-z_.+-]*(/[0-9A-Za-z_.+][0-9A-Za-z_.+-]*)?$`)

// device checks the name of a device and takes /dev/ away.
func device(s string) (string, error) {
	s = strings.TrimPrefix(s, "/dev/")
	if !deviceRE().MatchString(s) || strings.HasSuffix(s, "/.") || strings.HasSuffix(s, "/..") {
		return "", fmt.Errorf("%.100q is not the name of a device", s)
	}
	return s, nil
}

// words reads the files `disk` and `parts`: names of devices.
func words(text string) (out []string, err error) {
	for _, w := range strings.Fields(text) {
		d, err := device(w)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// lines returns the fields of all lines that are not empty and not comments, with their
// numbers; the first field is a device.
func lines(text string, at, least int, each func(f []string) error) error {
	for n, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		err := fmt.Errorf("has %d fields; want %d", len(f), least)
		if len(f) >= least {
			if f[at], err = device(f[at]); err == nil {
				err = each(f)
			}
		}
		if err != nil {
			return fmt.Errorf("line %d: %w: %.200q", n+1, err, line)
		}
	}
	return nil
}

// humanSize is a size as lsblk(8) prints it, "19.5G".
var humanSize = lazyregexp.New(`^[0-9]+([.,][0-9]+)?[BKMGTPE]?i?B?$`)

// parseDevFS reads dev-fs.list, "/dev/sda1 ext4 10G": the type of file system by device, ""
// where it was not known.
func parseDevFS(text string) (map[string]string, error) {
	out := map[string]string{}
	return out, lines(text, 0, 1, func(f []string) error {
		out[f[0]] = ""
		if len(f) > 2 || len(f) == 2 && !humanSize().MatchString(f[1]) {
			if !layout.Text(f[1]) {
				return fmt.Errorf("type is not text")
			}
			out[f[0]] = f[1]
		}
		return nil
	})
}

// physical is a line of lvm_vg_dev.list, "VG /dev/sda2 UUID".
type physical struct{ group, device, uuid string }

// noGroup stands for the group of a physical volume that is in none (save_logv in
// Clonezilla's ocs-functions).
const noGroup = "/NOT_FOUND"

func parsePVs(text string) (out []physical, err error) {
	return out, lines(text, 1, 3, func(f []string) error {
		if f[0] != noGroup {
			if g, err := device(f[0]); err != nil || strings.Contains(g, "/") {
				return fmt.Errorf("%.100q is not the name of a volume group", f[0])
			}
		}
		if !layout.Text(f[2]) {
			return fmt.Errorf("UUID is not text")
		}
		out = append(out, physical{f[0], f[1], f[2]})
		return nil
	})
}

// parseLVs reads lvm_logv.list, "/dev/VG/LV  what file(1) calls its content".
func parseLVs(text string) (out []string, err error) {
	return out, lines(text, 0, 1, func(f []string) error {
		if !strings.Contains(f[0], "/") {
			return fmt.Errorf("is not a logical volume")
		}
		out = append(out, f[0])
		return nil
	})
}

// LUKS is a LUKS device that was open when the image was made.
type LUKS struct {
	Device string
	UUID   string
	Name   string // of the open device; its content's Device is "mapper/NAME"
	// Header is the file with the header, by cryptsetup luksHeaderBackup; "" for none.
	Header string
}

// parseLUKS reads luks-dev.list, "/dev/sda3 UUID NAME".
func parseLUKS(text string) (out []LUKS, err error) {
	return out, lines(text, 0, 3, func(f []string) error {
		name, err := device(strings.TrimPrefix(f[2], "/dev/mapper/"))
		if err != nil || strings.Contains(name, "/") || !layout.Text(f[1]) {
			return fmt.Errorf("is not an open LUKS device")
		}
		out = append(out, LUKS{Device: f[0], UUID: f[1], Name: name})
		return nil
	})
}

// identity is what blkid(8) knows of a device.
type identity struct{ uuid, label, typ string }

// parseSwap reads swappt-NAME.info: lines UUID="..." and LABEL="...".
func parseSwap(text string) (id identity, err error) {
	for n, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		f := assignments(line)
		if f == nil {
			return id, fmt.Errorf("line %d: is not UUID=\"...\" or LABEL=\"...\": %.200q", n+1, line)
		}
		if v, ok := f["UUID"]; ok {
			id.uuid = v
		}
		if v, ok := f["LABEL"]; ok {
			id.label = v
		}
	}
	if !layout.Text(id.uuid) || !layout.Text(id.label) {
		return id, fmt.Errorf("UUID or label is not text")
	}
	return id, nil
}

// assignments reads `KEY="value" KEY="value"`, a backslash before a quote or a
// backslash; nil if it is something else.
func assignments(s string) map[string]string {
	out := map[string]string{}
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		k, rest, ok := strings.Cut(s, `="`)
		if !ok || strings.ContainsAny(k, " \t\"") {
			return nil
		}
		var v strings.Builder
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				i++
			}
			v.WriteByte(rest[i])
		}
		if i >= len(rest) {
			return nil
		}
		out[k], s = v.String(), rest[i+1:]
	}
	return out
}

// parseBlkid reads blkid.list, what blkid(8) printed; lines of another form are left
// out, since it is only asked for what the image may lack.
func parseBlkid(text string) map[string]identity {
	out := map[string]identity{}
	for _, line := range strings.Split(text, "\n") {
		dev, rest, ok := strings.Cut(line, ": ")
		dev, is := strings.CutPrefix(dev, "/dev/")
		if f := assignments(rest); ok && is && f != nil {
			out[dev] = identity{plain(f["UUID"]), plain(f["LABEL"]), plain(f["TYPE"])}
		}
	}
	return out
}

// plain is s, or "" if s is not text.
func plain(s string) string {
	if !layout.Text(s) {
		return ""
	}
	return s
}

// blockdev is a device of blkdev.json, what `lsblk -JOb` printed. Values are numbers or
// strings, by lsblk's version.
type blockdev struct {
	KName    string     `json:"kname"`
	Type     string     `json:"type"`
	Size     flexible   `json:"size"`
	Model    string     `json:"model"`
	Serial   string     `json:"serial"`
	WWN      string     `json:"wwn"`
	Logical  flexible   `json:"log-sec"`
	Physical flexible   `json:"phy-sec"`
	Children []blockdev `json:"children"`
}

type flexible int64

func (f *flexible) UnmarshalJSON(b []byte) error {
	x, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err == nil && x > 0 { // else it is not known, like null
		*f = flexible(x)
	}
	return nil
}

// parseLsblk returns the whole disks of blkdev.json by the kernel's name.
func parseLsblk(text string) (map[string]blockdev, error) {
	var v struct {
		Blockdevices []blockdev `json:"blockdevices"`
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, err
	}
	out := map[string]blockdev{}
	for _, d := range v.Blockdevices { // a disk is at the top
		d.Model, d.Serial, d.WWN, d.Children = plain(strings.TrimSpace(d.Model)), plain(strings.TrimSpace(d.Serial)), plain(d.WWN), nil
		out[d.KName] = d
	}
	return out, nil
}

// parseBlkdev returns the models of disks from blkdev.list, the columns that lsblk(8)
// printed: KNAME NAME SIZE TYPE FSTYPE MOUNTPOINT MODEL.
func parseBlkdev(text string) map[string]string {
	head, rest, _ := strings.Cut(text, "\n")
	at := strings.Index(head, "MODEL")
	out := map[string]string{}
	if at < 0 {
		return out
	}
	for _, line := range strings.Split(rest, "\n") {
		if f := strings.Fields(line); len(f) > 0 && len(line) > at {
			out[f[0]] = plain(strings.TrimSpace(line[at:]))
		}
	}
	return out
}

// parted is the content of -pt.parted about a disk, `parted -s unit s print`.
type parted struct {
	model             string
	size              quantity.Size
	logical, physical quantity.Size
}

var (
	partedSize   = lazyregexp.New(`(?m)^Disk /dev/[^:]+: ([0-9]{1,15})s$`)
	partedSector = lazyregexp.New(`(?m)^Sector size \(logical/physical\): ([0-9]{1,5})B/([0-9]{1,5})B$`)
	partedModel  = lazyregexp.New(`(?m)^Model: (.*?)(?: \([^()]*\))?$`)
)

func parseParted(text string) (p parted) {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	num := func(s string) quantity.Size {
		x, _ := strconv.ParseInt(s, 10, 64) // digits, by the expression
		return quantity.Size(x)
	}
	p.logical, p.physical = 512, 512
	if g := partedSector().FindStringSubmatch(text); g != nil {
		p.logical, p.physical = num(g[1]), num(g[2])
	}
	if g := partedSize().FindStringSubmatch(text); g != nil && p.logical <= 4096 {
		p.size = num(g[1]) * p.logical
	}
	if g := partedModel().FindStringSubmatch(text); g != nil {
		p.model = plain(strings.TrimSpace(g[1]))
	}
	return p
}
