package iproute

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// ICMP types of RFC 792 and RFC 4443.
const (
	echoRequest4, echoReply4, unreachable4 = 8, 0, 3
	echoRequest6, echoReply6, unreachable6 = 128, 129, 1
)

// pinger sends echo requests to one host.
type pinger struct {
	*tools.Env
	conn            *net.IPConn
	to              *net.IPAddr
	six             bool
	id              uint16
	size            int
	wait            time.Duration // for the answer to the last one
	interval        time.Duration
	count           int
	sent, got       int
	errors          int
	least, most     time.Duration
	sum, squares    float64
	begun, deadline time.Time
}

func ping(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return err
	}
	p := &pinger{Env: e, id: uint16(os.Getpid()), size: 56, count: -1, interval: time.Second, wait: 10 * time.Second}
	for opt, set := range map[string]func(float64){
		"c": func(v float64) { p.count = int(v) }, "s": func(v float64) { p.size = int(v) },
		"i": func(v float64) { p.interval = seconds(v) }, "W": func(v float64) { p.wait = seconds(v) },
		"w": func(v float64) { p.deadline = time.Now().Add(seconds(v)) },
	} {
		if !e.On(opt) {
			continue
		}
		v, err := strconv.ParseFloat(e.Val(opt), 64)
		if err != nil || v < 0 || v > math.MaxInt32 || opt == "c" && v < 1 || opt == "s" && v > 65507 {
			return tools.Usage("invalid argument: '%s'", e.Val(opt))
		}
		set(v)
	}
	if err := p.open(e.Args[0]); err != nil {
		return err
	}
	defer p.conn.Close()
	fmt.Fprintf(e.Out, "PING %s (%s) %d(%d) bytes of data.\n", e.Args[0], p.to, p.size, p.size+28+map[bool]int{true: 20}[p.six])
	_ = e.Out.Flush() // an error stays in it
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	p.begun = time.Now()
	if err := p.run(ctx); err != nil {
		return err
	}
	p.statistics(e.Args[0])
	if p.got == 0 || p.count > 0 && p.got < p.count && !p.deadline.IsZero() {
		return tools.Status(1)
	}
	return nil
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

func (p *pinger) open(host string) error {
	network := "ip"
	switch {
	case p.On("4"):
		network = "ip4"
	case p.On("6"):
		network = "ip6"
	}
	var err error
	if p.to, err = net.ResolveIPAddr(network, host); err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) {
			return fmt.Errorf("%s: %s", host, dns.Err)
		}
		return fmt.Errorf("%s: %w", host, err)
	}
	p.six = p.to.IP.To4() == nil
	var from *net.IPAddr
	device := ""
	if p.On("I") {
		if device = p.Val("I"); net.ParseIP(device) != nil {
			from, device = &net.IPAddr{IP: net.ParseIP(device)}, ""
		}
	}
	proto := "ip4:icmp"
	if p.six {
		proto = "ip6:ipv6-icmp"
	}
	if p.conn, err = net.ListenIP(proto, from); err != nil {
		return err
	}
	if device != "" {
		raw, err := p.conn.SyscallConn()
		if err == nil {
			e := raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device) })
			err = errors.Join(e, err)
		}
		if err != nil {
			return fmt.Errorf("cannot use device %s: %s", device, tools.Cause(err))
		}
	}
	return nil
}

// run sends until the count, the deadline or a signal, and prints the answers.
func (p *pinger) run(ctx context.Context) error {
	answers := make(chan answer, 16)
	go p.receive(answers)
	next := time.NewTimer(0)
	defer next.Stop()
	var end <-chan time.Time // the last answer's time
	if !p.deadline.IsZero() {
		t := time.NewTimer(time.Until(p.deadline))
		defer t.Stop()
		end = t.C
	}
	var last <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return nil
		case <-last:
			return nil
		case <-next.C:
			if p.count > 0 && p.sent == p.count {
				last = time.After(p.wait)
				continue
			}
			if err := p.send(); err != nil {
				p.Warn("sendmsg: %s", tools.Cause(err))
				p.errors++
			}
			next.Reset(p.interval)
		case a := <-answers:
			if a.err != nil {
				return a.err
			}
			p.print(a)
			if p.count > 0 && p.got+p.errors >= p.count {
				return nil
			}
		}
	}
}

// send sends one request: type, code, sum, id, number, and the time it was sent.
func (p *pinger) send() error {
	b := make([]byte, 8+p.size)
	b[0] = echoRequest4
	if p.six {
		b[0] = echoRequest6
	}
	p.sent++
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], uint16(p.sent))
	for i := range b[8:] {
		b[8+i] = byte(i)
	}
	if p.size >= 8 {
		binary.BigEndian.PutUint64(b[8:], uint64(time.Now().UnixNano()))
	}
	if !p.six { // the kernel sums up ICMPv6
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	_, err := p.conn.WriteToIP(b, p.to)
	return err
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

// answer is what was received.
type answer struct {
	from        net.IP
	seq, bytes  int
	ttl         int
	took        time.Duration // negative: not known
	unreachable bool
	err         error
}

func (p *pinger) receive(out chan<- answer) {
	b, oob := make([]byte, 1<<16), make([]byte, 128)
	raw, err := p.conn.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { // without it the hop limit is not shown
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
		})
	}
	for {
		n, on, _, from, err := p.conn.ReadMsgIP(b, oob)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				out <- answer{err: err}
			}
			return
		}
		body := b[:n]
		if !p.six { // the kernel gives the IP header as well
			if n < 20 || n < int(b[0]&15)*4 {
				continue
			}
			body = b[int(b[0]&15)*4 : n]
		}
		if a, ok := p.parse(body); ok {
			a.from, a.ttl = from.IP, hops(oob[:on])
			out <- a
		}
	}
}

// hops is the number of routers that a packet may still pass, by its ancillary data.
func hops(oob []byte) int {
	ms, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range ms {
		if len(m.Data) >= 4 && (m.Header.Type == unix.IP_TTL || m.Header.Type == unix.IPV6_HOPLIMIT) {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// parse reads an ICMP message; false if it is not for us.
func (p *pinger) parse(b []byte) (answer, bool) {
	if len(b) < 8 {
		return answer{}, false
	}
	reply, unreachable, inner := byte(echoReply4), byte(unreachable4), 8+20
	if p.six {
		reply, unreachable, inner = echoReply6, unreachable6, 8+40
	}
	a := answer{bytes: len(b), took: -1}
	switch {
	case b[0] == unreachable && len(b) >= inner+8:
		a.unreachable = true
		b = b[inner:] // our request, which could not be delivered
	case b[0] != reply:
		return answer{}, false
	}
	if binary.BigEndian.Uint16(b[4:]) != p.id {
		return answer{}, false
	}
	if a.seq = int(binary.BigEndian.Uint16(b[6:])); !a.unreachable && p.size >= 8 && len(b) >= 16 {
		a.took = time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))))
	}
	return a, true
}

func (p *pinger) print(a answer) {
	if a.unreachable {
		p.errors++
		fmt.Fprintf(p.Out, "From %s icmp_seq=%d Destination Host Unreachable\n", a.from, a.seq)
		_ = p.Out.Flush() // an error stays in it
		return
	}
	p.got++
	ms := float64(a.took) / 1e6
	if a.took >= 0 {
		p.sum += ms
		p.squares += ms * ms
		p.most = max(p.most, a.took)
		if p.least == 0 || a.took < p.least {
			p.least = a.took
		}
	}
	if !p.On("q") {
		fmt.Fprintf(p.Out, "%d bytes from %s: icmp_seq=%d ttl=%d", a.bytes, a.from, a.seq, a.ttl)
		if a.took >= 0 {
			fmt.Fprintf(p.Out, " time=%s ms", short(ms))
		}
		fmt.Fprintln(p.Out)
		_ = p.Out.Flush() // an error stays in it
	}
}

// short has three digits, as iputils prints a time.
func short(ms float64) string {
	switch {
	case ms < 1:
		return fmt.Sprintf("%.3f", ms)
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

func (p *pinger) statistics(host string) {
	fmt.Fprintf(p.Out, "\n--- %s ping statistics ---\n%d packets transmitted, %d received, ", host, p.sent, p.got)
	if p.errors > 0 {
		fmt.Fprintf(p.Out, "+%d errors, ", p.errors)
	}
	loss := 0.0
	if p.sent > 0 {
		loss = 100 * float64(p.sent-p.got) / float64(p.sent)
	}
	fmt.Fprintf(p.Out, "%.6g%% packet loss, time %dms\n", loss, time.Since(p.begun).Milliseconds())
	if p.got > 0 && p.sum > 0 {
		n := float64(p.got)
		mean := p.sum / n
		fmt.Fprintf(p.Out, "rtt min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms\n", float64(p.least)/1e6, mean, float64(p.most)/1e6, math.Sqrt(max(0, p.squares/n-mean*mean)))
	}
}
