package files

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// suffix is what -F and -p append.
func (l *lister) suffix(mode uint32) string {
	kind := mode & unix.S_IFMT
	switch {
	case l.On("F") && kind == unix.S_IFREG && mode&0o111 != 0:
		return "*"
	case l.On("F", "file-type") || l.On("p") && kind == unix.S_IFDIR:
		return map[uint32]string{unix.S_IFDIR: "/", unix.S_IFLNK: "@", unix.S_IFIFO: "|", unix.S_IFSOCK: "="}[kind]
	}
	return ""
}

// name is an entry's name as it is shown, and its width.
func (l *lister) shown(x lsEntry) (string, int) {
	n := x.name
	switch {
	case l.On("Q"):
		n = strconv.Quote(n)
	case l.On("b") || l.Name == "dir":
		n = strings.ReplaceAll(strings.Trim(strconv.Quote(n), `"`), " ", `\ `)
	case l.quote:
		n = tools.ShellQuote(n)
	case l.On("q"):
		n = strings.Map(func(r rune) rune {
			if r < 32 || r == 127 {
				return '?'
			}
			return r
		}, n)
	}
	w := utf8.RuneCountInString(n)
	n = l.paint(n, x.st.Mode)
	s := ""
	if !l.long || x.link == "" && !x.unknown {
		s = l.suffix(x.st.Mode)
	}
	return n + s, w + len(s)
}

// colors are those that GNU's ls has without LS_COLORS.
var colors = map[uint32]string{unix.S_IFDIR: "01;34", unix.S_IFLNK: "01;36", unix.S_IFIFO: "33", unix.S_IFSOCK: "01;35", unix.S_IFBLK: "01;33", unix.S_IFCHR: "01;33"}

func (l *lister) paint(n string, mode uint32) string {
	if !l.color {
		return n
	}
	code := colors[mode&unix.S_IFMT]
	switch kind := mode & unix.S_IFMT; {
	case kind == unix.S_IFDIR && mode&unix.S_ISVTX != 0 && mode&0o002 != 0:
		code = "30;42"
	case kind == unix.S_IFDIR && mode&0o002 != 0:
		code = "34;42"
	case kind == unix.S_IFREG && mode&unix.S_ISUID != 0:
		code = "37;41"
	case kind == unix.S_IFREG && mode&unix.S_ISGID != 0:
		code = "30;43"
	case kind == unix.S_IFREG && mode&0o111 != 0:
		code = "01;32"
	}
	if code == "" {
		return n
	}
	begin := ""
	if !l.painted {
		begin, l.painted = "\x1b[0m", true
	}
	return begin + "\x1b[" + code + "m" + n + "\x1b[0m"
}

func (l *lister) show(list []lsEntry) {
	if l.long {
		l.table(list)
		return
	}
	inodes, blocks, contexts := 0, 0, 0
	for _, x := range list {
		if l.On("Z") {
			contexts = max(contexts, len(x.context()))
		}
		inodes, blocks = max(inodes, len(strconv.FormatUint(x.st.Ino, 10))), max(blocks, len(l.blocks(x.st.Blocks)))
	}
	var names []string
	var widths []int
	for _, x := range list {
		n, w := l.shown(x)
		pre := ""
		if l.On("i") {
			pre += fmt.Sprintf("%*s ", inodes, x.orUnknown(strconv.FormatUint(x.st.Ino, 10)))
		}
		if l.On("s") {
			pre += fmt.Sprintf("%*s ", blocks, x.orUnknown(l.blocks(x.st.Blocks)))
		}
		if l.On("Z") {
			pre += fmt.Sprintf("%*s ", contexts, x.context())
		}
		names, widths = append(names, pre+n), append(widths, len(pre)+w)
	}
	end := "\n"
	if l.On("zero") {
		end = "\x00"
	}
	if o, _ := l.Last("l", "1", "C", "x", "m"); o.Name == "m" {
		l.commas(names, widths)
		return
	} else if !l.columns {
		for _, n := range names {
			l.Out.WriteString(n + end)
		}
		return
	}
	l.grid(names, widths, l.On("x"))
}

// orUnknown is s, or a question mark if nothing is known of the file.
func (x lsEntry) orUnknown(s string) string {
	if x.unknown {
		return "?"
	}
	return s
}

func (l *lister) commas(names []string, widths []int) {
	col := 0
	for i, n := range names {
		w := widths[i]
		if i < len(names)-1 {
			n, w = n+",", w+1
		}
		switch {
		case col > 0 && col+1+w >= l.width:
			l.Out.WriteByte('\n')
			col = 0
		case col > 0:
			l.Out.WriteByte(' ')
			col++
		}
		l.Out.WriteString(n)
		col += w
	}
	if len(names) > 0 {
		l.Out.WriteByte('\n')
	}
}

// columnWidths are the widths of a grid's columns, with two blanks behind each but the last, and their sum.
func columnWidths(widths []int, rows, cols int, at func(row, col, rows, cols int) int) (ws []int, sum int) {
	for c := range cols {
		w := 0
		for r := range rows {
			if i := at(r, c, rows, cols); i < len(widths) {
				w = max(w, widths[i]+min(2, 2*(cols-1-c)))
			}
		}
		ws, sum = append(ws, w), sum+w
	}
	return ws, sum
}

// grid prints names in as many columns as fit, top down or, with across, in rows.
func (l *lister) grid(names []string, widths []int, across bool) {
	n := len(names)
	if n == 0 {
		return
	}
	at := func(row, col, rows, cols int) int {
		if across {
			return row*cols + col
		}
		return col*rows + row
	}
	cols, rows := min(n, max(1, l.width/3)), 1
	var ws []int
	for ; ; cols-- {
		rows = (n + cols - 1) / cols
		var sum int
		ws, sum = columnWidths(widths, rows, cols, at)
		if sum < l.width && ((cols-1)*rows < n || across) || cols == 1 {
			break
		}
	}
	for r := range rows {
		col := 0
		for c := range cols {
			i := at(r, c, rows, cols)
			if i >= n {
				break
			}
			l.Out.WriteString(names[i])
			if next := at(r, c+1, rows, cols); c < cols-1 && next < n {
				l.indent(col+widths[i], col+ws[c])
			}
			col += ws[c]
		}
		l.Out.WriteByte('\n')
	}
}

// indent fills up with tabs where they fit, as GNU's ls.
func (l *lister) indent(from, to int) {
	for from < to {
		if to/8 > (from+1)/8 {
			l.Out.WriteByte('\t')
			from += 8 - from%8
		} else {
			l.Out.WriteByte(' ')
			from++
		}
	}
}

// row is what -l prints before the time; minor is the width of minor numbers of devices.
func (l *lister) row(x lsEntry, minor int) []string {
	owner, group := userName(x.st.Uid), groupName(x.st.Gid)
	if l.On("n") {
		owner, group = strconv.Itoa(int(x.st.Uid)), strconv.Itoa(int(x.st.Gid))
	}
	size := strconv.FormatInt(x.st.Size, 10)
	if x.st.Mode&unix.S_IFMT == unix.S_IFBLK || x.st.Mode&unix.S_IFMT == unix.S_IFCHR {
		size = fmt.Sprintf("%d, %*d", unix.Major(x.st.Rdev), minor, unix.Minor(x.st.Rdev))
	} else if s, ok := l.human(x.st.Size); ok {
		size = s
	}
	if l.On("g") {
		owner = ""
	}
	if l.On("o", "G") {
		group = ""
	}
	row := []string{"", "", tools.ModeString(x.st.Mode), strconv.Itoa(int(x.st.Nlink)), owner, group, "", size}
	if l.On("Z") {
		row[6] = x.context()
	}
	if l.On("i") {
		row[0] = strconv.FormatUint(x.st.Ino, 10)
	}
	if l.On("s") {
		row[1] = l.blocks(x.st.Blocks)
	}
	if x.unknown {
		for i, c := range row {
			if c != "" {
				row[i] = "?"
			}
		}
		row[2] = tools.ModeString(x.st.Mode)[:1] + "?????????"
	}
	return row
}

func (l *lister) table(list []lsEntry) {
	var rows [][]string
	var widths []int
	right := []bool{true, true, false, true, false, false, false, true}
	minor := 0
	for _, x := range list {
		minor = max(minor, len(strconv.Itoa(int(unix.Minor(x.st.Rdev)))))
	}
	for _, x := range list {
		row := l.row(x, minor)
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(c))
		}
		n, _ := l.shown(x)
		if x.link != "" {
			n += " -> " + x.link + l.suffix(x.targetMode)
		}
		stamp := l.stamp(l.time(x))
		if x.unknown {
			stamp = fmt.Sprintf("%*s", len(stamp), "?")
		}
		rows = append(rows, append(row, stamp, n))
	}
	for _, r := range rows {
		for i, c := range r[:len(r)-2] {
			switch {
			case widths[i] == 0:
			case right[i]:
				l.Printf("%*s ", widths[i], c)
			default:
				l.Printf("%-*s ", widths[i], c)
			}
		}
		l.Printf("%s %s\n", r[len(r)-2], r[len(r)-1])
	}
}

// stamp is a time of a file: with the clock if it is less than half a year old.
func (l *lister) stamp(nano int64) string {
	t := time.Unix(0, nano)
	style := l.Val("time-style")
	if l.On("full-time") {
		style = "full-iso"
	}
	recent := t.After(l.now.Add(-31556952*time.Second/2)) && !t.After(l.now)
	switch {
	case strings.HasPrefix(style, "+"):
		return tools.Strftime(style[1:], t)
	case style == "full-iso":
		return t.Format(longTime)
	case style == "long-iso":
		return t.Format("2006-01-02 15:04")
	case style == "iso" && recent:
		return t.Format("01-02 15:04")
	case style == "iso":
		return t.Format("2006-01-02 ")
	case recent:
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}
