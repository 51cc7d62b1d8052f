package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// setAs makes a whole set of a host below dir, which is made at a time.
func setAs(t *testing.T, dir, name, host string, made time.Time, n int) string {
	t.Helper()
	to := filepath.Join(dir, name)
	if err := os.Rename(set(t), to); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to + "/" + File)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Host, m.Created, m.ID = host, made, fmt.Sprintf("%08d-89ab-cdef-0123-456789abcdef", n)
	if err := m.Write(to); err != nil {
		t.Fatal(err)
	}
	return to
}

// The newest set of the host that is wanted is opened; sets of several hosts are
// refused, and a damaged one beside it stops nothing.
func TestOpenNewest(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "a [b]* c") // a pattern, were it one
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	old := setAs(t, dir, "web-1", "web", now.Add(-48*time.Hour), 1)
	last := setAs(t, dir, "web-2", "web", now.Add(-24*time.Hour), 2)
	setAs(t, dir, Partial+"web-3", "web", now.Add(-time.Hour), 3) // killed before it got its name
	for _, bad := range []struct{ name, text string }{{"broken", "{"}, {"empty", ""}} {
		if err := errors.Join(os.Mkdir(dir+"/"+bad.name, 0o755), os.WriteFile(dir+"/"+bad.name+"/"+File, []byte(bad.text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	say := func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) }
	s, err := Door{Want: Wanted{}, Say: say}.Open(context.Background(), dir)
	if err != nil || s.String() != last {
		t.Fatalf("%v %v; want %s", s, err, last)
	}
	if all := strings.Join(said, "\n"); !strings.Contains(all, "broken") || !strings.Contains(all, old) || !strings.Contains(all, "host web") {
		t.Errorf("said: %s\nwant the damaged set and the others", all)
	}
	db := setAs(t, dir, "db-1", "db", now.Add(-time.Hour), 3)
	var r *exit.Refusal
	if s, err := (Door{Want: Wanted{}, Say: say}).Open(context.Background(), dir); !errors.As(err, &r) || !strings.Contains(err.Error(), "host db") || !strings.Contains(err.Error(), "host web") {
		t.Errorf("sets of two hosts: %v %v; want them refused in a table", s, err)
	}
	if s, err := (Door{Want: Wanted{Host: "web"}, Say: say}).Open(context.Background(), dir); err != nil || s.String() != last {
		t.Errorf("host web: %v %v", s, err)
	}
	if s, err := (Door{Want: Wanted{Host: "web"}, Say: say}).Open(context.Background(), db); err != nil || s.String() != db {
		t.Errorf("a set that was named: %v %v", s, err)
	}
}

func TestChoose(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	f := func(dir, host string, ago time.Duration) Found {
		return Found{Dir: dir, ID: "id-" + dir, Host: host, Created: now.Add(-ago)}
	}
	a1, a2, b1 := f("a1", "a", 2*time.Hour), f("a2", "a", time.Hour), f("b1", "b", 0)
	ahead, soon := f("a3", "a", -365*24*time.Hour), f("a4", "a", -3*time.Hour)
	for _, c := range []struct {
		name    string
		found   []Found
		want    Wanted
		dir     string
		refused bool
		remark  string
	}{
		{"one host", []Found{a1, a2}, Wanted{}, "a2", false, "a1"},
		{"its host", []Found{a1, a2, b1}, Wanted{Host: "a"}, "a2", false, "host b"},
		{"several hosts", []Found{a1, b1}, Wanted{}, "", true, ""},
		{"several hosts, none of them", []Found{a1, b1}, Wanted{Host: "c"}, "", true, ""},
		{"another host", []Found{b1}, Wanted{Host: "a"}, "b1", false, "no backup set here is of a"},
		{"another host, unattended", []Found{b1}, Wanted{Host: "a", Strict: true}, "", true, ""},
		{"its id", []Found{a1, a2, b1}, Wanted{ID: "id-a1", Host: "a"}, "a1", false, "a2"},
		{"not its id", []Found{a2, b1}, Wanted{ID: "id-a1", Host: "a"}, "", true, ""},
		{"dated in the future", []Found{ahead, a1}, Wanted{}, "a1", false, "dated in the future"},
		{"dated a little in the future", []Found{soon, a1}, Wanted{}, "a4", false, "dated in the future"},
		{"nothing else", []Found{ahead}, Wanted{}, "a3", false, "dated in the future"},
	} {
		best, remarks, err := Choose(c.found, c.want, now)
		var r *exit.Refusal
		if best.Dir != c.dir || errors.As(err, &r) != c.refused || (err != nil) != c.refused || !strings.Contains(strings.Join(remarks, "\n"), c.remark) {
			t.Errorf("%s: %v %q %v; want %q, refused %v, a remark with %q", c.name, best.Dir, remarks, err, c.dir, c.refused, c.remark)
		}
	}
}

// A manifest that points out of the set, or out of the target, is refused; and one
// that no terminal should see.
func TestHostileManifest(t *testing.T) {
	b, err := os.ReadFile(set(t) + "/" + File)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(m *Manifest){
		"mount with ..":        func(m *Manifest) { m.Archives[0].Mount = "/../etc" },
		"mount not clean":      func(m *Manifest) { m.Archives[0].Mount = "/a/../../b" },
		"mount relative":       func(m *Manifest) { m.Archives[0].Mount = "etc" },
		"mount with a zero":    func(m *Manifest) { m.Archives[0].Mount = "/a\x00b" },
		"mount long":           func(m *Manifest) { m.Archives[0].Mount = "/" + strings.Repeat("a", 5000) },
		"mount twice":          func(m *Manifest) { m.Archives = append(m.Archives, m.Archives[0]) },
		"archive in directory": func(m *Manifest) { m.Files[1].Name, m.Archives[0].File = "log/x", "log/x" },
		"file above":           func(m *Manifest) { m.Files[1].Name, m.Archives[0].File = "a/../../x", "a/../../x" },
		"file absolute":        func(m *Manifest) { m.Files[1].Name, m.Archives[0].File = "/etc/x", "/etc/x" },
		"file with escape":     func(m *Manifest) { m.Files[1].Name, m.Archives[0].File = "a\x1b[2J", "a\x1b[2J" },
		"host with newline":    func(m *Manifest) { m.Host = "a\nb" },
		"kernel with escape":   func(m *Manifest) { m.Kernel = "\x1b]0;x\a" },
		"id":                   func(m *Manifest) { m.ID = strings.Repeat("/", 36) },
		"no place":             func(m *Manifest) { m.Archives[0].Mount, m.Archives[0].Device = "", "" },
		"members":              func(m *Manifest) { m.Archives[0].Members = -1 },
		"tar size":             func(m *Manifest) { m.Archives[0].TarSize = -1 },
		"sum of sizes":         func(m *Manifest) { m.Files[1].Size, m.Archives[0].Size = 1<<62, 1<<62 },
	} {
		m, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		bad, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A fifo in the place of a manifest does not stop the search for others.
func TestLookFifo(t *testing.T) {
	dir := t.TempDir()
	good := setAs(t, dir, "good", "h", time.Unix(1, 0), 1)
	if err := os.Mkdir(dir+"/bad", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir+"/bad/"+File, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan []Found)
	go func() {
		f, _ := Look(dir, 1)
		done <- f
	}()
	select {
	case f := <-done:
		if len(f) != 1 || f[0].Dir != good {
			t.Errorf("found %v", f)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a writer")
	}
}

func TestLacks(t *testing.T) {
	fs := func(dev, at, excluded string) layout.Filesystem {
		f := layout.Filesystem{Device: dev, Type: "ext4", Excluded: excluded}
		if at != "" {
			f.Mounts = []layout.Mount{{Path: at}}
		}
		return f
	}
	s := &Set{
		place:    directory{},
		Manifest: &Manifest{NotCovered: []string{"sdc1: not mounted", "/srv/f: cannot read"}, Archives: []Archive{{Mount: "/"}}},
		Layout: &layout.Layout{
			Filesystems: []layout.Filesystem{fs("sda1", "/", ""), fs("sda2", "/home", ""), fs("sdb", "", "nothing of its disk is mounted"),
				fs("sdc1", "", "not mounted"), fs("sdd1", "/scratch", "exclude_devices: /scratch"), fs("sde1", "/backup", "it holds the backup set")},
			Images: []layout.Image{{Device: "sda5", Type: "ntfs"}, {Device: "sda6", Type: "ntfs", File: "sda6.img.zst"}, {Device: "sda7", Type: "ntfs", Excluded: "exclude_devices: sda7"}, {Device: "sdf", Excluded: RuleLoose}, {Device: "sdc2", Excluded: RuleBlank, Blank: true}},
		},
	}
	part := fs("sdg1", "/srv", "")
	part.Included = []string{"/etc"} // of another part
	s.Layout.Filesystems = append(s.Layout.Filesystems, part, fs("sdh1", "/var", layout.ByInclude+"only /etc"))
	lacks, left := s.Lacks()
	if g, w := strings.Join(lacks, "; "), "sdc1: not mounted; /srv/f: cannot read; sda2 (ext4 /home): its archive is not in the set; sdb (ext4): nothing of its disk is mounted; sda5 (ntfs): its image is not in the set"; g != w {
		t.Errorf("lacks %s\nwant  %s", g, w)
	}
	if g := strings.Join(left, "; "); g != "sdd1 (ext4 /scratch): exclude_devices: /scratch; sde1 (ext4 /backup): it holds the backup set; sdg1 (ext4 /srv): include: only /etc; sdh1 (ext4 /var): include: only /etc; sda7 (ntfs): exclude_devices: sda7; sdf (unknown content): "+RuleLoose+"; sdc2 (unknown content): "+RuleBlank {
		t.Errorf("left out %s", g)
	}
}

// File systems that are mounted nowhere have archives that are known by their devices.
func TestArchiveOf(t *testing.T) {
	b, err := os.ReadFile(set(t) + "/" + File)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range []string{"sdb1", "sdc1"} {
		a := m.Archives[0]
		a.Device, a.File, a.Mount = dev, dev+".tar.zst", ""
		m.Archives = append(m.Archives, a)
		m.Files = append(m.Files, FileSum{a.File, a.Size, a.SHA256})
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	if a := m.ArchiveOf("sdc1", ""); a == nil || a.File != "sdc1.tar.zst" {
		t.Errorf("archive of sdc1: %v", a)
	}
	if a := m.ArchiveOf("other", "/"); a == nil || a.File != "vda1._.tar.zst" {
		t.Errorf("archive of /: %v", a)
	}
	m.Archives[2].Device = "sdb1"
	if m.Validate() == nil {
		t.Error("two archives of one root are accepted")
	}
}
