package bootloader

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

var update = flag.Bool("update", false, "rewrite what files must be after the restore, in testdata/machines")

// machine is a file of testdata/machines: the layout in short lines, the files of
// its system, and what is expected of them.
type machine struct {
	s      *System
	files  map[string]string // as they were restored
	after  map[string]string // as they must be then
	expect map[string]string // by file: "LINE STATE DEVICE" lines
	proof  string            // what the proof must list, a part of a message on each line
}

func readMachine(t *testing.T, file string) machine {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := machine{s: &System{Root: t.TempDir(), Layout: &layout.Layout{Links: map[string][]string{}}, Devices: map[string]string{}, Report: progress.None{}}, files: map[string]string{}, after: map[string]string{}, expect: map[string]string{}}
	for _, part := range strings.Split("\n"+string(b), "\n-- ")[1:] {
		head, text, _ := strings.Cut(part, " --\n")
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		switch what, name, _ := strings.Cut(head, " "); what {
		case "layout":
			for _, l := range strings.Split(text, "\n") {
				if l != "" && l[0] != '#' {
					m.layout(t, l)
				}
			}
		case "file":
			m.files[name] = text
		case "after":
			m.after[name] = text
		case "expect":
			m.expect[name] = text
		case "proof":
			m.proof = text
		default:
			t.Fatalf("%s: unknown part %q", file, head)
		}
	}
	for name, text := range m.files {
		f := filepath.Join(m.s.Root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// writeAfter writes the machine's file with the parts "after" as they are in m.
func (m *machine) writeAfter(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split("\n"+string(b), "\n-- ")
	out, left := parts[0], maps.Clone(m.after)
	add := func(head, text string) {
		out += "\n-- " + head + " --\n" + strings.TrimSuffix(text, "\n")
	}
	for _, part := range parts[1:] {
		head, text, _ := strings.Cut(part, " --\n")
		if name, ok := strings.CutPrefix(head, "after "); ok {
			text = left[name]
			delete(left, name)
		}
		add(head, text)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		add("after "+name, left[name])
	}
	if out = strings.TrimPrefix(out, "\n") + "\n"; out != string(b) {
		if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// layout reads a line: KIND DEVICE and words of the kind.
func (m *machine) layout(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	l := m.s.Layout
	get := func(key string) string {
		for _, w := range f {
			if v, ok := strings.CutPrefix(w, key+"="); ok {
				return strings.ReplaceAll(v, "_", " ")
			}
		}
		return ""
	}
	on := func(dev string) { m.s.Devices[dev] = dev }
	on(f[1])
	switch f[0] {
	case "disk": // DEVICE gpt|dos|none signature=
		d := layout.Disk{Name: f[1]}
		if f[2] != "none" {
			d.Table = &layout.Table{Label: f[2], Signature: get("signature")}
		}
		l.Disks = append(l.Disks, d)
	case "part": // DEVICE guid= name=
		d := &l.Disks[len(l.Disks)-1]
		n, _ := strconv.Atoi(f[1][len(strings.TrimRight(f[1], "0123456789")):])
		d.Table.Partitions = append(d.Table.Partitions, layout.Partition{Number: n, Device: f[1], GUID: get("guid"), Name: get("name")})
	case "fs": // DEVICE TYPE UUID label= at= at2= sub= others= excluded=
		fs := layout.Filesystem{Device: f[1], Type: f[2], UUID: f[3], Label: get("label"), Excluded: get("excluded")}
		for i, k := range []string{"at", "at2", "at3"} {
			if p := get(k); p != "" {
				fs.Mounts = append(fs.Mounts, layout.Mount{Path: p, Subvolume: get([]string{"sub", "sub2", "sub3"}[i])})
			}
		}
		if o := get("others"); o != "" {
			fs.Others = strings.Split(o, ",")
		}
		l.Filesystems = append(l.Filesystems, fs)
	case "swap":
		l.Swap = append(l.Swap, layout.Swap{Device: f[1], UUID: f[2], Label: get("label")})
	case "md": // NAME LABEL UUID MEMBERS
		a := layout.Array{Name: f[1], Label: f[2], UUID: f[3], Level: "raid1"}
		for i, d := range strings.Split(f[4], ",") {
			a.Members = append(a.Members, layout.Member{Device: d, Role: i})
		}
		l.Arrays = append(l.Arrays, a)
	case "luks": // DEVICE UUID NAME
		l.Crypts = append(l.Crypts, layout.Crypt{Name: f[3], Device: f[1], UUID: f[2]})
		on("mapper/" + f[3])
	case "vg": // PV NAME LV...
		g := layout.VolumeGroup{Name: f[2], UUID: "vvvvvv-0000-0000-0000-0000-0000-000000", PVs: []layout.PhysicalVolume{{Device: f[1], UUID: "pppppp-0000-0000-0000-0000-0000-" + f[1]}}}
		for _, v := range f[3:] {
			g.LVs = append(g.LVs, layout.LogicalVolume{Name: v})
			on(f[2] + "/" + v)
		}
		l.VolumeGroup = append(l.VolumeGroup, g)
	case "image": // DEVICE UUID TYPE file=
		l.Images = append(l.Images, layout.Image{Device: f[1], UUID: f[2], Type: f[3], File: get("file")})
	case "unsupported": // DEVICE WHAT
		l.Unsupported = append(l.Unsupported, layout.Unsupported{Device: f[1], What: f[2]})
	case "link": // DEVICE NAME
		l.Links[f[1]] = append(l.Links[f[1]], f[2])
	case "now": // DEVICE NEW
		m.s.Devices[f[1]] = f[2]
	case "moved": // PARTITION DEVICE PARTUUID
		if l.Moved == nil {
			l.Moved, l.PartUUIDs = map[string]string{}, map[string]string{}
		}
		l.Moved[f[1]], l.PartUUIDs[f[3]] = f[2], f[2]
	case "away": // DEVICES
		for _, d := range f[1:] {
			delete(m.s.Devices, d)
		}
	case "boot": // - LOADER
		delete(m.s.Devices, "-")
		l.Boot.Loader, l.Boot.ESP = f[2], get("esp")
	default:
		t.Fatalf("unknown line %q", line)
	}
}

// states are how files of testdata name them.
func states() map[sysconf.State]string {
	return map[sysconf.State]string{sysconf.Found: "found", sysconf.Left: "left", sysconf.Foreign: "foreign", sysconf.Missing: "missing"}
}

// resolved lists what each line of a file leads to.
func (m *machine) resolved(name string) string {
	var b strings.Builder
	r := m.s.resolver(false)
	show := func(line int, t sysconf.Target) {
		fmt.Fprintln(&b, strings.TrimSpace(fmt.Sprintf("%d %s %s", line, states()[t.State], t.Device)))
	}
	switch {
	case strings.HasSuffix(name, "fstab"):
		for _, e := range sysconf.ParseFstab(m.files[name]).Entries {
			show(e.Line, r.Entry(e))
		}
	case strings.Contains(name, "crypttab"):
		for _, e := range sysconf.ParseCrypttab(m.files[name]).Entries {
			show(e.Line, r.Crypt(e))
		}
	default:
		f := sysconf.GRUB
		switch {
		case strings.HasSuffix(name, ".conf"):
			f = sysconf.BLS
		case strings.HasSuffix(name, "default/grub"):
			f = sysconf.Shell
		case strings.HasSuffix(name, "cmdline"):
			f = sysconf.Plain
		}
		sysconf.VisitKernelRefs(m.files[name], f, func(k sysconf.KernelRef) (string, bool) {
			show(k.Line, r.Kernel(k))
			return "", false
		})
	}
	return b.String()
}

// TestMachines: each line of each machine's files leads where it must, what is not
// right any more is changed, and the proof lists the rest and nothing else.
func TestMachines(t *testing.T) {
	files, err := filepath.Glob("testdata/machines/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d machines, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			m := readMachine(t, file)
			for name, want := range m.expect {
				if got := m.resolved(name); got != want {
					t.Errorf("%s leads to\n%s; want\n%s", name, got, want)
				}
			}
			if err := m.s.references(); err != nil {
				t.Fatal(err)
			}
			for name, text := range m.files {
				want, ok := m.after[name]
				if !ok {
					want = text
				}
				if got := m.s.read(name); got != want && *update {
					m.after[name] = got
				} else if got != want {
					t.Errorf("%s is\n%s; want\n%s", name, got, want)
				}
			}
			if *update {
				m.writeAfter(t, file)
			}
			got := m.s.proveReferences()
			want := strings.Split(strings.TrimSpace(m.proof), "\n")
			if m.proof == "" {
				want = nil
			}
			for i, g := range got {
				if i >= len(want) || !strings.Contains(g, want[i]) {
					t.Errorf("the proof lists %q", g)
				}
			}
			if len(got) < len(want) {
				t.Errorf("the proof lists\n%s; want\n%s", strings.Join(got, "\n"), m.proof)
			}
			// What was changed is right.
			for _, e := range sysconf.ParseFstab(m.s.read("/etc/fstab")).Entries {
				if st := m.s.resolver(true).Entry(e); st.State == sysconf.Found && !st.Right {
					t.Errorf("line %d of fstab is not right after the change: %s", e.Line, e.Spec)
				}
			}
		})
	}
}
