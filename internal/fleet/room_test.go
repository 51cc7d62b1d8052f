package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/restore"
)

var at = netip.MustParseAddr("10.0.0.7")

// reg is the registration of the n-th machine.
func reg(n int) *Registration {
	return &Registration{MAC: fmt.Sprintf("52:54:00:00:01:%02x", n), Serial: fmt.Sprintf("SN%04d", n), Model: "Box", Firmware: "uefi", Boot: fmt.Sprintf("boot-%d", n), Disks: []Disk{{Disk: layout.Disk{Name: "sda", Serial: fmt.Sprintf("DISK%d", n), Size: 1 << 30}}}}
}

func room(t *testing.T, rules string) *Room {
	t.Helper()
	r := DefaultRules()
	if rules != "" {
		var err error
		if r, err = ParseRules("r.yaml", []byte(rules)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := OpenRoom(filepath.Join(t.TempDir(), "state.json"), r, sets)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var sets = []Set{{Name: "lab", Host: "golden", Digest: "d1", Disks: []SetDisk{{Name: "vda"}}, Work: 1000}}

func register(t *testing.T, r *Room, g *Registration) string {
	t.Helper()
	tok, err := r.Register(g, at)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func wantState(t *testing.T, r *Room, mac string, s State) View {
	t.Helper()
	v, err := r.View(mac)
	if err != nil || v.State != s {
		t.Fatalf("%s is %s (%s), %v; want %s", mac, v.State, v.Why, err, s)
	}
	return v
}

// reopen is a server that was killed and started again.
func reopen(t *testing.T, r *Room) *Room {
	t.Helper()
	out, err := OpenRoom(r.store.file, r.rules, r.sets)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLife: a machine waits, is released, works, and is done; the server is killed after
// each step and knows as much as before.
func TestLife(t *testing.T) {
	r := room(t, "rules:\n- match: {any: true}\n  hostname: lab-{n:02}\n  identity: new\n")
	tok := register(t, r, reg(1))
	mac := reg(1).MAC
	steps := []struct {
		name string
		do   func() error
		want State
	}{
		{"wait", func() error { return nil }, Registered},
		{"hold", func() error { return r.Hold(mac) }, Held},
		{"release", func() error { return r.Release(Wish{MAC: mac, Confirm: "SN0001"}) }, Released},
		{"begin", func() error { return r.Report(mac, &Report{Begin: true}) }, Working},
		{"begin, said again", func() error { return r.Report(mac, &Report{Begin: true}) }, Working},
		{"progress", func() error { return r.Report(mac, &Report{Phase: "restoring /", Bytes: 10, Total: 20, Work: 500}) }, Working},
		{"fail", func() error {
			return r.Report(mac, &Report{End: &End{Code: 1, Error: "EIO"}, Lines: []Line{{Level: "error", Text: "a\nb"}}})
		}, Failed},
		{"retry", func() error { return r.Release(Wish{MAC: mac, Confirm: "SN0001"}) }, Released},
		{"begin again", func() error { return r.Report(mac, &Report{Begin: true}) }, Working},
		{"done", func() error { return r.Report(mac, &Report{End: &End{}}) }, Done},
		{"done, said again", func() error { return r.Report(mac, &Report{End: &End{}}) }, Done},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		before := wantState(t, r, mac, s.want)
		if s.name == "fail" && (before.Why != "EIO" || len(before.Log) != 1 || before.Log[0].Text != "a | b") {
			t.Errorf("%s: %+v", s.name, before)
		}
		r = reopen(t, r)
		after := wantState(t, r, mac, s.want)
		if who, err := r.Who(tok); err != nil || who != mac {
			t.Errorf("%s: after the restart the token is of %q, %v", s.name, who, err)
		}
		if after.Hostname != "lab-01" || after.Why != before.Why || after.Number != before.Number || after.Set != before.Set || len(after.Log) != len(before.Log) {
			t.Errorf("%s: after the restart %+v; before %+v", s.name, after, before)
		}
		if o, err := r.Order(context.Background(), mac, ""); err != nil || (o.Job != nil) != (s.want == Released) {
			t.Errorf("%s: Order = %+v, %v", s.name, o, err)
		} else if o.Job != nil {
			if got := strings.Join(o.Job.Options(), " "); got != "--map=vda=DISK1 --confirm=DISK1 --new-identity --hostname=lab-01" {
				t.Errorf("options %s", got)
			}
		}
	}
	if r.PXE(mac) != PXEIgnore || r.PXE(reg(2).MAC) != PXEAuto {
		t.Error("a machine that is done is started from the network again")
	}
}

// TestNeverByItself: what nobody released and no rule named gets no job, whatever happens.
func TestNeverByItself(t *testing.T) {
	r := room(t, "rules:\n- match: {mac: 52:54:00:00:01:01}\n  start: at once\n- match: {serial: SN0002}\n  start: at once\n- match: {any: true}\n")
	mac := func(n int) string { return reg(n).MAC }
	register(t, r, reg(1))
	wantState(t, r, mac(1), Released)
	register(t, r, reg(2))
	wantState(t, r, mac(2), Released)
	register(t, r, reg(3))
	wantState(t, r, mac(3), Registered)

	// Another machine with the serial number: neither is confirmed by it.
	twin := reg(4)
	twin.Serial = "sn0002"
	register(t, r, twin)
	wantState(t, r, mac(4), Registered)
	if v := wantState(t, r, mac(2), Registered); !strings.Contains(v.Why, "same serial number") || !slices.Contains(v.Flags, "another machine has the same serial number") || v.Confirm != mac(2) {
		t.Errorf("%+v", v)
	}
	for _, confirm := range []string{"SN0002", "", "sn0002"} {
		if err := r.Release(Wish{MAC: mac(2), Confirm: confirm}); !errors.As(err, new(*Refused)) {
			t.Errorf("confirmed by %q: %v", confirm, err)
		}
	}
	if err := r.Release(Wish{MAC: mac(2), Confirm: mac(2)}); err != nil {
		t.Error(err)
	}
	// A machine with a serial number of its own is not confirmed by its MAC, nor by another's.
	for _, confirm := range []string{mac(3), "SN0001", ""} {
		if err := r.Release(Wish{MAC: mac(3), Confirm: confirm}); !errors.As(err, new(*Refused)) {
			t.Errorf("confirmed by %q: %v", confirm, err)
		}
	}
	// Placeholders.
	for i, s := range []string{"", "None", "To Be Filled By O.E.M.", "00000000", "\x1b[2J"} {
		g := reg(10 + i)
		g.Serial = s
		b, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseRegistration(strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		register(t, r, p)
		if v := wantState(t, r, g.MAC, Registered); len(v.Flags) == 0 || v.Confirm != g.MAC || strings.ContainsRune(v.Serial, 0x1b) {
			t.Errorf("serial number %q: %+v", s, v)
		}
		if err := r.Release(Wish{MAC: g.MAC, Confirm: s}); !errors.As(err, new(*Refused)) {
			t.Errorf("confirmed by %q: %v", s, err)
		}
	}
	// Held, failed and done machines are not begun by a rule when they come again.
	for _, to := range []State{Held, Failed, Done} {
		g := reg(1)
		r.machines[g.MAC].State = Working
		code := map[State]int{Failed: 1, Done: 0}[to]
		if err := r.Report(g.MAC, &Report{End: &End{Code: code}}); err != nil {
			t.Fatal(err)
		}
		if to == Held {
			if err := r.Hold(g.MAC); err != nil {
				t.Fatal(err)
			}
		}
		g.Boot = "later " + string(to)
		r.machines[g.MAC].seen = time.Time{}
		register(t, r, g)
		wantState(t, r, g.MAC, to)
	}
	// One that is not released can't begin.
	if err := r.Report(mac(3), &Report{Begin: true}); !errors.As(err, new(*Refused)) {
		t.Error(err)
	}
	if r.May(mac(3), "lab") || !r.May(mac(2), "lab") || r.May(mac(2), "other") {
		t.Error("who may read sets")
	}
}

// TestChanged: a release is for the machine, the disks and the job that the person saw.
func TestChanged(t *testing.T) {
	r := room(t, "")
	g := reg(1)
	register(t, r, g)
	seen := wantState(t, r, g.MAC, Registered)
	if seen.Disks[0].Gets != "vda" || seen.Disks[0].Word != "DISK1" {
		t.Errorf("%+v", seen.Disks)
	}
	g.Disks = []Disk{{Disk: layout.Disk{Name: "sda", Serial: "OTHER", Size: 1 << 30}}}
	register(t, r, g)
	if err := r.Release(Wish{g.MAC, g.Serial, seen.Seen}); !errors.As(err, new(*Refused)) || !strings.Contains(err.Error(), "changed") {
		t.Errorf("released as it was: %v", err)
	}
	if err := r.Release(Wish{g.MAC, g.Serial, wantState(t, r, g.MAC, Registered).Seen}); err != nil {
		t.Fatal(err)
	}
	g.Disks = append(g.Disks, Disk{Disk: layout.Disk{Name: "sdb", Serial: "NEW", Size: 1 << 20}})
	register(t, r, g)
	if v := wantState(t, r, g.MAC, Registered); !strings.Contains(v.Why, "changed") || !strings.Contains(v.Problem, `2 disks match "only"`) {
		t.Errorf("%+v", v)
	}
	if err := r.Release(Wish{MAC: g.MAC, Confirm: g.Serial}); !errors.As(err, new(*Refused)) {
		t.Errorf("released without a disk that is decided: %v", err)
	}
}

// TestDiskNumbers: a disk without a number of its own is never confirmed.
func TestDiskNumbers(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks []Disk
		want  []string
	}{
		{"none", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1}}}, []string{""}},
		{"two with the same", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "X"}}, {Disk: layout.Disk{Name: "sdb", Size: 1, Serial: "X"}}}, []string{"", ""}},
		{"the same, but for the WWN", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "X", WWN: "w1"}}, {Disk: layout.Disk{Name: "sdb", Size: 1, Serial: "X", WWN: "w2"}}}, []string{"w1", "w2"}},
		{"one's serial number is the other's WWN", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "X"}}, {Disk: layout.Disk{Name: "sdb", Size: 1, Serial: "Y", WWN: "X"}}}, []string{"", "Y"}},
		{"a comma, which ends a word", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "X,Y"}}}, []string{""}},
		{"a serial number that is a disk's name", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "sdb"}}, {Disk: layout.Disk{Name: "sdb", Size: 1, Serial: "B"}}}, []string{"", "B"}},
		{"escaped", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: `X\x1b`}}}, []string{""}},
		{"a path", []Disk{{Disk: layout.Disk{Name: "sda", Size: 1, Serial: "/dev/sdb"}}}, []string{""}},
	} {
		if got := (&Registration{Disks: c.disks}).Words(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q; want %q", c.name, got, c.want)
		}
	}
}

// TestLeaves: a client that disappears at each step, and comes again.
func TestLeaves(t *testing.T) {
	for _, c := range []struct {
		name string
		to   State // where it left
		want State
	}{
		{"while it waits", Registered, Registered}, {"when it was released", Released, Released}, {"at work", Working, Failed}, {"when done", Done, Done},
	} {
		r := room(t, "")
		now := time.Now()
		r.SetClock(func() time.Time { return now })
		g := reg(1)
		old := register(t, r, g)
		if c.to != Registered {
			if err := r.Release(Wish{MAC: g.MAC, Confirm: g.Serial}); err != nil {
				t.Fatal(err)
			}
		}
		if c.to == Working || c.to == Done {
			if err := r.Report(g.MAC, &Report{Begin: true}); err != nil {
				t.Fatal(err)
			}
		}
		if c.to == Done {
			if err := r.Report(g.MAC, &Report{End: &End{}}); err != nil {
				t.Fatal(err)
			}
		}
		g.Boot = "again"
		if _, err := r.Register(g, at); !errors.As(err, new(*Refused)) {
			t.Errorf("%s: another one with the MAC of a machine that runs: %v", c.name, err)
		}
		now = now.Add(Silent + time.Second)
		if v, _ := r.View(g.MAC); v.Online || (len(v.Flags) > 0) != (c.to == Working) {
			t.Errorf("%s: %+v", c.name, v)
		}
		register(t, r, g)
		wantState(t, r, g.MAC, c.want)
		if _, err := r.Who(old); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: the old token: %v", c.name, err)
		}
	}
}

func TestProgress(t *testing.T) {
	r := room(t, "")
	now := time.Now()
	r.SetClock(func() time.Time { return now })
	g := reg(1)
	register(t, r, g)
	if err := r.Release(Wish{MAC: g.MAC, Confirm: g.Serial}); err != nil {
		t.Fatal(err)
	}
	if err := r.Report(g.MAC, &Report{Begin: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		now = now.Add(time.Second)
		if err := r.Report(g.MAC, &Report{Phase: "restoring /", Bytes: int64(i+1) * 50, Total: 1000, Work: int64(i+1) * 50}); err != nil {
			t.Fatal(err)
		}
	}
	if v := wantState(t, r, g.MAC, Working); v.Percent != 50 || v.Left != 10 || v.Progress.Rate < 49 || v.Progress.Rate > 51 {
		t.Errorf("%d %%, %d s left, %+v", v.Percent, v.Left, v.Progress)
	}
	// Numbers that can't be.
	for _, rep := range []Report{{Phase: "x", Bytes: -5, Total: -1, Work: -1 << 62}, {Phase: "x", Bytes: 1 << 62, Total: 5, Work: 1<<63 - 1}} {
		if err := r.Report(g.MAC, &rep); err != nil {
			t.Fatal(err)
		}
	}
	if v := wantState(t, r, g.MAC, Working); v.Percent != 99 || v.Left != 0 || v.Progress.Bytes != 5 {
		t.Errorf("%d %%, %d s left, %+v", v.Percent, v.Left, v.Progress)
	}
	long := make([]Line, 3*maxLines)
	for i := range long {
		long[i] = Line{Text: strings.Repeat("x", 10*maxLine)}
	}
	if err := r.Report(g.MAC, &Report{Lines: long}); err != nil {
		t.Fatal(err)
	}
	if v := wantState(t, r, g.MAC, Working); len(v.Log) != maxLines || len(v.Log[0].Text) > maxLine+3 {
		t.Errorf("%d lines of %d bytes", len(v.Log), len(v.Log[0].Text))
	}
}

func TestState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	for _, c := range []struct{ text, want string }{
		{"", "EOF"}, {"{", "EOF"}, {`{"version":2}`, "version 2"}, {`{"version":1,"x":1}`, "unknown field"}, {`{"version":1,"machines":[null]}`, "missing"},
		{`{"version":1,"machines":[{"registration":{"mac":"x"}}]}`, "MAC"},
		{`{"version":1,"machines":[{"registration":{"mac":"52:54:00:00:00:01","firmware":"bios","boot":"b"},"state":"released"}]}`, "can't be"},
	} {
		write(t, file, c.text)
		_, err := OpenRoom(file, DefaultRules(), sets)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
		if b, _ := os.ReadFile(file); string(b) != c.text {
			t.Errorf("%q was changed", c.text)
		}
	}
	// Other rules: a job that is not begun is not what was confirmed.
	r := room(t, "")
	g := reg(1)
	register(t, r, g)
	if err := r.Release(Wish{MAC: g.MAC, Confirm: g.Serial}); err != nil {
		t.Fatal(err)
	}
	r.rules.Rules[0].After = PowerOff
	r = reopen(t, r)
	wantState(t, r, g.MAC, Registered)
	if st, err := os.Stat(r.store.file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestMany: a thousand machines register, are released and finish at once.
func TestMany(t *testing.T) {
	const n = 1000
	r := room(t, "rules:\n- match: {any: true}\n  hostname: lab-{n:04}\n")
	changes, stop := r.Watch()
	defer stop()
	go func() {
		for range changes {
		}
	}()
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			g := reg(1)
			g.MAC, g.Serial, g.Boot = fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), fmt.Sprintf("X%d", i), fmt.Sprint(i)
			_, err := r.Register(g, at)
			if err == nil {
				err = r.Release(Wish{MAC: g.MAC, Confirm: g.Serial})
			}
			if err == nil {
				err = r.Report(g.MAC, &Report{Begin: true})
			}
			if err == nil {
				err = r.Report(g.MAC, &Report{End: &End{}})
			}
			errs <- err
		})
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]bool{}
	for _, v := range reopen(t, r).Views() {
		if v.State != Done || names[v.Hostname] || v.Hostname == "" {
			t.Fatalf("%+v", v)
		}
		names[v.Hostname] = true
	}
	if len(names) != n || !names["lab-0001"] || !names["lab-1000"] {
		t.Errorf("%d names", len(names))
	}
}

// TestAnswerWords: the words of our answers are restore's.
func TestAnswerWords(t *testing.T) {
	for text, answers := range map[string]Answers{
		"size: {/: 20G}\nfs-type: {/: xfs}\nexclude-disk: [sdb]\nunmirror: true\nfirmware: uefi\nno-verify: true\n": {Size: map[string]string{"/": "20G"}, FSType: map[string]string{"/": "xfs"}, ExcludeDisk: []string{"sdb"}, Unmirror: true, Firmware: "uefi", NoVerify: true},
		"keep-sizes: true\n": {KeepSizes: true},
	} {
		file := t.TempDir() + "/a"
		write(t, file, text)
		var read, typed restore.Request
		f := flag.NewFlagSet("restore", flag.ContinueOnError)
		read.Flags(f)
		if err := read.Answers(t.Context(), f, file); err != nil {
			t.Fatal(err)
		}
		want, err := read.Validate()
		if err != nil {
			t.Fatal(err)
		}
		f = flag.NewFlagSet("restore", flag.ContinueOnError)
		typed.Flags(f)
		if err := f.Parse(answers.options()); err != nil {
			t.Fatal(err)
		}
		got, err := typed.Validate()
		if err != nil || !reflect.DeepEqual(got.Wish, want.Wish) || got.NoVerify != want.NoVerify {
			t.Errorf("%q gives %+v, %v; want %+v", answers.options(), got, err, want)
		}
	}
}

// FuzzRegistration: what a machine sends never makes the room panic, is bounded, and has
// nothing in it that a terminal would act on.
func FuzzRegistration(f *testing.F) {
	b, _ := json.Marshal(reg(1))
	f.Add(string(b))
	f.Add(`{"mac":"52:54:00:00:00:01","firmware":"bios","boot":"b","serial":"<script>alert(1)</script>\u001b[2J","disks":[{"name":"sda","size":1,"serial":"a,b","parts":[{"start":0,"size":1,"what":"x"}]}]}`)
	rules, err := ParseRules("r.yaml", []byte("rules:\n- match: {any: true}\n  hostname: a-{serial}-{n}\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ParseRegistration(strings.NewReader(text))
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		r := &Room{clock: time.Now, rules: rules, sets: sets, machines: map[string]*machine{}, tokens: map[string]string{}}
		m := &machine{Registration: *g, changed: make(chan struct{}), State: Registered}
		r.machines[g.MAC] = m
		r.name(m)
		v := r.view(m)
		if m.Hostname != "" && !ValidHostname(m.Hostname) {
			t.Errorf("host name %q", m.Hostname)
		}
		for _, s := range append([]string{v.Serial, v.Model, v.Vendor, v.Hostname, v.Confirm, v.Problem}, g.Words()...) {
			if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(s) > 2000 {
				t.Errorf("%q", s)
			}
		}
		if j, _, _, err := r.job(m); err == nil {
			for _, o := range j.Options() {
				if !strings.HasPrefix(o, "--") || strings.Contains(o, ",") {
					t.Errorf("option %q", o)
				}
			}
		}
	})
}
