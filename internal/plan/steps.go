package plan

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Step is one thing to be done: a pointer to one of the types below. Devices have the
// target's names, without /dev/.
type Step interface {
	Head() Head
	// String describes the step to people; journals have it, too.
	String() string
	json.Marshaler
}

// Head is what all steps have.
type Head struct {
	Kind   string `json:"kind"`
	Device string `json:"device"`
	Text   string `json:"text"` // String
	// Destroys is set if data on Device is lost.
	Destroys bool `json:"destroys,omitempty"`
}

// record is the JSON form of a step, for journals' digests and --json.
type record struct {
	Head
	Table    *layout.Table      `json:"table,omitempty"`
	Sector   quantity.Size      `json:"sector,omitempty"`
	Array    *layout.Array      `json:"array,omitempty"`
	Crypt    *layout.Crypt      `json:"crypt,omitempty"`
	Group    string             `json:"group,omitempty"`
	UUID     string             `json:"uuid,omitempty"`
	Config   string             `json:"config,omitempty"`
	Run      [][]string         `json:"run,omitempty"`
	Swap     *layout.Swap       `json:"swap,omitempty"`
	Image    *layout.Image      `json:"image,omitempty"`
	Start    quantity.Size      `json:"start,omitempty"`
	FSType   string             `json:"fsType,omitempty"`
	Mount    *layout.Mount      `json:"mount,omitempty"`
	Others   []string           `json:"others,omitempty"`
	Subs     []layout.Subvolume `json:"subvolumes,omitempty"`
	SwapFile *layout.SwapFile   `json:"swapFile,omitempty"`
}

// WriteTable wipes a disk's ends and writes its partition table.
type WriteTable struct {
	Device string
	Table  *layout.Table
	Sector quantity.Size
	Disk   layout.Disk // of this machine
	// Boot is boot code that is written around the table, nil for none; Old is the layout's
	// name of the disk that it is of.
	Boot *BootCode
	Old  string
}

func (s *WriteTable) Head() Head { return Head{"write-table", s.Device, s.String(), true} }

func (s *WriteTable) String() string {
	text := fmt.Sprintf("write %s on %s", s.holds(), s.Disk.Target())
	if s.Boot != nil {
		text += ", with the boot code of " + s.Old
	}
	return text
}

// holds describes the table: "GPT with 3 partitions".
func (s *WriteTable) holds() string {
	if n := len(s.Table.Partitions); n != 1 {
		return fmt.Sprintf("%s with %d partitions", tableName(s.Table.Label), n)
	}
	return tableName(s.Table.Label) + " with 1 partition"
}

func (s *WriteTable) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Table: s.Table, Sector: s.Sector})
}

// MakeArray makes a RAID array and starts it.
type MakeArray struct {
	Device string
	Array  *layout.Array // with the target's devices
	Run    [][]string
}

func (s *MakeArray) Head() Head { return Head{"make-array", s.Device, s.String(), true} }

func (s *MakeArray) String() string {
	text := fmt.Sprintf("make %s array /dev/%s of %s", s.Array.Level, s.Array.Name, strings.Join(s.Array.Devs(), ", "))
	if n := s.Array.Devices - len(s.Array.Members); n > 0 {
		text += fmt.Sprintf(", %d missing, as it was", n)
	}
	return text + ", UUID " + s.Array.UUID
}

func (s *MakeArray) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Array: s.Array, Run: s.Run})
}

// MakeCrypt recreates a LUKS device, or restores its header, and opens it.
type MakeCrypt struct {
	Device string
	Crypt  *layout.Crypt
}

func (s *MakeCrypt) Head() Head { return Head{"make-luks", s.Device, s.String(), true} }

func (s *MakeCrypt) String() string {
	c := s.Crypt
	version := 0
	if c.LUKS != nil {
		version = c.LUKS.Version
	}
	if c.Header != "" {
		return fmt.Sprintf("restore the LUKS%d header of /dev/%s with all its keys, and open it as %s, UUID %s", version, s.Device, c.Name, c.UUID)
	}
	return fmt.Sprintf("recreate LUKS%d on /dev/%s with a new key, and open it as %s, UUID %s", version, s.Device, c.Name, c.UUID)
}

func (s *MakeCrypt) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Crypt: s.Crypt, Run: [][]string{{"cryptsetup"}}})
}

// MakePV makes a physical volume of a volume group.
type MakePV struct {
	Device, Group, UUID string
	Config              string // vgcfgbackup's text of the group
}

func (s *MakePV) Head() Head { return Head{"make-pv", s.Device, s.String(), true} }

func (s *MakePV) String() string {
	return fmt.Sprintf("make LVM physical volume on /dev/%s, UUID %s", s.Device, s.UUID)
}

func (s *MakePV) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Group: s.Group, UUID: s.UUID, Config: s.Config})
}

// RestoreVG writes a volume group's metadata and activates it.
type RestoreVG struct {
	Device  string // of its first physical volume
	Group   string
	Config  string
	Volumes []string
}

func (s *RestoreVG) Head() Head { return Head{"restore-vg", s.Device, s.String(), false} }

func (s *RestoreVG) String() string {
	text := "make LVM volume group " + s.Group
	if len(s.Volumes) > 0 {
		text += " with " + strings.Join(s.Volumes, ", ")
	}
	return text
}

func (s *RestoreVG) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Group: s.Group, Config: s.Config})
}

// MakeThin makes thin pools and volumes in a group.
type MakeThin struct {
	Group   string
	Volumes []string
	Run     [][]string
}

func (s *MakeThin) Head() Head { return Head{"make-thin", s.Group, s.String(), false} }

func (s *MakeThin) String() string {
	return fmt.Sprintf("make thin pools and volumes in %s: %s", s.Group, strings.Join(s.Volumes, ", "))
}

func (s *MakeThin) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Group: s.Group, Run: s.Run})
}

// MakeFS makes a file system.
type MakeFS struct {
	Device string
	Others []string // further devices of a btrfs
	FS     *layout.Filesystem
	Run    [][]string
}

func (s *MakeFS) Head() Head { return Head{"make-fs", s.Device, s.String(), true} }

func (s *MakeFS) String() string {
	text := fmt.Sprintf("make %s on /dev/%s", s.FS.Type, s.Device)
	if len(s.Others) > 0 {
		text += " and " + strings.Join(s.Others, ", ")
	}
	text += ident(s.FS.UUID, s.FS.Label)
	if s.FS.Excluded != "" || !s.FS.InUse() {
		text += ", empty: its files are not in the set"
	}
	return text
}

func (s *MakeFS) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Run: s.Run, FSType: s.FS.Type, Others: s.Others})
}

// MakeSubs makes the subvolumes of a btrfs, parents first.
type MakeSubs struct {
	Device string
	Others []string
	Subs   []layout.Subvolume
}

func (s *MakeSubs) Head() Head { return Head{"make-subvolumes", s.Device, s.String(), false} }

func (s *MakeSubs) String() string {
	return fmt.Sprintf("make %d subvolumes on /dev/%s: %s", len(s.Subs), s.Device, subNames(s.Subs))
}

func subNames(s []layout.Subvolume) string {
	var out []string
	for _, v := range s[:min(len(s), 6)] {
		out = append(out, v.Path)
	}
	if len(s) > 6 {
		out = append(out, "...")
	}
	return strings.Join(out, ", ")
}

func (s *MakeSubs) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), FSType: fstype.TypeBtrfs, Others: s.Others, Subs: s.Subs})
}

// MakeSwap makes swap on a device.
type MakeSwap struct {
	Device string
	Swap   *layout.Swap
}

func (s *MakeSwap) Head() Head { return Head{"make-swap", s.Device, s.String(), true} }

func (s *MakeSwap) String() string {
	return fmt.Sprintf("make swap on /dev/%s%s", s.Device, ident(s.Swap.UUID, s.Swap.Label))
}

func (s *MakeSwap) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Swap: s.Swap})
}

// PutImage writes a device block by block.
type PutImage struct {
	Device string
	Image  *layout.Image
	// Start is where a partition begins on its disk, bytes: some file systems have it in
	// them.
	Start quantity.Size
	// How is what is copied from another device, "the used blocks"; "" for an image of a
	// set.
	How string
	// UUID is what the copied file system gets; "" for that of the source.
	UUID string
	// Run gives what is on the device its UUID, or grows it to Size.
	Run  [][]string
	Size quantity.Size
}

func (s *PutImage) Head() Head { return Head{"put-image", s.Device, s.String(), true} }

func (s *PutImage) String() string {
	m := s.Image
	text := fmt.Sprintf("write the image of %s (%s) to /dev/%s", m.Device, m.What(), s.Device)
	if s.How != "" {
		text = fmt.Sprintf("copy %s of %s (%s) to /dev/%s%s", s.How, m.Device, m.What(), s.Device, ident(m.UUID, m.Label))
	}
	switch {
	case s.UUID != "":
		text += ", whose UUID is changed to that"
	case len(s.Run) > 0:
		text += fmt.Sprintf(", and grow it from %s to %s", m.Size, s.Size)
	}
	return text
}

func (s *PutImage) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), Run: s.Run, Image: s.Image, Start: s.Start})
}

// MountFS mounts a file system, or a subvolume of it.
type MountFS struct {
	Device string
	Others []string
	FS     *layout.Filesystem
	Mount  *layout.Mount
}

func (s *MountFS) Head() Head { return Head{"mount", s.Device, s.String(), false} }

func (s *MountFS) String() string {
	switch {
	case s.Mount.Path == "":
		return fmt.Sprintf("mount the root of /dev/%s", s.Device)
	case s.Mount.Subvolume != "":
		return fmt.Sprintf("mount subvolume %s of /dev/%s on %s", s.Mount.Subvolume, s.Device, s.Mount.Path)
	}
	return fmt.Sprintf("mount /dev/%s on %s", s.Device, s.Mount.Path)
}

func (s *MountFS) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), FSType: s.FS.Type, Mount: s.Mount, Others: s.Others})
}

// GrowFS gives a mounted file system the size of its device.
type GrowFS struct {
	Device string
	FS     *layout.Filesystem
	Mount  *layout.Mount
	Size   quantity.Size
}

func (s *GrowFS) Head() Head { return Head{"grow-fs", s.Device, s.String(), false} }

func (s *GrowFS) String() string {
	return fmt.Sprintf("grow %s on /dev/%s from %s to %s", s.FS.Type, s.Device, s.FS.Size, s.Size)
}

func (s *GrowFS) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), FSType: s.FS.Type, Mount: s.Mount})
}

// MakeSwapFile makes a swap file, once what is mounted there has its files.
type MakeSwapFile struct {
	Device   string
	FSType   string // of the file system that it is in
	SwapFile *layout.SwapFile
}

func (s *MakeSwapFile) Head() Head { return Head{"make-swap-file", s.Device, s.String(), false} }

func (s *MakeSwapFile) String() string {
	return fmt.Sprintf("make the swap file %s, %s", s.SwapFile.Path, s.SwapFile.Size)
}

func (s *MakeSwapFile) MarshalJSON() ([]byte, error) {
	return json.Marshal(record{Head: s.Head(), FSType: s.FSType, SwapFile: s.SwapFile})
}

// StepsOf gives the plan's steps of one type.
func StepsOf[S Step](p *Plan) []S {
	var out []S
	for _, s := range p.Steps {
		if s, ok := s.(S); ok {
			out = append(out, s)
		}
	}
	return out
}

// Commands are the command lines of a step that the plan has, without those that need a
// key or a file.
func Commands(s Step) [][]string {
	switch s := s.(type) {
	case *MakeArray:
		return s.Run
	case *MakeThin:
		return s.Run
	case *MakeFS:
		return s.Run
	case *PutImage:
		return s.Run
	case *MakeCrypt:
		return [][]string{{"cryptsetup"}}
	case *MakePV, *RestoreVG:
		return [][]string{{"lvm"}}
	}
	return nil
}
