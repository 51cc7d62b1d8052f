package machine

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-crypt/x/crypt"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func userCommands() []tools.Command {
	return []tools.Command{
		{Name: "passwd", Opts: "a/all d/delete e/expire l/lock u/unlock S/status q/quiet R/root: n/mindays: x/maxdays: w/warndays: i/inactive:", Synopsis: "[USER]", Bad: 6, Run: passwd},
		{Name: "chpasswd", Opts: "c/crypt-method: e/encrypted R/root: s/sha-rounds:", Synopsis: "<LINES, each USER:PASSWORD", Run: chpasswd},
	}
}

// rounds is how often SHA-512 is computed for a password: the number that systems choose
// that do not use crypt's default of 5000, which is from 2007.
const rounds = 65536

// hashed is a password as crypt(3) stores it, with a random salt.
func hashed(method, password string, rounds int) (string, error) {
	salt := rand.Text()[:16]
	switch method {
	case "SHA512":
		return fmt.Sprintf("$6$rounds=%d$%s$%s", rounds, salt, crypt.KeySHACrypt(sha512.New, []byte(password), []byte(salt), rounds)), nil
	case "SHA256":
		return fmt.Sprintf("$5$rounds=%d$%s$%s", rounds, salt, crypt.KeySHACrypt(sha256.New, []byte(password), []byte(salt), rounds)), nil
	}
	return "", fmt.Errorf("unsupported crypt method: %s", method)
}

// Fields of a line of shadow(5).
const (
	userName = iota
	hash
	lastChange // days since 1970
	minDays
	maxDays
	warnDays
	inactive
	shadowFields = 9
)

// accounts are the users of a system and their passwords.
type accounts struct {
	root           string
	passwd, shadow *table
	lock           *os.File
}

// table is a file with a line for each user.
type table struct {
	path    string // "" for a file that is missing
	lines   [][]string
	changed bool
}

// openAccounts reads the tables of the system at root. With change they are locked, as
// lckpwdf(3) does it.
func openAccounts(root string, change bool) (*accounts, error) {
	dir, err := inroot.Dir(root, "etc")
	if err != nil {
		return nil, fmt.Errorf("cannot open %s/etc: %s", strings.TrimRight(root, "/"), tools.Cause(err))
	}
	a := &accounts{root: root}
	if change {
		a.lock, err = os.OpenFile(filepath.Join(dir, ".pwd.lock"), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			err = unix.FcntlFlock(a.lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		if err != nil {
			return nil, fmt.Errorf("cannot lock %s: %s", filepath.Join(dir, ".pwd.lock"), tools.Cause(err))
		}
	}
	a.passwd, err = readTable(root, "etc/passwd")
	if err != nil {
		return nil, err
	}
	a.shadow, err = readTable(root, "etc/shadow")
	if errors.Is(err, os.ErrNotExist) {
		a.shadow, err = &table{}, nil
	}
	return a, err
}

func readTable(root, name string) (*table, error) {
	f, err := inroot.Open(root, name)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", filepath.Join(root, name), err)
	}
	defer f.Close()
	t := &table{path: f.Name()}
	for l, err := range tools.Lines(f, '\n') {
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", t.path, err)
		}
		t.lines = append(t.lines, strings.Split(string(tools.Chomp(l, '\n')), ":"))
	}
	return t, nil
}

func (t *table) find(user string) int {
	return slices.IndexFunc(t.lines, func(l []string) bool { return l[0] == user && len(l) > 1 })
}

// user gives the entry of a user in the form of shadow(5); of one with a password in
// passwd(5) it has two fields.
func (a *accounts) user(name string) ([]string, error) {
	i := a.passwd.find(name)
	if i < 0 || name == "" {
		return nil, fmt.Errorf("user '%s' does not exist", name)
	}
	old := a.passwd.lines[i][hash]
	if j := a.shadow.find(name); j >= 0 {
		l := slices.Clone(a.shadow.lines[j])
		return append(l, make([]string, max(0, shadowFields-len(l)))...), nil
	}
	if old == "x" && a.shadow.path != "" {
		return []string{name, "!", "", "0", "99999", "7", "", "", ""}, nil
	}
	if old == "x" {
		return nil, fmt.Errorf("cannot open %s: No such file or directory", filepath.Join(a.root, "etc/shadow"))
	}
	return []string{name, old}, nil
}

// put changes the entry of a user.
func (a *accounts) put(l []string) {
	t := a.shadow
	if len(l) == 2 {
		t = a.passwd
		i := t.find(l[userName])
		t.lines[i][hash] = l[hash]
	} else if i := t.find(l[userName]); i >= 0 {
		t.lines[i] = l
	} else {
		t.lines = append(t.lines, l)
	}
	t.changed = true
}

// password sets a new password, which is hashed, and the day.
func (a *accounts) password(l []string, hash1 string) {
	l[hash] = hash1
	if len(l) > lastChange {
		l[lastChange] = strconv.FormatInt(time.Now().Unix()/86400, 10)
	}
	a.put(l)
}

// close writes what was changed, if err is nil.
func (a *accounts) close(err error) error {
	for _, t := range []*table{a.passwd, a.shadow} {
		if err == nil && t.changed {
			err = t.write()
		}
	}
	if a.lock != nil {
		a.lock.Close()
	}
	return err
}

// write replaces the file. The new one has the label of SELinux: without it nobody could log in.
func (t *table) write() error {
	var b strings.Builder
	for _, l := range t.lines {
		b.WriteString(strings.Join(l, ":") + "\n")
	}
	fail := func(err error) error { return fmt.Errorf("cannot write %s: %w", t.path, err) }
	f, err := tools.Replace(t.path)
	if err != nil {
		return fail(err)
	}
	defer f.Discard()
	if _, err = f.WriteString(b.String()); err == nil {
		err = f.Commit("")
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// statusLine is a line of passwd -S.
func statusLine(l []string) string {
	state := "P"
	switch {
	case l[hash] == "":
		state = "NP"
	case strings.ContainsAny(l[hash][:1], "!*"):
		state = "L"
	}
	if len(l) < shadowFields {
		return l[userName] + " " + state
	}
	day := "never"
	if n, err := strconv.ParseInt(l[lastChange], 10, 64); err == nil && n >= 0 {
		day = time.Unix(n*86400, 0).UTC().Format("2006-01-02")
	}
	out := l[userName] + " " + state + " " + day
	for _, i := range []int{minDays, maxDays, warnDays, inactive} {
		if l[i] == "" {
			l[i] = "-1"
		}
		out += " " + l[i]
	}
	return out
}

func passwd(e *tools.Env) (err error) {
	status := func(rc int, err error) error { e.Fault(rc, "%v", err); return nil }
	if len(e.Args) > 1 || e.On("a") && !e.On("S") {
		return status(2, errors.New("wrong options or too many names"))
	}
	change := e.On("d", "e", "l", "u", "n", "x", "w", "i")
	root := e.Or("R", "/")
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		return status(3, fmt.Errorf("cannot access the directory %s", root))
	}
	a, err := openAccounts(root, !e.On("S"))
	if err != nil {
		return status(3, hint(e, err))
	}
	name := "root"
	if len(e.Args) == 1 {
		name = e.Args[0]
	}
	if e.On("S") {
		return showStatus(e, a, name)
	}
	l, err := a.user(name)
	if err != nil {
		return status(1, err)
	}
	if !change {
		return newPassword(e, a, l)
	}
	if l[hash], err = newState(e, l[hash]); err == nil {
		err = limits(e, l)
	}
	if err == nil {
		a.put(l)
	}
	if err = a.close(err); err != nil {
		return status(3, err)
	}
	if !e.On("q") {
		e.Printf("passwd: password changed.\n")
	}
	return nil
}

// hint adds how to name an installed system, which has the users that are meant.
func hint(e *tools.Env, err error) error {
	if e.On("R") {
		return err
	}
	return fmt.Errorf("%w; name the system with -R, such as -R /mnt/target", err)
}

func showStatus(e *tools.Env, a *accounts, name string) error {
	for _, p := range a.passwd.lines {
		if len(p) < 2 || p[userName] != name && !e.On("a") {
			continue
		}
		l := p[:2]
		if i := a.shadow.find(p[userName]); i >= 0 {
			l = append(slices.Clone(a.shadow.lines[i]), make([]string, shadowFields)...)
		}
		e.Printf("%s\n", statusLine(l))
	}
	if !e.On("a") && a.passwd.find(name) < 0 {
		e.Warn("user '%s' does not exist", name)
	}
	return nil
}

// newState is a password that is deleted, locked or unlocked.
func newState(e *tools.Env, old string) (string, error) {
	if e.On("d") {
		old = ""
	}
	if e.On("u") && strings.HasPrefix(old, "!") {
		if old = old[1:]; old == "" {
			return "", errors.New("unlocking the password would result in a passwordless account; set a password instead")
		}
	}
	if e.On("l") && !strings.HasPrefix(old, "!") {
		old = "!" + old
	}
	return old, nil
}

// limits sets the days of a password that options give.
func limits(e *tools.Env, l []string) error {
	for option, field := range map[string]int{"n": minDays, "x": maxDays, "w": warnDays, "i": inactive} {
		n, err := e.Int(option, 0)
		if err != nil {
			return err
		}
		if field < len(l) && e.On(option) {
			l[field] = strconv.Itoa(n)
		}
	}
	if e.On("e") && len(l) > lastChange {
		l[lastChange] = "0"
	}
	return nil
}

// newPassword asks for a password twice.
func newPassword(e *tools.Env, a *accounts, l []string) error {
	ask := asker(e)
	first, err := ask("New password: ")
	second := ""
	if err == nil && first != "" {
		second, err = ask("Retype new password: ")
	}
	switch {
	case first == "" && (err == nil || errors.Is(err, io.EOF)):
		err = errors.New("no password given")
	case err != nil:
	case first != second:
		err = errors.New("the passwords do not match")
	}
	var h string
	if err == nil {
		h, err = hashed("SHA512", first, rounds)
	}
	if err == nil {
		a.password(l, h)
	}
	if err = a.close(err); err != nil {
		e.Fault(10, "%v; the password is unchanged", err)
		return nil
	}
	fmt.Fprintln(e.Err, "passwd: password updated successfully")
	return nil
}

// asker gives what reads an answer: from a terminal, which does not show it, or a line.
func asker(e *tools.Env) func(question string) (string, error) {
	if f, ok := e.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return func(question string) (string, error) {
			fmt.Fprint(e.Err, question)
			ctx, stop := interrupt.Context(context.Background())
			defer stop()
			b, err := interrupt.Secret(ctx, int(f.Fd()))
			fmt.Fprintln(e.Err)
			return string(b), err
		}
	}
	r := bufio.NewReader(e.In)
	return func(question string) (string, error) {
		fmt.Fprint(e.Err, question)
		l, err := r.ReadString('\n')
		fmt.Fprintln(e.Err)
		if errors.Is(err, io.EOF) && l != "" {
			err = nil
		}
		return strings.TrimSuffix(l, "\n"), err
	}
}

func chpasswd(e *tools.Env) error {
	if err := e.Need(0, 0); err != nil {
		return err
	}
	n, err := e.Int("s", rounds)
	if err != nil {
		return err
	}
	a, err := openAccounts(e.Or("R", "/"), true)
	if err != nil {
		return hint(e, err)
	}
	line := 0
	for b, err := range tools.Lines(e.In, '\n') {
		line++
		if err == nil {
			err = changeLine(e, a, string(tools.Chomp(b, '\n')), min(max(n, 1000), 999999999))
		}
		if err != nil {
			e.Warn("line %d: %v", line, err)
		}
	}
	if e.Failed() {
		return a.close(errors.New("error detected, changes ignored"))
	}
	return a.close(nil)
}

// changeLine does what a line of chpasswd asks for.
func changeLine(e *tools.Env, a *accounts, line string, rounds int) error {
	name, h, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("missing new password")
	}
	l, err := a.user(name)
	if err != nil {
		return err
	}
	if !e.On("e") {
		h, err = hashed(e.Or("c", "SHA512"), h, rounds)
	} else if strings.Contains(h, ":") {
		err = errors.New("an encrypted password has no colon")
	}
	if err != nil {
		return err
	}
	a.password(l, h)
	return nil
}
