package manifest

import (
	"strings"
	"testing"
	"time"
)

// TestNeeds: version 2 is for sets that need others, and only for these; what names them is a
// name.
func TestNeeds(t *testing.T) {
	const id, other = "11111111-2222-3333-4444-555555555555", "21111111-2222-3333-4444-555555555555"
	sum := strings.Repeat("ab", 32)
	good := Needed{ID: other, Dir: "host-20261130T010203Z", Digest: sum}
	for _, c := range []struct {
		version int
		needs   []Needed
		want    string
	}{
		{1, nil, ""},
		{2, []Needed{good}, ""},
		{1, []Needed{good}, "1 earlier sets in version 1"},
		{2, nil, "0 earlier sets in version 2"},
		{3, nil, "is 3; this program knows 1 and 2"},
		{2, []Needed{good, good}, "needs[1]: id"},
		{2, []Needed{{ID: id, Dir: "x", Digest: sum}}, "needs[0]: id"},
		{2, []Needed{{ID: "x", Dir: "x", Digest: sum}}, "needs[0]: id"},
		{2, []Needed{{ID: other, Dir: "..", Digest: sum}}, "needs[0]: dir"},
		{2, []Needed{{ID: other, Dir: "a/b", Digest: sum}}, "needs[0]: dir"},
		{2, []Needed{{ID: other, Dir: "a\nb", Digest: sum}}, "needs[0]: dir"},
		{2, []Needed{{ID: other, Dir: "x", Digest: sum[2:]}}, "needs[0]: SHA-256"},
		{2, make([]Needed, maxNeeds+1), "4097 earlier sets"},
	} {
		m := &Manifest{Version: c.version, ID: id, Host: "h", Created: time.Unix(1, 0), Needs: c.needs, Files: []FileSum{{Name: Layout, SHA256: sum}}}
		err := m.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("version %d, needs %.3v: %v; want %q", c.version, c.needs, err, c.want)
		}
	}
}
