package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
	pack "pack.ag/tftp"
)

// tftp starts a server on the loopback interface, with files of these sizes.
func serveTFTP(t testing.TB, sizes ...int) (addr string, files map[string][]byte, log *said) {
	t.Helper()
	tr, dir := tree(t)
	files = map[string][]byte{}
	for _, n := range sizes {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		name := fmt.Sprint("f", n)
		files[name] = b
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log = &said{}
	s, err := startTFTP("", netip.MustParseAddrPort("127.0.0.1:0"), tr, log.say)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s.local.String(), files, log
}

// TestTFTPClients: three clients that others wrote read files of all odd sizes.
func TestTFTPClients(t *testing.T) {
	addr, files, _ := serveTFTP(t, 0, 1, 511, 512, 513, 1024, 1468, 1469, 100_000, 1_000_000)
	check := func(who, name string, got []byte, err error) {
		t.Helper()
		if err != nil || !bytes.Equal(got, files[name]) {
			t.Errorf("%s, %s: %d bytes, %v; want %d", who, name, len(got), err, len(files[name]))
		}
	}
	for _, block := range []int{0, 1428, 8192} {
		c, err := pin.NewClient(addr)
		if err != nil {
			t.Fatal(err)
		}
		if block > 0 {
			c.SetBlockSize(block)
		}
		c.RequestTSize(true)
		for name := range files {
			var b bytes.Buffer
			w, err := c.Receive("/"+name, "octet")
			if err == nil {
				if n, ok := w.(pin.IncomingTransfer).Size(); ok && n != int64(len(files[name])) {
					t.Errorf("%s: size %d", name, n)
				}
				_, err = w.WriteTo(&b)
			}
			check(fmt.Sprintf("pin/tftp with blocks of %d", block), name, b.Bytes(), err)
		}
	}
	for _, o := range []struct{ block, window int }{{512, 1}, {1428, 4}, {1468, 1000}, {8, 64}} { // a million bytes by 8 is more blocks than there are numbers
		c, err := pack.NewClient(pack.ClientBlocksize(o.block), pack.ClientWindowsize(o.window), pack.ClientTransferSize(true))
		if err != nil {
			t.Fatal(err)
		}
		for name := range files {
			var b []byte
			r, err := c.Get(addr + "/" + name)
			if err == nil {
				b, err = io.ReadAll(r)
			}
			check(fmt.Sprintf("pack.ag/tftp with %+v", o), name, b, err)
		}
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Log("there is no curl")
		return
	}
	for name := range files {
		for _, args := range [][]string{nil, {"--tftp-no-options"}} {
			if len(files[name]) == 0 && args == nil {
				continue // curl takes no size of 0 in the answer
			}
			out, err := exec.Command(curl, append([]string{"-sS", "-m", "30", "tftp://" + addr + "/" + name}, args...)...).Output()
			check(fmt.Sprint("curl ", args), name, out, err)
		}
	}
}

// talk is a client that says what the test wants.
type talk struct {
	t    *testing.T
	conn *net.UDPConn
	to   *net.UDPAddr
}

func newTalk(t *testing.T, addr string) *talk {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &talk{t, c, to}
}

func (k *talk) send(b []byte) {
	k.t.Helper()
	if _, err := k.conn.WriteToUDP(b, k.to); err != nil {
		k.t.Fatal(err)
	}
}

// read gives the opcode, the block or error number, and the rest.
func (k *talk) read() (op, n int, rest []byte) {
	k.t.Helper()
	b := make([]byte, 4096)
	if err := k.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		k.t.Fatal(err)
	}
	i, from, err := k.conn.ReadFromUDP(b)
	if err != nil || i < 4 {
		k.t.Fatal(i, err)
	}
	k.to = from
	return int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:])), b[4:i]
}

func rrq(words ...string) []byte {
	return append([]byte{0, opRRQ}, strings.Join(words, "\x00")+"\x00"...)
}

func ack(n int) []byte { return binary.BigEndian.AppendUint16([]byte{0, opACK}, uint16(n)) }

// TestTFTPLoss: packets that are lost, doubled, or old, in windows too.
func TestTFTPLoss(t *testing.T) {
	addr, files, _ := serveTFTP(t, 4000)
	want := files["f4000"]
	k := newTalk(t, addr)
	k.send(rrq("f4000", "OCTET", "BLKSIZE", "500", "windowsize", "4", "tsize", "0", "unknown", "7"))
	if op, _, rest := k.read(); op != opOACK || !bytes.Contains(rest, []byte("ksize\x00500\x00windowsize\x004\x00tsize\x004000\x00")) || bytes.Contains(rest, []byte("unknown")) {
		t.Fatalf("%d %q", op, rest)
	}
	var got []byte
	expect := func(n int, keep bool) {
		t.Helper()
		op, b, rest := k.read()
		if op != opDATA || b != n {
			t.Fatalf("got %d, block %d; want block %d", op, b, n)
		}
		if keep {
			got = append(got, rest...)
		}
	}
	k.send(ack(0))
	expect(1, true)
	expect(2, true)
	expect(3, false) // lost on its way
	expect(4, false)
	k.send(ack(2))
	expect(3, true)
	expect(4, true)
	expect(5, true)
	expect(6, true)
	k.send(ack(6))
	k.send(ack(6)) // doubled
	k.send(ack(1)) // old
	expect(7, true)
	expect(8, true)
	expect(9, true) // 4000 is 8 blocks: the last one is empty
	// The acknowledgement is lost: all is sent again after a second.
	expect(7, false)
	expect(8, false)
	expect(9, false)
	k.send(ack(9))
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes; want %d", len(got), len(want))
	}
	// One block at a time: an acknowledgement that comes twice sends nothing twice.
	k = newTalk(t, addr)
	k.send(rrq("f4000", "octet"))
	expect(1, false)
	k.send(ack(1))
	expect(2, false)
	k.send(ack(1))
	k.send(ack(2))
	expect(3, false)
	k.send(tftpError{errOther, "no more"}.packet())
}

// TestTFTPErrors: requests that make no sense or lead out of the tree.
func TestTFTPErrors(t *testing.T) {
	addr, _, _ := serveTFTP(t, 5)
	for _, c := range []struct {
		name string
		ask  []byte
		code int
	}{
		{"not there", rrq("nothing", "octet"), errNotFound},
		{"outside", rrq("../../etc/passwd", "octet"), errNotFound},
		{"absolute", rrq("/etc/passwd", "octet"), errNotFound},
		{"backslashes", rrq(`..\..\etc\passwd`, "octet"), errNotFound},
		{"a directory", rrq("", "octet"), errNotFound},
		{"written", append([]byte{0, 2}, "x\x00octet\x00"...), errAccess},
		{"netascii", rrq("f5", "netascii"), errOther},
		{"no end", []byte("\x00\x01f5\x00octet"), errIllegal},
		{"no mode", rrq("f5"), errIllegal},
		{"data", []byte{0, opDATA, 0, 1}, errIllegal},
	} {
		k := newTalk(t, addr)
		k.send(c.ask)
		if op, n, rest := k.read(); op != opERROR || n != c.code || !bytes.HasSuffix(rest, []byte{0}) {
			t.Errorf("%s: %d, error %d %q; want error %d", c.name, op, n, rest, c.code)
		}
	}
	// A client of another address does not get into a transfer, and one address does not
	// take all of them.
	for range perAddress + 5 {
		newTalk(t, addr).send(rrq("f5", "octet"))
	}
	c, err := pin.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(2 * time.Second)
	c.SetRetries(10)
	if _, err := c.Receive("f5", "octet"); err != nil {
		t.Errorf("after %d that do not answer: %v", perAddress+5, err)
	}
}

// TestTFTPMany: many at once.
func TestTFTPMany(t *testing.T) {
	addr, files, log := serveTFTP(t, 300_000)
	var wg sync.WaitGroup
	for range perAddress - 1 {
		wg.Go(func() {
			c, err := pack.NewClient(pack.ClientBlocksize(1428), pack.ClientWindowsize(8))
			if err != nil {
				t.Error(err)
				return
			}
			r, err := c.Get(addr + "/f300000")
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, files["f300000"]) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	if log.String() != "" {
		t.Error(log)
	}
}

// BenchmarkTFTP: a window instead of one packet at a time.
func BenchmarkTFTP(b *testing.B) {
	addr, files, _ := serveTFTP(b, 5_000_000)
	for _, w := range []int{1, 16} {
		b.Run(fmt.Sprint("window-", w), func(b *testing.B) {
			b.SetBytes(int64(len(files["f5000000"])))
			for b.Loop() {
				c, err := pack.NewClient(pack.ClientBlocksize(1428), pack.ClientWindowsize(w))
				if err != nil {
					b.Fatal(err)
				}
				r, err := c.Get(addr + "/f5000000")
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzRequest: no packet makes the reader panic; what it takes has sizes within limits.
func FuzzRequest(f *testing.F) {
	f.Add(rrq("x", "octet", "blksize", "1468", "windowsize", "4", "timeout", "3", "tsize", "0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseRequest(b)
		if err != nil {
			return
		}
		if q.block < 8 || q.block > maxBlock || q.window < 1 || q.window > maxWindow || q.timeout < time.Second || q.timeout > 10*time.Second || len(q.oack(1<<40)) > 512 {
			t.Errorf("%+v", q)
		}
	})
}
