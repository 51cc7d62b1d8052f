package rules

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// layers are all rooms, without "internal/": one may import those of its own layer and of
// those before it. A room's subdirectories are in its layer unless they are named.
var layers = []struct{ name, rooms string }{
	{"formats and small things", "agekey blockdev btrfs ddrescue exit fstype fullscreen gpt hooks hostkey inroot interrupt ioctl journal kernel keymap lazyregexp loaders lvmtext mbr media memory multicall partclone printable process progress ptytest quantity regular shape shell signing sshserver stick strictyaml superblock tool unpack usage uuid version volume"},
	{"what there is and what to do", "clonezilla commands coverage efivar fleet frames layout plan rescue sysconf ui"},
	{"content", "archive blockcopy initramfs kernelcfg kmod legacy manifest netconf store streams templates"},
	{"a machine", "bootloader builder/rescue builder/retention builder/set fleet/client fleet/netboot fleet/web identity keyring machinetest medium nightly probe recreate smalltools snapshot storage tools"},
	{"orchestration", "builder clone repair rescueinit restore screen swarm"},
	{"commands", "cmds"},
	{"programs for those who change it", "bench deps fuzzall genbb genloaders packages reference rules vmtest"},
}

// never are imports that the layers allow, and that are wrong all the same. What holds for a
// room holds for its subdirectories.
var never = map[string]string{
	"blockcopy":   "archive",
	"cmds":        "bootloader identity plan snapshot",
	"bootloader":  "manifest medium",
	"builder/set": "initramfs kernelcfg",
	"exit":        "ui",
	"layout":      "plan",
	"manifest":    "builder/set",
	"probe":       "manifest plan media",
	"store":       "archive manifest",
	"ui":          "rescue",
}

// only are rooms that few others may import: what formats disks is reached through a restore
// or clone, which ask first, and a fake machine is for tests.
var only = map[string]string{
	"machinetest": "",
	"recreate":    "clone restore screen",
}

// TestRooms: data flows one way. Every room is in the table, and imports only what it may.
func TestRooms(t *testing.T) {
	c := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./builder/...", "./cmds/...", "./initramfs", "./kernelcfg", "./templates", "./vmtest/...", "./internal/...")
	c.Dir = "../.."
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	short := func(p string) string { return strings.TrimPrefix(strings.TrimPrefix(p, module), "internal/") }
	layer := func(room string) int {
		for p := room; ; p = path.Dir(p) {
			if i := slices.IndexFunc(layers, func(l struct{ name, rooms string }) bool { return slices.Contains(strings.Fields(l.rooms), p) }); i >= 0 || p == "." {
				return i
			}
		}
	}
	wrong := func(room, to string) bool {
		for p := room; p != "."; p = path.Dir(p) {
			if slices.Contains(strings.Fields(never[p]), to) {
				return true
			}
		}
		by, few := only[to]
		return few && !slices.Contains(strings.Fields(by), room)
	}
	rooms := 0
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		room := short(f[0])
		if strings.HasPrefix(room, "bbgen") {
			continue
		}
		rooms++
		mine := layer(room)
		if mine < 0 {
			t.Errorf("%s is in no layer: enter it in the table, in the lowest one that its imports allow", room)
			continue
		}
		for _, i := range f[1:] {
			if !strings.HasPrefix(i, module) || room == short(i) {
				continue
			}
			if to := short(i); layer(to) > mine {
				t.Errorf("%s (%s) imports %s (%s)", room, layers[mine].name, to, layers[layer(to)].name)
			} else if wrong(room, to) {
				t.Errorf("%s imports %s, which it must never do", room, to)
			}
		}
	}
	if rooms < 60 {
		t.Errorf("%d rooms looked at; want more than 60", rooms)
	}
	for _, i := range []string{"tools/disks recreate", "builder recreate", "probe recreate", "storage recreate", "cmds/restore recreate", "cmds/restore plan", "store/tape archive", "restore machinetest"} {
		if from, to, _ := strings.Cut(i, " "); !wrong(from, to) {
			t.Errorf("%s may import %s", from, to)
		}
	}
}
