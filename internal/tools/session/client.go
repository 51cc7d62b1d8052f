package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func onTerminal(e *tools.Env) bool {
	f, ok := e.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// leave sets a terminal to what it was before a program used all of it.
const leave = "\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m\r\n"

// attach connects the terminal to a session, until the key prefix and d are typed, the program
// ends, or the line breaks. With alone all other clients are detached.
func attach(e *tools.Env, dir, name string, prefix byte, alone bool) error {
	if !onTerminal(e) {
		return errors.New("must be connected to a terminal")
	}
	if os.Getenv("STY") == name {
		return fmt.Errorf("this is the session %s: it can't be attached in itself", name)
	}
	in := e.In.(*os.File)
	c, err := dial(dir, name)
	if err != nil {
		return fmt.Errorf("cannot attach %s: %w", name, err)
	}
	defer c.Close()
	if alone {
		if err := send(c, msgDetach, nil); err != nil {
			return err
		}
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	ended := make(chan string, 2)
	status := 0
	go func() { ended <- printed(e, c, &status) }()
	go func() { ended <- typed(in, c, prefix, name) }()
	resized <- unix.SIGWINCH
	for {
		select {
		case <-resized:
			w, h, err := term.GetSize(int(in.Fd()))
			if err != nil {
				w, h = 80, 24
			}
			b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(h)), uint16(w))
			if err := send(c, msgSize, b); err != nil {
				continue // printed reports it
			}
		case text := <-ended:
			restored := term.Restore(int(in.Fd()), old)
			e.Printf("%s%s\n", leave, text)
			if restored != nil {
				return restored
			}
			e.Set(status)
			return nil
		}
	}
}

// printed shows what the session prints, and gives why that ended.
func printed(e *tools.Env, c net.Conn, status *int) string {
	for {
		kind, b, err := receive(c)
		if err != nil {
			return "[the session has ended]"
		}
		switch kind {
		case msgData:
			_, err := e.Out.Write(b)
			if errors.Join(err, e.Out.Flush()) != nil {
				return "[detached]"
			}
		case msgExit:
			if len(b) > 0 {
				*status = int(b[0])
			}
			return "[screen is terminating]"
		case msgDetach:
			return "[detached by another client]"
		}
	}
}

// typed sends what is typed, and gives why that ended. The key prefix and another key are a
// command: d detaches, the key itself and a send the key.
func typed(in *os.File, c net.Conn, prefix byte, name string) string {
	buf := make([]byte, 4096)
	waiting := false
	for {
		n, err := in.Read(buf)
		out := make([]byte, 0, n)
		for _, k := range buf[:n] {
			switch {
			case !waiting && k == prefix:
				waiting = true
				continue
			case !waiting:
				out = append(out, k)
			case k == 'd' || k == 4:
				if len(out) > 0 {
					_ = send(c, msgData, out) // it is detached in any case
				}
				return fmt.Sprintf("[detached from %s]", name)
			case k == prefix || k == 'a':
				out = append(out, prefix)
			}
			waiting = false
		}
		if len(out) > 0 && err == nil {
			err = send(c, msgData, out)
		}
		if err != nil {
			return fmt.Sprintf("[detached from %s]", name)
		}
	}
}
