package nightly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Event is why a message is sent.
type Event string

// Events.
const (
	Failed     Event = "failed"
	Incomplete Event = "incomplete" // a set was made, and does not cover everything
	Recovered  Event = "recovered"  // the first good run after one of the others
	Test       Event = "test"
)

// Message is what a webhook and a command get as JSON.
type Message struct {
	Version int    `json:"version"`
	Event   Event  `json:"event"`
	Text    string `json:"text"` // for people, one line
	Host    string `json:"host"`
	Command string `json:"command"` // of mkcdrec
	Program string `json:"program"` // version of mkcdrec
	Run
}

// maxListed is how many things that are not covered a message has.
const maxListed = 100

// DefaultNotifyTimeout is how long a webhook and a command each may take.
const DefaultNotifyTimeout = "30s"

// Event is what a message about the run is to report, "" for none; told is the event of the last
// message that was sent, "" for none.
func (r *Run) Event(told Event) Event {
	switch r.Status {
	case exit.OK:
		if told != "" {
			return Recovered
		}
		return ""
	case exit.Partial:
		return Incomplete
	}
	return Failed
}

// NewMessage makes the message about an event of a run of this machine, host.
func NewMessage(e Event, host, program string, r Run) Message {
	r.Error = r.shortError()
	if r.NotCovered == nil {
		r.NotCovered = []string{}
	}
	if n := len(r.NotCovered); n > maxListed {
		r.NotCovered = append(r.NotCovered[:maxListed:maxListed], fmt.Sprintf("%d more", n-maxListed))
	}
	first, _, _ := strings.Cut(r.Error, "\n")
	text := map[Event]string{
		Failed:     fmt.Sprintf("the backup of %s to %s failed with exit status %d: %s", host, r.Destination, r.Status, first),
		Incomplete: fmt.Sprintf("the backup of %s to %s does not cover everything: %s", host, r.Destination, first),
		Recovered:  fmt.Sprintf("the backup of %s to %s is good again", host, r.Destination),
		Test:       fmt.Sprintf("a test by mkcdrec status --test-notify of %s", host),
	}[e]
	return Message{Version: version, Event: e, Text: text, Host: host, Command: "path", Program: program, Run: r}
}

// Notifies reports whether messages are sent anywhere.
func (c Config) Notifies() bool { return c.Webhook != "" || c.WebhookFile != "" || len(c.Command) > 0 }

// Ready reports whether a message could be sent, as far as that can be seen without sending one.
func (c Config) Ready() error {
	var errs []error
	if c.Webhook != "" || c.WebhookFile != "" {
		_, err := c.webhook()
		errs = append(errs, err)
	}
	if len(c.Command) > 0 {
		if _, err := exec.LookPath(c.Command[0]); err != nil {
			errs = append(errs, fmt.Errorf("cannot run status.command: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkNotify reports all faults of the keys for messages.
func (c Config) checkNotify() error {
	var errs []error
	if c.Webhook != "" {
		if _, err := webhookURL(c.Webhook); err != nil {
			errs = append(errs, fmt.Errorf("status.webhook: %w", err))
		}
	}
	if c.Webhook != "" && c.WebhookFile != "" {
		errs = append(errs, errors.New("status.webhook and status.webhook_file: use only one"))
	}
	if c.WebhookFile != "" && !filepath.IsAbs(c.WebhookFile) {
		errs = append(errs, errors.New("status.webhook_file: want the absolute path of a file with the URL (the value is not shown, since it may be the URL)"))
	}
	if len(c.Command) > 0 && !filepath.IsAbs(c.Command[0]) {
		errs = append(errs, fmt.Errorf("status.command: %q; want the absolute path of a program, then its arguments", c.Command[0]))
	}
	if d, err := time.ParseDuration(c.NotifyTimeout); err != nil || d <= 0 {
		errs = append(errs, fmt.Errorf("status.notify_timeout: %q; want a time such as 30s", c.NotifyTimeout))
	}
	return errors.Join(errs...)
}

// webhookURL reads a URL. Its path may be secret: errors do not have it.
func webhookURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("it is not an http:// or https:// URL")
	}
	return u, nil
}

// Notify sends a message to the webhook and to the command, whichever the configuration has. told
// is whether one of them took it.
func (c Config) Notify(ctx context.Context, run tool.Runner, m Message) (told bool, err error) {
	b, err := json.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("cannot send the message: %w", err)
	}
	limit, err := time.ParseDuration(c.NotifyTimeout)
	if err != nil {
		return false, fmt.Errorf("status.notify_timeout: %w", err)
	}
	try := func(what string, send func(context.Context) error) error {
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took more than %s", limit))
		defer cancel()
		err := send(ctx)
		if err == nil {
			told = true
			return nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("cannot send the message to %s: %w", what, err)
	}
	var errs []error
	if c.Webhook != "" || c.WebhookFile != "" {
		if u, err := c.webhook(); err != nil {
			errs = append(errs, err)
		} else {
			errs = append(errs, try("the webhook at "+u.Host, func(ctx context.Context) error { return post(ctx, u, b) }))
		}
	}
	if len(c.Command) > 0 {
		errs = append(errs, try("the command "+c.Command[0], func(ctx context.Context) error {
			_, err := run.Run(ctx, tool.Cmd{Args: c.Command, Stdin: bytes.NewReader(append(b, '\n'))})
			var e *tool.Error
			if errors.As(err, &e) { // its arguments may be secret
				err = e.Err
				if s := strings.TrimSpace(e.Stderr); s != "" {
					err = fmt.Errorf("%w: %s", err, printable.Short(s, 400))
				}
			}
			return err
		}))
	}
	return told, errors.Join(errs...)
}

const maxURL = 4096 // bytes of the file that has it

// webhook gives the URL that messages are sent to.
func (c Config) webhook() (*url.URL, error) {
	if c.Webhook != "" {
		return webhookURL(c.Webhook)
	}
	fail := func(err error) (*url.URL, error) {
		return nil, fmt.Errorf("cannot use status.webhook_file: %w", err)
	}
	b, err := regular.ReadSecret(c.WebhookFile, maxURL)
	if err != nil {
		return fail(err)
	}
	u, err := webhookURL(strings.TrimSpace(string(b)))
	if err != nil {
		return fail(fmt.Errorf("%s: %w", c.WebhookFile, err))
	}
	return u, nil
}

// A server that does not answer, or that has a fault of its own, is asked again.
const (
	attempts = 3
	pause    = 2 * time.Second
)

// post sends the message. Errors do not have the URL.
func post(ctx context.Context, u *url.URL, body []byte) error {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for i := 1; ; i++ {
		again, err := postOnce(ctx, client, u, body)
		if err == nil || !again || i == attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func postOnce(ctx context.Context, client *http.Client, u *url.URL, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return false, errors.New("its URL can't be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "mkcdrec")
	a, err := client.Do(r)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return true, err
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		return a.StatusCode >= 500, fmt.Errorf("it answers %s", printable.Short(a.Status, 100))
	}
	return false, nil
}
