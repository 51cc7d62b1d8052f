package tool

import (
	"context"
	"errors"
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
