package screen

import (
	"bufio"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

func TestChoose(t *testing.T) {
	u := &plan.Undecided{Old: layout.Disk{Name: "vda", Serial: "OLD1", Size: 6 << 30}, Least: 5 << 30, Among: []layout.Present{
		{Disk: layout.Disk{Name: "sda", Size: 8 << 30, Serial: "X"}, Holds: "nothing known (blank?)"}, {Disk: layout.Disk{Name: "sdb", Size: 9 << 30, WWN: "naa.5", Model: "Fast"}, Holds: "sdb1 ext4 data"}}}
	for typed, want := range map[string]string{"2\n": "sdb", "/dev/sda\n": "sda", "X": "sda", "naa.5\n": "sdb", "3\n0\nsdc\n1\n": "sda", "\n": "", "": "", "nonsense": ""} {
		var out strings.Builder
		got, err := choose(bufio.NewReader(strings.NewReader(typed)), &out, u)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", typed, got, err, want)
		}
		for _, w := range []string{"place of vda, serial OLD1, 6.0 GiB? It needs 5.0 GiB", "1  /dev/sda  8.0 GiB  -      X", "2  /dev/sdb  9.0 GiB  Fast   -       sdb1 ext4 data"} {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q: no %q in\n%s", typed, w, out.String())
			}
		}
	}
}

func TestConfirm(t *testing.T) {
	d := plan.Disk{New: layout.Disk{Name: "sda", Serial: "RIGHT1"}, Words: []string{"RIGHT1"}}
	for typed, want := range map[string]string{
		"RIGHT1\n": "", "RIGHT1": "", "wrong\nRIGHT1\n": "", "wrong\n\nRIGHT1\n": "",
		"": "nobody confirmed it", "wrong\n": `"wrong" does not confirm /dev/sda; nothing was changed`,
		"a\nb\nc\nRIGHT1\n": `"c" does not confirm /dev/sda; nothing was changed`,
	} {
		var out strings.Builder
		got, err := confirm(bufio.NewReader(strings.NewReader(typed)), &out, d)
		if want == "" && (err != nil || got != "RIGHT1") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("confirm(%q) = %q, %v; want %q", typed, got, err, want)
		}
		if n := strings.Count(out.String(), "To overwrite /dev/sda, type"); n > 3 || n == 0 {
			t.Errorf("confirm(%q) asked %d times", typed, n)
		}
		if strings.HasPrefix(typed, "wrong\nR") && !strings.Contains(out.String(), "Tries that are left: 2") {
			t.Errorf("confirm(%q) printed %q; want how many tries are left", typed, out.String())
		}
	}
}
