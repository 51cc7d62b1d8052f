// Package quantity holds sizes and offsets as types. Everything inside the
// program is in bytes; sectors exist only where a table or a tool wants them.
package quantity

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is never negative in valid data.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// String returns the size for people: "512 B", "1.5 MiB", "20.0 GiB".
func (s Size) String() string {
	neg := ""
	v := s
	if v < 0 {
		neg, v = "-", -v
	}
	switch {
	case v >= TiB:
		return fmt.Sprintf("%s%.1f TiB", neg, float64(v)/float64(TiB))
	case v >= GiB:
		return fmt.Sprintf("%s%.1f GiB", neg, float64(v)/float64(GiB))
	case v >= MiB:
		return fmt.Sprintf("%s%.1f MiB", neg, float64(v)/float64(MiB))
	case v >= KiB:
		return fmt.Sprintf("%s%.1f KiB", neg, float64(v)/float64(KiB))
	}
	return fmt.Sprintf("%s%d B", neg, int64(v))
}

// Sectors returns the size in sectors of ss bytes, rounded down.
func (s Size) Sectors(ss Size) int64 { return int64(s / ss) }

// AlignUp rounds s up to a multiple of a.
func (s Size) AlignUp(a Size) Size { return (s + a - 1) / a * a }

// Parse reads "512", "4K", "650M", "20G", "1T" with optional "iB" or "B";
// the units are powers of 1024. Errors name the text.
func Parse(text string) (Size, error) {
	t := strings.TrimSpace(text)
	num := strings.TrimRight(t, "KMGTkmgtiBb ")
	unit := strings.ToUpper(strings.TrimSpace(t[len(num):]))
	mul, ok := map[string]Size{"": 1, "B": 1, "K": KiB, "KB": KiB, "KIB": KiB, "M": MiB, "MB": MiB, "MIB": MiB, "G": GiB, "GB": GiB, "GIB": GiB, "T": TiB, "TB": TiB, "TIB": TiB}[unit]
	if !ok || num == "" {
		return 0, fmt.Errorf("cannot read size %q: want a number with K, M, G or T", text)
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 || f*float64(mul) > 1<<62 {
		return 0, fmt.Errorf("cannot read size %q: not a number in range", text)
	}
	return Size(f * float64(mul)), nil
}

// Medium returns what a medium of a usual kind holds: CD (80 minutes, 360,000
// sectors of 2,048 bytes), DVD+R, DVD+R DL, BD-R.
func Medium(name string) (Size, bool) {
	s, ok := map[string]Size{"CD": 360000 * 2048, "DVD": 2295104 * 2048, "DVD-DL": 4173824 * 2048, "BD": 12219392 * 2048}[strings.ToUpper(name)]
	return s, ok
}

// UnmarshalJSON takes a number of bytes only: machine files hold no units.
func (s *Size) UnmarshalJSON(b []byte) error {
	var n int64
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("cannot read size %s: want a whole number of bytes", b)
	}
	*s = Size(n)
	return nil
}
