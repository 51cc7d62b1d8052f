package builder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
)

func TestLoadConfig(t *testing.T) {
	write := func(s string) string {
		f := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(f, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	c, err := LoadConfig(write("exclude:\n  - /var/cache/*\ncompression: better\nrescue:\n  modules: all\n  append: quiet\n"), true)
	if err != nil || c.Exclude[0] != "/var/cache/*" || c.Rescue.Modules != "all" {
		t.Errorf("LoadConfig = %+v, %v", c, err)
	}
	if c, err := LoadConfig("/no/such/file", false); err != nil || c.Rescue.Modules != "default" {
		t.Errorf("LoadConfig(missing) = %+v, %v", c, err)
	}
	if c, err := LoadConfig(write(""), true); err != nil || c.Compression != "fastest" {
		t.Errorf("LoadConfig(empty) = %+v, %v", c, err)
	}
	for _, bad := range []struct {
		text string
		want []string
	}{
		{"exclude: []\nexlcude: [/a]\n", []string{"[2:1]", "exlcude"}},
		{"exclude:\n  a: b\n", []string{"[2:"}},
		{"rescue:\n  modules: [x]\n", []string{"[2:12]"}},
		{"compression: zip\n", []string{"[1:14] compression", "zip"}},
		{"exclude: []\nkeep: {last: -1}\n", []string{"[2:14] keep.last"}},
		{"keep: {last: 3.5}\n", []string{"[1:14] want a whole number"}},
		{"rescue: {modules: x}\n---\n", []string{"[1:19] rescue.modules"}},
		{"exclude: []\n---\nexclude: [/a]\n", []string{"second document"}},
		{"exclude: [tmp]\ncompression: zip\n", []string{"tmp", "zip"}},
		{"a: b: c\n", []string{"[1:"}},
	} {
		_, err := LoadConfig(write(bad.text), true)
		for _, w := range bad.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("LoadConfig(%q) = %v; want %q in it", bad.text, err, w)
			}
		}
		if err != nil && !strings.Contains(err.Error(), "c.yaml") {
			t.Errorf("LoadConfig(%q) = %v does not name the file", bad.text, err)
		}
	}
	if _, err := LoadConfig("/no/such/file", true); err == nil {
		t.Error("a file named with -c may be missing")
	}
}

// twoDisks: root on vda1, the backup disk vdb1, an unused vdc1, a strange
// file system on vdd.
func twoDisks(holder string) *layout.Layout {
	disk := func(n string) layout.Disk {
		return layout.Disk{Name: n, Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.MBR, Signature: "0x00000001", Partitions: []layout.Partition{{Number: 1, Device: n + "1", Start: 1 << 20, Size: 1 << 29, Type: "0x83"}}}}
	}
	fs := func(dev string, mounts ...string) layout.Filesystem {
		f := layout.Filesystem{Device: dev, Type: fstype.TypeExt4, UUID: "11111111-2222-3333-4444-555555555555", Size: 1 << 29, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1}}}
		for _, m := range mounts {
			f.Mounts = append(f.Mounts, layout.Mount{Path: m})
		}
		return f
	}
	return &layout.Layout{Version: layout.Version, Disks: []layout.Disk{disk("vda"), disk("vdb"), disk("vdc"), disk("vdd")},
		Filesystems: []layout.Filesystem{fs("vda1", "/"), fs("vdb1", holder), fs("vdc1")},
		Links:       map[string][]string{"vdc": {"by-id/virtio-C"}},
		Unsupported: []layout.Unsupported{{What: "vdc1", Device: "vdc1", Reason: "not mounted"}, {What: "/odd", Device: "vdd", Reason: "btrfs is not supported"}}}
}

func TestPlanCovers(t *testing.T) {
	l := twoDisks("/no-such-mount")
	l.SwapFiles = []layout.SwapFile{{Path: "/var/swap", Mount: "/", Size: 1 << 20}, {Path: "/else/swap", Mount: "/else", Size: 1 << 20}}
	p, err := NewPlan(&Config{}, l, nil, "")
	if err == nil && (len(l.SwapFiles) != 1 || p.Archives[0].leftOut["var/swap"] == "") {
		t.Errorf("a swap file: %v, left out: %v", l.SwapFiles, p.Archives[0].leftOut)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Archives) != 2 || p.Archives[0].File != "vda1._.tar.zst" {
		t.Errorf("archives %+v", p.Archives)
	}
	// "Not mounted" is not "not wanted": neither the odd one nor the one that is not
	// mounted tonight is covered. A restore does not recreate its disk, empty.
	if got := strings.Join(p.NotCovered, ";"); got != "vdc1: not mounted;/odd: btrfs is not supported" {
		t.Errorf("not covered: %s", got)
	}
	if n := l.Needed(); slices.Contains(n, "vdc") || len(p.LeftOut) > 0 {
		t.Errorf("needed: %v; left out: %v", n, p.LeftOut)
	}
	// A disk that can be unplugged and that nothing refers to is left out by a rule.
	l = twoDisks("/no-such-mount")
	l.Disks[2].Loose = true
	if p, err = NewPlan(&Config{}, l, nil, ""); err != nil || strings.Contains(strings.Join(p.NotCovered, ";"), "vdc1") || !strings.Contains(strings.Join(p.LeftOut, ";"), "vdc1 (ext4): "+manifest.RuleLoose) {
		t.Errorf("a stick: not covered %v, left out %v, %v", p.NotCovered, p.LeftOut, err)
	}
	for _, name := range []string{"/odd", "vdd"} {
		p, err := NewPlan(&Config{ExcludeDevices: []string{name, "/dev/vdb", "/dev/disk/by-id/virtio-C", "nope9"}}, twoDisks("/no-such-mount"), nil, "")
		if err != nil || !slices.Equal(p.Idle, []string{"nope9"}) || len(p.NotCovered) != 0 || len(p.Archives) != 1 {
			t.Errorf("with %s excluded by name: not covered %v, archives %d, %v", name, p.NotCovered, len(p.Archives), err)
		}
	}
	if _, err := NewPlan(&Config{ExcludeDevices: []string{"vda1"}}, twoDisks("/x"), nil, ""); err == nil {
		t.Error("a backup without the root file system is accepted")
	}
}

// What is saved block by block: everything that no rule leaves out, whatever is
// mounted; not what is on a disk for backups, which is not covered.
func TestPlanImages(t *testing.T) {
	dir := t.TempDir()
	fresh := func() *layout.Layout {
		l := twoDisks(dir)
		l.Filesystems[0].Mounts[0].Path = "/proc"
		l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: "vda9", Type: "ext4", Size: 1, Mounts: []layout.Mount{{Path: "/sys"}}})
		for i := range l.Disks {
			d := &l.Disks[i]
			d.Table.Partitions = append(d.Table.Partitions, layout.Partition{Number: 2, Device: d.Name + "2"}, layout.Partition{Number: 9, Device: d.Name + "9"})
			l.Images = append(l.Images, layout.Image{Device: d.Name + "2", Type: "ntfs"})
		}
		l.Disks[3].Loose = true
		l.Images = append(l.Images, layout.Image{Device: "vdc9", Blank: true})
		return l
	}
	images := func(c *Config, l *layout.Layout, dir string) (string, *Plan) {
		t.Helper()
		p := &Plan{Layout: l, lacking: map[string]bool{}}
		if err := p.holder(dir, nil); err != nil {
			t.Fatal(err)
		}
		p.exclusions(c)
		p.images(c)
		var got []string
		for _, i := range p.Images {
			got = append(got, i.File)
		}
		return strings.Join(got, ","), p
	}
	l := fresh()
	got, p := images(&Config{}, l, "")
	if got != "vda2.img.zst,vdb2.img.zst,vdc2.img.zst" || len(p.NotCovered) > 0 {
		t.Errorf("saved %s, not covered %v", got, p.NotCovered)
	}
	if l.Images[3].Excluded != manifest.RuleLoose || l.Images[4].Excluded != manifest.RuleBlank || len(p.LeftOut) != 2 {
		t.Errorf("left out %v; %+v", p.LeftOut, l.Images)
	}
	got, p = images(&Config{}, fresh(), dir)
	if p.Holder == nil || got != "vda2.img.zst,vdc2.img.zst" || !strings.Contains(strings.Join(p.NotCovered, ";"), "vdb2 (ntfs): it is on the disk that holds the backup set") {
		t.Errorf("beside the set: saved %s, not covered %v", got, p.NotCovered)
	}
	l = fresh()
	if got, _ = images(&Config{ExcludeDevices: []string{"vda2", "vdb", "vdc"}}, l, ""); got != "" || l.Images[0].Excluded != "exclude_devices: vda2" {
		t.Errorf("excluded by name: saved %s, %+v", got, l.Images[0])
	}
}

// TestHolder: the file system that holds the set is left out by its device,
// whatever the path's text.
func TestHolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sets", 0o755); err != nil {
		t.Fatal(err)
	}
	l := twoDisks(dir)
	l.Filesystems[0].Mounts[0].Path = "/proc" // another device than the directory's
	l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: "vdd1", Type: "ext4", Size: 1, Mounts: []layout.Mount{{Path: "/sys"}}})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir+"/sets", link); err != nil {
		t.Fatal(err)
	}
	p := &Plan{Layout: l}
	if err := p.holder(link, nil); err != nil || p.Holder == nil || p.Holder.Device != "vdb1" || p.HolderPath != "/sets" {
		t.Errorf("holder(%s) = %+v %q, %v; want vdb1 and /sets", link, p.Holder, p.HolderPath, err)
	}
	l = twoDisks("/proc")
	p = &Plan{Layout: l}
	if err := p.holder(dir, nil); err == nil || !strings.Contains(err.Error(), "root file system") {
		t.Errorf("a set on the root file system: %v", err)
	}
}
