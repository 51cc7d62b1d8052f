package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
	"github.com/mkcdrec/mkcdrec/internal/swarm/tracker"
)

// Seed serves a set: the tracker, the torrent and the files by HTTP, the pieces by
// BitTorrent.
type Seed struct {
	Set     *manifest.Set
	Torrent *settorrent.Torrent
	// HTTP and Listen are the addresses for HTTP and for BitTorrent. Nothing else is listened
	// on, and port 0 is one that the system chooses: the event "serving" has the real ones.
	HTTP, Listen string
	Events       func(Event)
}

// Run serves until ctx ends.
func (s *Seed) Run(ctx context.Context) error {
	if s.Set.Local() == "" {
		return fmt.Errorf("cannot serve %s: want a backup set in one directory", s.Set)
	}
	start := time.Now()
	event := func(e Event) {
		e.Seconds = time.Since(start).Seconds()
		if s.Events != nil {
			s.Events(e)
		}
	}
	var damage struct {
		sync.Mutex
		told time.Time
	}
	st := seedStore{settorrent.NewSource(s.Set, s.Torrent.Files()), s.Torrent.Info.PieceLength, func(err error) {
		damage.Lock()
		defer damage.Unlock()
		if time.Since(damage.told) > troubleTime { // every machine asks again and again
			damage.told = time.Now()
			event(Event{Event: "damaged", Why: printable.Short(err.Error(), 300)})
		}
	}}
	defer st.close()
	conf, err := config(s.Listen, st)
	if err != nil {
		return err
	}
	cl, err := torrent.NewClient(conf)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", printable.Clean(s.Listen), err)
	}
	defer cl.Close()
	tt, _ := cl.AddTorrentOpt(torrent.AddTorrentOpts{InfoHash: s.Torrent.Hash, InfoBytes: s.Torrent.InfoBytes})
	l, err := net.Listen("tcp", s.HTTP)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", printable.Clean(s.HTTP), err)
	}
	listens := net.JoinHostPort(conf.ListenHost("tcp"), strconv.Itoa(cl.LocalPort()))
	peers, err := netip.ParseAddrPort(listens)
	if err != nil { // no address, or a name
		peers = netip.AddrPortFrom(netip.Addr{}, uint16(cl.LocalPort()))
	}
	var id chain.ID
	copy(id[:], conf.PeerID)
	tr := tracker.New(tracker.Options{
		Hash: s.Torrent.Hash, SeedID: id, Seeder: peers, Chain: chain.Config{Pieces: s.Torrent.Info.NumPieces()},
		Notify: func(e chain.Event) {
			out := Event{Event: e.Kind, Addr: e.Addr.String()}
			if e.By.IsValid() {
				out.By = e.By.String()
			}
			event(out)
		},
	})
	srv := &http.Server{Handler: s.handler(tr, store.Dir(s.Set.Local())), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	event(Event{Event: "serving", URL: "http://" + l.Addr().String() + "/", Hash: s.Torrent.Hash.HexString(), Manifest: s.Torrent.Manifest, Of: s.Torrent.Info.NumPieces(), Bytes: s.Torrent.Total(), Addr: listens})
	return s.serve(ctx, srv, l, cl, tt, event)
}

// serve answers HTTP requests and sends events until ctx ends.
func (s *Seed) serve(ctx context.Context, srv *http.Server, l net.Listener, cl *torrent.Client, tt *torrent.Torrent, event func(Event)) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	bad := map[string]bool{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if srv.Shutdown(end) != nil {
				_ = srv.Close()
			}
			stats := tt.Stats()
			event(Event{Event: "done", Sent: stats.BytesWrittenData.Int64()})
			return context.Cause(ctx)
		case <-tick.C:
			stats := tt.Stats()
			event(Event{Event: "progress", Sent: stats.BytesWrittenData.Int64()})
			for _, ip := range banned(cl) {
				if !bad[ip] {
					bad[ip] = true
					event(Event{Event: "banned", Addr: ip})
				}
			}
		}
	}
}

// handler serves set.torrent, the set's files below set/NAME/ (BEP 19), and the tracker.
func (s *Seed) handler(tr *tracker.Tracker, dir store.Dir) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /announce", tr)
	mux.Handle("GET /scrape", tr)
	mux.Handle("GET /machines", tr)
	mux.HandleFunc("GET /"+settorrent.File, func(w http.ResponseWriter, r *http.Request) {
		b, err := withTracker(s.Torrent, r)
		if err != nil {
			http.Error(w, "no torrent", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-bittorrent")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
	sizes := map[string]int64{}
	for _, f := range s.Torrent.Files() {
		sizes[f.Name] = f.Length
	}
	prefix := "/set/" + s.Torrent.Info.Name + "/"
	mux.HandleFunc("GET "+prefix, func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, prefix)
		size, ok := sizes[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		file, err := dir.Open(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer file.Close()
		if file.Size() != size {
			http.Error(w, "the file was changed", http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+s.Torrent.Hash.HexString()+`"`)
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(file, 0, size))
	})
	return mux
}

// withTracker gives the torrent with the addresses by which the client came.
func withTracker(t *settorrent.Torrent, r *http.Request) ([]byte, error) {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return nil, errors.New("no local address")
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return nil, err
	}
	base := "http://" + netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()).String() + "/"
	return bencode.Marshal(map[string]any{"info": bencode.Bytes(t.InfoBytes), "created by": "mkcdrec", "announce": base + "announce", "url-list": []string{base + "set/"}})
}
