package storage

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func TestByUse(t *testing.T) {
	tables := map[string]string{
		"dm-2": "0 204800 raid raid1 3 0 region_size 4096 2 253:0 253:1 - 253:3",
		"dm-0": "0 8192 linear 8:1 2048\n8192 100 linear 8:2 0",
		"dm-1": "0 204800 linear 8:1 10240",
		"dm-3": "0 204800 linear 253:9 0", // of another group
	}
	numbers := map[string]string{"253:0": "dm-0", "253:1": "dm-1", "253:2": "dm-2", "253:3": "dm-3"}
	got, err := byUse(tables, numbers)
	if err != nil || len(got) != 4 || got[3] != "dm-2" {
		t.Errorf("%v, %v", got, err)
	}
	tables["dm-0"] = "0 1 linear 253:2 0"
	if _, err := byUse(tables, numbers); err == nil {
		t.Error("a circle")
	}
}

func TestReplaceNumbers(t *testing.T) {
	var seen []string
	got := replaceNumbers("0 8 linear 8:1 2048\n8 8 striped 2 64 253:0 0 8:2 0", func(n string) string {
		seen = append(seen, n)
		if n == "253:0" {
			return "/dev/mapper/x"
		}
		return n
	})
	if got != "0 8 linear 8:1 2048\n8 8 striped 2 64 /dev/mapper/x 0 8:2 0" || !slices.Equal(seen, strings.Fields("8:1 253:0 8:2")) {
		t.Errorf("%q, %v", got, seen)
	}
}

// hideable is a machine with a group of a volume and its part, and another group.
func hideable(t *testing.T) *mapper {
	m := newMapper(t)
	m.AddVirtual("dm-4", "vg0-root", mib, "vda") // before what it is on, as the kernel may number them
	m.AddVirtual("dm-5", "vg0-root_rimage_0", mib, "vda")
	m.AddVirtual("dm-6", "vg1-root", mib, "vdb")
	number := func(dev string) string { return m.Read("/sys/block/" + dev + "/dev") }
	m.Answer("0 2048 linear "+number("dm-5")+" 0\n", "dmsetup table vg0-root")
	m.Answer("0 2048 linear "+number("vda")+" 2048\n", "dmsetup table vg0-root_rimage_0")
	m.Programs["dmsetup create"] = func(c tool.Cmd) (string, error) {
		m.AddVirtual(fmt.Sprint("dm-", 10+len(m.Did("run dmsetup create"))), c.Args[2], mib, "vda")
		return "", nil
	}
	m.Programs["lvm vgchange -an"] = func(tool.Cmd) (string, error) {
		m.Remove("dm-4")
		m.Remove("dm-5")
		return "", nil
	}
	return m
}

// The volumes of a hidden group are there under other names, each over those that it is on,
// and go when it is shown; what can't be hidden leaves none behind.
func TestHideGroup(t *testing.T) {
	m := hideable(t)
	part := "dmsetup create mkcdrec-source-vg0-root_rimage_0 --readonly --table 0 2048 linear " + m.Read("/sys/block/vda/dev") + " 2048"
	whole := "dmsetup create mkcdrec-source-vg0-root --readonly --table 0 2048 linear /dev/mapper/mkcdrec-source-vg0-root_rimage_0 0"
	tables := []string{"dmsetup table vg0-root", "dmsetup table vg0-root_rimage_0"}
	hidden, err := HideGroup(t.Context(), m, "vg0")
	if want := map[string]string{"vg0-root": "mkcdrec-source-vg0-root", "vg0-root_rimage_0": "mkcdrec-source-vg0-root_rimage_0"}; err != nil || !maps.Equal(hidden, want) {
		t.Errorf("HideGroup(vg0) = %v, %v; want %v", hidden, err, want)
	}
	sameCalls(t, m.calls(), append(tables, "lvm vgchange -an vg0", part, whole)...)

	m.Fail["run dmsetup remove"] = errTold
	if err := ShowGroup(t.Context(), m, "vg0"); err == nil || !strings.Contains(err.Error(), "cannot remove the hidden volumes of vg0: ") {
		t.Errorf("ShowGroup(vg0) = %v; want that the volumes stay", err)
	}
	delete(m.Fail, "run dmsetup remove")
	if err := ShowGroup(t.Context(), m, "vg0"); err != nil {
		t.Errorf("ShowGroup(vg0) = %v; want nil", err)
	}
	if left := nodes(t, m); !slices.Equal(left, []string{"vg1-root"}) {
		t.Errorf("ShowGroup(vg0) leaves %q; want the other group", left)
	}

	m = hideable(t)
	m.Fail["run dmsetup create mkcdrec-source-vg0-root"] = errTold
	if _, err := HideGroup(t.Context(), m, "vg0"); err == nil || !strings.Contains(err.Error(), "cannot hide the volume vg0-root: ") {
		t.Errorf("HideGroup(vg0) = %v; want that vg0-root is not hidden", err)
	}
	sameCalls(t, m.calls(), append(tables, "lvm vgchange -an vg0", part, whole, "dmsetup remove mkcdrec-source-vg0-root_rimage_0")...)
	if left := nodes(t, m); !slices.Equal(left, []string{"vg1-root"}) {
		t.Errorf("HideGroup(vg0) leaves %q; want the other group", left)
	}
}

// nodes lists the devices of device-mapper.
func nodes(t *testing.T, m *mapper) []string {
	t.Helper()
	all, err := os.ReadDir(m.Path("/dev/mapper"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}
