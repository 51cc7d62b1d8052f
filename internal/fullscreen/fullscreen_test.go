package fullscreen

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"
)

// person types on a simulated terminal of 80 by 25.
type person struct {
	t *testing.T
	s *lockedScreen
}

// lockedScreen is not drawn while it is looked at: GetContents returns the cells themselves.
type lockedScreen struct {
	tcell.SimulationScreen
	mu sync.Mutex
}

func (l *lockedScreen) Show() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.SimulationScreen.Show()
}

func (l *lockedScreen) Sync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.SimulationScreen.Sync()
}

func newPerson(t *testing.T) *person {
	s := &lockedScreen{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	return &person{t, s}
}

func (p *person) keys(keys ...any) {
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			for _, r := range k {
				p.s.InjectKey(tcell.KeyRune, r, 0)
			}
		case tcell.Key:
			p.s.InjectKey(k, 0, 0)
		}
	}
}

func (p *person) screen() string {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	cells, w, _ := p.s.GetContents()
	var b strings.Builder
	for i, c := range cells {
		if i > 0 && i%w == 0 {
			b.WriteByte('\n')
		}
		b.WriteString(string(c.Runes))
	}
	return b.String()
}

// sees waits until the screen has the text.
func (p *person) sees(text string) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(p.screen(), text) {
			return
		}
	}
	p.t.Fatalf("no %q on\n%s", text, p.screen())
}

func TestEditor(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "fstab")
	if err := os.WriteFile(real, []byte("one\r\ntwo ü\r\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("fstab", link); err != nil {
		t.Fatal(err)
	}
	p := newPerson(t)
	e, err := NewEditor(link, p.s)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.Run() }()
	p.sees("two ü")
	p.keys(tcell.KeyCtrlF)
	p.sees("find:")
	p.keys("two", tcell.KeyEnter)
	p.sees("2:")
	p.keys(tcell.KeyCtrlF)
	p.sees("find:")
	p.keys(tcell.KeyCtrlU, "nowhere", tcell.KeyEnter)
	p.sees("is not there")
	p.keys(tcell.KeyHome, "# ")
	p.sees(" *")
	p.keys(tcell.KeyCtrlS)
	p.sees("saved")
	p.keys("x", tcell.KeyCtrlQ)
	p.sees("save the changes?")
	p.keys("n", tcell.KeyEnter)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(real)
	if err != nil || string(got) != "one\r\n# two ü\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	if st, _ := os.Lstat(link); st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link became a file")
	}
	if st, _ := os.Stat(real); st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", st.Mode())
	}
	if l, _ := os.ReadDir(dir); len(l) != 2 {
		t.Errorf("left over: %v", l)
	}
}

func TestEditorRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ content, want string }{
		"binary": {"a\x00b", "not a text file"},
		"latin1": {"\xfc", "not a text file"},
		"large":  {strings.Repeat("x", maxText+1), "bytes"},
	} {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewEditor(f, newPerson(t).s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewEditor(dir, newPerson(t).s); err == nil {
		t.Error("a directory was opened")
	}
	// A directory that can't be written: the text stays on the screen.
	p := newPerson(t)
	e, err := NewEditor(filepath.Join(dir, "no", "such"), p.s)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.Run() }()
	p.sees("such")
	p.keys("text", tcell.KeyCtrlS)
	p.sees("NOT saved")
	p.keys(tcell.KeyCtrlQ)
	p.sees("save the changes?")
	p.keys("n", tcell.KeyEnter)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPager(t *testing.T) {
	var b strings.Builder
	for range 99 {
		b.WriteString("line\n")
	}
	b.WriteString("\x1b[31mneedle\x1b[0m\x07 [brackets]\n")
	b.WriteString(strings.Repeat("end\n", 40))
	p := newPerson(t)
	v := NewPager("log", []byte(b.String()), p.s)
	done := make(chan error)
	go func() { done <- v.Run() }()
	p.sees("line 1 of 140")
	p.keys(" ")
	p.sees("line 25 of 140")
	p.keys("b")
	p.sees("line 1 of 140")
	p.keys("/")
	p.sees("\n/")
	p.keys("need.e", tcell.KeyEnter)
	p.sees("needle [brackets]")
	p.keys("q")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// On no terminal the pager is cat.
func TestPageElsewhere(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := Page([]string{"-R"}, strings.NewReader("a\nb\n"), out); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(out.Name()); string(b) != "a\nb\n" {
		t.Errorf("%q", b)
	}
	if err := Page([]string{"/no/such"}, nil, out); err == nil {
		t.Error("no error for a missing file")
	}
}
