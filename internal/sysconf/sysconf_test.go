package sysconf

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const odd = "# /etc/fstab: static\r\n\n  \t# indented\nUUID=1\t/\text4\terrors=remount-ro 0 1\r\nLABEL=My\\040Data  /srv/my\\040data ext4 # comment\n" +
	"/dev/sda1 /two\n\tPARTLABEL=x\t/x\tauto\tcontext=\"system_u:object_r:t:s0:c1,c2\",nofail\t0\nonefield\nUUID=9 /nbsp\u00a0x xfs ro,subvol=/a\\054b 0 0 more fields \\999\n/dev/x /last ext4"

// TestFstabRoundTrip: what is not edited stays byte for byte.
func TestFstabRoundTrip(t *testing.T) {
	f := ParseFstab(odd)
	if got := f.String(); got != odd {
		t.Errorf("the text is\n%q; want\n%q", got, odd)
	}
	if n := len(f.Entries); n != 6 {
		t.Fatalf("%d entries; want 6", n)
	}
	e := f.Entries[1]
	if e.Line != 5 || e.Spec != "LABEL=My Data" || e.File != "/srv/my data" || e.Options != "#" || e.Raw(0) != `LABEL=My\040Data` {
		t.Errorf("%+v", e)
	}
	if e := f.Entries[0]; e.Pass != "1" {
		t.Errorf("the carriage return is part of a field: %+v", e)
	}
	if e := f.Entries[4]; e.File != "/nbsp\u00a0x" || !HasOption(e.Options, "subvol") || e.Freq != "0" {
		t.Errorf("%+v", e)
	}
}

// TestFstabEdit: an edit changes its own field only.
func TestFstabEdit(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		do             func(e *FstabEntry)
	}{
		{"nofail to options", "UUID=1 /a ext4 defaults 0 2 # x\r\n", "UUID=1 /a ext4 defaults,nofail 0 2 # x\r\n", func(e *FstabEntry) { e.AddOption("nofail") }},
		{"nofail without options", "UUID=1\t/a\text4  \n", "UUID=1\t/a\text4\tnofail  \n", func(e *FstabEntry) { e.AddOption("nofail") }},
		{"nofail without type", "UUID=1 /a", "UUID=1 /a auto nofail", func(e *FstabEntry) { e.AddOption("nofail") }},
		{"a comma at the end", "UUID=1 /a ext4 rw, 0 0", "UUID=1 /a ext4 rw,nofail 0 0", func(e *FstabEntry) { e.AddOption("nofail") }},
		{"device", "  LABEL=a\t/a ext4 defaults\t0 0", "  UUID=2\t/a ext4 defaults\t0 0", func(e *FstabEntry) { e.SetSpec("UUID=2") }},
		{"blank in a device", "x /a ext4", `LABEL=a\040b /a ext4`, func(e *FstabEntry) { e.SetSpec("LABEL=a b") }},
		{"pass without freq", "x /a ext4", "x /a ext4 defaults 0 2", func(e *FstabEntry) { e.SetPass("2") }},
		{"replace", `x /a btrfs rw,subvolid=257,context="a,b" 0 0`, `x /a btrfs rw,subvol=@a\040b,context="a,b" 0 0`, func(e *FstabEntry) { e.ReplaceOption("subvolid", "subvol=@a b") }},
		{"drop", `x /a btrfs rw,subvolid=5,subvol=a\040b,context="a,b" 0 0`, `x /a btrfs rw,subvol=a\040b,context="a,b" 0 0`, func(e *FstabEntry) {
			e.DropOption(func(o string) bool { return strings.HasPrefix(o, "subvolid=") || o == "b" })
		}},
		{"drop all", "x /a ext4 ro", "x /a ext4 defaults", func(e *FstabEntry) { e.DropOption(func(string) bool { return true }) }},
		{"the same", "x /a ext4 a\\054b,,c", "x /a ext4 a\\054b,,c", func(e *FstabEntry) { e.DropOption(func(string) bool { return false }) }},
	} {
		f := ParseFstab("# before\n" + c.in)
		c.do(f.Entries[0])
		if got := f.String(); got != "# before\n"+c.want {
			t.Errorf("%s: %q; want %q", c.name, got, c.want)
		}
	}
	f := ParseFstab("# a\r\nUUID=1 / ext4")
	f.Append("UUID=2", "/my data", "vfat", "umask=0077", "0", "1")
	if got, want := f.String(), "# a\r\nUUID=1 / ext4\r\nUUID=2\t/my\\040data\tvfat\tumask=0077\t0\t1\r\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if e := f.At("/my data"); e == nil || e.Spec != "UUID=2" {
		t.Errorf("%+v", e)
	}
}

func TestOptions(t *testing.T) {
	for o, want := range map[string][2]bool{ // NoFail, NoAuto
		"defaults,nofail": {true, false}, "xnofail,comment=nofail": {}, "nofail,fail": {}, "noauto": {false, true}, "noauto,auto": {}, "auto,noauto,user": {false, true}, "": {},
	} {
		e := FstabEntry{Options: o}
		if got := [2]bool{e.NoFail(), e.NoAuto()}; got != want {
			t.Errorf("%q: %v; want %v", o, got, want)
		}
	}
	if v, ok := Option(`rw,context="a,b",x=1,x=2`, "context"); v != "a,b" || !ok {
		t.Error(v, ok)
	}
}

// findmnt is util-linux's own reading of an fstab: source, target, fstype, options.
func findmnt(t *testing.T, text string) [][4]string {
	t.Helper()
	if _, err := exec.LookPath("findmnt"); err != nil {
		t.Skip("findmnt is not installed")
	}
	file := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("findmnt", "--tab-file", file, "-J", "--list", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS").Output()
	if err != nil && len(out) == 0 {
		return nil
	}
	var r struct {
		Filesystems []struct{ Source, Target, Fstype, Options string }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var all [][4]string
	for _, f := range r.Filesystems {
		all = append(all, [4]string{f.Source, f.Target, f.Fstype, f.Options})
	}
	return all
}

// TestFstabOracle: libmount reads the same fields.
func TestFstabOracle(t *testing.T) {
	files, err := filepath.Glob("testdata/fstab/*")
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{odd}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	for _, text := range texts {
		var got [][4]string
		for _, e := range ParseFstab(text).Entries {
			if number := regexp.MustCompile(`^\d*$`); e.Type == "" || !number.MatchString(e.Freq) || !number.MatchString(e.Pass) {
				continue // systemd reads these, too
			}
			got = append(got, [4]string{e.Spec, e.File, e.Type, e.Options})
		}
		if want := findmnt(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: we read\n%q\nand libmount\n%q", text, got, want)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{"a b\t\n\\\r#": `a\040b\011\012\134\015#`, "#x": `\043x`, "": "", "ä": "ä"} {
		if got := Escape(in); got != want || Unescape(got) != in {
			t.Errorf("Escape(%q) = %q; want %q; back %q", in, got, want, Unescape(got))
		}
	}
	for in, want := range map[string]string{`\777`: `\777`, `\04`: `\04`, `\0400`: " 0", `\\040`: `\ `, `\x20`: `\x20`, `\377`: "\xff"} {
		if got := Unescape(in); got != want {
			t.Errorf("Unescape(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestCrypttab(t *testing.T) {
	const in = "# <name>\nswap1 /dev/disk/by-id/ata-x-part2\t/dev/urandom swap,cipher=aes-xts-plain64\r\nroot UUID=\"AB-CD\" none luks,discard\nb PARTLABEL=my\\040part"
	c := ParseCrypttab(in)
	if c.String() != in || len(c.Entries) != 3 || !c.Entries[0].Throwaway() || c.Entries[1].Throwaway() || c.Entries[2].Spec != "PARTLABEL=my part" {
		t.Errorf("%q %+v", c.String(), c.Entries)
	}
	c.Entries[0].SetSpec("UUID=1")
	c.Entries[1].AddOption("nofail")
	c.Entries[2].AddOption("nofail")
	want := "# <name>\nswap1 UUID=1\t/dev/urandom swap,cipher=aes-xts-plain64\r\nroot UUID=\"AB-CD\" none luks,discard,nofail\nb PARTLABEL=my\\040part none nofail"
	if got := c.String(); got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestMdadm(t *testing.T) {
	const in = "# mdadm.conf\nHOMEHOST <system>\nARRAY /dev/md/0  metadata=1.2 name=h:0\n\tUUID=AAAAAAAA:00000000:00000000:00000001 # its id\n# between\n   spares=1\narr <ignore> uuid=bbbbbbbb-0000-0000-0000-000000000002\nARRAY \"/dev/md/my data\" uuid='cc'\nARRAY uuid=dd"
	m := ParseMdadm(in)
	if m.String() != in || len(m.Arrays) != 4 {
		t.Fatalf("%q %+v", m.String(), m.Arrays)
	}
	if a := m.Arrays[0]; a.Device != "/dev/md/0" || a.UUID != "aaaaaaaa000000000000000000000001" || a.Name != "h:0" || a.Metadata != "1.2" || a.last != 6 {
		t.Errorf("%+v", a)
	}
	if a := m.Arrays[2]; a.Device != "/dev/md/my data" || a.UUID != "cc" || m.Arrays[1].Device != "<ignore>" || m.Arrays[3].Device != "" {
		t.Errorf("%+v", a)
	}
	m.Comment(m.Arrays[0], "not restored")
	m.Append("ARRAY /dev/md9 uuid=ee")
	if again := ParseMdadm(m.String()); len(again.Arrays) != 4 || again.Arrays[3].Device != "/dev/md9" || again.Arrays[0].Device != "<ignore>" {
		t.Errorf("%q", m.String())
	}
}

func TestMountinfo(t *testing.T) {
	const in = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n40 1 0:30 / /x\\012y rw - tmpfs  rw,size=1k\n41 1 0:31 / /f ro - fuse.ss\\043hfs u@h:\\040/ rw,a b\n"
	got, err := ParseMountinfo(in)
	want := []Mount{
		{36, 35, "98:0", "/mnt1", "/mnt 2", "rw,noatime", []string{"master:1", "shared:2"}, "ext3", "/dev/root", "rw,errors=continue"},
		{40, 1, "0:30", "/", "/x\ny", "rw", nil, "tmpfs", "", "rw,size=1k"},
		{41, 1, "0:31", "/", "/f", "ro", nil, "fuse.ss#hfs", "u@h: /", "rw,a b"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := ParseMountinfo("1 2 3"); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Error(err)
	}
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseMountinfo(string(own)); err != nil || len(got) != strings.Count(string(own), "\n") {
		t.Errorf("%d, %v", len(got), err)
	}
}

func TestUnit(t *testing.T) {
	const in = "# x\n[Unit]\nDescription = a %% b \\\n; comment\n   c\n\n[Mount]\r\nWhat = /dev/disk/by-label/My\\x20Data\nWhere=/srv/my data\nOptions=\n[Install]\nWantedBy=local-fs.target"
	u := ParseUnit(in)
	if u.String() != in || u.Value("Unit", "Description") != "a % b  c" || u.Value("Mount", "What") != `/dev/disk/by-label/My\x20Data` || u.Value("Mount", "Where") != "/srv/my data" || u.Get("Mount", "None") != nil {
		t.Errorf("%q %+v", u.String(), u.Settings)
	}
	u.Get("Mount", "What").Set("/dev/disk/by-uuid/1%")
	u.Get("Unit", "Description").Set("d")
	u.Add("Mount", "Type", "ext4")
	want := "# x\n[Unit]\nDescription = d\n\n[Mount]\r\nWhat = /dev/disk/by-uuid/1%%\nWhere=/srv/my data\nOptions=\nType=ext4\n[Install]\nWantedBy=local-fs.target"
	if got := u.String(); got != want {
		t.Errorf("%q; want %q", got, want)
	}
	u.Add("Swap", "Options", "nofail")
	if got := u.String(); got != want+"\n[Swap]\nOptions=nofail\n" {
		t.Errorf("%q", got)
	}
}

// TestUnitName: systemd-escape(1) says the same.
func TestUnitName(t *testing.T) {
	for _, p := range []string{"/", "/srv/my data", "/.hidden/x", "/a-b/c_d:e.f", "//x//y/", "/dev/disk/by-label/My\\x20Data", "/ä"} {
		name := UnitName(p)
		if got, want := UnitPath(name), clean(p); got != want {
			t.Errorf("UnitPath(%q) = %q; want %q", name, got, want)
		}
		if _, err := exec.LookPath("systemd-escape"); err != nil {
			continue
		}
		out, err := exec.Command("systemd-escape", "--path", p).Output()
		if want := strings.TrimSuffix(string(out), "\n"); err != nil || name != want {
			t.Errorf("UnitName(%q) = %q; systemd-escape prints %q, %v", p, name, want, err)
		}
	}
}

func TestCmdline(t *testing.T) {
	const in = ` root=UUID=1 "dyndbg=file a.c +p" x="a b" quiet foo="bar"baz =odd "plain word" resume=LABEL="x y"` + "\n"
	c := ParseCmdline(in)
	var got [][2]string
	for _, w := range c.Words {
		got = append(got, [2]string{w.Name, w.Value})
	}
	want := [][2]string{{"root", "UUID=1"}, {"dyndbg", "file a.c +p"}, {"x", "a b"}, {"quiet", ""}, {"foo", `bar"baz`}, {"=odd", ""}, {"plain word", ""}, {"resume", `LABEL="x y"`}}
	if c.String() != in || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %q", c.String(), got)
	}
	for _, w := range c.Words {
		switch w.Name {
		case "root":
			w.Set("LABEL=a b")
		case "dyndbg", "x":
			w.Set("c d")
		case "resume":
			w.Set("UUID=2")
		}
	}
	if got, want := c.String(), ` root="LABEL=a b" dyndbg="c d" x="c d" quiet foo="bar"baz =odd "plain word" resume=UUID=2`+"\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestParseRef(t *testing.T) {
	for spec, want := range map[string]Ref{
		"UUID=AB-cd": {Kind: UUID, Value: "ab-cd"}, `UUID="AB"`: {Kind: UUID, Value: "ab"}, `LABEL='My Data'`: {Kind: Label, Value: "My Data"}, `"LABEL=x"`: {Kind: Label, Value: "x"},
		"PARTUUID=6D6B6364-01": {Kind: PartUUID, Value: "6d6b6364-01"}, "PARTLABEL=EFI System Partition": {Kind: PartLabel, Value: "EFI System Partition"}, "ID=ata-X": {Kind: ID, Value: "ata-X"},
		"/dev/disk/by-uuid/AB": {Kind: UUID, Value: "ab"}, `/dev/disk/by-label/My\x20Data`: {Kind: Label, Value: "My Data"}, `/dev/disk/by-partlabel/a\x2fb`: {Kind: PartLabel, Value: "a/b"},
		"/dev//disk/by-id/ata-X-part1": {Kind: ID, Value: "ata-X-part1"}, "/dev/disk/by-path/pci-0": {Kind: ByPath, Value: "pci-0"}, "/dev/disk/by-diskseq/3-part1": {Kind: Diskseq, Value: "3-part1"}, "/dev/disk/by-partuuid/AB": {Kind: PartUUID, Value: "ab"},
		"/dev/sda1": {Kind: Path, Value: "sda1"}, "/dev/mapper/a-b": {Kind: Path, Value: "mapper/a-b"}, "/dev/md/swap": {Kind: Path, Value: "md/swap"}, "/dev/mmcblk0p1": {Kind: Path, Value: "mmcblk0p1"},
		"/dev/zram0": {Kind: Virtual, Value: "zram0"}, "/dev/loop7": {Kind: Virtual, Value: "loop7"}, "/dev/loopback/x": {Kind: Path, Value: "loopback/x"}, "/dev/sr0": {Kind: Medium, Value: "sr0"}, "/dev/cdrom": {Kind: Medium, Value: "cdrom"}, "/dev/fd0": {Kind: Medium, Value: "fd0"},
		"//nas/a=b": {Kind: Network, Value: "//nas/a=b"}, "host:/x": {Kind: Network, Value: "host:/x"}, "[fe80::1]:/x": {Kind: Network, Value: "[fe80::1]:/x"}, "https://h/dav": {Kind: Network, Value: "https://h/dav"}, "u@h:/x=y": {Kind: Network, Value: "u@h:/x=y"},
		"/swap.img": {Kind: File, Value: "/swap.img"}, "/srv//x/": {Kind: File, Value: "/srv/x"}, "none": {Kind: Virtual, Value: "none"}, "tmp=x": {Kind: Virtual, Value: "tmp=x"},
		"UUID=": {Kind: Malformed, Value: "UUID="}, `LABEL="My`: {Kind: Malformed, Value: `LABEL="My`}, `LABEL=""`: {Kind: Malformed, Value: `LABEL=""`}, `'`: {Kind: Malformed, Value: `'`},
	} {
		want.Text = spec
		if got := ParseRef(spec); got != want {
			t.Errorf("ParseRef(%q) = %+v; want %+v", spec, got, want)
		}
	}
}

func FuzzFstab(f *testing.F) {
	f.Add(odd, "nofail")
	f.Add("UUID=1 /\r\n", "a b")
	f.Add("a b c d,\"x,y\" 0", "")
	seeds(f, func(name string) bool { return strings.HasPrefix(name, "fstab") }, func(text string) { f.Add(text, "UUID=1") })
	f.Fuzz(func(t *testing.T, text, word string) {
		p := ParseFstab(text)
		if p.String() != text {
			t.Fatalf("%q is printed as %q", text, p.String())
		}
		lines := strings.SplitAfter(text, "\n")
		for i, e := range p.Entries {
			e.Ref()
			e.Path()
			if e.set(0, e.Spec, e.Spec); p.String() != text {
				t.Fatalf("an edit that changes nothing: %q, %q", text, p.String())
			}
			q := ParseFstab(text)
			q.Entries[i].SetSpec(word)
			if word != "" && q.Entries[i].Spec != word {
				t.Fatalf("SetSpec(%q) of %q gives %q", word, text, q.Entries[i].Spec)
			}
			q.Entries[i].AddOption("nofail")
			again := ParseFstab(q.String())
			if len(again.Entries) != len(p.Entries) || !again.Entries[i].NoFail() && !strings.Contains(e.Options, `"`) || again.Entries[i].File != e.File {
				t.Fatalf("%q becomes %q", text, q.String())
			}
			for n, l := range strings.SplitAfter(q.String(), "\n") {
				if n != e.Line-1 && l != lines[n] {
					t.Fatalf("line %d changed: %q, %q", n+1, lines[n], l)
				}
			}
		}
	})
}

// TestAppendOption: an option that is added counts, whatever is there.
func TestAppendOption(t *testing.T) {
	for options, want := range map[string]string{"": "nofail", "rw": "rw,nofail", "rw,": "rw,nofail", `context="a,b"`: `context="a,b",nofail`, `context="a,b`: `nofail,context="a,b`, `x\042y`: `nofail,x\042y`} {
		got := AppendOption(options, "nofail")
		if got != want || !HasOption(Unescape(got), "nofail") {
			t.Errorf("%q becomes %q; want %q", options, got, want)
		}
	}
}

func FuzzTables(f *testing.F) {
	f.Add("ARRAY /dev/md0\n uuid=1\n", "[Mount]\nWhat=x \\\n y\n", "36 35 98:0 / / rw - ext4 /dev/x rw\n")
	seeds(f, func(name string) bool { return strings.HasSuffix(name, ".mount") || strings.HasSuffix(name, ".swap") }, func(text string) { f.Add("", text, "") })
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if m := ParseMdadm(a); m.String() != a {
			t.Errorf("%q is printed as %q", a, m.String())
		}
		if m := ParseCrypttab(a); m.String() != a {
			t.Errorf("%q is printed as %q", a, m.String())
		}
		u := ParseUnit(b)
		if u.String() != b {
			t.Errorf("%q is printed as %q", b, u.String())
		}
		for i, s := range u.Settings {
			if s.Section == "" || s.Value == "zzz" {
				continue
			}
			n := len(u.Settings)
			s.Set("zzz")
			if again := ParseUnit(u.String()); len(again.Settings) != n || again.Settings[i].Value != "zzz" || again.Settings[i].Key != s.Key {
				t.Errorf("%q becomes %q", b, u.String())
			}
		}
		_, _ = ParseMountinfo(c) // must not panic
		if got := Unescape(Escape(c)); got != c {
			t.Errorf("%q is read as %q", c, got)
		}
		if p := clean(c); UnitPath(UnitName(c)) != p {
			t.Errorf("%q: %q", p, UnitPath(UnitName(c)))
		}
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add(`root=UUID=1 "a=b c" x="y z"`, "LABEL=a b")
	seeds(f, func(name string) bool { return name == "cmdline" }, func(text string) { f.Add(text, "LABEL=a b") })
	f.Fuzz(func(t *testing.T, text, value string) {
		c := ParseCmdline(text)
		if c.String() != text {
			t.Fatalf("%q is printed as %q", text, c.String())
		}
		ParseRef(text)
		n := len(c.Words)
		value = strings.ReplaceAll(value, `"`, "")
		for i, w := range c.Words {
			if !w.Assigned || strings.Contains(w.Name+w.Value, `"`) {
				continue
			}
			w.Set(value)
			again := ParseCmdline(c.String())
			if len(again.Words) != n || again.Words[i].Value != value || again.Words[i].Name != w.Name {
				t.Fatalf("%q becomes %q", text, c.String())
			}
		}
	})
}
