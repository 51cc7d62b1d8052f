package rescueinit

import (
	"context"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/netconf"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// host is the machine under init. Tests put a fake one in its place.
type host interface {
	kernel.Kernel
	// Start starts a program and gives its process id; it is waited for elsewhere.
	Start(c *exec.Cmd) (pid int, err error)
	Kill(pid int, sig unix.Signal) error
	Reboot(cmd int) error
	Hostname(name string) error
	Memory() (bytes uint64, err error)
	Keyboard(m *keymap.Map) error
	Modules(x *kmod.Index, conf *kmod.Conf) loader
	// Events gives what receives the kernel's device events, one at a time.
	Events() (receive func(b []byte) (n int, err error), err error)
	// Up brings a network interface up, Network is netconf.Configure.
	Up(card string) error
	Network(ctx context.Context, w rescue.Network, source []layout.Interface) (string, error)
}

// loader is a kmod.Loader.
type loader interface {
	Load(name, params string) ([]string, error)
}

// machine is the host that the program runs on.
type machine struct{ kernel.Linux }

func (machine) Start(c *exec.Cmd) (pid int, err error) {
	if err := c.Start(); err != nil {
		return 0, err
	}
	return c.Process.Pid, nil
}

func (machine) Kill(pid int, sig unix.Signal) error { return unix.Kill(pid, sig) }
func (machine) Reboot(cmd int) error                { return unix.Reboot(cmd) }
func (machine) Hostname(name string) error          { return unix.Sethostname([]byte(name)) }
func (machine) Keyboard(m *keymap.Map) error        { return m.Write("/dev/tty0") }
func (machine) Up(card string) error                { return netconf.Up(card) }

func (machine) Memory() (bytes uint64, err error) {
	var si unix.Sysinfo_t
	err = unix.Sysinfo(&si)
	return uint64(si.Totalram) * uint64(si.Unit), err
}

func (machine) Modules(x *kmod.Index, conf *kmod.Conf) loader { return kmod.NewLoader(x, conf) }

func (machine) Network(ctx context.Context, w rescue.Network, source []layout.Interface) (string, error) {
	return netconf.Configure(ctx, w, source)
}

// Events implements host; linux/lib/kobject_uevent.c.
func (machine) Events() (receive func(b []byte) (n int, err error), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // the default will do, less well
	return func(b []byte) (int, error) {
		n, _, err := unix.Recvfrom(fd, b, 0)
		return n, err
	}, nil
}
