package disks

import (
	"os"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func TestShort(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
	}{{0, "0B"}, {512, "512B"}, {1024, "1K"}, {1536, "1.5K"}, {256 << 30, "256G"}, {10 << 40, "10T"}, {931 << 30, "931G"}, {1000204886016, "931.5G"}} {
		if got := short(c.n); got != c.want {
			t.Errorf("short(%d) = %s; want %s", c.n, got, c.want)
		}
	}
}

func FuzzScript(f *testing.F) {
	for _, s := range []string{"label: gpt\nsize=5M,name=\"a, b\"\n", "label: dos\n,5M,L,*\n,,8e\n", "/dev/sda1 : start=2048, size=1M, type=83, bootable\n", "x : y\n", ","} {
		f.Add(s)
	}
	img, err := os.CreateTemp(f.TempDir(), "disk")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseScript(text, 512)
		if err != nil {
			return
		}
		for _, make := range []func(*os.File, int64, int64) (func() error, error){s.gpt, s.mbr} {
			_, _ = make(img, 512, 64<<20) // must not panic
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(`6,1234,5678,-;text \x41 more`)
	f.Fuzz(func(t *testing.T, s string) {
		e := tools.New(tools.Command{Name: "dmesg"}, nil, os.Stderr, os.Stderr)
		_ = unhex(s) + e.Name
	})
}
