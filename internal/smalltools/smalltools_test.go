package smalltools

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fullscreen"
)

// TestMain is each command that prints, as a program, too.
func TestMain(m *testing.M) {
	fn, ok := map[string]Func{"clear": Clear, "blockdev": Blockdev, "top": Top, "less": func(_ IO, args []string) error {
		return fullscreen.Page(args, os.Stdin, os.Stdout)
	}}[os.Getenv("SMALLTOOL")]
	if ok {
		os.Exit(Main(os.Getenv("SMALLTOOL"), fn))
	}
	os.Exit(m.Run())
}

func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "SMALLTOOL="+name)
	return c
}

// TestFull: what does not reach its reader is not done.
func TestFull(t *testing.T) {
	f := t.TempDir() + "/f"
	if err := os.WriteFile(f, []byte("a\tb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"clear", "blockdev --getsize64 " + f, "top -n 1 -d 0.1", "top -n 50 -d 0.1", "less " + f, "less --version"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		w := strings.Fields(line)
		c := command(w[0], w[1:]...)
		var errs bytes.Buffer
		c.Stdout, c.Stderr = full, &errs
		t0 := time.Now()
		if err := c.Run(); err == nil || c.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "no space") {
			t.Errorf("%s > /dev/full: %v; want 1\n%s", line, err, &errs)
		}
		if time.Since(t0) > 4*time.Second {
			t.Errorf("%s > /dev/full continues for %v", line, time.Since(t0))
		}
		full.Close()
		c = command(w[0], w[1:]...)
		if out, err := c.CombinedOutput(); line != "top -n 50 -d 0.1" && err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
}

func TestParseStat(t *testing.T) {
	p, ok := parseStat("42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000000 300 18446744073709551615")
	if !ok || p.pid != 42 || p.name != "a (b) c" || p.state != "S" || p.ticks != 200 || p.rss != 300 {
		t.Errorf("parseStat = %+v, %v", p, ok)
	}
	for _, bad := range []string{"", "1 x", "1 (a) S 1", ") 1 ("} {
		if _, ok := parseStat(bad); ok {
			t.Errorf("parseStat(%q) is accepted", bad)
		}
	}
	var b bytes.Buffer
	if err := Top(IO{In: strings.NewReader(""), Out: &b, Err: &b}, []string{"-n", "1", "-d", "0.1"}); err != nil || !strings.Contains(b.String(), "PID") || strings.Count(b.String(), "\n") < 3 {
		t.Errorf("top: %v\n%s", err, b.String())
	}
}
