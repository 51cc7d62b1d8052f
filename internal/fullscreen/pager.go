package fullscreen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// Pager shows a text by pages.
type Pager struct {
	app    *tview.Application
	view   *tview.TextView
	status *tview.TextView
	layout *tview.Flex
	prompt *tview.InputField
	name   string
	lines  []string
	find   *regexp.Regexp
}

// escapes are terminal sequences and control characters, which are shown as
// nothing: a log must not steer the terminal.
var escapes = lazyregexp.New("\x1b\\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f\x7f]")

// NewPager shows text, called name, on screen; nil is the terminal.
func NewPager(name string, text []byte, screen tcell.Screen) *Pager {
	text = escapes().ReplaceAll(bytes.ToValidUTF8(text, []byte("?")), nil)
	p := &Pager{app: tview.NewApplication(), view: tview.NewTextView(), status: tview.NewTextView(), name: name, lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")}
	p.view.SetWrap(false).SetTextStyle(tcell.StyleDefault).SetText(string(text))
	p.status.SetTextStyle(tcell.StyleDefault.Reverse(true))
	p.layout = tview.NewFlex().SetDirection(tview.FlexRow).AddItem(p.view, 0, 1, true).AddItem(p.status, 1, 0, false)
	if screen != nil {
		p.app.SetScreen(screen)
	}
	p.app.SetInputCapture(p.key).SetRoot(p.layout, true)
	p.show("")
	return p
}

// Run shows the text until the user leaves.
func (p *Pager) Run() error { return p.app.Run() }

func (p *Pager) show(message string) {
	row, _ := p.view.GetScrollOffset()
	if message == "" {
		message = "q quit  space, b page  g, G ends  / find  n next"
	}
	p.status.SetText(fmt.Sprintf("%s  line %d of %d  %s", p.name, max(0, row)+1, len(p.lines), message))
}

func (p *Pager) key(k *tcell.EventKey) *tcell.EventKey {
	if p.prompt != nil && p.prompt.HasFocus() {
		return k
	}
	defer p.show("")
	_, _, _, height := p.view.GetInnerRect()
	row, col := p.view.GetScrollOffset()
	to := func(r int) { p.view.ScrollTo(min(max(0, r), max(0, len(p.lines)-height)), col) }
	switch {
	case k.Key() == tcell.KeyCtrlC, k.Rune() == 'q', k.Rune() == 'Q':
		p.app.Stop()
	case k.Rune() == ' ', k.Rune() == 'f', k.Key() == tcell.KeyPgDn:
		to(row + height)
	case k.Rune() == 'b', k.Key() == tcell.KeyPgUp:
		to(row - height)
	case k.Key() == tcell.KeyEnter:
		to(row + 1)
	case k.Rune() == '/':
		p.ask()
	case k.Rune() == 'n':
		p.next()
	default:
		return k // g, G, j, k and the arrows are TextView's own
	}
	return nil
}

func (p *Pager) ask() {
	p.prompt = tview.NewInputField().SetLabel("/")
	p.prompt.SetDoneFunc(func(k tcell.Key) {
		s := p.prompt.GetText()
		p.layout.RemoveItem(p.prompt)
		p.layout.AddItem(p.status, 1, 0, false)
		p.app.SetFocus(p.view)
		if k != tcell.KeyEnter || s == "" {
			return
		}
		re, err := regexp.Compile(s)
		if err != nil {
			re = regexp.MustCompile(regexp.QuoteMeta(s))
		}
		p.find = re
		p.next()
	})
	p.layout.RemoveItem(p.status)
	p.layout.AddItem(p.prompt, 1, 0, true)
	p.app.SetFocus(p.prompt)
}

// next scrolls to the next line that matches the search.
func (p *Pager) next() {
	if p.find == nil {
		return
	}
	row, col := p.view.GetScrollOffset()
	for i := row + 1; i < len(p.lines); i++ {
		if p.find.MatchString(p.lines[i]) {
			p.view.ScrollTo(i, col)
			return
		}
	}
	p.show("not found below")
}

// maxPage is how much of a stream the pager takes, in bytes.
const maxPage = 256 << 20

// Page is the command less: files, or the standard input, by pages on a
// terminal, and as they are elsewhere.
func Page(args []string, in io.Reader, out *os.File) error {
	var readers []io.Reader
	name := "input"
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			if a == "--version" {
				_, err := fmt.Fprintln(out, "less of mkcdrec")
				return err
			}
			continue // other pagers' options change nothing that matters here
		}
		f, err := os.Open(a)
		if err != nil {
			return fmt.Errorf("cannot show %w", err)
		}
		defer f.Close()
		readers = append(readers, f)
		name = a
	}
	if len(readers) == 0 {
		if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errors.New("want a file, or a stream: dmesg | less")
		}
		readers = []io.Reader{in}
	}
	if !term.IsTerminal(int(out.Fd())) {
		_, err := io.Copy(out, io.MultiReader(readers...))
		return err
	}
	b, err := io.ReadAll(io.LimitReader(io.MultiReader(readers...), maxPage))
	if err != nil {
		return fmt.Errorf("cannot show %s: %w", name, err)
	}
	return NewPager(name, b, nil).Run()
}
