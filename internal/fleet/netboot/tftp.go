package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// This TFTP server reads only: RFC 1350 with the options blksize (RFC 2348), timeout and
// tsize (RFC 2349) and windowsize (RFC 7440). It is our own since the libraries that
// are kept up have no windowsize, which UEFI firmware asks for, and without which a
// transfer waits for each packet's acknowledgement.

// Opcodes and error codes of RFC 1350 and 2347.
const (
	opRRQ, opDATA, opACK, opERROR, opOACK = 1, 3, 4, 5, 6

	errOther, errNotFound, errAccess, errIllegal = 0, 1, 2, 4
)

// Limits of a transfer.
const (
	maxTransfers = 1024
	perAddress   = 16   // transfers of one machine
	maxBlock     = 1468 // bytes: one Ethernet packet with IP, UDP and TFTP headers
	maxWindow    = 64   // packets
	maxResends   = 6
)

type tftpServer struct {
	ifname string
	local  netip.AddrPort
	tree   *Tree
	say    func(string, ...any)
	conn   net.PacketConn
	wg     sync.WaitGroup
	ctx    context.Context
	stop   context.CancelFunc
	active atomic.Int64
	mu     sync.Mutex
	of     map[netip.Addr]int
}

// bind keeps a socket on one interface.
func bind(ifname string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		if ifname == "" {
			return nil
		}
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname)
		}); e != nil {
			return e
		}
		return err
	}
}

// startTFTP serves a tree on an interface, "" for any.
func startTFTP(ifname string, local netip.AddrPort, tree *Tree, say func(string, ...any)) (*tftpServer, error) {
	s := &tftpServer{ifname: ifname, tree: tree, say: say, of: map[netip.Addr]int{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	var err error
	if s.conn, err = (&net.ListenConfig{Control: bind(ifname)}).ListenPacket(s.ctx, "udp4", local.String()); err != nil {
		s.stop()
		return nil, fmt.Errorf("cannot serve TFTP: %w", err)
	}
	s.local = s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	s.wg.Go(s.serve)
	return s, nil
}

func (s *tftpServer) close() {
	s.stop()
	s.conn.Close()
	s.wg.Wait()
}

func (s *tftpServer) serve() {
	b := make([]byte, 2048)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		u, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		peer := u.AddrPort()
		q, err := parseRequest(b[:n])
		if err != nil {
			if e := (tftpError{}); errors.As(err, &e) {
				_, _ = s.conn.WriteTo(e.packet(), u) // a courtesy
			}
			continue
		}
		if !s.enter(peer.Addr()) {
			continue // it asks again
		}
		s.wg.Go(func() {
			defer s.leave(peer.Addr())
			if n, err := s.transfer(peer, q); err != nil && !errors.Is(err, errClientEnds) && s.ctx.Err() == nil {
				s.say("TFTP: %s did not get %s after %d bytes: %v", peer.Addr(), printable.Short(q.name, 100), n, err)
			}
		})
	}
}

// enter counts a transfer, and refuses too many.
func (s *tftpServer) enter(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active.Load() >= maxTransfers || s.of[a] >= perAddress {
		return false
	}
	s.active.Add(1)
	s.of[a]++
	return true
}

func (s *tftpServer) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active.Add(-1)
	if s.of[a]--; s.of[a] <= 0 {
		delete(s.of, a)
	}
}

// tftpError is an error that the client is told.
type tftpError struct {
	code int
	text string
}

func (e tftpError) Error() string { return e.text }

func (e tftpError) packet() []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opERROR}, uint16(e.code))
	return append(append(b, e.text...), 0)
}

// request is a read request.
type request struct {
	name            string
	block, window   int
	timeout         time.Duration
	tsize           bool
	hasBlock, hasTO bool
	hasWindow       bool
}

// option sets an option. One that is not known, or whose value is not, is left out.
func (q *request) option(name string, n int) {
	switch {
	case name == "blksize" && n >= 8:
		q.block, q.hasBlock = min(n, maxBlock), true
	case name == "windowsize" && n >= 1:
		q.window, q.hasWindow = min(n, maxWindow), true
	case name == "timeout" && n >= 1 && n <= 255: // RFC 2349: it is taken as it is, or not at all
		q.timeout, q.hasTO = time.Duration(n)*time.Second, true
	case name == "tsize":
		q.tsize = true
	}
}

// parseRequest reads a request. Errors that the client is to be told are tftpErrors.
func parseRequest(b []byte) (*request, error) {
	if len(b) < 4 {
		return nil, errors.New("it is too short")
	}
	switch op := binary.BigEndian.Uint16(b); op {
	case opRRQ:
	case 2:
		return nil, tftpError{errAccess, "this server is read-only"}
	case opERROR:
		return nil, errors.New("it is an error")
	default:
		return nil, tftpError{errIllegal, "want a read request"}
	}
	words := strings.Split(string(b[2:]), "\x00")
	if len(words) < 3 || words[len(words)-1] != "" {
		return nil, tftpError{errIllegal, "the request has no end"}
	}
	words = words[:len(words)-1]
	q := &request{name: words[0], block: 512, window: 1, timeout: time.Second}
	if !strings.EqualFold(words[1], "octet") {
		return nil, tftpError{errOther, "want mode octet"}
	}
	for i := 2; i+1 < len(words); i += 2 {
		n, err := strconv.Atoi(words[i+1])
		if err != nil || n < 0 {
			continue // RFC 2347: an option that is not understood is left out
		}
		q.option(strings.ToLower(words[i]), n)
	}
	if q.timeout > 10*time.Second {
		q.timeout, q.hasTO = time.Second, false
	}
	return q, nil
}

// oack is the answer to a request's options, nil if it has none.
func (q *request) oack(size int64) []byte {
	b := []byte{0, opOACK}
	add := func(name string, v int64) {
		b = append(append(append(append(b, name...), 0), strconv.FormatInt(v, 10)...), 0)
	}
	if q.hasBlock {
		add("blksize", int64(q.block))
	}
	if q.hasWindow {
		add("windowsize", int64(q.window))
	}
	if q.hasTO {
		add("timeout", int64(q.timeout/time.Second))
	}
	if q.tsize {
		add("tsize", size)
	}
	if len(b) == 2 {
		return nil
	}
	return b
}

// errClientEnds is a client that wants no more; UEFI firmware asks for the size only.
var errClientEnds = errors.New("the client ended the transfer")

// transfer sends a file, and returns how many bytes the client has acknowledged.
func (s *tftpServer) transfer(peer netip.AddrPort, q *request) (sent int64, err error) {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.local.Addr(), 0)), Control: bind(s.ifname)}
	conn, err := d.DialContext(s.ctx, "udp4", peer.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	f, st, err := s.tree.Open(q.name)
	if err != nil {
		e := tftpError{errNotFound, "there is no such file"}
		if errors.Is(err, fs.ErrPermission) {
			e = tftpError{errAccess, "the file can't be read"}
		}
		_, _ = conn.Write(e.packet()) // it asks again
		return 0, e
	}
	defer f.Close()
	x := &sender{conn: conn, q: q, file: f, size: st.Size(), in: make([]byte, 1024)}
	if o := q.oack(x.size); o != nil {
		// Acknowledged as block 0.
		if err := x.exchange(func() error { _, err := conn.Write(o); return err }, func(n uint16) bool { return n == 0 }); err != nil {
			return 0, err
		}
	}
	return x.send()
}

// sender is one transfer under way. Blocks are counted from 1 without end; on the wire
// their numbers have 16 bits.
type sender struct {
	conn net.Conn
	q    *request
	file io.ReaderAt
	size int64
	in   []byte
}

// send sends all blocks; the last one has less than a whole block, also none at all.
func (x *sender) send() (int64, error) {
	last := x.size/int64(x.q.block) + 1
	base := int64(0) // acknowledged
	for base < last {
		n := min(int64(x.q.window), last-base)
		next := base
		err := x.exchange(func() error { return x.blocks(base+1, n) }, func(ack uint16) bool {
			// Of which block of this window is it?
			d := int64(ack - uint16(base))
			if d > n {
				return false // an old one
			}
			next = base + d
			return d > 0
		})
		if err != nil {
			return min(base*int64(x.q.block), x.size), err
		}
		base = next // what is behind a gap is sent again
	}
	return x.size, nil
}

// blocks sends n blocks from the one numbered first.
func (x *sender) blocks(first, n int64) error {
	b := make([]byte, 4+x.q.block)
	for i := first; i < first+n; i++ {
		binary.BigEndian.PutUint16(b, opDATA)
		binary.BigEndian.PutUint16(b[2:], uint16(i))
		k, err := x.file.ReadAt(b[4:], (i-1)*int64(x.q.block))
		if err != nil && err != io.EOF {
			_, _ = x.conn.Write(tftpError{errOther, "the file can't be read"}.packet()) // it ends anyway
			return err
		}
		if want := min(int64(x.q.block), x.size-(i-1)*int64(x.q.block)); int64(k) != want {
			return fmt.Errorf("the file changed while it was sent")
		}
		if _, err := x.conn.Write(b[:4+k]); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
	return nil
}

// exchange sends, and waits until ok takes an acknowledgement; after a while without one
// it sends again.
func (x *sender) exchange(send func() error, ok func(uint16) bool) error {
	for try := 0; try <= maxResends; try++ {
		if err := send(); err != nil {
			return err
		}
		end := time.Now().Add(x.q.timeout)
		for {
			if err := x.conn.SetReadDeadline(end); err != nil {
				return err
			}
			n, err := x.conn.Read(x.in)
			if errors.Is(err, syscall.ECONNREFUSED) {
				return errClientEnds // its port is closed
			}
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				break
			}
			if err != nil {
				return err
			}
			if n < 4 {
				continue
			}
			switch binary.BigEndian.Uint16(x.in) {
			case opERROR:
				return errClientEnds
			case opACK:
				if ok(binary.BigEndian.Uint16(x.in[2:])) {
					return nil
				}
			}
		}
	}
	return errors.New("the client does not answer")
}

// Files lists what a tree has, for messages: regular files of its top directory.
func (t *Tree) Files() []string {
	es, err := fs.ReadDir(t.root.FS(), ".")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range es {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}
