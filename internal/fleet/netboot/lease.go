package netboot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Times of addresses.
const (
	leaseTime   = time.Hour
	offerTime   = time.Minute // that an offered address is kept for its machine
	declineTime = 10 * time.Minute
	maxPool     = 1 << 16
)

// Pool is a range of addresses to give out, both ends in it. The zero value has none.
type Pool struct{ First, Last netip.Addr }

// ParsePool reads FIRST-LAST, or FIRST,LAST. All of it must be in the network of on,
// without that address itself.
func ParsePool(s string, on netip.Prefix) (Pool, error) {
	var a, b netip.Addr
	if i := strings.IndexAny(s, "-,"); i >= 0 {
		a, _ = netip.ParseAddr(s[:i]) // not valid after an error
		b, _ = netip.ParseAddr(s[i+1:])
	}
	p := Pool{a, b}
	switch {
	case !a.Is4() || !b.Is4() || b.Less(a):
		return Pool{}, fmt.Errorf("address range %q is not FIRST-LAST with IPv4 addresses", s)
	case !on.Contains(p.First) || !on.Contains(p.Last):
		return Pool{}, fmt.Errorf("address range %s is not in the network %s", s, on.Masked())
	case p.has(on.Addr()):
		return Pool{}, fmt.Errorf("address range %s has this machine's own address %s in it", s, on.Addr())
	case p.has(on.Masked().Addr()) || p.has(broadcast(on)):
		return Pool{}, fmt.Errorf("address range %s has the address of the network %s or its broadcast address in it", s, on.Masked())
	case p.size() > maxPool:
		return Pool{}, fmt.Errorf("address range %s has more than %d addresses", s, maxPool)
	}
	return p, nil
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// broadcast is the last address of a network.
func broadcast(p netip.Prefix) netip.Addr {
	return address(number(p.Masked().Addr()) | uint32(1<<(32-p.Bits())-1))
}

func (p Pool) has(a netip.Addr) bool { return !a.Less(p.First) && !p.Last.Less(a) }
func (p Pool) size() int             { return int(number(p.Last)-number(p.First)) + 1 }

// lease is an address and whose it is.
type lease struct {
	MAC   string     `json:"mac"`
	Addr  netip.Addr `json:"addr"`
	Until time.Time  `json:"until"`
	// offered is one that nobody has asked for yet.
	offered bool
}

// leases are the addresses of a pool. A machine gets the same one as before, or one that
// its MAC chooses: also a server that lost its file seldom gives out an address that is
// in use.
type leases struct {
	now  func() time.Time
	pool Pool

	mu     sync.Mutex
	byMAC  map[string]*lease
	byAddr map[netip.Addr]*lease
	file   *os.File // one line is appended for each lease; nil keeps none
}

// openLeases reads the leases that are kept in a file, "" for none. Lines that can't be
// read, as the last one of a server that was killed, are left out.
func openLeases(file string, pool Pool, now func() time.Time) (*leases, error) {
	l := &leases{now: now, pool: pool, byMAC: map[string]*lease{}, byAddr: map[netip.Addr]*lease{}}
	if file == "" {
		return l, nil
	}
	if f, err := os.Open(file); err == nil {
		l.read(f)
		f.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read leases: %w", err)
	}
	var all []byte
	for _, x := range l.byMAC {
		b, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		all = append(append(all, b...), '\n')
	}
	if err := regular.WriteFile(file, all); err != nil {
		return nil, err
	}
	var err error
	if l.file, err = os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep leases: %w", err)
	}
	return l, nil
}

func (l *leases) read(r io.Reader) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		var x lease
		if json.Unmarshal(s.Bytes(), &x) == nil && l.pool.has(x.Addr) && x.MAC != "" {
			l.take(&x)
		}
	}
}

// take enters a lease; what its machine and its address had before is over.
func (l *leases) take(x *lease) {
	if old := l.byMAC[x.MAC]; old != nil {
		delete(l.byAddr, old.Addr)
	}
	if old := l.byAddr[x.Addr]; old != nil {
		delete(l.byMAC, old.MAC)
	}
	l.byMAC[x.MAC], l.byAddr[x.Addr] = x, x
}

// free reports whether an address can be a machine's.
func (l *leases) free(a netip.Addr, mac string) bool {
	if !l.pool.has(a) {
		return false
	}
	x := l.byAddr[a]
	return x == nil || x.MAC == mac || !l.now().Before(x.Until)
}

// offer finds an address for a machine and keeps it for a while; ok is false when all
// are taken. want is one that it asks for, if any.
func (l *leases) offer(mac string, want netip.Addr) (a netip.Addr, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.byMAC[mac]; x != nil && l.pool.has(x.Addr) {
		if x.offered || !l.now().Before(x.Until) {
			x.offered, x.Until = true, l.now().Add(offerTime)
		}
		return x.Addr, true
	}
	if !want.IsValid() || !l.free(want, mac) {
		h := fnv.New32a()
		_, _ = h.Write([]byte(mac)) // never fails
		n, size := h.Sum32()%uint32(l.pool.size()), uint32(l.pool.size())
		found := false
		for i := range size {
			if want = address(number(l.pool.First) + (n+i)%size); l.free(want, mac) {
				found = true
				break
			}
		}
		if !found {
			return netip.Addr{}, false
		}
	}
	l.take(&lease{MAC: mac, Addr: want, Until: l.now().Add(offerTime), offered: true})
	return want, true
}

// lease gives a machine an address that it asks for, if it is free for it.
func (l *leases) lease(mac string, a netip.Addr) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.free(a, mac) {
		return false, nil
	}
	x := &lease{MAC: mac, Addr: a, Until: l.now().Add(leaseTime)}
	l.take(x)
	if l.file == nil {
		return true, nil
	}
	b, err := json.Marshal(x)
	if err == nil {
		_, err = l.file.Write(append(b, '\n'))
	}
	if err != nil {
		return true, fmt.Errorf("cannot keep leases: %w", err)
	}
	return true, nil
}

// release gives an address back. decline keeps it from everybody for a while: the
// machine found another one that uses it.
func (l *leases) release(mac string, a netip.Addr, decline bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.byMAC[mac]
	if x == nil || x.Addr != a {
		return
	}
	delete(l.byMAC, mac)
	delete(l.byAddr, a)
	if decline {
		l.byAddr[a] = &lease{Addr: a, Until: l.now().Add(declineTime)}
	}
}

func (l *leases) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
