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
	"github.com/mkcdrec/mkcdrec/internal/probe"
)

// direct reads a job's set from the server. restore gets a URL of this machine, behind
// which the set is fetched over the pinned TLS connection with the machine's token: what
// crosses the network is secret and authentic. The manifest must be the one that the job
// names by its digest; it has the digests of all other files.
//
// Where the order names a swarm, the archives come from other machines: see swarm.
type direct struct {
	api             *api
	program, target string // see Config.Swarm
	machine         probe.Machine
}

// Times of the reader behind restore. restore asks again after what fails.
const (
	fetchTime  = 13 * time.Second // that a request waits for a server that is restarted; restore waits 15
	fetchPause = time.Second
)

// maxManifest is the largest manifest that is read, in bytes.
const maxManifest = 64 << 20

// Open implements Source.
func (d *direct) Open(ctx context.Context, job *fleet.Job, tell func(level, text string)) (*Opened, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot read set %s: %w", job.Set, err)
	}
	ctx, stop := context.WithCancel(ctx)
	h := &relay{api: d.api, job: job, ctx: ctx}
	base := "http://" + l.Addr().String()
	out := &Opened{Place: base + "/" + job.Set}
	switch {
	case job.Swarm == (fleet.Swarm{}):
	case d.program == "":
		tell("warning", "this rescue system cannot get sets from other machines; the set comes from the server")
	default:
		h.swarm = newSwarm(ctx, d.program, d.target, job, tell)
		h.swarm.machine = d.machine
		// Each piece is checked when it arrives. To read the whole set beforehand would
		// send it twice.
		out.Options = []string{"--no-verify", "--when-read=" + base + readPath}
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }() // ends with Close
	out.Stop = func() {
		stop()
		s.Close()
		if h.swarm != nil {
			h.swarm.close()
		}
	}
	return out, nil
}

// readPath is where restore reports that it has read everything.
const readPath = "/read"

type relay struct {
	api   *api
	job   *fleet.Job
	ctx   context.Context
	swarm *swarm // nil for none
}

// ServeHTTP implements http.Handler.
func (h *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.URL.Path == readPath && h.swarm != nil {
		h.swarm.finish(r.Context())
		w.WriteHeader(http.StatusNoContent)
		return
	}
	file, ok := strings.CutPrefix(r.URL.EscapedPath(), "/"+h.job.Set+"/")
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	if file == manifest.File {
		h.manifest(w, r)
		return
	}
	var a *http.Response
	if h.swarm != nil {
		a = h.swarm.fetch(r, file)
	}
	if a == nil {
		var err error
		if a, err = h.fetch(r, file); err != nil {
			http.Error(w, "the server does not answer", http.StatusBadGateway)
			return
		}
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
	if h.swarm != nil {
		h.swarm.has(b)
	}
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}
