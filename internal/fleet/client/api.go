package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// api asks a server that is known by its certificate's fingerprint.
type api struct {
	base   string
	client *http.Client
	mu     sync.Mutex
	token  string
}

// Pinned gives the configuration of a TLS client that takes one certificate only, known
// by its SHA-256 in hex. Neither names nor times are looked at: a machine that was just
// started from the network may have neither.
func Pinned(fingerprint string) (*tls.Config, error) {
	want, err := hex.DecodeString(fingerprint)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("%q is not the SHA-256 of a certificate in hex", printable.Short(fingerprint, 80))
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server shows no certificate")
			}
			got := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return fmt.Errorf("the server is another one than the boot medium names: its certificate is %x", got)
			}
			return nil
		},
	}, nil
}

func newAPI(server, fingerprint string) (*api, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("cannot join: %q is not https://ADDRESS[:PORT]", printable.Short(server, 100))
	}
	t, err := Pinned(fingerprint)
	if err != nil {
		return nil, fmt.Errorf("cannot join %s: %w", u.Host, err)
	}
	return &api{base: "https://" + u.Host, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig:       t,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       time.Minute,
			ResponseHeaderTimeout: 40 * time.Second, // longer than a question is kept open
			DisableCompression:    true,
		},
	}}, nil
}

func (a *api) setToken(t string) { a.mu.Lock(); defer a.mu.Unlock(); a.token = t }

// request asks with the machine's token. The caller closes the answer's body.
func (a *api) request(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		q.Header[k] = v
	}
	a.mu.Lock()
	if a.token != "" {
		q.Header.Set("Authorization", "Bearer "+a.token)
	}
	a.mu.Unlock()
	r, err := a.client.Do(q)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return r, err
}

// do asks with JSON. A refusal is a refused, a token that is not known errToken.
func (a *api) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	r, err := a.request(ctx, method, path, body, http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode >= 300 {
		var e struct{ Error string }
		_ = decodeAnswer(r.Body, &e) // the status is enough
		text := printable.Short(e.Error, 500)
		switch {
		case r.StatusCode == http.StatusUnauthorized:
			return errToken
		case text == "":
			text = "the server answers " + printable.Clean(r.Status)
		}
		if r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout {
			return refused{text}
		}
		return errors.New(text)
	}
	if out == nil {
		return nil
	}
	return decodeAnswer(r.Body, out)
}
