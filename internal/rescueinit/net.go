package rescueinit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// network configures the network only when the command line asks for it: the
// machine's own address may be in use by its replacement.
func (s *System) network(rng chan struct{}) {
	if s.opts.Net.IP == "" {
		s.state = append(s.state, "network: not configured (dhclient, or start with mkcdrec.ip=dhcp)")
		return
	}
	select {
	case <-rng:
	case <-time.After(30 * time.Second):
		s.say("WARNING: no entropy after 30 s; DHCP may hang")
	}
	var source []layout.Interface
	if f, err := os.Open(s.host.Path(rescue.LayoutFile)); err == nil {
		if l, err := layout.Read(f); err == nil {
			source = l.Network
		}
		f.Close()
	}
	line, err := s.host.Network(s.ctx, s.opts.Net, source)
	if err != nil {
		s.say("WARNING: network: %v", err)
		s.state = append(s.state, "network: failed: "+firstLine(err))
		return
	}
	s.state = append(s.state, "network: "+line)
	if s.opts.NTP != "" {
		s.clockByNTP()
	}
}

func firstLine(err error) string {
	l, _, _ := strings.Cut(err.Error(), "\n")
	return l
}

// clock sets the system's clock from the hardware's, if the kernel did not,
// or when the hardware's runs in local time: the third line of adjtime(5).
func (s *System) clock() {
	local := false
	if b, err := os.ReadFile(s.host.Path("/etc/adjtime")); err == nil {
		local = strings.Contains(string(b), "LOCAL")
	}
	if time.Now().Year() >= 2024 && !local {
		return
	}
	f, err := os.Open(s.host.Path("/dev/rtc0"))
	if err != nil {
		if time.Now().Year() < 2024 {
			s.say("WARNING: the clock is not set, and there is no hardware clock")
		}
		return
	}
	defer f.Close()
	r, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		s.say("WARNING: cannot read the hardware clock: %v", err)
		return
	}
	zone := time.UTC
	if local {
		zone = time.Local
	}
	t := time.Date(int(r.Year)+1900, time.Month(r.Mon+1), int(r.Mday), int(r.Hour), int(r.Min), int(r.Sec), 0, zone)
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		s.say("WARNING: cannot set the clock: %v", err)
	}
}

// clockByNTP asks a server for the time, as the command line wants it.
func (s *System) clockByNTP() {
	if err := s.run("/bbin/timeout", "-t", "15s", "/bbin/ntpdate", s.opts.NTP); err != nil {
		s.say("WARNING: the clock was not set by %s: %v", s.opts.NTP, err)
		return
	}
	s.state = append(s.state, "clock: "+time.Now().UTC().Format("2006-01-02 15:04:05 UTC")+" by "+s.opts.NTP)
}

// ssh starts the ssh server when somebody has a key. The medium holds public
// keys only, and the host key is made now.
func (s *System) ssh() {
	file := s.host.Path(rescue.KeysFile)
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.say("WARNING: ssh: %v", err)
	}
	keys := strings.TrimSpace(string(b) + "\n" + strings.Join(s.opts.SSHKeys, "\n"))
	if keys == "" {
		return
	}
	err = os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(keys+"\n"), 0o600)
	}
	var line string
	if err == nil {
		line, err = s.startSSH()
	}
	if err != nil {
		s.say("WARNING: ssh: %v", err)
		s.state = append(s.state, "ssh: failed: "+firstLine(err))
		return
	}
	s.state = append(s.state, line)
}

// startSSH starts the server and waits for the line with its host key; what it
// prints later goes into the log.
func (s *System) startSSH() (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	c := exec.Command("/bbin/sshd", "-keys", rescue.KeysFile)
	c.Stdout, c.Stderr = w, w
	c.Dir = "/root"
	_, err = s.spawn(c)
	w.Close()
	if err != nil {
		r.Close()
		return "", fmt.Errorf("cannot start the ssh server: %w", err)
	}
	br := bufio.NewReader(r)
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ssh: listening") {
		r.Close()
		return "", fmt.Errorf("the ssh server did not start: %s", strings.TrimSpace(line))
	}
	s.begin("the ssh server's log", func() {
		for {
			l, err := br.ReadString('\n')
			if err != nil {
				return
			}
			s.logOnly(strings.TrimSpace(l))
		}
	})
	return strings.TrimSpace(line), nil
}
