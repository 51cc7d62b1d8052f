package nightly

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// hook is a web server that keeps what it gets, with the answers of do.
func hook(t *testing.T, do func(w http.ResponseWriter, r *http.Request, n int)) (url string, got func() []Message) {
	t.Helper()
	var n atomic.Int32
	messages := make(chan Message, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var m Message
		if err = errors.Join(err, json.Unmarshal(b, &m)); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("the server got %s %q, %v", r.Method, b, err)
		}
		messages <- m
		do(w, r, int(n.Add(1)))
	}))
	t.Cleanup(s.Close)
	return s.URL + "/hooks/SECRET?token=SECRET", func() (out []Message) {
		for len(messages) > 0 {
			out = append(out, <-messages)
		}
		return out
	}
}

func taken(http.ResponseWriter, *http.Request, int) {}

// program makes a script that does what text is.
func program(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "alert")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestNotify: a webhook and a program get the message; what failed of one does not keep the other
// from getting it, and no error has the URL or an argument.
func TestNotify(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	m := NewMessage(Failed, "web", "v1", Run{Started: time.Now(), Ended: time.Now(), Destination: "/mnt", Status: 1, Error: "the disk is full\nmore", NotCovered: slices.Repeat([]string{"x"}, 200)})
	if m.Text != "the backup of web to /mnt failed with exit status 1: the disk is full" || len(m.NotCovered) != maxListed+1 {
		t.Errorf("NewMessage() = %q with %d not covered", m.Text, len(m.NotCovered))
	}
	url, got := hook(t, taken)
	c := Config{Webhook: url, Command: []string{program(t, `test "$1 $2" = "a  b" || exit 3; cat > "$3"`), "a", " b", out}, NotifyTimeout: "20s"}
	if told, err := c.Notify(t.Context(), tool.Exec{}, m); err != nil || !told {
		t.Fatalf("Notify() = %v, %v", told, err)
	}
	var file Message
	if b, err := os.ReadFile(out); err != nil || json.Unmarshal(b, &file) != nil || file.Error != m.Error || file.Host != "web" {
		t.Errorf("the program got %+v, %v", file, err)
	}
	if g := got(); len(g) != 1 || g[0].Event != Failed || g[0].Status != 1 || g[0].Destination != "/mnt" {
		t.Errorf("the server got %+v", g)
	}
	slow := make(chan bool)
	defer close(slow)
	answer := func(status int) func(http.ResponseWriter, *http.Request, int) {
		return func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(status) }
	}
	once := func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	for _, x := range []struct {
		what, timeout, command, want string
		do                           func(http.ResponseWriter, *http.Request, int)
		told                         bool
		asked                        int
	}{
		{"a fault that ends", "20s", "", "", once, true, 2},
		{"refused", "20s", "", "it answers 403 Forbidden", answer(http.StatusForbidden), false, 1},
		{"sent elsewhere", "20s", "", "it answers 302 Found", func(w http.ResponseWriter, r *http.Request, _ int) { http.Redirect(w, r, "/other", http.StatusFound) }, false, 1},
		{"no answer", "300ms", "", "it took more than 300ms", func(http.ResponseWriter, *http.Request, int) { <-slow }, false, 1},
		{"a program that fails", "20s", "echo no mail server >&2; exit 7", "exit status 7: no mail server", taken, true, 1},
		{"a program that hangs", "300ms", "sleep 60", "it took more than 300ms", taken, true, 1},
	} {
		url, got := hook(t, x.do)
		c := Config{Webhook: url, NotifyTimeout: x.timeout}
		if x.command != "" {
			c.Command = []string{program(t, x.command), "SECRET"}
		}
		told, err := c.Notify(t.Context(), tool.Exec{}, m)
		if told != x.told || (err == nil) != (x.want == "") || err != nil && (!strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%s: Notify() = %v, %v; want %v and %q, without SECRET", x.what, told, err, x.told, x.want)
		}
		if n := len(got()); n != x.asked {
			t.Errorf("%s: the server got %d messages; want %d", x.what, n, x.asked)
		}
	}
	c = Config{Webhook: "http://127.0.0.1:1/SECRET", NotifyTimeout: "300ms"}
	if told, err := c.Notify(t.Context(), tool.Exec{}, m); told || err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("Notify() without a server = %v, %v; want an error with its address, without SECRET", told, err)
	}
}

// TestWebhookFile: the URL may come from a file that others can't read.
func TestWebhookFile(t *testing.T) {
	url, got := hook(t, taken)
	file := filepath.Join(t.TempDir(), "url")
	c := Config{WebhookFile: file, NotifyTimeout: "20s"}
	for _, x := range []struct {
		text, want string
		mode       os.FileMode
		told       bool
	}{{url + "\n", "", 0o600, true}, {url, "has mode 0644, other users can use it", 0o644, false}, {"SECRET", "it is not an http:// or https:// URL", 0o600, false}} {
		if err := errors.Join(os.WriteFile(file, []byte(x.text), x.mode), os.Chmod(file, x.mode)); err != nil {
			t.Fatal(err)
		}
		told, err := c.Notify(t.Context(), tool.Exec{}, Message{})
		if told != x.told || (err == nil) != (x.want == "") || err != nil && (!strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("Notify() with %q, mode %o = %v, %v; want %v and %q", x.text, x.mode, told, err, x.told, x.want)
		}
	}
	if n := len(got()); n != 1 {
		t.Errorf("the server got %d messages; want 1", n)
	}
}

// TestEvent: every failure is reported, and once that it is over.
func TestEvent(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct {
		status int
		sent   bool // the message can be sent
		want   Event
	}{{0, true, ""}, {1, false, Failed}, {0, true, ""}, {1, true, Failed}, {4, true, Failed}, {0, false, Recovered}, {0, true, Recovered}, {0, true, ""}, {3, true, Incomplete}, {0, true, Recovered}} {
		r := Run{Status: c.status}
		if err := r.Save(dir, nil); err != nil {
			t.Fatal(err)
		}
		rec, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		got := r.Event(rec.Told)
		if got != c.want {
			t.Errorf("run %d with status %d: Event(%q) = %q; want %q", i, c.status, rec.Told, got, c.want)
		}
		if got != "" && c.sent {
			if err := Tell(dir, got); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNotifyKeys(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{}, ""},
		{Config{Webhook: "https://x/SECRET"}, ""},
		{Config{Webhook: "x/SECRET"}, "status.webhook: "},
		{Config{Webhook: "ftp://x/SECRET"}, "status.webhook: "},
		{Config{Webhook: "http://x", WebhookFile: "/y"}, "use only one"},
		{Config{WebhookFile: "y"}, "status.webhook_file: "},
		{Config{Command: []string{"mail"}}, "status.command: "},
		{Config{Command: []string{"/bin/mail", "root"}}, ""},
		{Config{NotifyTimeout: "0s"}, "status.notify_timeout: "},
	} {
		c.c.Warn, c.c.Critical = "1h", "2h"
		if c.c.NotifyTimeout == "" {
			c.c.NotifyTimeout = DefaultNotifyTimeout
		}
		if err := c.c.Validate(); (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%+v: Validate() = %v; want %q", c.c, err, c.want)
		}
	}
}
