package restore

import (
	"context"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/medium"
)

// A server that does not answer is waited for until the signal, no longer.
func TestWaitsEnd(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(stop)
	cause := errors.New("the signal")
	for name, read := range map[string]func(context.Context) error{
		"answers": func(ctx context.Context) error {
			return (&Request{}).Answers(ctx, flag.NewFlagSet("", flag.ContinueOnError), s.URL+"/answers.yaml")
		},
		"search": func(ctx context.Context) error {
			_, _, err := medium.Finder{Kernel: kernel.Linux{}}.FindSet(ctx, []medium.Source{{Kind: "url", Value: s.URL + "/web"}}, manifest.Wanted{})
			return err
		},
		"set": func(ctx context.Context) error {
			_, err := manifest.Door{}.Open(ctx, s.URL+"/web")
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
		done := make(chan error, 1)
		go func() { done <- read(ctx) }()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: still waits 10 s after the signal", name)
		}
	}
}
