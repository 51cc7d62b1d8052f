package set

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/templates"
)

// stub logs how it was called, its standard input when that is the table of a
// disk, and does nothing. It writes once: two of them run at the same time in a pipe.
const stub = `#!/bin/sh
in=
case $0 in */sfdisk) in=$(/usr/bin/head -c 100000; echo .);; esac
printf '%s\0' "${0##*/}" "$@" "$in" '
' >>"$STUBLOG"
[ "${0##*/}" != "${STUBFAILS-}" ] || exit 2
`

// runByHand runs a restore.sh with programs that do nothing, and gives the command
// lines that it had for each, with what sfdisk was given as the last word.
func runByHand(t *testing.T, script []byte, disks int) map[string][][]string {
	t.Helper()
	out, got, err := runFailing(t, script, disks, "")
	if err != nil || !strings.Contains(out, "Done. Unmount") {
		t.Fatalf("restore.sh: %v\n%s\n%s", err, out, script)
	}
	return got
}

// runFailing is runByHand where a program fails.
func runFailing(t *testing.T, script []byte, disks int, fails string) (string, map[string][][]string, error) {
	t.Helper()
	dir := t.TempDir()
	bin, set := filepath.Join(dir, "bin"), filepath.Join(dir, "set")
	for _, d := range []string{bin, set, filepath.Join(dir, "target/x")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"sfdisk", "mdadm", "cryptsetup", "age", "dd", "pvcreate", "vgcfgrestore", "vgchange", "lvcreate", "mke2fs", "mkfs.ext4", "tune2fs", "mkfs.fat", "mkfs.btrfs", "btrfs", "mkswap", "mkdir", "mount", "umount", "tar", "zstd", "cat", "stat", "chmod", "chattr", "touch", "head", "chroot", "reboot"} {
		if err := os.WriteFile(filepath.Join(bin, n), []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.Replace(string(script), "\nT=/mnt/target\n", "\nT="+dir+"/target\n", 1)
	file := filepath.Join(dir, "restore.sh")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{file, set}
	for i := range disks {
		args = append(args, fmt.Sprintf("/dev/new%d", i))
	}
	log := filepath.Join(dir, "log")
	c := exec.Command("dash", args...)
	c.Env = []string{"PATH=" + bin, "STUBLOG=" + log, "IDENTITY=id", "STUBFAILS=" + fails}
	c.Dir = dir
	out, ended := c.CombinedOutput()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][][]string{}
	for _, l := range strings.Split(string(b), "\x00\n\x00") {
		if w := strings.Split(l, "\x00"); len(w) > 1 {
			got[w[0]] = append(got[w[0]], w[1:])
		}
	}
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if strings.Contains(d.Name(), "pwned") && !strings.Contains(p, "/target/") {
			t.Errorf("%s was made: a text was run", p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return string(out), got, ended
}

// evil makes a text that is harmful wherever it is not quoted.
func evil(what string) string {
	return what + "' \"\n: >pwned1\nTABLE\n$(: >pwned2)`: >pwned3`;: >pwned4;#\\ %s\x1b[2J"
}

// TestByHandHostile: nothing that people or hardware wrote is run by restore.sh,
// all of it reaches the programs as it was, and none of it a terminal.
func TestByHandHostile(t *testing.T) {
	ext := func(dev, mount string) layout.Filesystem {
		return layout.Filesystem{Device: dev, Type: fstype.TypeExt4, Label: evil("label"), UUID: evil("uuid"), Size: 1 << 29, Mounts: []layout.Mount{{Path: mount}}, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1}}}
	}
	l := &layout.Layout{Disks: []layout.Disk{
		{Name: "cciss/c0d0", Model: evil("model"), Serial: evil("serial"), Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT, GUID: evil("guid"), Partitions: []layout.Partition{
			{Number: 1, Device: "cciss/c0d0p1", Start: 1 << 20, Size: 1 << 29, Type: evil("type"), Name: evil("name")}, {Number: 2, Device: "cciss/c0d0p2", Start: 1 << 29, Size: 1 << 20, Type: "x"}}}},
		{Name: "vdb", Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512},
	}}
	mount := "/srv/" + evil("m")
	l.Filesystems = []layout.Filesystem{ext("cciss/c0d0p1", "/"), {Device: "vdb", Type: fstype.TypeBtrfs, Label: evil("label"), UUID: "11111111-2222-3333-4444-555555555555", Size: 1 << 30, Mounts: []layout.Mount{{Path: mount, Subvolume: evil("sub")}},
		Geometry: fstype.Geometry{Btrfs: &fstype.Btrfs{NodeSize: 16384, SectorSize: 4096, Devices: 1}}, Subvolumes: []layout.Subvolume{{Path: evil("sub"), Default: true}, {Path: evil("ro"), ReadOnly: true}}, Private: true}}
	l.Swap = []layout.Swap{{Device: "cciss/c0d0p2", UUID: evil("uuid"), Label: evil("label"), Size: 1 << 20, Active: true}}
	l.SwapFiles = []layout.SwapFile{{Path: "/x/" + evil("swap"), Mount: "/", Size: 1 << 20, UUID: evil("uuid"), Label: evil("label")}}
	l.Crypts = []layout.Crypt{{Name: evil("crypt"), Device: "vdb", Header: evil("header")}}
	m := &manifest.Manifest{Host: evil("host"), ID: evil("id"), NotCovered: []string{evil("lost")}, Archives: []manifest.Archive{{File: evil("root"), Mount: "/", Device: "cciss/c0d0p1"}, {File: evil("srv"), Mount: mount, Device: "vdb"}, {File: evil("private"), Device: "vdb"}}}
	files, err := byHand(l, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"restore.sh", "RESTORE.txt"} {
		if i := bytes.IndexFunc(files[n], func(r rune) bool { return r < ' ' && r != '\n' }); i >= 0 {
			t.Errorf("%s has a control character: %q", n, files[n][i:min(len(files[n]), i+40)])
		}
		if !strings.Contains(string(files[n]), "lost") {
			t.Errorf("%s does not name what is not covered", n)
		}
	}
	got := runByHand(t, files["restore.sh"], 2)
	has := func(program string, words ...string) {
		t.Helper()
		for _, c := range got[program] {
			if !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(c, w) }) {
				return
			}
		}
		t.Errorf("%s was not called with %q, but with %q", program, words, got[program])
	}
	has("mke2fs", evil("label"), "/dev/new0p1")
	has("mkfs.btrfs", evil("label"), "/dev/new1")
	has("btrfs", "create", "/mnt/btrfs/"+evil("sub"))
	has("mkswap", evil("label"), evil("uuid"), "/dev/new0p2")
	has("mount", "subvol=/"+evil("sub"), "/dev/new1")
	has("cryptsetup", "open", "/dev/new1", evil("crypt"))
	has("mount", "subvol=/", "/dev/new1", "/mnt/part")
	has("tar", "-C", "/mnt/part")
	has("btrfs", "property", "/mnt/btrfs/"+evil("ro"), "ro", "true")
	if n := len(got["sfdisk"]); n != 1 || !strings.Contains(got["sfdisk"][0][1], "label: gpt\nlabel-id: "+evil("guid")+"\n") {
		t.Errorf("sfdisk was called %d times: %q", n, got["sfdisk"])
	}
	if !slices.ContainsFunc(got["mount"], func(w []string) bool { return strings.HasSuffix(w[len(w)-2], "/target"+mount) }) {
		t.Errorf("nothing was mounted at %q: %q", mount, got["mount"])
	}
	if len(got["reboot"]) > 0 {
		t.Error("a text was run")
	}
}

// TestVariables: every disk has a variable of its own that a shell takes.
func TestVariables(t *testing.T) {
	v := variables([]layout.Disk{{Name: "sda"}, {Name: "cciss/c0d0"}, {Name: "ccissc0d0"}, {Name: "a-b"}, {Name: "a.b"}, {Name: "2_sda"}})
	seen := map[templates.Shell]bool{}
	for d, n := range v {
		if seen[n] || strings.Trim(string(n), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("the variable of %s is %s", d, n)
		}
		seen[n] = true
	}
	if v["sda"] != "disk_sda" {
		t.Errorf("the variable of sda is %s", v["sda"])
	}
}

// TestShellIsConstant: a Shell, which is written into scripts as it is, is made of
// constants only.
func TestShellIsConstant(t *testing.T) {
	found := 0
	for _, dir := range []string{".", "../templates"} {
		names, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if strings.HasSuffix(n, "_test.go") || strings.HasSuffix(n, "templates/quote.go") {
				continue
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, n, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(x ast.Node) bool {
				c, ok := x.(*ast.CallExpr)
				if !ok {
					return true
				}
				name := ""
				switch fn := c.Fun.(type) {
				case *ast.Ident:
					name = fn.Name
				case *ast.SelectorExpr:
					name = fn.Sel.Name
				}
				if name == "Shell" || name == "Shellf" {
					found++
					if _, ok := c.Args[0].(*ast.BasicLit); !ok {
						t.Errorf("%s: %s of something that is not a constant", set.Position(c.Pos()), name)
					}
				}
				return true
			})
		}
	}
	if found < 10 {
		t.Errorf("only %d calls found", found)
	}
}

// TestByHandIncluded: what was saved of a machine is named where that is not all, and nothing
// is said of its boot loader.
func TestByHandIncluded(t *testing.T) {
	l, m := example()
	l.Filesystems[1].Included = []string{"/etc", "/var/lib/a 'b'"}
	l.Filesystems[2].Excluded = layout.ByInclude + "only /etc"
	files, err := byHand(l, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, script := string(files["RESTORE.txt"]), string(files["restore.sh"])
	for _, want := range []string{"Only this was saved", "     vg0/root: /etc, /var/lib/a 'b'\n     md0: nothing\n", "lacks files of the system"} {
		if !strings.Contains(text, want) {
			t.Errorf("RESTORE.txt has no %q:\n%s", want, text)
		}
	}
	if !strings.Contains(script, "# Saved of vg0/root: /etc") || strings.Contains(script, "grub-install") || strings.Contains(script, "boot the machine") {
		t.Errorf("restore.sh:\n%s", script)
	}
}
