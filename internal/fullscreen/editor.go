// Package fullscreen holds the editor and the pager of the rescue system, on
// tview's text widgets: for machines that have no editor to carry along.
package fullscreen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"
)

// maxText is the largest file that the editor opens, in bytes; it is held in
// memory some times over.
const maxText = 8 << 20

// keys is the editor's bottom line.
const keys = "^S save  ^Q quit  ^F find  ^N next  ^Z undo  ^Y redo"

// Editor edits one text file.
type Editor struct {
	app     *tview.Application
	area    *tview.TextArea
	status  *tview.TextView
	prompt  *tview.InputField
	layout  *tview.Flex
	path    string
	saved   string
	crlf    bool
	find    string
	message string
}

// NewEditor opens path, which need not exist, on screen; nil is the terminal.
// A file that is not a text of at most 8 MiB, or whose bytes the editor would
// change, is refused.
func NewEditor(path string, screen tcell.Screen) (*Editor, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	e := &Editor{app: tview.NewApplication(), area: tview.NewTextArea(), status: tview.NewTextView(), prompt: tview.NewInputField(), path: path}
	if strings.Contains(text, "\r\n") && strings.Count(text, "\r\n") == strings.Count(text, "\n") {
		e.crlf = true
		text = strings.ReplaceAll(text, "\r\n", "\n")
	}
	e.saved = text
	e.area.SetText(text, false).SetWrap(false)
	if e.area.GetText() != text {
		return nil, fmt.Errorf("cannot edit %s: it holds characters that would not be saved as they are", path)
	}
	if screen != nil {
		e.app.SetScreen(screen)
	}
	e.area.SetMovedFunc(e.show)
	e.area.SetChangedFunc(e.show)
	e.area.SetTextStyle(tcell.StyleDefault)
	e.status.SetTextStyle(tcell.StyleDefault.Reverse(true))
	e.layout = tview.NewFlex().SetDirection(tview.FlexRow).AddItem(e.area, 0, 1, true).AddItem(e.status, 1, 0, false)
	e.app.SetInputCapture(e.key)
	e.app.SetRoot(e.layout, true)
	e.show()
	return e, nil
}

func readText(path string) (string, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot edit %w", err)
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("cannot edit %s: it is not a regular file", path)
	}
	if st.Size() > maxText {
		return "", fmt.Errorf("cannot edit %s: it has %d bytes, the editor takes %d", path, st.Size(), maxText)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot edit %w", err)
	}
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return "", fmt.Errorf("cannot edit %s: it is not a text file; hexdump -C shows it", path)
	}
	return string(b), nil
}

// Run edits until the user leaves.
func (e *Editor) Run() error { return e.app.Run() }

func (e *Editor) modified() bool { return e.area.GetText() != e.saved }

func (e *Editor) show() {
	row, col, _, _ := e.area.GetCursor()
	mark := ""
	if e.modified() {
		mark = " *"
	}
	m := e.message
	if m == "" {
		m = keys
	}
	e.status.SetText(fmt.Sprintf("%s%s  %d:%d  %s", e.path, mark, row+1, col+1, m))
}

func (e *Editor) say(format string, a ...any) {
	e.message = fmt.Sprintf(format, a...)
	e.show()
}

func (e *Editor) key(k *tcell.EventKey) *tcell.EventKey {
	if e.prompt.HasFocus() {
		return k
	}
	e.message = ""
	switch k.Key() {
	case tcell.KeyCtrlS, tcell.KeyF2:
		e.save()
	case tcell.KeyCtrlQ, tcell.KeyCtrlC, tcell.KeyF10:
		e.quit()
	case tcell.KeyCtrlF:
		e.ask("find: ", e.find, func(s string) { e.find = s; e.next() })
	case tcell.KeyCtrlN, tcell.KeyF3:
		e.next()
	default:
		e.show()
		return k
	}
	return nil
}

// ask puts a question in the place of the bottom line.
func (e *Editor) ask(label, text string, then func(string)) {
	e.prompt = tview.NewInputField().SetLabel(label).SetText(text)
	e.prompt.SetDoneFunc(func(k tcell.Key) {
		s := e.prompt.GetText()
		e.layout.RemoveItem(e.prompt)
		e.layout.AddItem(e.status, 1, 0, false)
		e.app.SetFocus(e.area)
		e.prompt = tview.NewInputField()
		if k == tcell.KeyEnter {
			then(s)
		}
	})
	e.layout.RemoveItem(e.status)
	e.layout.AddItem(e.prompt, 1, 0, true)
	e.app.SetFocus(e.prompt)
}

func (e *Editor) next() {
	if e.find == "" {
		return
	}
	text := e.area.GetText()
	_, _, from := e.area.GetSelection()
	i := strings.Index(text[min(from, len(text)):], e.find)
	if i < 0 {
		from = 0
		if i = strings.Index(text, e.find); i < 0 {
			e.say("%q is not there", e.find)
			return
		}
		e.message = "from the top"
	}
	e.area.Select(from+i, from+i+len(e.find))
	e.show()
}

func (e *Editor) save() bool {
	text := e.area.GetText()
	out := text
	if e.crlf {
		out = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if err := replaceFile(e.path, []byte(out)); err != nil {
		e.say("NOT saved: %v", err)
		return false
	}
	e.saved = text
	e.say("saved")
	return true
}

func (e *Editor) quit() {
	if !e.modified() {
		e.app.Stop()
		return
	}
	e.ask("save the changes? y/n: ", "", func(s string) {
		switch strings.ToLower(strings.TrimSpace(s)) {
		case "y", "yes":
			if e.save() {
				e.app.Stop()
			}
		case "n", "no":
			e.app.Stop()
		}
	})
}

// replaceFile returns the file at path, or where its symbolic link leads, other
// bytes: whole or not at all. Mode and owner stay.
func replaceFile(path string, b []byte) error {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		path = p
	}
	mode := os.FileMode(0o644)
	uid, gid := -1, -1
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".editor-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && uid >= 0 {
		err = f.Chown(uid, gid)
	}
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Edit is the command editor.
func Edit(args []string, out io.Writer) error {
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		fmt.Fprintln(out, "editor FILE\n"+keys)
		if len(args) == 1 && (args[0] == "--version" || args[0] == "--help" || args[0] == "-h") {
			return nil
		}
		return errors.New("want one file")
	}
	e, err := NewEditor(args[0], nil)
	if err != nil {
		return err
	}
	return e.Run()
}
