// Package session has sessions that survive a broken line: a server process keeps a program
// on a terminal of its own, and clients attach to it through a socket. Its options are those
// of screen(1) and tmux(1) that people use for that.
package session

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	const opts = "+S: r d D R x m X l s i t w p e U A a serve:"
	const text = "[COMMAND [ARG]...]   Ctrl-a d detaches, -r [NAME] attaches again, -ls lists, -d -m starts detached"
	return []tools.Command{
		{Name: "session", Opts: opts, Synopsis: text, Run: screen},
		{Name: "screen", Opts: opts, Synopsis: text, Run: screen},
		{Name: "tmux", Opts: "-", Synopsis: "[new [-d] [-s NAME] [COMMAND] | attach [-t NAME] | ls | kill-session [-t NAME]]   Ctrl-b d detaches", Run: tmux},
	}
}

// place is the directory of the sockets, which only their owner can use.
func place() (string, error) {
	dir := os.Getenv("SCREENDIR")
	if dir == "" {
		dir = "/run/session"
		if uid := os.Geteuid(); uid != 0 {
			dir = filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), os.TempDir()), fmt.Sprintf("session-%d", uid))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if s, ok := st.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() || st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("cannot use %s: others may write there", dir)
	}
	return dir, nil
}

// info is a session that runs.
type info struct {
	name     string // PID.NAME
	attached bool
	since    time.Time
}

// list finds the sessions. Sockets without a server are removed.
func list(dir string) ([]info, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []info
	for _, x := range entries {
		c, err := dial(dir, x.Name())
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(filepath.Join(dir, x.Name())) // its server ended
		}
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		err = send(c, msgStatus, nil)
		if err == nil {
			var kind byte
			var b []byte
			if kind, b, err = receive(c); err == nil && kind == msgStatus && len(b) > 0 {
				st, _ := x.Info()
				i := info{name: x.Name(), attached: b[0] != 0}
				if st != nil {
					i.since = st.ModTime()
				}
				out = append(out, i)
			}
		}
		c.Close()
	}
	return out, nil
}

func dial(dir, name string) (net.Conn, error) { return net.Dial("unix", filepath.Join(dir, name)) }

// find gives the session that a name means: its number, its name, or the beginning of
// these. Without a name it is the only one that ok agrees to.
func find(sessions []info, name string, ok func(info) bool) (info, error) {
	var found []info
	for _, s := range sessions {
		_, short, _ := strings.Cut(s.name, ".")
		if name == "" && ok(s) || name != "" && (strings.HasPrefix(s.name, name) || strings.HasPrefix(short, name)) {
			found = append(found, s)
		}
		if s.name == name || short == name && name != "" {
			return s, nil
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && name == "":
		return info{}, errors.New("there is no session to attach")
	case len(found) == 0:
		return info{}, fmt.Errorf("there is no session '%s'", name)
	}
	return info{}, errors.New("there are several sessions: name one of those that -ls lists")
}

func screen(e *tools.Env) error {
	if e.On("serve") {
		return serve(e.Val("serve"), e.Args)
	}
	if o, ok := e.Last("s", "i", "t", "p", "e"); ok && !e.On("l", "w") { // letters of -list and -wipe
		return tools.Usage("invalid option -- '%s'", o.Name)
	}
	dir, err := place()
	if err != nil {
		return err
	}
	sessions, err := list(dir)
	if err != nil {
		return err
	}
	name := e.Val("S")
	if len(e.Args) > 0 && e.On("r", "x", "R", "d", "D") && !e.On("m") {
		name = e.Args[0]
	}
	switch {
	case e.On("l", "w"):
		show(e, dir, sessions)
		return nil
	case e.On("X"):
		if !slices.Equal(e.Args, []string{"quit"}) {
			return errors.New("-X knows only the command quit")
		}
		return order(dir, sessions, name, msgKill)
	case e.On("r", "x", "R"):
		return again(e, dir, sessions, name)
	case e.On("d", "D") && !e.On("m"):
		return order(dir, sessions, name, msgDetach)
	case e.On("m") && e.On("d"):
		_, err := launch(dir, sessions, name, e.Args)
		return err
	}
	return create(e, dir, sessions, name, e.Args, 1)
}

// again attaches to a session that runs.
func again(e *tools.Env, dir string, sessions []info, name string) error {
	s, err := find(sessions, name, func(i info) bool { return !i.attached || e.On("x", "d", "D", "R") })
	if err != nil && e.On("R") {
		return create(e, dir, sessions, name, nil, 1)
	}
	if err == nil && s.attached && !e.On("x", "d", "D") {
		err = fmt.Errorf("the session %s is attached elsewhere: -d -r takes it over, -x shares it", s.name)
	}
	if err != nil {
		return err
	}
	return attach(e, dir, s.name, 1, e.On("d", "D"))
}

// show lists the sessions as screen does.
func show(e *tools.Env, dir string, sessions []info) {
	if len(sessions) == 0 {
		e.Printf("No Sockets found in %s.\n\n", dir)
		e.Set(1)
		return
	}
	e.Printf("%s:\n", map[bool]string{true: "There is a screen on", false: "There are screens on"}[len(sessions) == 1])
	for _, s := range sessions {
		e.Printf("\t%s\t(%s)\t(%s)\n", s.name, s.since.Format("01/02/2006 03:04:05 PM"), map[bool]string{true: "Attached", false: "Detached"}[s.attached])
	}
	e.Printf("%d %s in %s.\n", len(sessions), map[bool]string{true: "Socket", false: "Sockets"}[len(sessions) == 1], dir)
}

// order sends a message to a session.
func order(dir string, sessions []info, name string, kind byte) error {
	s, err := find(sessions, name, func(info) bool { return true })
	if err != nil {
		return err
	}
	c, err := dial(dir, s.name)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := send(c, kind, nil); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _, err = receive(c) // the answer, when it is done
	return err
}

// create starts a session and attaches to it.
func create(e *tools.Env, dir string, sessions []info, name string, argv []string, prefix byte) error {
	if s := os.Getenv("STY"); s != "" {
		return fmt.Errorf("this is already the session %s; start another one with -d -m", s)
	}
	if !onTerminal(e) {
		return errors.New("must be connected to a terminal")
	}
	full, err := launch(dir, sessions, name, argv)
	if err != nil {
		return err
	}
	return attach(e, dir, full, prefix, false)
}

// launch starts the server of a session, and gives the session's full name when it answers.
func launch(dir string, sessions []info, name string, argv []string) (string, error) {
	if strings.ContainsAny(name, "/\x00") || len(name) > 60 {
		return "", fmt.Errorf("the name of a session has at most 60 characters, and no '/': %q", name)
	}
	for i := 0; name == ""; i++ {
		name = strconv.Itoa(i)
		if slices.ContainsFunc(sessions, func(s info) bool { return strings.HasSuffix(s.name, "."+name) }) {
			name = ""
		}
	}
	if slices.ContainsFunc(sessions, func(s info) bool { return strings.HasSuffix(s.name, "."+name) }) {
		return "", fmt.Errorf("there is a session '%s' already: -r %s attaches it", name, name)
	}
	c := exec.Command("/proc/self/exe", append([]string{"applet", "session", "--serve", filepath.Join(dir, name)}, argv...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", fmt.Errorf("cannot start the session: %w", err)
	}
	kind, b, err := receive(out)
	if err == nil && kind != msgStatus {
		err = errors.New(string(b))
	}
	if err != nil {
		_ = c.Wait() // the message has the reason
		return "", fmt.Errorf("cannot start the session: %w", err)
	}
	return string(b), c.Process.Release()
}

// tmuxPrefix is Ctrl-b.
const tmuxPrefix = 2

// tmux is the same with the words of tmux(1), and its key.
func tmux(e *tools.Env) error {
	dir, err := place()
	if err != nil {
		return err
	}
	sessions, err := list(dir)
	if err != nil {
		return err
	}
	word := "new"
	args := e.Line
	if len(args) > 0 {
		word, args = args[0], args[1:]
	}
	o, rest, err := tools.Parse("+s: t: d A n:", args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	switch {
	case word != "" && word != "n" && strings.HasPrefix("new-session", word):
		return newSession(e, dir, sessions, o, rest)
	case word != "" && strings.HasPrefix("attach-session", word):
		s, err := find(sessions, o.Val("t"), func(info) bool { return true })
		if err != nil {
			return err
		}
		return attach(e, dir, s.name, tmuxPrefix, o.On("d"))
	case word == "ls" || word == "list-sessions":
		show(e, dir, sessions)
		return nil
	case word == "kill-session":
		return order(dir, sessions, o.Val("t"), msgKill)
	case word == "detach":
		return order(dir, sessions, o.Val("s"), msgDetach)
	}
	return tools.Usage("unknown command: %s", word)
}

// newSession starts a session, or attaches to that of the name with -A.
func newSession(e *tools.Env, dir string, sessions []info, o tools.Options, argv []string) error {
	name := o.Val("s")
	if o.On("A") && name != "" {
		if s, err := find(sessions, name, nil); err == nil {
			return attach(e, dir, s.name, tmuxPrefix, false)
		}
	}
	if o.On("d") {
		_, err := launch(dir, sessions, name, argv)
		return err
	}
	return create(e, dir, sessions, name, argv, tmuxPrefix)
}
