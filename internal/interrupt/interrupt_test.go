package interrupt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// TestMain is the program that the tests interrupt, too.
func TestMain(m *testing.M) {
	if os.Getenv("INTERRUPT_TEST") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := Context(context.Background())
	defer stop()
	os.Stdout.WriteString("ready\n")
	<-ctx.Done()
	var s *Signal
	if !errors.As(context.Cause(ctx), &s) || !Is(context.Cause(ctx)) {
		os.Exit(9)
	}
	os.Stdout.WriteString(s.Error() + "\n")
	time.Sleep(time.Minute) // a clean-up that does not come to its end
	os.Exit(8)
}

// TestSecondSignal: the first signal is told to the program, a second one ends
// it, whatever it is doing.
func TestSecondSignal(t *testing.T) {
	for _, c := range []struct {
		sig  syscall.Signal
		want string
	}{{syscall.SIGINT, "interrupted\n"}, {syscall.SIGTERM, "interrupted (terminated)\n"}, {syscall.SIGHUP, "interrupted (hangup)\n"}} {
		if signal.Ignored(c.sig) {
			continue // by nohup(1), which is respected
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "INTERRUPT_TEST=1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := NewLines(out)
		read := func() string {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			s, err := lines.ReadLine(ctx)
			if err != nil {
				t.Errorf("%v: %v", c.sig, err)
			}
			return s
		}
		if got := read(); got != "ready\n" {
			t.Fatalf("the program printed %q", got)
		}
		for i, want := range []string{c.want, ""} {
			if err := cmd.Process.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if got := read(); got != want {
					t.Errorf("after the first %v: %q; want %q", c.sig, got, want)
				}
			}
		}
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != c.sig {
			t.Errorf("after the second %v: %v; want the program ended by it", c.sig, err)
		}
	}
}

// TestIgnored: what nohup(1) set is kept.
func TestIgnored(t *testing.T) {
	cmd := exec.Command("nohup", os.Args[0])
	cmd.Env = append(os.Environ(), "INTERRUPT_TEST=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	l := NewLines(out)
	if s, err := l.ReadLine(context.Background()); s != "ready\n" {
		t.Fatalf("%q, %v", s, err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if s, err := l.ReadLine(ctx); err == nil {
		t.Errorf("a hangup under nohup: the program said %q", s)
	}
}

func TestLines(t *testing.T) {
	r, w := io.Pipe()
	l := NewLines(r)
	ctx, cancel := context.WithCancelCause(context.Background())
	stopped := errors.New("stopped")
	time.AfterFunc(20*time.Millisecond, func() { cancel(stopped) })
	if _, err := l.ReadLine(ctx); err != stopped {
		t.Errorf("ReadLine while the context ends: %v; want its cause", err)
	}
	go func() { io.WriteString(w, "a\nb\nc"); w.Close() }()
	for _, want := range []string{"a\n", "b\n", "c"} {
		if got, err := l.ReadLine(context.Background()); got != want || err != nil && err != io.EOF {
			t.Errorf("ReadLine = %q, %v; want %q", got, err, want)
		}
	}
	if _, err := l.ReadLine(context.Background()); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestSecret: a question for a passphrase ends with the context, and the
// terminal shows again what is typed.
func TestSecret(t *testing.T) {
	p, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer tty.Close()
	fd := int(tty.Fd())
	echo := func() bool {
		a, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return a.Lflag&unix.ECHO != 0
	}
	wait := func() {
		for i := 0; echo(); i++ {
			if i > 1000 {
				t.Fatal("the passphrase is shown")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	go func() { wait(); io.WriteString(p, "pass\n") }()
	if b, err := Secret(context.Background(), fd); string(b) != "pass" || err != nil {
		t.Errorf("Secret = %q, %v", b, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { wait(); cancel() }()
	if b, err := Secret(ctx, fd); b != nil || !Is(err) {
		t.Errorf("Secret while the context ends = %q, %v", b, err)
	}
	if !echo() {
		t.Error("the terminal is left without echo")
	}
}

// TestReaderWriter: what blocks is given up when the context ends, and what passes
// is what went in.
func TestReaderWriter(t *testing.T) {
	stopped := errors.New("stopped")
	r, w := io.Pipe()
	ctx, cancel := context.WithCancelCause(context.Background())
	in, out := Reader(ctx, r), Writer(ctx, w)
	data := bytes.Repeat([]byte("0123456789"), 300_000)
	go out.Write(data)
	got := make([]byte, len(data))
	if n, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	time.AfterFunc(20*time.Millisecond, func() { cancel(stopped) })
	if n, err := in.Read(got); n != 0 || err != stopped {
		t.Errorf("Read while the context ends = %d, %v; want its cause", n, err)
	}
	if n, err := in.Read(got); n != 0 || err != stopped {
		t.Errorf("Read after that = %d, %v", n, err)
	}
	_, blocked := io.Pipe()
	ctx, cancel = context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { cancel(stopped) })
	if n, err := Writer(ctx, blocked).Write(data); n != 0 || err != stopped {
		t.Errorf("Write while the context ends = %d, %v; want its cause", n, err)
	}
	if n, err := Reader(context.Background(), bytes.NewReader(data)).Read(make([]byte, 4<<20)); n == 0 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	if err := Err(ctx, errors.New("x")); !errors.Is(err, stopped) || err.Error() != "stopped: x" {
		t.Errorf("Err = %v", err)
	}
}

// TestReadFile: a key comes from a file or a pipe; the wait for a pipe's writer ends
// with the context, and a device has an end, too.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/key", []byte("secret"), 0o600), syscall.Mkfifo(dir+"/fifo", 0o600), syscall.Mkfifo(dir+"/silent", 0o600)); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(t.Context(), dir+"/key"); err != nil || string(b) != "secret" {
		t.Errorf("%q, %v", b, err)
	}
	go os.WriteFile(dir+"/fifo", []byte("piped"), 0)
	if b, err := ReadFile(t.Context(), dir+"/fifo"); err != nil || string(b) != "piped" {
		t.Errorf("%q, %v", b, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ReadFile(ctx, dir+"/silent"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a pipe without a writer: %v", err)
	}
	if _, err := ReadFile(t.Context(), "/dev/zero"); err == nil {
		t.Error("a key without an end is taken")
	}
}
