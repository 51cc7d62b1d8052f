package storage

import (
	"slices"
	"strings"
	"testing"
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
