package tracker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
)

var hash = [20]byte{1, 2, 0, '&', '%', 200}

func newTracker() *Tracker {
	return New(Options{Hash: hash, SeedID: chain.ID{'s'}, Seeder: netip.AddrPortFrom(netip.Addr{}, 6881), Chain: chain.Config{Pieces: 50}})
}

func query(id string, more ...string) string {
	v := url.Values{"info_hash": {string(hash[:])}, "peer_id": {(id + strings.Repeat("-", 20))[:20]}, "port": {"7000"}, "left": {"5"}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v.Encode()
}

// ask announces from an address and decodes the answer.
func ask(t *testing.T, tr *Tracker, from, q string) map[string]any {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/announce?"+q, nil)
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	tr.ServeHTTP(w, r)
	var m map[string]any
	if err := bencode.Unmarshal(w.Body.Bytes(), &m); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d, %q: %v", w.Code, w.Body, err)
	}
	return m
}

// TestOrdinary: other clients get the seeder and each other, in both forms.
func TestOrdinary(t *testing.T) {
	srv := httptest.NewServer(newTracker())
	defer srv.Close()
	get := func(q string) map[string]any {
		resp, err := http.Get(srv.URL + "/announce?" + q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		var m map[string]any
		if err := bencode.Unmarshal(b, &m); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		return m
	}
	m := get(query("a", "compact", "1"))
	if got, want := m["peers"], "\x7f\x00\x00\x01\x1a\xe1"; got != want {
		t.Errorf("peers = %q; want the seeder, %q", got, want)
	}
	m = get(query("b", "port", "7001"))
	l, ok := m["peers"].([]any)
	if !ok || len(l) != 2 {
		t.Fatalf("peers = %v; want the seeder and a", m["peers"])
	}
	if p := l[1].(map[string]any); p["ip"] != "127.0.0.1" || p["port"] != int64(7000) || p["peer id"] != "a"+strings.Repeat("-", 19) {
		t.Errorf("peer = %v", p)
	}
	if m["complete"] != int64(1) || m["incomplete"] != int64(2) || m["interval"] != int64(60) {
		t.Errorf("answer = %v", m)
	}
	get(query("a", "event", "stopped"))
	if m := get(query("b", "port", "7001", "no_peer_id", "1")); len(m["peers"].([]any)) != 1 || m["peers"].([]any)[0].(map[string]any)["peer id"] != nil {
		t.Errorf("peers = %v; want the seeder alone, without peer id", m["peers"])
	}
	if m := get(query("b", "port", "7001", "numwant", "0")); len(m["peers"].([]any)) != 0 {
		t.Errorf("numwant=0: %v", m["peers"])
	}
}

// TestChain: our clients get the one to take from; others see them.
func TestChain(t *testing.T) {
	tr := newTracker()
	var events []string
	tr.notify = func(e chain.Event) { events = append(events, e.String()) }
	own := func(from, id string, more ...string) map[string]any {
		m := ask(t, tr, from, query(id, append([]string{"mkcdrec", "1"}, more...)...))
		a, ok := m["mkcdrec"].(map[string]any)
		if !ok {
			t.Fatalf("answer = %v", m)
		}
		return a
	}
	if a := own("10.0.0.1:5", "a"); a["addr"] != "" || a["every"] != int64(1000) {
		t.Errorf("the first: %v", a)
	}
	a := own("10.0.0.2:5", "b")
	if a["addr"] != "10.0.0.1:7000" || a["from"] != "a"+strings.Repeat("-", 19) || a["needed"] != int64(0) {
		t.Errorf("the second: %v", a)
	}
	if a := own("10.0.0.1:5", "a", "next", "9", "done", "1"); a["needed"] != int64(1) || a["addr"] != "" {
		t.Errorf("the first, which wants no more: %v; want needed", a)
	}
	a = own("10.0.0.2:5", "b", "failed", fmt.Sprintf("%x", "a"+strings.Repeat("-", 19)), "why", "1")
	if a["addr"] != "" {
		t.Errorf("after a failure: %v; want the seeder", a)
	}
	if got := strings.Join(events, "; "); !strings.Contains(got, "10.0.0.1:7000 unreachable (reported by 10.0.0.2:7000)") {
		t.Errorf("events = %s", got)
	}
	if m := ask(t, tr, "10.0.0.9:5", query("z")); len(m["peers"].([]any)) != 2 {
		t.Errorf("an ordinary client sees %v; want both (the seeder's address is not known here)", m["peers"])
	}
	r := httptest.NewRecorder()
	tr.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/machines", nil))
	var ms []Machine
	if err := json.Unmarshal(r.Body.Bytes(), &ms); err != nil || len(ms) != 2 {
		t.Errorf("machines = %s, %v", r.Body, err)
	}
}

func TestScrape(t *testing.T) {
	tr := newTracker()
	ask(t, tr, "10.0.0.1:5", query("a"))
	ask(t, tr, "10.0.0.2:5", query("b", "left", "0"))
	w := httptest.NewRecorder()
	tr.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/scrape", nil))
	var m map[string]map[string]map[string]int
	if err := bencode.Unmarshal(w.Body.Bytes(), &m); err != nil || m["files"][string(hash[:])]["complete"] != 2 || m["files"][string(hash[:])]["incomplete"] != 1 {
		t.Errorf("%q: %v, %v", w.Body, m, err)
	}
}

func TestHostile(t *testing.T) {
	tr := newTracker()
	ask(t, tr, "10.0.0.1:5", query("a"))
	for name, q := range map[string]string{
		"nothing":        "",
		"escape":         "info_hash=%zz",
		"other hash":     query("b", "info_hash", strings.Repeat("x", 20)),
		"short id":       query("b", "peer_id", "x"),
		"no port":        query("b", "port", ""),
		"port 0":         query("b", "port", "0"),
		"port 65536":     query("b", "port", "65536"),
		"negative left":  query("b", "left", "-1"),
		"left":           query("b", "left", "x"),
		"long":           query("b", "x", strings.Repeat("y", 5000)),
		"next":           query("b", "mkcdrec", "1", "next", "51"),
		"negative next":  query("b", "mkcdrec", "1", "next", "-1"),
		"huge next":      query("b", "mkcdrec", "1", "next", "99999999999999999999"),
		"from":           query("b", "mkcdrec", "1", "from", "zz"),
		"why":            query("b", "mkcdrec", "1", "why", "4"),
		"another's id":   query("a"),
		"id of the room": query("a", "event", "stopped"),
	} {
		from := "10.0.0.2:5"
		if m := ask(t, tr, from, q); m["failure reason"] == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
	// A flood of clients costs a bounded amount, and is forgotten.
	now := time.Now()
	tr.now = func() time.Time { return now }
	for i := range 3 * maxPeers {
		ask(t, tr, fmt.Sprintf("10.1.%d.%d:5", i>>8, i&255), query(fmt.Sprint("flood", i)))
	}
	if len(tr.peers) != maxPeers {
		t.Errorf("%d peers; want %d", len(tr.peers), maxPeers)
	}
	now = now.Add(3 * interval)
	if m := ask(t, tr, "10.0.0.2:5", query("b")); m["failure reason"] != nil || len(tr.peers) != 1 {
		t.Errorf("after the flood: %v, %d peers", m, len(tr.peers))
	}
	w := httptest.NewRecorder()
	tr.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/etc/passwd", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("another path: %d", w.Code)
	}
}

func FuzzAnnounce(f *testing.F) {
	f.Add(query("a"), "10.0.0.1:5")
	f.Add(query("a", "mkcdrec", "1", "next", "3", "compact", "1"), "[fe80::1%eth0]:5")
	f.Fuzz(func(t *testing.T, q, from string) {
		tr := newTracker()
		a, err := tr.parse(q, from)
		if err != nil {
			return
		}
		for range 2 {
			b, err := tr.answer(a, netip.MustParseAddr("10.0.0.1"))
			if err != nil {
				continue
			}
			var m map[string]any
			if err := bencode.Unmarshal(b, &m); err != nil {
				t.Fatalf("%q: %v", b, err)
			}
		}
	})
}
