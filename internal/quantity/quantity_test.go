package quantity

import "testing"

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Size
		bad  bool
	}{
		{"0", 0, false}, {"512", 512, false}, {"4K", 4 * KiB, false}, {"650M", 650 * MiB, false},
		{"1.5GiB", GiB + GiB/2, false}, {" 2 TB ", 2 * TiB, false},
		{"", 0, true}, {"K", 0, true}, {"-1", 0, true}, {"1X", 0, true}, {"9999999T", 0, true},
	} {
		got, err := Parse(c.in)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("Parse(%q) = %v, %v; want %v, error %v", c.in, got, err, c.want, c.bad)
		}
	}
}

func TestString(t *testing.T) {
	for in, want := range map[Size]string{0: "0 B", 1023: "1023 B", KiB: "1.0 KiB", 5*GiB + GiB/2: "5.5 GiB", -MiB: "-1.0 MiB", 3 * TiB: "3.0 TiB"} {
		if got := in.String(); got != want {
			t.Errorf("Size(%d).String() = %q; want %q", int64(in), got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("4K")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := Parse(s); err == nil && v < 0 {
			t.Fatalf("Parse(%q) = %d", s, v)
		}
	})
}
