package vmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The test network: a bridge on this machine with taps for guests, dnsmasq for
// DHCP and TFTP, and a web server.
const (
	bridgeName = "mkcbr0"
	ServerIP   = "10.77.23.1"
	ServerIP6  = "fd77:23::1"
)

// Network is a running test network. There can be one at a time.
type Network struct {
	Root    string // what TFTP and HTTP serve
	dir     string
	http    *http.Server
	dnsmasq *exec.Cmd
	taps    atomic.Int64
	log     *os.File
	mu      sync.Mutex
	asked   []string
}

// Asked are the requests that the web server got.
func (n *Network) Asked() []string { n.mu.Lock(); defer n.mu.Unlock(); return slices.Clone(n.asked) }

// StartNetwork makes the bridge and starts the servers; dnsmasq only if dhcp.
// It wants root and /dev/net/tun.
func StartNetwork(ctx context.Context, dir string, dhcp bool) (*Network, error) {
	n := &Network{Root: filepath.Join(dir, "root"), dir: dir}
	if err := os.MkdirAll(n.Root, 0o755); err != nil {
		return nil, err
	}
	_ = command(ctx, "ip", "link", "del", bridgeName) // left by a killed run
	for _, c := range [][]string{{"link", "add", bridgeName, "type", "bridge"}, {"addr", "add", ServerIP + "/24", "dev", bridgeName}, {"link", "set", bridgeName, "up"}} {
		if err := command(ctx, append([]string{"ip"}, c...)...); err != nil {
			return nil, fmt.Errorf("cannot make the test network: %w", err)
		}
	}
	_ = command(ctx, "ip", "addr", "add", ServerIP6+"/64", "dev", bridgeName, "nodad") // a machine without IPv6 tests IPv4
	l, err := net.Listen("tcp", ServerIP+":80")
	if err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	files := http.FileServer(http.Dir(n.Root))
	n.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.asked = append(n.asked, fmt.Sprintf("%s %s %s %s", r.RemoteAddr, r.Method, r.URL, r.Header.Get("Range")))
		n.mu.Unlock()
		files.ServeHTTP(w, r)
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = n.http.Serve(l) }() // ends with Stop
	if dhcp {
		if err := n.startDHCP(ctx); err != nil {
			return nil, errors.Join(err, n.Stop())
		}
	}
	return n, nil
}

// startDHCP has dnsmasq answer every kind of firmware, by the lines that
// README.txt of a network boot tree gives.
func (n *Network) startDHCP(ctx context.Context) error {
	var err error
	if n.log, err = os.Create(filepath.Join(n.dir, "dnsmasq.log")); err != nil {
		return err
	}
	url := "http://" + ServerIP
	n.dnsmasq = exec.CommandContext(ctx, "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface="+bridgeName, "--except-interface=lo", "--bind-interfaces",
		"--dhcp-leasefile="+filepath.Join(n.dir, "leases"), "--dhcp-range=10.77.23.100,10.77.23.200,255.255.255.0,1h", "--dhcp-range=fd77:23::100,fd77:23::200,64,1h", "--enable-ra",
		"--enable-tftp", "--tftp-root="+n.Root,
		"--dhcp-match=set:efi,option:client-arch,7", "--dhcp-match=set:efihttp,option:client-arch,16", "--dhcp-userclass=set:ipxe,iPXE", "--dhcp-vendorclass=set:pxe,PXEClient",
		// A guest whose name asks for it gets the iPXE script; the others go by
		// what their firmware is.
		"--dhcp-mac=set:script,52:54:00:77:*:*",
		"--dhcp-mac=set:http,52:54:00:78:*:*",
		"--dhcp-boot=tag:!http,lpxelinux.0", "--dhcp-boot=tag:efi,tag:!http,bootx64.efi",
		"--dhcp-option-force=tag:efihttp,60,HTTPClient", "--dhcp-boot=tag:efihttp,"+url+"/mkcdrec.efi",
		"--dhcp-boot=tag:script,tag:ipxe,"+url+"/boot.ipxe")
	n.dnsmasq.Stdout, n.dnsmasq.Stderr = n.log, n.log
	if err := n.dnsmasq.Start(); err != nil {
		return fmt.Errorf("cannot start dnsmasq: %w", err)
	}
	return nil
}

// Kinds of cards: dnsmasq sees by the address what their firmware is sent to.
const (
	PlainNIC  = 0x00 // by what the firmware reports itself to be
	ScriptNIC = 0x77 // the iPXE script
	HTTPNIC   = 0x78 // UEFI HTTP Boot only
)

// NIC gives QEMU's words for a card on the network, and its address.
func (n *Network) NIC(ctx context.Context, kind int) (words, mac string, err error) {
	i := n.taps.Add(1)
	tap := fmt.Sprintf("mkctap%d", i)
	_ = command(ctx, "ip", "link", "del", tap) // left by a killed run
	for _, c := range [][]string{{"tuntap", "add", tap, "mode", "tap"}, {"link", "set", tap, "master", bridgeName, "up"}} {
		if err := command(ctx, append([]string{"ip"}, c...)...); err != nil {
			return "", "", fmt.Errorf("cannot make a network card: %w", err)
		}
	}
	mac = fmt.Sprintf("52:54:00:%02x:00:%02x", kind, i)
	return fmt.Sprintf("tap,ifname=%s,script=no,downscript=no virtio-net-pci,mac=%s", tap, mac), mac, nil
}

// Stop removes everything.
func (n *Network) Stop() error {
	if n.http != nil {
		n.http.Close()
	}
	if n.dnsmasq != nil && n.dnsmasq.Process != nil {
		_ = n.dnsmasq.Process.Kill()
		_ = n.dnsmasq.Wait() // killed
		n.log.Close()
	}
	ctx := context.Background()
	for i := range n.taps.Load() {
		_ = command(ctx, "ip", "link", "del", fmt.Sprintf("mkctap%d", i+1)) // removed with its guest, or now
	}
	return command(ctx, "ip", "link", "del", bridgeName)
}

// Log is what dnsmasq said.
func (n *Network) Log() string {
	b, err := os.ReadFile(filepath.Join(n.dir, "dnsmasq.log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}
