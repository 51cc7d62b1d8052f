package streams

import (
	"bufio"
	"os"

	"golang.org/x/term"
)

// OpenTerminal gives a way to ask the person at the controlling terminal, or
// nil when there is none.
func OpenTerminal() func(string) (string, error) {
	t, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if !term.IsTerminal(int(t.Fd())) {
		t.Close()
		return nil
	}
	r := bufio.NewReader(t)
	return func(question string) (string, error) {
		if _, err := t.WriteString(question); err != nil {
			return "", err
		}
		return r.ReadString('\n')
	}
}
