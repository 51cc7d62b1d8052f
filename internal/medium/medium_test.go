package medium

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

func TestParseSource(t *testing.T) {
	for in, want := range map[string]Source{
		"UUID=12-34":             {"UUID", "12-34", ""},
		"UUID=12-34:/backup/web": {"UUID", "12-34", "/backup/web"},
		"LABEL=usb:/":            {"LABEL", "usb", "/"},
		"/dev/sdb1":              {"device", "sdb1", ""},
		"/dev/vg0/sets:/web":     {"device", "vg0/sets", "/web"},
		"cdrom":                  {"cdrom", "", ""},
		"any:/sets":              {"any", "", "/sets"},
		"file:///mnt/a b":        {"file", "", "/mnt/a b"},
		"https://h:8443/set":     {"url", "https://h:8443/set", ""},
	} {
		if got, err := ParseSource(in); err != nil || got != want {
			t.Errorf("ParseSource(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "sdb1", "UUID=1:backup", "ftp://h/set", "cdrom:x", "floppy", "uuid=1"} {
		if got, err := ParseSource(in); err == nil {
			t.Errorf("ParseSource(%q) = %+v; want an error", in, got)
		}
	}
	for in, want := range map[string]string{"UUID=1:/a": "UUID=1:/a", "/dev/sdb1": "/dev/sdb1:", "file:///a": "file:///a", "any": "any", "http://user:secret@h/a": "http://user:***@h/a"} {
		s, err := ParseSource(in)
		if got := s.String(); err != nil || got != want {
			t.Errorf("ParseSource(%q).String() = %q, %v; want %q", in, got, err, want)
		}
	}
}

// What is taken for a source is taken for the same one when it is printed.
func FuzzParseSource(f *testing.F) {
	for _, s := range []string{"UUID=12:/a", "LABEL=x", "/dev/sdb1:/", "cdrom", "any:/a:b", "file:///a:b", "http://h/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseSource(in)
		if err != nil || s.Kind == "url" || s.Kind == "cdrom" || s.Kind == "any" {
			return
		}
		if again, err := ParseSource(strings.TrimSuffix(s.String(), ":")); err != nil || again != s && s.Path != "" {
			t.Errorf("ParseSource(%q) = %+v, %v; want %+v", s.String(), again, err, s)
		}
	})
}

// The medium's own set is looked for where it was written, then on CDs, then anywhere; what
// the command line names is the only place.
func TestSources(t *testing.T) {
	info := &rescue.Info{FSUUID: "12", Path: "/b"}
	for name, c := range map[string]struct {
		asked []string
		info  *rescue.Info
		want  string
		fails bool
	}{
		"own":      {nil, info, "UUID=12:/b cdrom any", false},
		"nothing":  {nil, &rescue.Info{}, "cdrom any", false},
		"asked":    {[]string{"LABEL=x", "/dev/sda"}, info, "LABEL=x: /dev/sda:", false},
		"mistaken": {[]string{"nonsense", "/dev/sda"}, info, "/dev/sda:", true},
	} {
		got, err := Sources(c.asked, c.info)
		var names []string
		for _, s := range got {
			names = append(names, s.String())
		}
		if strings.Join(names, " ") != c.want || (err != nil) != c.fails {
			t.Errorf("Sources(%s) = %q, %v; want %q", name, names, err, c.want)
		}
	}
}

// An unattended restore takes only what the medium was made for, or what the command line
// names.
func TestExpected(t *testing.T) {
	info := &rescue.Info{SetID: "id", Host: "web", Machine: "m"}
	for name, c := range map[string]struct {
		o    rescue.Options
		want manifest.Wanted
	}{
		"a person":   {rescue.Options{}, manifest.Wanted{ID: "id", Host: "web", Machine: "m"}},
		"unattended": {rescue.Options{Auto: "restore"}, manifest.Wanted{ID: "id", Host: "web", Machine: "m", Strict: true}},
		"elsewhere":  {rescue.Options{Auto: "restore", Source: []string{"any"}}, manifest.Wanted{Host: "web", Machine: "m", Strict: true}},
		"its host":   {rescue.Options{Host: "web"}, manifest.Wanted{Host: "web", Machine: "m"}},
		"other host": {rescue.Options{Host: "mail"}, manifest.Wanted{Host: "mail"}},
	} {
		if got := Expected(info, c.o); got != c.want {
			t.Errorf("Expected(%s) = %+v; want %+v", name, got, c.want)
		}
	}
}

const (
	oldID  = "01234567-89ab-4def-8123-456789abcdef"
	mailID = "22222222-89ab-4def-8123-456789abcdef"
	newID  = "11111111-89ab-4def-8123-456789abcdef"
)

func set(id, host, created string) string {
	return fmt.Sprintf(`{"version":1,"id":%q,"host":%q,"created":"%sT03:04:05Z","program":"2","kernel":"k","archives":[],"files":[{"name":"layout.json","size":1,"sha256":"%064d"}],"notCovered":[]}`, id, host, created, 0)
}

// disc adds a device with an ISO file system.
func disc(m *machinetest.Machine, name, label string, files map[string]string) {
	m.AddDisk(name, quantity.MiB, "")
	b := []byte(strings.Repeat("\x00", 1<<20))
	copy(b[32768:], "\x01CD001")
	copy(b[32768+40:], fmt.Sprintf("%-32s", label))
	b[32768+81] = 2 // blocks
	m.Write("/dev/"+name, string(b))
	m.Content[name] = files
}

func TestDevices(t *testing.T) {
	m := machinetest.New(t)
	disc(m, "sr1", "B", nil)
	disc(m, "sr0", "A", nil)
	disc(m, "ram0", "R", nil)
	disc(m, "loop0", "L", nil)
	disc(m, "loop1", "L", nil)
	m.AddDisk("sda", quantity.MiB, "blank")
	m.AddVirtual("dm-0", "vg0-root", quantity.MiB, "sr1")
	for _, c := range []struct{ loops, want []string }{{nil, []string{"sr0 A false", "sr1 B true"}}, {[]string{"loop1"}, []string{"loop1 L false", "sr0 A false", "sr1 B true"}}} {
		all, err := Finder{m}.Devices(c.loops...)
		var got []string
		for _, d := range all {
			got = append(got, fmt.Sprintln(d.Name, d.Info.Label, d.Held))
		}
		for i := range got {
			got[i] = strings.TrimSpace(got[i])
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Devices(%q) = %q, %v; want %q", c.loops, got, err, c.want)
		}
	}
}

// The sources are searched in order; a device without the set that is wanted is unmounted
// again, and the error tells of each.
func TestFindSet(t *testing.T) {
	m := machinetest.New(t)
	disc(m, "sr0", "OTHER", map[string]string{"mail/manifest.json": set(mailID, "mail", "2020-01-01")})
	disc(m, "sr1", "SETS", map[string]string{"a/manifest.json": set(oldID, "web", "2020-01-01"), "b/manifest.json": set(newID, "web", "2021-01-01"), "c/manifest.json": "{", "deep/er/x/manifest.json": set(newID, "web", "2022-01-01")})
	m.Write("/sets/manifest.json", set(oldID, "web", "2020-01-01"))
	at := m.Path("/mnt/set")
	for name, c := range map[string]struct {
		source string
		want   manifest.Wanted
		dir    string // "" for none
		says   string // in the error or a remark
	}{
		"newest":         {"any", manifest.Wanted{Host: "web", Strict: true}, at + "/b", "cannot use backup set"},
		"by id":          {"any", manifest.Wanted{ID: oldID, Host: "web", Strict: true}, at + "/a", ""},
		"label":          {"LABEL=SETS:/a", manifest.Wanted{Host: "web"}, at + "/a", ""},
		"other host":     {"LABEL=OTHER", manifest.Wanted{Host: "web", Strict: true}, "", "LABEL=OTHER:: /dev/sr0:"},
		"no directory":   {"LABEL=SETS:/none", manifest.Wanted{}, "", "no set there"},
		"no device":      {"/dev/sdz", manifest.Wanted{}, "", "/dev/sdz:: no such device"},
		"file":           {"file:///sets", manifest.Wanted{Host: "web"}, m.Path("/sets"), ""},
		"file, no set":   {"file:///none", manifest.Wanted{}, "", "file:///none: no set there"},
		"does not mount": {"/dev/sr1", manifest.Wanted{}, "", "input/output error"},
	} {
		delete(m.Fail, "mount /dev/sr1")
		if name == "does not mount" {
			m.Fail["mount /dev/sr1"] = unix.EIO
		}
		s, err := ParseSource(c.source)
		if err != nil {
			t.Fatal(err)
		}
		dir, remarks, err := Finder{m}.FindSet(t.Context(), []Source{s}, c.want)
		if text := fmt.Sprint(remarks, err); dir != c.dir || (err == nil) != (c.dir != "") || !strings.Contains(text, c.says) {
			t.Errorf("FindSet(%s) = %q, %s; want %q, %q", name, dir, text, c.dir, c.says)
		}
		if mounted := len(m.Mounted()) == 1; mounted != strings.HasPrefix(c.dir, at) {
			t.Errorf("FindSet(%s) left %q mounted", name, m.Mounted())
		}
		if len(m.Mounted()) > 0 {
			if err := m.Unmount(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	cause := errors.New("the machine stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	before := len(m.Log())
	if _, _, err := (Finder{m}).FindSet(ctx, []Source{{Kind: "any"}}, manifest.Wanted{}); !errors.Is(err, cause) || len(m.Log()) != before {
		t.Errorf("FindSet(cancelled) = %v, %q; want the cause, and nothing mounted", err, m.Log()[before:])
	}
}

// The medium is the ISO with the mark of this system; others stay unmounted and are named.
func TestFindMedium(t *testing.T) {
	m := machinetest.New(t)
	disc(m, "sr0", "OTHER", map[string]string{".mkcdrec": "M1"})
	disc(m, "sr1", "MKCDREC-2", map[string]string{".mkcdrec": "M2\n", ".disk/info": "mail, made 2026-01-01\n"})
	disc(m, "sr2", "MKCDREC", map[string]string{".mkcdrec": "M1\n"})
	f := Finder{m}
	if got, err := f.FindMedium(&rescue.Info{MediumID: "M1"}); err != nil || got != "sr2" {
		t.Errorf("FindMedium(M1) = %q, %v; want sr2", got, err)
	}
	if got, want := m.Mounted(), []string{"/dev/sr2 /mnt/medium"}; !slices.Equal(got, want) {
		t.Errorf("Mounted() = %q; want %q", got, want)
	}
	if got, want := f.Others(&rescue.Info{MediumID: "M1"}), []string{"/dev/sr1 (mail, made 2026-01-01)"}; !slices.Equal(got, want) {
		t.Errorf("Others(M1) = %q; want %q", got, want)
	}
	if err := m.Unmount(m.Path("/mnt/medium")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.FindMedium(&rescue.Info{MediumID: "M9"}); err == nil || len(m.Mounted()) > 0 {
		t.Errorf("FindMedium(M9) = %q, %v with %q mounted; want that it is not found", got, err, m.Mounted())
	}
}
