package tool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExec(t *testing.T) {
	out, err := Exec{}.Run(context.Background(), Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("hello")})
	if err != nil || string(out) != "hello" {
		t.Fatalf("Run(cat) = %q, %v; want hello", out, err)
	}
	_, err = Exec{}.Run(context.Background(), New("ls", "/does not exist"))
	var te *Error
	if !errors.As(err, &te) || te.Code != 2 || !strings.Contains(te.Error(), `ls "/does not exist"`) || !strings.Contains(te.Stderr, "No such file") {
		t.Fatalf("Run(ls missing) = %v; want *Error with code 2, command line and stderr", err)
	}
	if _, err = (Exec{}).Run(context.Background(), New("no-such-program-anywhere")); !errors.As(err, &te) || te.Code != -1 {
		t.Fatalf("Run(no such program) = %v; want *Error with code -1", err)
	}
}

func TestExecKilled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { time.Sleep(50 * time.Millisecond); cancel() }()
	t0 := time.Now()
	if _, err := (Exec{}).Run(ctx, New("sleep", "30")); err == nil {
		t.Fatal("a cancelled program counts as success")
	}
	if time.Since(t0) > 10*time.Second {
		t.Fatal("the cancelled program went on")
	}
}

// TestInterrupted: who cancels a program is told that, and not that it was killed.
func TestInterrupted(t *testing.T) {
	stopped := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(stopped) })
	if _, err := (Exec{}).Run(ctx, New("sleep", "30")); !errors.Is(err, stopped) || strings.Contains(err.Error(), "killed") {
		t.Errorf("a cancelled program: %v; want the cause", err)
	}
	if _, err := (Exec{}).Run(ctx, New("sleep", "30")); !errors.Is(err, stopped) {
		t.Errorf("after that: %v", err)
	}
}

// TestEnvironment: secrets of the caller's environment reach no program, what is
// added does.
func TestEnvironment(t *testing.T) {
	t.Setenv("MKCDREC_PASSWORD", "secret")
	t.Setenv("API_TOKEN", "secret")
	t.Setenv("LC_TIME", "de_DE.UTF-8")
	t.Setenv("HOME", "/somewhere")
	t.Setenv("DM_DISABLE_UDEV", "0") // the later value counts
	c := Cmd{Args: []string{"env"}, Env: []string{"DM_DISABLE_UDEV=1"}}
	out, err := Exec{}.Run(context.Background(), c)
	if s := string(out); err != nil || strings.Contains(s, "secret") || strings.Contains(s, "LC_TIME") || !strings.Contains(s, "HOME=/somewhere\n") || !strings.Contains(s, "PATH=") || !strings.Contains(s, "LC_ALL=C\n") || !strings.Contains(s, "DM_DISABLE_UDEV=1\n") {
		t.Errorf("the environment is %v\n%s", err, out)
	}
	if out, err := (Exec{Inherit: true}).Run(context.Background(), c); err != nil || !strings.Contains(string(out), "API_TOKEN=secret\n") || !strings.Contains(string(out), "LC_ALL=C\n") {
		t.Errorf("the inherited environment is %v\n%s", err, out)
	}
}

// TestOutput: what a program prints is bounded, and cleaned for people.
func TestOutput(t *testing.T) {
	_, err := Exec{}.Run(context.Background(), New("sh", "-c", "printf 'first\\033[2J' >&2; head -c 10000000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 3"))
	var e *Error
	if !errors.As(err, &e) || e.Code != 3 || len(e.Stderr) > maxStderr+100 || !strings.HasPrefix(e.Stderr, "first") || !strings.HasSuffix(e.Stderr, "last\n") || !strings.Contains(e.Stderr, "bytes left out") {
		t.Fatalf("%.200v", err)
	}
	if s := err.Error(); strings.Contains(s, "\x1b") || !strings.Contains(s, `first\x1b[2J`) {
		t.Errorf("%.200q is not cleaned", s)
	}
	b := bounded{limit: 10}
	for i := range 26 {
		b.Write([]byte{'a' + byte(i)})
		want := "abcdefghijklmnopqrstuvwxyz"[:i+1]
		if i >= 10 {
			want = fmt.Sprintf("abcde\n[%d bytes left out]\n%s", i+1-10, want[i+1-5:])
		}
		if c := (bounded{b.limit, slices.Clone(b.head), slices.Clone(b.tail), b.cut}); string(c.bytes()) != want {
			t.Errorf("after %d bytes: %q; want %q", i+1, c.bytes(), want)
		}
	}
	// A program that is left behind with the output does not stop us.
	t0 := time.Now()
	if out, err := (Exec{}).Run(context.Background(), New("sh", "-c", "sleep 40 & echo done")); err != nil || string(out) != "done\n" || time.Since(t0) > 30*time.Second {
		t.Errorf("with a program left behind: %q, %v after %v", out, err, time.Since(t0))
	}
}

func TestRecorder(t *testing.T) {
	r := &Recorder{Answers: map[string]string{"lvm": "x"}}
	if out, err := r.Run(context.Background(), New("lvm", "vgs")); err != nil || string(out) != "x" {
		t.Fatalf("answered call = %q, %v", out, err)
	}
	if _, err := r.Run(context.Background(), New("mkfs.ext4", "/dev/sda1")); err == nil {
		t.Fatal("an unexpected call did not fail")
	}
	if len(r.Calls) != 2 || r.Calls[1] != "mkfs.ext4 /dev/sda1" {
		t.Fatalf("Calls = %q", r.Calls)
	}
}
