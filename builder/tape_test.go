package builder

import "testing"

// The directory that a run works in is not backed up, whatever it is called.
func TestLeaveOut(t *testing.T) {
	p := &Plan{}
	if err := p.leaveOut([]string{"/tmp/*"}, `/root/a*b[c]\d/.mkcdrec-tape-1`); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{`/root/a*b[c]\d/.mkcdrec-tape-1`: true, `/root/axb[c]\d/.mkcdrec-tape-1`: false, "/tmp/x": true, "/root": false} {
		if got := p.exclude.Match(path) != ""; got != want {
			t.Errorf("%s: left out %v; want %v", path, got, want)
		}
	}
}
