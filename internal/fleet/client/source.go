package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
)

// direct reads a job's set from the server. restore gets a URL of this machine, behind
// which the set is fetched over the pinned TLS connection with the machine's token: what
// crosses the network is secret and authentic. The manifest must be the one that the job
// names by its digest; it has the digests of all other files.
type direct struct{ api *api }

// Times of the reader behind restore. restore asks again after what fails.
const (
	fetchTime  = 13 * time.Second // that a request waits for a server that is restarted; restore waits 15
	fetchPause = time.Second
)

// maxManifest is the largest manifest that is read, in bytes.
const maxManifest = 64 << 20

// Open implements Source.
func (d *direct) Open(ctx context.Context, job *fleet.Job) (string, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("cannot read set %s: %w", job.Set, err)
	}
	ctx, stop := context.WithCancel(ctx)
	h := &relay{api: d.api, job: job, ctx: ctx}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }() // ends with Close
	return "http://" + l.Addr().String() + "/" + job.Set, func() { stop(); s.Close() }, nil
}

type relay struct {
	api *api
	job *fleet.Job
	ctx context.Context
}

// ServeHTTP implements http.Handler.
func (h *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ok := strings.CutPrefix(r.URL.EscapedPath(), "/"+h.job.Set+"/")
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	if file == manifest.File {
		h.manifest(w, r)
		return
	}
	a, err := h.fetch(r, file)
	if err != nil {
		http.Error(w, "the server does not answer", http.StatusBadGateway)
		return
	}
	defer a.Body.Close()
	for _, k := range []string{"Content-Length", "Content-Range", "Accept-Ranges", "Content-Type"} {
		if v := a.Header.Get(k); v != "" {
			w.Header().Set(k, v)
		}
	}
	w.WriteHeader(a.StatusCode)
	if r.Method == http.MethodGet {
		_, _ = io.CopyBuffer(onlyWriter{w}, a.Body, make([]byte, 1<<20)) // restore notices what is missing
	}
}

// onlyWriter hides ReadFrom, which has buffers of 32 KiB.
type onlyWriter struct{ io.Writer }

// fetch asks the server, for a while again after failures of the network.
func (h *relay) fetch(r *http.Request, file string) (*http.Response, error) {
	head := http.Header{}
	if v := r.Header.Get("Range"); v != "" {
		head.Set("Range", v)
	}
	for end := time.Now().Add(fetchTime); ; {
		// The body is read after this returns: the request's own context ends it.
		ctx, stop := context.WithCancel(r.Context())
		context.AfterFunc(h.ctx, stop)
		a, err := h.api.request(ctx, r.Method, "/v1/set/"+h.job.Set+"/"+file, nil, head)
		if err == nil && a.StatusCode < 500 {
			return a, nil
		}
		if err == nil {
			a.Body.Close()
			err = errors.New(a.Status)
		}
		stop()
		if time.Now().After(end) || r.Context().Err() != nil || h.ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(fetchPause)
	}
}

// manifest serves the manifest if it is the one that the job names.
func (h *relay) manifest(w http.ResponseWriter, r *http.Request) {
	q := r.Clone(r.Context())
	q.Method = http.MethodGet
	q.Header.Del("Range")
	a, err := h.fetch(q, manifest.File)
	if err != nil {
		http.Error(w, "the server does not answer", http.StatusBadGateway)
		return
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		http.Error(w, "there is no manifest", a.StatusCode)
		return
	}
	b, err := io.ReadAll(io.LimitReader(a.Body, maxManifest))
	if err != nil {
		http.Error(w, "the server does not answer", http.StatusBadGateway)
		return
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != h.job.Digest {
		http.Error(w, "the set is another one than was released", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}
