package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNames: common names are readable, and different places have different ones,
// whatever bytes they have; no name needs quoting.
func TestNames(t *testing.T) {
	for _, c := range [][3]string{
		{"vda1", "/", "vda1._.tar.zst"}, {"vg0/root", "/var/log", "vg0-root._var_log.tar.zst"}, {"nvme0n1p2", "/srv/a-b", "nvme0n1p2._srv_a-b.tar.zst"},
		{"vda1", "/a_b", "vda1._a%5Fb.tar.zst"}, {"vda1", "", "vda1..tar.zst"},
	} {
		if got := ArchiveName(c[0], c[1]); got != c[2] {
			t.Errorf("ArchiveName(%q, %q) = %s; want %s", c[0], c[1], got, c[2])
		}
	}
	long := strings.Repeat("/a long\n[name]*", 30)
	seen := map[string][2]string{}
	for _, dev := range []string{"a", "a._b", "a/b", "a-b", "a%2Db", "vg-x/root", "vg/x-root", "mapper/a_b", "a\nb", `a\b`, "a.b", "ä"} {
		for _, at := range []string{"", "/", "/a_b", "/a/b", "/a__b", "/_a", "/a%5Fb", "/a\tb", "/a\nb", `/a\nb`, "/[ab]", "/a*", "/b._c", "/c", "/\xff", "/-rf", "/a:b", long, long + "x", long + "y"} {
			n := ArchiveName(dev, at)
			if old, ok := seen[n]; ok {
				t.Errorf("%q and %q have the same name %s", old, [2]string{dev, at}, n)
			}
			seen[n] = [2]string{dev, at}
			if len(n) > maxMade || strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+,=@%_~-") != "" || strings.HasPrefix(n, "-") {
				t.Errorf("%q: %s has %d bytes, or some that need quoting", at, n, len(n))
			}
		}
	}
	if ImageName("vg-a/b") == ImageName("vg/a-b") || HeaderName("a/b") == HeaderName("a-b") {
		t.Error("two devices have the same name of an image or header")
	}
}

// The directory that discs are mounted below is a name, not a pattern.
func TestMountedBeside(t *testing.T) {
	top := filepath.Join(t.TempDir(), "discs [1]*")
	for n := 1; n <= 2; n++ {
		dir := filepath.Join(top, fmt.Sprint("disc", n), "h-1")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(Discs{Version: Version, ID: "x", This: n, Discs: []Disc{{Number: 1, Label: "A"}, {Number: 2, Label: "B"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, DiscsFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := mountedDiscs{filepath.Join(top, "disc1", "h-1"), "x"}.Disc(t.Context(), Disc{Number: 2, Label: "B"}, nil)
	if want := filepath.Join(top, "disc2", "h-1"); err != nil || got != want {
		t.Errorf("disc 2 is at %q, %v; want %q", got, err, want)
	}
}
