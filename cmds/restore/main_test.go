package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
)

// Ctrl-C ends a question that nobody answers, and the menu, with an error.
func TestQuestionsEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, stop := context.WithCancelCause(context.Background())
	in := screen.Lines(ctx, r)
	ended := make(chan error, 1)
	go func() {
		ended <- menu(in, io.Discard, restore.Request{}, func(restore.Request, int) error { return nil })
	}()
	time.AfterFunc(100*time.Millisecond, func() { stop(&interrupt.Signal{Sig: os.Interrupt}) })
	select {
	case err := <-ended:
		if !interrupt.Is(err) || exit.Code(err) != exit.Failed {
			t.Errorf("the menu ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the menu still waits")
	}
	// What a signal made fail is reported as that, and keeps what it was; what is done stays done.
	refused := &exit.Refusal{Reason: "nobody confirmed it"}
	if err := screen.Interrupted(ctx, refused); !strings.HasPrefix(err.Error(), "interrupted") || !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if err := screen.Interrupted(ctx, exit.NotCovered([]string{"x"})); exit.Code(err) != exit.Partial {
		t.Errorf("%v", err)
	}
	if screen.Interrupted(ctx, nil) != nil {
		t.Error("a run that is done counts as interrupted")
	}
}

// Questions one after the other take their lines from one pipe.
func TestLines(t *testing.T) {
	in := screen.Lines(context.Background(), strings.NewReader("one\ntwo\nlast"))
	for _, want := range []string{"one\n", "two\n", "last"} {
		if got, err := in.ReadString('\n'); got != want || want == "last" && err != io.EOF {
			t.Errorf("%q %v; want %q", got, err, want)
		}
	}
}

// A restore that is done, but not of everything, ends with 3 and the list.
func TestLacking(t *testing.T) {
	if err := screen.Lacking(&restore.Report{}); err != nil {
		t.Error(err)
	}
	err := screen.Lacking(&restore.Report{NotCovered: []string{"sdb1: not mounted"}, Problems: []archive.Problem{{Path: "f", Kind: archive.Lost, Detail: "gone"}}})
	if exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "sdb1: not mounted") || !strings.Contains(err.Error(), "gone") {
		t.Errorf("%v", err)
	}
}
