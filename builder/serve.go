package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"filippo.io/age"
	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fleet/netboot"
	"github.com/mkcdrec/mkcdrec/internal/fleet/web"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// ServeOptions say how a room is served.
type ServeOptions struct {
	// Sets are directories or URLs of backup sets, each as PLACE or NAME=PLACE.
	Sets []string
	// Interface is the one on which DHCP and TFTP answer; "" for HTTP only.
	Interface string
	// Rules is the file of rules; "" lets every machine wait for a person.
	Rules string
	// DHCP is the range of addresses to give out, FIRST-LAST; "" for proxyDHCP, beside
	// another server.
	DHCP string
	// State is the file that keeps the room; the boot tree and leases are beside it.
	State string
	// HTTP is where the boot files are served, Web where the page is, ADDRESS:PORT; "" for
	// the interface's address, ports 80 and 8443.
	HTTP, Web string
	// Swarm has machines get the sets that are in directories from each other, in the
	// clear. SwarmPort is the first of two ports for each such set; 0 for 6881.
	Swarm     bool
	SwarmPort int
	// Built is called when the boot tree is made, Ready when everything is served; nil if
	// nobody wants to know.
	Built func()
	Ready func(Serving)
}

// Serving is where a running server can be reached.
type Serving struct {
	// Page is the address of the page with the token, Boot that of the boot files.
	Page, Boot string
	// Token is what programs send as a bearer token, Fingerprint the SHA-256 of the
	// certificate in hex.
	Token, Fingerprint string
}

// Ports of the servers, and after how long Ctrl-C ends what is being sent.
const (
	bootPort     = 80
	pagePort     = 8443
	stopTime     = 3 * time.Second
	foreignTime  = 3 * time.Second
	maxConns     = 4096
	roomTimeout  = 3 // seconds that the boot menu waits
	roomMenuName = "rescue"
)

// room is a room that is to be served, and what it gets.
type room struct {
	ServeOptions
	b     *Builder
	on    netip.Prefix // this machine's address, and the network
	pool  netboot.Pool
	rules *fleet.Rules
	sets  []fleet.Set
	files map[string]web.Files
	carry []initramfs.Program // for the rescue system of its machines
}

// Serve images a room: it makes a boot tree, starts machines from the network, and gives
// those that were released their set, until ctx ends. The machines continue with what they
// have, and find the server again when it is started again.
func (b *Builder) Serve(ctx context.Context, o ServeOptions) (err error) {
	r, err := b.newRoom(ctx, o)
	if err != nil {
		return err
	}
	unlock, err := lockState(o.State)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.alone(ctx); err != nil {
		return err
	}
	if o.Swarm {
		stop, carry, err := b.swarm(ctx, o, r.on.Addr(), r.sets, r.files)
		if err != nil {
			return err
		}
		defer stop()
		r.carry = carry
	}
	state, err := fleet.OpenRoom(o.State, r.rules, r.sets)
	if err != nil {
		return err
	}
	l, err := b.listen(state, o, r.on)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return r.serve(ctx, state, l)
}

// newRoom checks what is asked for, and opens the sets.
func (b *Builder) newRoom(ctx context.Context, o ServeOptions) (*room, error) {
	r := &room{ServeOptions: o, b: b, rules: fleet.DefaultRules()}
	var err error
	if r.on, err = serveAddress(o.Interface, o.HTTP); err != nil {
		return nil, err
	}
	if o.DHCP != "" {
		if o.Interface == "" {
			return nil, exit.Usage(errors.New("--dhcp wants --listen: addresses are given out on an interface that was named"))
		}
		if r.pool, err = netboot.ParsePool(o.DHCP, r.on); err != nil {
			return nil, exit.Usage(fmt.Errorf("--dhcp: %w", err))
		}
	}
	if o.Rules != "" {
		if r.rules, err = fleet.LoadRules(o.Rules); err != nil {
			return nil, exit.Usage(err)
		}
	}
	if r.sets, r.files, err = b.serveSets(ctx, o.Sets); err != nil {
		return nil, err
	}
	if err := r.rules.Check(r.sets); err != nil {
		return nil, exit.Usage(fmt.Errorf("cannot use rules %s:\n%w", o.Rules, err))
	}
	return r, nil
}

// alone refuses to give out addresses beside another DHCP server.
func (r *room) alone(ctx context.Context) error {
	if r.DHCP == "" {
		return nil
	}
	other, err := netboot.Foreign(ctx, r.Interface, foreignTime)
	if err == nil && other != "" {
		err = &exit.Refusal{Reason: fmt.Sprintf("the DHCP server %s gives out addresses on %s; two of them would take each other's machines: stop that one, or use --proxy", other, r.Interface)}
	}
	return err
}

// serve makes the boot tree and serves it, the page and the network, until ctx ends.
func (r *room) serve(ctx context.Context, state *fleet.Room, l *listeners) (err error) {
	note, warn := r.b.Report.Note, r.b.Report.Warn
	tree, loaders, err := r.bootTree(ctx, l)
	if err != nil {
		return err
	}
	defer tree.Close()
	if r.Built != nil {
		r.Built()
	}
	handler, err := web.New(web.Config{Room: state, Sets: r.files, Token: l.Token, Title: "mkcdrec on " + hostname(),
		Wake: func(mac string) error { return netboot.Wake(r.on, mac) }, Say: note, Warn: warn})
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	l.serve(tree, handler, failed)
	if r.Interface != "" {
		s, err := netboot.New(netboot.Config{Interface: r.Interface, Address: r.on, Pool: r.pool, LeaseFile: r.State + ".leases", Loaders: loaders, Tree: tree, PXE: state.PXE, Say: note, Warn: warn})
		if err == nil {
			err = s.Start(ctx)
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
	}
	r.announce(state, l)
	if r.Ready != nil {
		r.Ready(l.Serving)
	}
	select {
	case <-ctx.Done():
		note("the server ends; machines that are being restored continue, and report when it is started again")
		return nil
	case err := <-failed:
		return err
	}
}

// announce prints what is served, and how.
func (r *room) announce(state *fleet.Room, l *listeners) {
	note := r.b.Report.Note
	for _, s := range r.sets {
		var disks []string
		for _, d := range s.Disks {
			disks = append(disks, fmt.Sprintf("%s %s", d.Name, d.Size))
		}
		note("set %s: of %s, for %s", s.Name, s.Host, strings.Join(disks, ", "))
	}
	switch {
	case r.Interface == "":
		note("no interface was named: DHCP and TFTP are left to other servers; %s/boot.ipxe is for iPXE, %s/%s for UEFI HTTP Boot", l.Boot, l.Boot, rescue.HTTPBoot)
	case r.DHCP == "":
		note("proxyDHCP and TFTP on %s (%s), beside the DHCP server of that network", r.Interface, r.on)
	default:
		note("DHCP (%s-%s) and TFTP on %s (%s)", r.pool.First, r.pool.Last, r.Interface, r.on)
	}
	note("boot files at %s", l.Boot)
	if n := len(state.Views()); n > 0 {
		note("machines known from %s: %d", r.State, n)
	}
	note("page of the room: %s\nthe browser warns once of the certificate; its SHA-256 is %s", l.Page, l.Fingerprint)
}

// address is an IPv4 address of this machine.
type address struct {
	ifname string
	netip.Prefix
}

// addresses lists them, and the interfaces with and without any.
func addresses() (all []address, ifnames []string, err error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list network interfaces: %w", err)
	}
	for _, i := range ifs {
		ifnames = append(ifnames, i.Name)
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				ip, _ := netip.AddrFromSlice(n.IP.To4())
				bits, _ := n.Mask.Size()
				all = append(all, address{i.Name, netip.PrefixFrom(ip, bits)})
			}
		}
	}
	return all, ifnames, nil
}

// serveAddress gives this machine's address and network on an interface, or without one
// the address that at names.
func serveAddress(ifname, at string) (netip.Prefix, error) {
	all, ifnames, err := addresses()
	if err != nil {
		return netip.Prefix{}, err
	}
	var want netip.Addr
	if ifname == "" {
		ap, err := netip.ParseAddrPort(at)
		if at != "" && (err != nil || !ap.Addr().Is4() || ap.Addr().IsUnspecified()) {
			return netip.Prefix{}, exit.Usage(fmt.Errorf("--http %q: without --listen want the ADDRESS:PORT that machines reach", at))
		}
		want = ap.Addr()
	}
	var known []string
	for _, a := range all {
		if a.ifname == ifname || want.IsValid() && a.Addr() == want {
			return a.Prefix, nil
		}
		if !a.Addr().IsLoopback() {
			known = append(known, fmt.Sprintf("%s (%s)", a.ifname, a.Prefix))
		}
	}
	have := strings.Join(known, ", ")
	switch {
	case ifname == "" && at == "":
		err = fmt.Errorf("name the interface that machines start from with --listen; there are %s", have)
	case ifname == "":
		err = fmt.Errorf("--http %s: no interface has that address; there are %s", at, have)
	case slices.Contains(ifnames, ifname):
		err = fmt.Errorf("--listen %s: the interface has no IPv4 address", ifname)
	default:
		err = fmt.Errorf("--listen %s: there is no such interface; there are %s", ifname, have)
	}
	return netip.Prefix{}, exit.Usage(err)
}

// setFiles gives the files of a set that its manifest names, with the sizes that it
// names, and no others.
type setFiles struct{ set *manifest.Set }

// Open implements web.Files.
func (s setFiles) Open(name string) (store.File, error) {
	sum := s.set.Manifest.Sum(name)
	if sum.Name == "" && name != manifest.File && !slices.Contains(manifest.Unlisted(), name) {
		return nil, fs.ErrNotExist
	}
	f, err := s.set.Open(name)
	if err != nil {
		return nil, err
	}
	if sum.Name != "" && f.Size() != int64(sum.Size) {
		f.Close()
		return nil, fmt.Errorf("cannot serve %s: it has %d bytes, and %d by the manifest", name, f.Size(), int64(sum.Size))
	}
	return f, nil
}

// serveSets opens the sets, each PLACE or NAME=PLACE.
func (b *Builder) serveSets(ctx context.Context, places []string) ([]fleet.Set, map[string]web.Files, error) {
	if len(places) == 0 {
		return nil, nil, exit.Usage(errors.New("serve wants a backup set"))
	}
	var out []fleet.Set
	files := map[string]web.Files{}
	for _, arg := range places {
		name, place, ok := strings.Cut(arg, "=")
		if !ok || strings.ContainsRune(name, '/') {
			name, place = "", arg
		}
		locked := func(bool) ([]age.Identity, error) {
			return nil, exit.Usage(fmt.Errorf("cannot serve %s: it is encrypted, and the machines have no key; only sets that are not encrypted are served", place))
		}
		set, err := manifest.Door{Say: b.Report.Note, Identities: locked}.Open(ctx, place)
		if err != nil {
			return nil, nil, err
		}
		if !set.Direct() {
			return nil, nil, exit.Usage(fmt.Errorf("cannot serve %s: want a set in a directory or on a web server, not on discs, on tape, or of mkCDrec 1.x", place))
		}
		if len(set.Manifest.Needs) > 0 {
			return nil, nil, exit.Usage(fmt.Errorf("cannot serve %s: it is an increment that needs earlier sets; only full sets are served", place))
		}
		if name == "" {
			name = filepath.Base(strings.TrimRight(set.String(), "/"))
		}
		switch {
		case !fleet.ValidSetName(name):
			return nil, nil, exit.Usage(fmt.Errorf("cannot serve %s under the name %q: want letters, digits, dot, dash and underscore; give it another one by NAME=%s", place, name, place))
		case files[name] != nil:
			return nil, nil, exit.Usage(fmt.Errorf("two sets are called %s; give one another name by NAME=%s", name, place))
		}
		s, err := fleetSet(name, set)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot serve %s: %w", place, err)
		}
		if len(set.Layout.Crypts) > 0 {
			b.Report.Warn("set %s has LUKS devices: their restore asks for a passphrase at each machine", name)
		}
		out, files[name] = append(out, s), setFiles{set}
	}
	return out, files, nil
}

// fleetSet is what rules and the page have of a set.
func fleetSet(name string, set *manifest.Set) (fleet.Set, error) {
	s := fleet.Set{Name: name, Host: set.Manifest.Host, ID: set.Manifest.ID, Digest: set.Digest, Work: set.VerifySize(false)}
	least := plan.Minimum(set.Layout, plan.Wish{})
	for _, n := range set.Layout.Needed() {
		d := set.Layout.Disk(n)
		if d == nil {
			return s, fmt.Errorf("its layout has no disk %s", n)
		}
		s.Disks = append(s.Disks, fleet.SetDisk{Name: d.Name, Model: d.Model, Size: d.Size, Least: least[d.Name]})
	}
	for _, a := range set.Manifest.Archives {
		s.Work += int64(a.TarSize)
	}
	return s, nil
}

// lockState keeps a second server from the same state.
func lockState(file string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep state: %w", err)
	}
	f, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot keep state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &exit.Refusal{Reason: "another server uses " + file + ": end it, or give this one another --state"}
	}
	return func() { f.Close() }, nil
}

// listeners are the sockets of the web servers, which are open before the boot tree is
// made: its files have their addresses.
type listeners struct {
	Serving
	boot, page net.Listener
	servers    []*http.Server
	handler    *web.Server
}

// listen opens the sockets, and takes token and certificate from the room's state.
func (b *Builder) listen(room *fleet.Room, o ServeOptions, on netip.Prefix) (*listeners, error) {
	l := &listeners{}
	var err error
	if l.Token, err = room.Secret("token", nil); err != nil {
		return nil, err
	}
	pem, err := room.Secret("certificate", func() (string, error) { return web.NewCertificate([]netip.Addr{on.Addr()}) })
	if err != nil {
		return nil, err
	}
	conf, print, err := web.TLS(pem)
	if err != nil {
		return nil, err
	}
	l.Fingerprint = print
	open := func(at string, port int) (net.Listener, string, error) {
		if at == "" {
			at = netip.AddrPortFrom(on.Addr(), uint16(port)).String()
		}
		s, err := net.Listen("tcp", at)
		if err != nil {
			return nil, "", err
		}
		a := s.Addr().(*net.TCPAddr).AddrPort()
		if a.Addr().IsUnspecified() { // machines need one
			a = netip.AddrPortFrom(on.Addr(), a.Port())
		}
		return netutil.LimitListener(s, maxConns), net.JoinHostPort(a.Addr().Unmap().String(), strconv.Itoa(int(a.Port()))), nil
	}
	var at string
	if l.boot, at, err = open(o.HTTP, bootPort); err != nil {
		return nil, fmt.Errorf("cannot serve boot files: %w", err)
	}
	l.Boot = "http://" + strings.TrimSuffix(at, ":80")
	if l.page, at, err = open(o.Web, pagePort); err != nil {
		l.boot.Close()
		return nil, fmt.Errorf("cannot serve the page: %w", err)
	}
	l.Page = "https://" + at + "/login?token=" + l.Token
	s := netboot.HTTPServer(nil)
	s.TLSConfig = conf
	l.servers = []*http.Server{netboot.HTTPServer(nil), s}
	return l, nil
}

// fleetURL is what machines are told.
func (l *listeners) fleetURL() string {
	at, _, _ := strings.Cut(l.Page, "/login?")
	return at
}

func (l *listeners) serve(tree http.Handler, page *web.Server, failed chan<- error) {
	l.handler = page
	l.servers[0].Handler, l.servers[1].Handler = netboot.Bounded(tree, netboot.BodyLimit), netboot.Bounded(page, netboot.BodyLimit)
	go func() {
		if err := l.servers[0].Serve(l.boot); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("cannot serve boot files: %w", err)
		}
	}()
	go func() {
		if err := l.servers[1].ServeTLS(l.page, "", ""); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("cannot serve the page: %w", err)
		}
	}()
}

// close ends the servers; what is being sent has a little time.
func (l *listeners) close() error {
	ctx, stop := context.WithTimeout(context.Background(), stopTime)
	defer stop()
	if l.handler != nil {
		l.handler.Close()
	}
	var errs []error
	for _, s := range l.servers {
		if err := s.Shutdown(ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = s.Close()
			}
			errs = append(errs, err)
		}
	}
	for _, x := range []net.Listener{l.boot, l.page} {
		if err := x.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bootTree makes the boot tree beside the state, for any machine, and returns what is in it.
func (r *room) bootTree(ctx context.Context, l *listeners) (*netboot.Tree, netboot.Loaders, error) {
	var none netboot.Loaders
	if b, err := hex.DecodeString(l.Fingerprint); err != nil || len(b) != sha256.Size {
		return nil, none, fmt.Errorf("cannot make the boot tree: %q is not a fingerprint", l.Fingerprint)
	}
	m, p := r.b.Maker(), Unprobed().Machine()
	m.Config.Append = strings.TrimSpace(m.Config.Append + " mkcdrec.fleet=" + l.fleetURL() + " mkcdrec.fleetcert=" + l.Fingerprint)
	m.Config.Default = roomMenuName
	m.Signer = nil // the server names the set's digest: whose the signature is does not matter
	p.Carry = r.carry
	dir := r.State + ".boot"
	if err := m.PXE(ctx, p, dir, rescue.PXEOptions{URL: l.Boot, Timeout: roomTimeout}); err != nil {
		return nil, none, err
	}
	tree, err := netboot.OpenTree(dir)
	if err != nil {
		return nil, none, err
	}
	out := netboot.Loaders{IPXE: l.Boot + "/boot.ipxe"}
	have := tree.Files()
	for _, n := range []string{"pxelinux.0", "lpxelinux.0"} { // the second one reads HTTP
		if slices.Contains(have, n) {
			out.BIOS = n
		}
	}
	if slices.Contains(have, "bootx64.efi") {
		out.UEFI = "bootx64.efi"
	}
	if slices.Contains(have, rescue.HTTPBoot) {
		out.HTTP = l.Boot + "/" + rescue.HTTPBoot
	}
	return tree, out, nil
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return "this machine"
	}
	return h
}
