// Package web is the part of a fleet's server that people and machines talk to, over TLS:
// the page of the room, the same as JSON and as a stream of events, the machines'
// registration, orders and reports, and the sets for those that were released.
package web

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

//go:embed page.html page.js page.css
var files embed.FS

// Files gives the files of a set by name; only those that the set's manifest names, and
// the manifest itself.
type Files interface {
	Open(name string) (store.File, error)
}

// Config is what the server needs.
type Config struct {
	Room *fleet.Room
	// Sets are the sets' files, by the sets' names.
	Sets map[string]Files
	// Token is what a person needs.
	Token string
	// Wake sends a magic packet to a card.
	Wake func(mac string) error
	// Title is the page's heading.
	Title string
	// Say is told what is of interest for people, Warn what is not as it should be.
	Say, Warn func(format string, args ...any)
}

// Limits.
const (
	maxWatchers  = 64
	maxBody      = 1 << 20
	orderTime    = 25 * time.Second // that a machine's question is kept open
	eventTime    = 400 * time.Millisecond
	writeTime    = 15 * time.Second // for an event, until a reader is given up
	readTime     = 30 * time.Second // for all of a request's body
	perMinute    = 20               // registrations of one address
	cookieName   = "__Host-mkcdrec"
	cookieMaxAge = 7 * 24 * 3600
)

// Server is the handler.
type Server struct {
	cfg      Config
	page     *template.Template
	mux      *http.ServeMux
	watchers atomic.Int64
	done     context.Context
	end      context.CancelFunc

	mu     sync.Mutex
	counts map[netip.Addr]int // registrations in this minute
	minute time.Time
	warned time.Time
}

// New makes the handler.
func New(c Config) (*Server, error) {
	if len(c.Token) < 16 {
		return nil, errors.New("cannot serve the page: its token is too short")
	}
	t, err := template.New("page.html").Funcs(template.FuncMap{"size": size}).ParseFS(files, "page.html")
	if err != nil {
		return nil, fmt.Errorf("cannot read the page: %w", err)
	}
	s := &Server{cfg: c, page: t, mux: http.NewServeMux(), counts: map[netip.Addr]int{}}
	s.done, s.end = context.WithCancel(context.Background())
	// For machines, with a token of their own.
	s.mux.HandleFunc("POST /v1/register", s.register)
	s.mux.HandleFunc("GET /v1/order", s.machine(s.order))
	s.mux.HandleFunc("POST /v1/report", s.machine(s.report))
	s.mux.HandleFunc("GET /v1/set/{set}/{file...}", s.machine(s.set))
	// For people.
	s.mux.HandleFunc("GET /login", s.login)
	s.mux.HandleFunc("GET /page.css", s.asset("text/css; charset=utf-8"))
	s.mux.HandleFunc("GET /page.js", s.asset("text/javascript; charset=utf-8"))
	s.mux.HandleFunc("GET /{$}", s.person(s.index))
	s.mux.HandleFunc("GET /v1/room", s.person(s.room))
	s.mux.HandleFunc("GET /v1/events", s.person(s.events))
	var same http.CrossOriginProtection
	for path, do := range map[string]func(fleet.Wish) error{
		"release": c.Room.Release,
		"hold":    func(w fleet.Wish) error { return c.Room.Hold(w.MAC) },
		"forget":  func(w fleet.Wish) error { return c.Room.Forget(w.MAC) },
		"wake":    s.wake,
	} {
		s.mux.Handle("POST /v1/"+path, same.Handler(s.person(s.wishes(path, do))))
	}
	return s, nil
}

// Close ends the streams of events and the machines' waiting, so that http.Server.Shutdown
// has not to wait for them.
func (s *Server) Close() { s.end() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		c := http.NewResponseController(w)
		if err := c.SetReadDeadline(time.Now().Add(readTime)); err == nil {
			defer func() { _ = c.SetReadDeadline(time.Time{}) }() // the connection may be closed
		}
	}
	s.mux.ServeHTTP(w, r)
}

// fail answers with an error that a program can read.
func fail(w http.ResponseWriter, code int, err error) {
	reply(w, code, map[string]string{"error": printable.Clean(err.Error())})
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a client that is not there any more
}

// status gives the HTTP status of an error of the room.
func status(err error) int {
	switch {
	case errors.As(err, new(*fleet.Refused)):
		return http.StatusConflict
	case errors.Is(err, fleet.ErrUnknown), errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

func bearer(r *http.Request) string {
	t, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return t
}

// peer is the address that a request comes from.
func peer(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// machine lets a machine with its own token in.
func (s *Server) machine(do func(w http.ResponseWriter, r *http.Request, mac string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		mac, err := s.cfg.Room.Who(bearer(r))
		if err != nil {
			fail(w, http.StatusUnauthorized, errors.New("this is not the token of a machine: it has to register again"))
			return
		}
		do(w, r, mac)
	}
}

// person lets a person with the token in, by a cookie or in the header.
func (s *Server) person(do http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t := bearer(r)
		if c, err := r.Cookie(cookieName); t == "" && err == nil {
			t = c.Value
		}
		if fleet.Equal(t, s.cfg.Token) {
			do(w, r)
			return
		}
		if t != "" {
			s.wrongToken(r)
		}
		if r.URL.Path == "/" {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(http.StatusUnauthorized)
			_ = s.page.ExecuteTemplate(w, "login", map[string]any{"Title": s.cfg.Title, "Wrong": t != ""}) // a client that is not there any more
			return
		}
		fail(w, http.StatusUnauthorized, errors.New("a token is needed: open the address that the server printed when it was started"))
	}
}

// wrongToken reports a wrong token, at most once a second.
func (s *Server) wrongToken(r *http.Request) {
	s.mu.Lock()
	tell := time.Since(s.warned) > time.Second
	if tell {
		s.warned = time.Now()
	}
	s.mu.Unlock()
	if tell {
		s.cfg.Warn("a wrong token came from %s", peer(r))
	}
}

// login takes the token out of the address, where it would stay in the browser's history.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if t := r.URL.Query().Get("token"); fleet.Equal(t, s.cfg.Token) {
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: t, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: cookieMaxAge})
	} else {
		s.wrongToken(r)
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: "wrong", Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: 5})
	}
	// Not a redirect: a cookie that is strictly of this site is not sent after one that a
	// link from elsewhere began.
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Refresh", "0; url=/")
	_ = s.page.ExecuteTemplate(w, "entered", nil) // a client that is not there any more
}

func (s *Server) asset(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := files.ReadFile(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			fail(w, http.StatusNotFound, fs.ErrNotExist)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(b) // a client that is not there any more
	}
}

// Room is the JSON of a room.
type Room struct {
	Title    string       `json:"title"`
	Sets     []fleet.Set  `json:"sets"`
	Machines []fleet.View `json:"machines"`
}

func (s *Server) now() Room {
	return Room{s.cfg.Title, s.cfg.Room.Sets(), s.cfg.Room.Views()}
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := s.page.Execute(w, s.now()); err != nil && s.done.Err() == nil && !errors.As(err, new(*net.OpError)) {
		s.cfg.Warn("cannot show the page: %v", err)
	}
}

func (s *Server) room(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.now()) }

// events is the stream: all machines first, then those that changed, at most every 400 ms.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if s.watchers.Add(1) > maxWatchers {
		s.watchers.Add(-1)
		fail(w, http.StatusServiceUnavailable, errors.New("too many watch the room"))
		return
	}
	defer s.watchers.Add(-1)
	changes, stop := s.cfg.Room.Watch()
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	out := stream{http.NewResponseController(w), w}
	if out.send("room", s.now()) != nil || out.Flush() != nil {
		return
	}
	tick := time.NewTicker(eventTime)
	defer tick.Stop()
	changed, quiet := map[string]bool{}, 0
	for {
		select {
		case <-r.Context().Done():
			return
		case <-s.done.Done():
			return
		case mac, ok := <-changes:
			if !ok {
				return // too slow: the browser connects again, and gets all
			}
			changed[mac] = true
			continue
		case <-tick.C:
		}
		if quiet++; len(changed) == 0 && quiet < 25 {
			continue
		}
		quiet = 0
		if s.sendMachines(out, changed) != nil || out.Flush() != nil {
			return
		}
		clear(changed)
	}
}

// sendMachines sends those that changed. If none did, it sends something anyway, so that
// a dead connection is noticed, and what depends on time.
func (s *Server) sendMachines(out stream, changed map[string]bool) error {
	if len(changed) == 0 {
		return out.send("alive", struct{}{})
	}
	for mac := range changed {
		event, v := "machine", any(nil)
		if m, err := s.cfg.Room.View(mac); err == nil {
			v = m
		} else {
			event, v = "gone", map[string]string{"mac": mac}
		}
		if err := out.send(event, v); err != nil {
			return err
		}
	}
	return nil
}

// stream is a response of events.
type stream struct {
	*http.ResponseController
	w http.ResponseWriter
}

func (s stream) send(event string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = s.SetWriteDeadline(time.Now().Add(writeTime))
	}
	if err == nil {
		_, err = fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", event, b)
	}
	return err
}

// decode reads JSON of a request.
func decode(r *http.Request, limit int64, v any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("cannot read the request: it has more than %d bytes", limit)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("cannot read the request: %s", printable.Short(err.Error(), 200))
	}
	return nil
}

// Outcome is what became of a wish.
type Outcome struct {
	MAC   string `json:"mac"`
	Error string `json:"error,omitempty"`
}

// wishes carries out what a person wants of machines, each for itself. The status is 409
// if one of them was refused.
func (s *Server) wishes(verb string, do func(fleet.Wish) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var l []fleet.Wish
		if err := decode(r, maxBody, &l); err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		out, code := []Outcome{}, http.StatusOK
		for _, x := range l {
			o := Outcome{MAC: printable.Short(x.MAC, 40)}
			if err := do(x); err != nil {
				o.Error, code = printable.Clean(err.Error()), max(code, status(err))
			} else {
				s.cfg.Say("%s: %s, asked for from %s", o.MAC, verb, peer(r))
			}
			out = append(out, o)
		}
		reply(w, code, out)
	}
}

// wake wakes a machine of the room, or another one by its address.
func (s *Server) wake(w fleet.Wish) error {
	mac, err := fleet.ParseMAC(w.MAC)
	if err != nil {
		return &fleet.Refused{Reason: err.Error()}
	}
	return s.cfg.Wake(mac)
}

// Registered is the answer to a registration.
type Registered struct {
	MAC   string      `json:"mac"`
	Token string      `json:"token"`
	State fleet.State `json:"state"`
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	from := peer(r)
	s.mu.Lock()
	if now := time.Now(); now.Sub(s.minute) > time.Minute || len(s.counts) > 1<<16 {
		s.minute = now
		clear(s.counts)
	}
	s.counts[from]++
	many := s.counts[from] > perMinute
	s.mu.Unlock()
	if many {
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusTooManyRequests, fmt.Errorf("%s registered too often", from))
		return
	}
	g, err := fleet.ParseRegistration(r.Body)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	t, err := s.cfg.Room.Register(g, from)
	if err != nil {
		s.cfg.Warn("%s at %s did not get into the room: %v", g.MAC, from, err)
		fail(w, status(err), err)
		return
	}
	v, err := s.cfg.Room.View(g.MAC)
	if err != nil {
		fail(w, status(err), err)
		return
	}
	s.cfg.Say("%s (%s, serial number %q) is in the room: %s", g.MAC, cmp.Or(g.Model, "no model"), g.Serial, v.State)
	reply(w, http.StatusOK, Registered{g.MAC, t, v.State})
}

func (s *Server) order(w http.ResponseWriter, r *http.Request, mac string) {
	ctx, stop := context.WithTimeout(r.Context(), orderTime)
	defer stop()
	defer context.AfterFunc(s.done, stop)()
	o, err := s.cfg.Room.Order(ctx, mac, fleet.State(r.URL.Query().Get("known")))
	if err != nil {
		fail(w, status(err), err)
		return
	}
	reply(w, http.StatusOK, o)
}

func (s *Server) report(w http.ResponseWriter, r *http.Request, mac string) {
	var rep fleet.Report
	if err := decode(r, maxBody, &rep); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if err := s.cfg.Room.Report(mac, &rep); err != nil {
		fail(w, status(err), err)
		return
	}
	if v, err := s.cfg.Room.View(mac); err == nil && rep.End != nil {
		if v.State == fleet.Failed {
			s.cfg.Warn("%s (%s) failed: %s", mac, cmp.Or(v.Hostname, v.Serial), v.Why)
		} else {
			s.cfg.Say("%s (%s) is done", mac, cmp.Or(v.Hostname, v.Serial))
		}
	} else if err == nil && rep.Begin {
		s.cfg.Say("%s (%s) begins to restore %s", mac, cmp.Or(v.Hostname, v.Serial), v.Set)
	}
	w.WriteHeader(http.StatusNoContent)
}

// set serves a file of a set to a machine whose job is that set.
func (s *Server) set(w http.ResponseWriter, r *http.Request, mac string) {
	name, file := r.PathValue("set"), r.PathValue("file")
	st := s.cfg.Sets[name]
	if st == nil || !s.cfg.Room.May(mac, name) {
		fail(w, http.StatusForbidden, errors.New("the machine is not released for this set"))
		return
	}
	f, err := st.Open(file)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.cfg.Warn("cannot serve %s of set %s: %v", printable.Short(file, 100), name, err)
		}
		fail(w, status(err), errors.New("there is no such file in the set"))
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f, 0, f.Size()))
}

// size is a size for people.
func size(n quantity.Size) string {
	f, unit := float64(n), 0
	for f >= 1000 && unit < 5 {
		f /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", int64(n))
	}
	return fmt.Sprintf("%.1f %cB", f, "kMGTP"[unit-1])
}
