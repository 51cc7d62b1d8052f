package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

const token = "0123456789abcdef0123456789abcdef"

// hostile is what a machine may call itself.
const hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[2J\u202e"

// bench is a server with a room.
type bench struct {
	t    *testing.T
	room *fleet.Room
	web  *Server
	srv  *httptest.Server
	mu   sync.Mutex
	said []string
	woke []string
}

func newBench(t *testing.T, rules string) *bench { t.Helper(); return newBenchOf(t, rules, 1000) }

// newBenchOf has a set of which a restore reads and unpacks work bytes.
func newBenchOf(t *testing.T, rules string, work int64) *bench {
	t.Helper()
	b := &bench{t: t}
	r := fleet.DefaultRules()
	var err error
	if rules != "" {
		if r, err = fleet.ParseRules("r.yaml", []byte(rules)); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if b.room, err = fleet.OpenRoom(filepath.Join(dir, "state.json"), r, []fleet.Set{{Name: "lab", Host: "golden", Digest: "d", Disks: []fleet.SetDisk{{Name: "vda"}}, Work: work}}); err != nil {
		t.Fatal(err)
	}
	say := func(f string, a ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.said = append(b.said, fmt.Sprintf(f, a...))
	}
	b.web, err = New(Config{Room: b.room, Sets: map[string]Files{"lab": memory{"manifest.json": "0123456789"}}, Token: token, Title: "Room 7 & <b>", Say: say, Warn: say,
		Wake: func(mac string) error { b.mu.Lock(); defer b.mu.Unlock(); b.woke = append(b.woke, mac); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := NewCertificate([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	b.srv = httptest.NewUnstartedServer(b.web)
	if b.srv.TLS, _, err = TLS(pem); err != nil {
		t.Fatal(err)
	}
	b.srv.StartTLS()
	t.Cleanup(func() { b.web.Close(); b.srv.Close() })
	return b
}

// memory is a set in memory.
type memory map[string]string

type memoryFile struct{ *strings.Reader }

func (memoryFile) Close() error { return nil }

func (m memory) Open(name string) (store.File, error) {
	s, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return memoryFile{strings.NewReader(s)}, nil
}

// machine registers the n-th machine.
func (b *bench) machine(n int, change func(*fleet.Registration)) (mac, tok string) {
	b.t.Helper()
	g := &fleet.Registration{MAC: fmt.Sprintf("52:54:00:00:02:%02x", n), Serial: fmt.Sprintf("SN%04d", n), Vendor: "QEMU", Model: "Box", Firmware: "uefi", Memory: 1 << 30, Boot: fmt.Sprint("b", n),
		Disks: []fleet.Disk{{Disk: layout.Disk{Name: "sda", Model: "DISK", Serial: fmt.Sprintf("DISK%d", n), Size: 1 << 33}, Parts: []fleet.Part{{Start: 1 << 20, Size: 1 << 32, What: "ext4"}}}}}
	if change != nil {
		change(g)
	}
	var out Registered
	if c := b.do("POST", "/v1/register", "", g, &out); c != 200 || out.MAC != g.MAC {
		b.t.Fatalf("register: %d %+v", c, out)
	}
	return g.MAC, out.Token
}

// do asks, with a token, "" for none.
func (b *bench) do(method, path, tok string, in, out any) int {
	b.t.Helper()
	c, body, _ := b.raw(method, path, tok, in, nil)
	if out != nil {
		if err := json.Unmarshal(body, out); err != nil {
			b.t.Fatalf("%s %s: %d %q: %v", method, path, c, body, err)
		}
	}
	return c
}

func (b *bench) raw(method, path, tok string, in any, header map[string]string) (int, []byte, http.Header) {
	b.t.Helper()
	var body io.Reader
	if in != nil {
		j, err := json.Marshal(in)
		if err != nil {
			b.t.Fatal(err)
		}
		body = bytes.NewReader(j)
	}
	q, err := http.NewRequest(method, b.srv.URL+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if tok != "" {
		q.Header.Set("Authorization", "Bearer "+tok)
	}
	for k, v := range header {
		q.Header.Set(k, v)
	}
	r, err := b.srv.Client().Do(q)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Body.Close()
	out, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r.StatusCode, out, r.Header
}

func (b *bench) release(mac, confirm string) (int, []Outcome) {
	b.t.Helper()
	var out []Outcome
	c := b.do("POST", "/v1/release", token, []fleet.Wish{{MAC: mac, Confirm: confirm}}, &out)
	return c, out
}

// TestMachine: what a machine says and is told, from registration to the end.
func TestMachine(t *testing.T) {
	b := newBench(t, "")
	mac, tok := b.machine(1, nil)
	if c := b.do("GET", "/v1/set/lab/manifest.json", tok, nil, nil); c != http.StatusForbidden {
		t.Errorf("a set for a machine that was not released: %d", c)
	}
	orders := make(chan fleet.Order, 1)
	go func() {
		var o fleet.Order
		b.do("GET", "/v1/order?known=registered", tok, nil, &o)
		orders <- o
	}()
	if c, out := b.release(mac, "wrong"); c != http.StatusConflict || !strings.Contains(out[0].Error, "was not confirmed") {
		t.Errorf("%d %v", c, out)
	}
	if c, out := b.release(mac, "SN0001"); c != 200 || out[0].Error != "" {
		t.Fatalf("%d %v", c, out)
	}
	select {
	case o := <-orders:
		if o.State != fleet.Released || o.Job == nil || o.Job.Set != "lab" || o.Job.Confirm[0] != "DISK1" {
			t.Fatalf("%+v", o)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the machine does not learn that it was released")
	}
	if c, body, _ := b.raw("GET", "/v1/set/lab/manifest.json", tok, nil, map[string]string{"Range": "bytes=2-4"}); c != 206 || string(body) != "234" {
		t.Errorf("a part of a set: %d %q", c, body)
	}
	for _, bad := range []string{"/v1/set/lab/nothing", "/v1/set/lab/..%2f..%2fetc%2fpasswd"} {
		if c := b.do("GET", bad, tok, nil, nil); c != http.StatusNotFound {
			t.Errorf("%s: %d", bad, c)
		}
	}
	if c := b.do("GET", "/v1/set/other/manifest.json", tok, nil, nil); c != http.StatusForbidden {
		t.Errorf("another set: %d", c)
	}
	for _, rep := range []fleet.Report{{Begin: true}, {Phase: "restoring /", Bytes: 5, Total: 10, Work: 500, Lines: []fleet.Line{{Level: "note", Text: "x"}}}, {End: &fleet.End{Code: 1, Error: "EIO"}}} {
		if c := b.do("POST", "/v1/report", tok, rep, nil); c != http.StatusNoContent {
			t.Errorf("%+v: %d", rep, c)
		}
	}
	var room Room
	if c := b.do("GET", "/v1/room", token, nil, &room); c != 200 || len(room.Machines) != 1 || room.Machines[0].State != fleet.Failed || room.Machines[0].Why != "EIO" {
		t.Errorf("%d %+v", c, room)
	}
	if c := b.do("GET", "/v1/set/lab/manifest.json", tok, nil, nil); c != http.StatusForbidden {
		t.Errorf("a set for a machine that failed: %d", c)
	}
}

// TestToken: without the token nothing is shown or done, and a machine's is not a person's.
func TestToken(t *testing.T) {
	b := newBench(t, "")
	mac, tok := b.machine(1, nil)
	for _, bad := range []string{"", "x", token[:31], token + "0", tok} {
		for _, p := range []string{"GET /", "GET /v1/room", "GET /v1/events", "POST /v1/release", "POST /v1/hold", "POST /v1/forget", "POST /v1/wake"} {
			m, path, _ := strings.Cut(p, " ")
			c, body, h := b.raw(m, path, bad, []fleet.Wish{{MAC: mac, Confirm: "SN0001"}}, nil)
			if c != http.StatusUnauthorized || bytes.Contains(body, []byte("SN0001")) || h.Get("Content-Security-Policy") == "" {
				t.Errorf("%s with %q: %d %s", p, bad, c, body)
			}
		}
	}
	for _, p := range []string{"GET /v1/order", "POST /v1/report", "GET /v1/set/lab/manifest.json"} {
		m, path, _ := strings.Cut(p, " ")
		for _, bad := range []string{"", "x", token} {
			if c, _, _ := b.raw(m, path, bad, fleet.Report{}, nil); c != http.StatusUnauthorized {
				t.Errorf("%s with %q: %d", p, bad, c)
			}
		}
	}
	if v, _ := b.room.View(mac); v.State != fleet.Registered {
		t.Errorf("the machine is %s", v.State)
	}
	// A page elsewhere can't have a person's browser release a machine.
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := b.srv.Client()
	c.Jar = jar
	if c, body, h := b.raw("GET", "/login?token="+token, "", nil, nil); c != 200 || h.Get("Refresh") != "0; url=/" || bytes.Contains(body, []byte(token)) {
		t.Errorf("%d %q %v", c, body, h)
	}
	u, err := url.Parse(b.srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if k := jar.Cookies(u); len(k) != 1 || k[0].Value != token {
		t.Fatalf("%v", k)
	}
	if c, body, _ := b.raw("GET", "/", "", nil, nil); c != 200 || !bytes.Contains(body, []byte("SN0001")) || !bytes.Contains(body, []byte("Room 7 &amp; &lt;b&gt;")) {
		t.Errorf("%d %s", c, body)
	}
	for _, h := range []map[string]string{{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}} {
		if c, _, _ := b.raw("POST", "/v1/release", "", []fleet.Wish{{MAC: mac, Confirm: "SN0001"}}, h); c != http.StatusForbidden {
			t.Errorf("%v: %d", h, c)
		}
	}
	if v, _ := b.room.View(mac); v.State != fleet.Registered {
		t.Errorf("the machine is %s", v.State)
	}
}

// TestHostile: what a machine calls itself is text in the page, the JSON and the log.
func TestHostile(t *testing.T) {
	b := newBench(t, "")
	mac, tok := b.machine(1, func(g *fleet.Registration) {
		g.Serial, g.Vendor, g.Model = hostile, hostile, hostile
		g.Disks[0].Model, g.Disks[0].Parts[0].What = hostile, hostile
	})
	if c := b.do("POST", "/v1/report", tok, fleet.Report{Lines: []fleet.Line{{Level: hostile, Text: hostile}}}, nil); c != http.StatusNoContent {
		t.Fatal(c)
	}
	_, page, _ := b.raw("GET", "/", token, nil, nil)
	_, room, _ := b.raw("GET", "/v1/room", token, nil, nil)
	b.mu.Lock()
	log := strings.Join(b.said, "\n")
	b.mu.Unlock()
	for what, s := range map[string]string{"page": string(page), "JSON": string(room)} {
		if strings.Contains(s, "<script>document") || strings.Contains(s, "<img") || strings.ContainsAny(s, "\x1b\u202e") {
			t.Errorf("%s: %s", what, s)
		}
		if !strings.Contains(s, "document.title") {
			t.Errorf("the %s does not show it at all: is the test looking at the right thing?", what)
		}
	}
	if strings.ContainsAny(log, "\x1b\u202e") || !strings.Contains(log, "document.title") {
		t.Error(log)
	}
	if c, out := b.release(mac, hostile); c != http.StatusConflict || strings.ContainsAny(out[0].Error, "\x1b\u202e") {
		t.Errorf("%d %q", c, out)
	}
	// Too much, and what is no registration.
	for name, body := range map[string]string{
		"large": `{"mac":"52:54:00:00:00:01","serial":"` + strings.Repeat("x", fleet.MaxRegistration) + `"}`, "unknown": `{"mac":"52:54:00:00:00:01","x":1}`, "no JSON": "{", "two": `{} {}`,
		"no MAC": `{"firmware":"bios","boot":"x"}`, "group": `{"mac":"01:00:5e:00:00:01","firmware":"bios","boot":"x"}`,
		"disks":        `{"mac":"52:54:00:00:00:01","firmware":"bios","boot":"x","disks":[` + strings.Repeat(`{"name":"a","size":1},`, 70) + `{"name":"b","size":1}]}`,
		"partition":    `{"mac":"52:54:00:00:00:01","firmware":"bios","boot":"x","disks":[{"name":"a","size":10,"parts":[{"start":9223372036854775807,"size":9223372036854775807}]}]}`,
		"no firmware":  `{"mac":"52:54:00:00:00:01","boot":"x"}`,
		"twice a disk": `{"mac":"52:54:00:00:00:01","firmware":"bios","boot":"x","disks":[{"name":"a","size":1},{"name":"a","size":1}]}`,
	} {
		b.web.mu.Lock()
		clear(b.web.counts)
		b.web.mu.Unlock()
		r, err := b.srv.Client().Post(b.srv.URL+"/v1/register", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if r.Body.Close(); r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", name, r.StatusCode)
		}
	}
	many := 0
	for range perMinute + 5 {
		if c, _, _ := b.raw("POST", "/v1/register", "", map[string]string{}, nil); c == http.StatusTooManyRequests {
			many++
		}
	}
	if many == 0 {
		t.Error("one address registers without end")
	}
}

// TestEvents: the stream has the room, then what changed; it ends with the server.
func TestEvents(t *testing.T) {
	b := newBench(t, "")
	mac, _ := b.machine(1, nil)
	q, err := http.NewRequestWithContext(context.Background(), "GET", b.srv.URL+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	r, err := b.srv.Client().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	next := func(event string) string {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "event: "+event && lines.Scan() {
				return strings.TrimPrefix(lines.Text(), "data: ")
			}
		}
		t.Fatalf("no event %s: %v", event, lines.Err())
		return ""
	}
	var room Room
	if err := json.Unmarshal([]byte(next("room")), &room); err != nil || len(room.Machines) != 1 {
		t.Fatal(room, err)
	}
	if err := b.room.Hold(mac); err != nil {
		t.Fatal(err)
	}
	var v fleet.View
	if err := json.Unmarshal([]byte(next("machine")), &v); err != nil || v.State != fleet.Held {
		t.Fatal(v, err)
	}
	b.room.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	if err := b.room.Forget(mac); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(next("gone"), mac) {
		t.Error("gone")
	}
	b.web.Close()
	for lines.Scan() {
	}
	if lines.Err() != nil && !strings.Contains(lines.Err().Error(), "EOF") {
		t.Error(lines.Err())
	}
}

func TestWake(t *testing.T) {
	b := newBench(t, "")
	if c, body, _ := b.raw("POST", "/v1/wake", token, []fleet.Wish{{MAC: "52-54-00-00-00-99"}}, nil); c != 200 || len(b.woke) != 1 || b.woke[0] != "52:54:00:00:00:99" {
		t.Errorf("%d %s %v", c, body, b.woke)
	}
	if c, _, _ := b.raw("POST", "/v1/wake", token, []fleet.Wish{{MAC: "x"}}, nil); c != http.StatusConflict {
		t.Errorf("%d", c)
	}
}

// TestCertificate: machines know the server by the fingerprint alone.
func TestCertificate(t *testing.T) {
	b := newBench(t, "")
	conn, err := tls.Dial("tcp", b.srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pem, err := NewCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, print, err := TLS(pem)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.Certificates[0].Certificate[0])
	if print != hex.EncodeToString(sum[:]) || c.MinVersion != tls.VersionTLS13 {
		t.Error(print)
	}
	if _, again, err := TLS(pem); err != nil || again != print {
		t.Error("the fingerprint changes")
	}
	if _, _, err := TLS("x"); err == nil {
		t.Error("no certificate is taken for one")
	}
}
