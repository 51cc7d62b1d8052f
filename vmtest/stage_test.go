package vmtest

import (
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// TestWay: a scenario's options choose its backup and restore.
func TestWay(t *testing.T) {
	for _, c := range []struct {
		c             Circle
		what, restore string
		auto          bool // the medium restores by itself
	}{
		{Circle{Kind: BIOSLVM}, "path", "restoreCD", true},
		{Circle{Kind: BIOSLVM, Discs: "85M"}, "cdrom", "restoreDiscs", true},
		{Circle{Kind: UEFIPlain, ByHand: true}, "path", "byHand", true},
		{Circle{Kind: BIOSLUKS, Cloned: true}, "rescue", "clone", false},
		{Circle{Kind: BIOSLVM, Walk: "5"}, "path", "restoreCD", false},
	} {
		r := c.c.new()
		r.src = &Source{}
		run, err := c.c.way().backup(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if restore := name(c.c.way().restore); !strings.Contains(run.line, "mkcdrec.yaml "+c.what) || !strings.HasSuffix(restore, ")."+c.restore) || strings.Contains(run.line, "mkcdrec.auto=restore") != c.auto {
			t.Errorf("(%+v).way() = %s, %s; want %s, %s, by itself: %v", c.c, run.line, restore, c.what, c.restore, c.auto)
		}
	}
}

func TestJob(t *testing.T) {
	for want, c := range map[string]Circle{
		"restored":         {Kind: BIOSLVM},
		"restoreWished":    {Kind: BIOSLUKS, Wishes: "--new-luks"},
		"restoreLUKS":      {Kind: BIOSLUKS, Walk: "5"},
		"restoreFailing":   {Kind: BIOSLVM, FailAt: 1 << 20},
		"restoreVanishing": {Kind: BIOSLVM, Vanish: true},
	} {
		if got := name(c.new().job()); !strings.HasSuffix(got, "."+want+"-fm") {
			t.Errorf("(%+v).job() = %s; want %s", c, got, want)
		}
	}
}

func TestSortOut(t *testing.T) {
	named := map[string]int{}
	others, err := sortOut([]tree.Difference{{Path: "/tmp/x"}, {Path: `"/var/tmp/\u00fc"`}, {Path: "/etc/passwd"}}, changes, named)
	if err != nil || len(others) != 1 || others[0].Path != "/etc/passwd" || named["temporary files"] != 2 {
		t.Errorf("sortOut = %v, %v, named %v; want /etc/passwd, and two temporary files", others, err, named)
	}
}

// TestExpected: the patterns are valid, and what a scenario is for is expected in it alone.
func TestExpected(t *testing.T) {
	entry := "/boot/efi/loader/entries/x.conf"
	for _, c := range []struct {
		c    Circle
		want bool
	}{{Circle{Kind: UEFIPlain}, false}, {Circle{Kind: UEFIPlain, Loader: SystemdBoot}, true}, {Circle{Kind: UEFIBtrfs, TargetBus: "nvme", Renewed: true, Firmware: "bios", Mate: true, Wishes: "x"}, true}} {
		got := false
		for _, k := range c.c.new().expected() {
			got = regexp.MustCompile(k.Pattern).MatchString(entry) || got
		}
		if got != c.want {
			t.Errorf("(%+v).expected() has %s: %v; want %v", c.c, entry, got, c.want)
		}
	}
}

func TestComparable(t *testing.T) {
	const text = "/dev/vda2: start= 2048, size=  4096, type=83\nUUID=x\nlast-lba: 7\nsectsz=512 blocks=9\n"
	for _, c := range []struct {
		c    Circle
		want string
	}{
		{Circle{}, "2: start= 2048, size=  4096, type=83\nUUID=x\n\nsectsz=512 blocks=9\n"},
		{Circle{TargetSize: "9G"}, "2: , , type=83\nUUID=x\n\nsectsz=512\n"},
	} {
		if got := c.c.new().comparable(text); got != c.want {
			t.Errorf("(%+v).comparable = %q; want %q", c.c, got, c.want)
		}
	}
}

func TestLoaderTable(t *testing.T) {
	for name, l := range loaders {
		// One that only a BIOS starts has no label in a firmware's menu.
		if l.started == "" || (name == "") != (l.install == "") || (l.install == "") != (l.proof == "") {
			t.Errorf("loaders[%q] = %+v: started, install or proof is missing", name, l)
		}
	}
}

// name is the name of a function.
func name(f any) string { return runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name() }
