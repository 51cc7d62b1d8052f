package machine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func firmwareCommands() []tools.Command {
	return []tools.Command{{Name: "efibootmgr", Opts: "a/active A/inactive b/bootnum: B/delete-bootnum c/create C/create-only D/remove-dups d/disk: g/gpt l/loader: L/label: n/bootnext: N/delete-bootnext o/bootorder: O/delete-bootorder p/part: q/quiet t/timeout: T/delete-timeout u/unicode/UCS-2 v/verbose w/write-signature", Synopsis: "", Bad: 2, Run: efibootmgr}}
}

func efibootmgr(e *tools.Env) error {
	dir := efivar.Dir
	if p := os.Getenv("EFIVARFS_PATH"); p != "" { // as libefivar has it
		dir = p
	}
	m, err := efivar.ReadManager(dir)
	if err != nil {
		return err
	}
	e.Ignore("w")
	if len(e.Args) > 0 && !e.On("c", "C") {
		return tools.Usage("extra operand '%s'", e.Args[0])
	}
	if err := errors.Join(changeEntry(e, dir, m), changeManager(e, dir, m)); err != nil {
		return err
	}
	if e.On("c", "C") {
		if err := createEntry(e, dir, m); err != nil {
			return err
		}
	}
	if e.On("q") {
		return nil
	}
	if m, err = efivar.ReadManager(dir); err == nil {
		showManager(e, m)
	}
	return err
}

// bootNumber reads the number of an entry that exists.
func bootNumber(m *efivar.Manager, s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(s, "Boot"), "0x"), 16, 16)
	if err != nil {
		return 0, tools.Usage("invalid number of an entry: '%s'", s)
	}
	if !m.Has(uint16(n)) {
		return 0, fmt.Errorf("boot entry %04X does not exist", n)
	}
	return uint16(n), nil
}

// changeEntry does what options ask for one entry.
func changeEntry(e *tools.Env, dir string, m *efivar.Manager) error {
	if !e.On("a", "A", "B") {
		return nil
	}
	if !e.On("b") {
		return errors.New("name an entry with -b NUMBER")
	}
	n, err := bootNumber(m, e.Val("b"))
	switch {
	case err != nil:
		return err
	case e.On("B"):
		return efivar.Delete(dir, n)
	}
	return efivar.SetActive(dir, n, e.On("a"))
}

// changeManager does what options ask for order, next start and waiting time.
func changeManager(e *tools.Env, dir string, m *efivar.Manager) (err error) {
	if e.On("o") {
		var order []uint16
		for s := range strings.SplitSeq(e.Val("o"), ",") {
			n, err := bootNumber(m, s)
			if err != nil {
				return err
			}
			order = append(order, n)
		}
		err = efivar.SetOrder(dir, order)
	}
	if e.On("D") {
		var order []uint16
		for _, n := range m.Order {
			if !slices.Contains(order, n) {
				order = append(order, n)
			}
		}
		err = errors.Join(err, efivar.SetOrder(dir, order))
	}
	if e.On("O") {
		err = errors.Join(err, efivar.SetOrder(dir, nil))
	}
	if e.On("n") {
		n, e2 := bootNumber(m, e.Val("n"))
		if e2 == nil {
			e2 = efivar.SetNumber(dir, "BootNext", int(n))
		}
		err = errors.Join(err, e2)
	}
	if e.On("t") {
		n, e2 := strconv.ParseUint(e.Val("t"), 0, 16)
		if e2 != nil {
			return tools.Usage("invalid time '%s': 0 to 65535 seconds", e.Val("t"))
		}
		err = errors.Join(err, efivar.SetNumber(dir, "Timeout", int(n)))
	}
	for option, name := range map[string]string{"N": "BootNext", "T": "Timeout"} {
		if e.On(option) {
			err = errors.Join(err, efivar.SetNumber(dir, name, -1))
		}
	}
	return err
}

// createEntry adds an entry for a file on a partition, before the others.
func createEntry(e *tools.Env, dir string, m *efivar.Manager) error {
	part, err := e.Int("p", 1)
	if err != nil {
		return err
	}
	disk := e.Or("d", "/dev/sda")
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("cannot open %s: %s", disk, tools.Cause(err))
	}
	defer f.Close()
	size, ss, err := blockdev.Sectors(f)
	if err != nil {
		return err
	}
	t, err := gpt.Read(f, ss, size)
	if err != nil {
		return fmt.Errorf("cannot read the GPT of %s: %w", disk, err)
	}
	i := slices.IndexFunc(t.Partitions, func(p gpt.Partition) bool { return p.Number == part })
	if i < 0 {
		return fmt.Errorf("%s has no partition %d", disk, part)
	}
	p := t.Partitions[i]
	entry := efivar.Entry{Label: e.Or("L", "Linux"), Number: part, Start: uint64(p.First), Size: uint64(p.Last - p.First + 1), GUID: p.GUID, Path: e.Or("l", `\EFI\debian\grub.efi`), First: true}
	entry.Data = []byte(strings.Join(e.Args, " "))
	if e.On("u") {
		entry.Data = nil
		for _, c := range utf16.Encode([]rune(strings.Join(e.Args, " "))) {
			entry.Data = append(entry.Data, byte(c), byte(c>>8))
		}
	}
	for _, l := range m.Loads {
		if l.Label == entry.Label {
			e.Fault(0, "** Warning ** : Boot%04X has same label %s", l.Number, l.Label)
		}
	}
	_, err = efivar.Create(dir, entry, !e.On("C"))
	return err
}

func showManager(e *tools.Env, m *efivar.Manager) {
	for _, x := range []struct {
		n      int
		format string
	}{{m.Next, "BootNext: %04X\n"}, {m.Current, "BootCurrent: %04X\n"}, {m.Timeout, "Timeout: %d seconds\n"}} {
		if x.n >= 0 {
			e.Printf(x.format, x.n)
		}
	}
	var order []string
	for _, n := range m.Order {
		order = append(order, fmt.Sprintf("%04X", n))
	}
	if order == nil {
		e.Printf("No BootOrder is set; firmware will attempt recovery\n")
	} else {
		e.Printf("BootOrder: %s\n", strings.Join(order, ","))
	}
	for _, l := range m.Loads {
		active := " "
		if l.Active {
			active = "*"
		}
		e.Printf("Boot%04X%s %s", l.Number, active, l.Label)
		if e.On("v") {
			e.Printf("\t%s%s", l.Path, loaderData(l.Data, e.On("u")))
		}
		e.Printf("\n")
	}
}

// loaderData is what a loader is given, as text.
func loaderData(b []byte, unicode bool) string {
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if unicode && i%2 == 1 {
			continue
		}
		if c := b[i]; c >= ' ' && c <= '~' {
			out.WriteByte(c)
		} else if !unicode || c != 0 {
			out.WriteByte('.')
		}
	}
	return out.String()
}
