package disks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// editor is the dialogue of fdisk. Changes are in memory until w.
type editor struct {
	*tools.Env
	*disk
	f   *os.File
	in  *bufio.Reader
	was bool // a GPT is on the disk
}

const editorHelp = `
Help:

  d   delete a partition
  F   list free unpartitioned space
  l   list known partition types
  n   add a new partition
  p   print the partition table
  t   change a partition type
  a   toggle the bootable flag (MBR)
  m   print this menu

  g   create a new empty GPT partition table
  o   create a new empty MBR (DOS) partition table

  w   write table to disk and exit
  q   quit without saving changes

`

// edit is fdisk DEVICE.
func edit(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return tools.Usage("bad usage: name a device, or list with -l")
	}
	f, err := openExclusive(e.Args[0])
	if errors.Is(err, unix.EBUSY) || err != nil && strings.Contains(err.Error(), "busy") {
		return fmt.Errorf("%w: the disk is in use; lsblk shows its mounts", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := readDisk(e.Args[0])
	if err != nil {
		return err
	}
	ed := &editor{Env: e, disk: d, f: f, in: bufio.NewReader(e.In), was: d.gpt != nil}
	e.Printf("\nWelcome to fdisk (util-linux compatible).\nChanges will remain in memory only, until you decide to write them.\nBe careful before using the write command.\n\n")
	if i := look(d.path); i != nil {
		e.Printf("The device contains a '%s' signature; it stays there. wipefs -a removes it.\n\n", i.Type)
	}
	if d.gpt == nil && d.mbr == nil {
		e.Printf("Device does not contain a recognized partition table.\n")
		if err := ed.newMBR(); err != nil {
			return err
		}
		e.Printf("\n")
	}
	return ed.commands()
}

// commands carries commands out until one ends the program.
func (ed *editor) commands() error {
	for {
		c, err := ed.ask("Command (m for help): ")
		if err != nil {
			ed.Printf("\n")
			return errors.New("end of the input; nothing was written")
		}
		switch c {
		case "":
			continue
		case "q":
			ed.Printf("\n")
			return nil
		case "w":
			return ed.write()
		}
		if err := ed.command(c); errors.Is(err, io.EOF) {
			return errors.New("end of the input; nothing was written")
		} else if err != nil {
			ed.Fault(0, "%v", err)
		}
		ed.Printf("\n")
	}
}

func (ed *editor) command(c string) error {
	switch c {
	case "m":
		ed.Printf("%s", editorHelp)
	case "p":
		ed.print(ed.Env)
	case "n":
		return ed.add()
	case "d":
		return ed.remove()
	case "t":
		return ed.changeType()
	case "a":
		return ed.toggle()
	case "F":
		ed.listFree()
	case "l":
		ed.listTypes()
	case "g":
		return ed.newGPT()
	case "o":
		return ed.newMBR()
	default:
		return fmt.Errorf("%s: unknown command", c)
	}
	return nil
}

func (ed *editor) ask(question string) (string, error) {
	ed.Printf("%s", question)
	if err := ed.Out.Flush(); err != nil {
		return "", err
	}
	l, err := ed.in.ReadString('\n')
	if err != nil && l == "" {
		return "", err
	}
	return strings.TrimSpace(l), nil
}

// number asks for one between two, until it gets one that ok agrees to.
func (ed *editor) number(question string, first, last, other int64, read func(string) (int64, error), ok func(int64) error) (int64, error) {
	for {
		s, err := ed.ask(fmt.Sprintf("%s (%d-%d, default %d): ", question, first, last, other))
		if err != nil {
			return 0, err
		}
		n := other
		if s != "" {
			if n, err = read(s); err != nil {
				ed.Fault(0, "%v", err)
				continue
			}
		}
		if n < first || n > last {
			ed.Fault(0, "value out of range")
		} else if err := ok(n); err != nil {
			ed.Fault(0, "%v", err)
		} else {
			return n, nil
		}
	}
}

func plain(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errors.New("value out of range")
	}
	return n, nil
}

func always(int64) error { return nil }

func (ed *editor) newGPT() error {
	reserved := (int64(gpt.Default)*128 + ed.ss - 1) / ed.ss
	t := &gpt.Table{GUID: strings.ToUpper(uuid.New()), Entries: gpt.Default, FirstUsable: max(alignment/ed.ss, 2+reserved), LastUsable: ed.size/ed.ss - 2 - reserved}
	if t.LastUsable < t.FirstUsable {
		return errors.New("the disk is too small for a GPT")
	}
	ed.gpt, ed.mbr = t, nil
	ed.Printf("Created a new GPT disklabel (GUID: %s).\n", t.GUID)
	return nil
}

func (ed *editor) newMBR() error {
	n, err := strconv.ParseUint(uuid.New()[:8], 16, 32)
	if err != nil {
		return err
	}
	ed.mbr, ed.gpt = &mbr.Table{Signature: uint32(n)}, nil
	ed.Printf("Created a new DOS (MBR) disklabel with disk identifier 0x%08x.\n", n)
	return nil
}

// span is a range of sectors, inclusive.
type span struct{ first, last int64 }

// extended is the extended partition, if there is one.
func (ed *editor) extended() *mbr.Partition {
	for i, p := range ed.mbr.Partitions {
		if mbr.Extended(p.Type) && p.Number < 5 {
			return &ed.mbr.Partitions[i]
		}
	}
	return nil
}

// free lists the ranges that are free, which begin at a multiple of 1 MiB: of the disk, or
// inside the extended partition.
func (ed *editor) free(logical bool) []span {
	grain := alignment / ed.ss
	at, end := grain, min(ed.size/ed.ss-1, 1<<32-1)
	var used []span
	switch {
	case ed.gpt != nil:
		at, end = ed.gpt.FirstUsable, ed.gpt.LastUsable
		for _, p := range ed.gpt.Partitions {
			used = append(used, span{p.First, p.Last})
		}
	case logical:
		x := ed.extended()
		at, end = x.Start, x.Start+x.Count-1
		for _, p := range ed.mbr.Logical() {
			used = append(used, span{p.EBR, p.EBR}, span{p.Start, p.Start + p.Count - 1})
		}
	default:
		for _, p := range ed.mbr.Partitions {
			if p.Number < 5 {
				used = append(used, span{p.Start, p.Start + p.Count - 1})
			}
		}
	}
	slices.SortFunc(used, func(a, b span) int { return int(max(min(a.first-b.first, 1), -1)) })
	var out []span
	for _, u := range append(used, span{end + 1, end + 1}) {
		start := (at + grain - 1) / grain * grain
		if logical {
			start += grain // room for its own boot record
		}
		if start < u.first {
			out = append(out, span{start, u.first - 1})
		}
		at = max(at, u.last+1)
	}
	return out
}

// gapAt is the gap that has a sector.
func gapAt(gaps []span, n int64) (span, error) {
	for _, g := range gaps {
		if n >= g.first && n <= g.last {
			return g, nil
		}
	}
	return span{}, fmt.Errorf("sector %d is already allocated", n)
}

// where asks where a new partition is to be.
func (ed *editor) where(gaps []span) (span, error) {
	if len(gaps) == 0 {
		return span{}, errors.New("no free sectors available")
	}
	grain := alignment / ed.ss
	best := gaps[0]
	for _, g := range gaps {
		if ed.gpt != nil && g.last-g.first > best.last-best.first {
			best = g
		}
	}
	first, err := ed.number("First sector", gaps[0].first, gaps[len(gaps)-1].last, best.first, plain, func(n int64) error { _, err := gapAt(gaps, n); return err })
	if err != nil {
		return span{}, err
	}
	g, err := gapAt(gaps, first)
	if err != nil {
		return span{}, err
	}
	other := g.last
	if aligned := (g.last+1)/grain*grain - 1; ed.gpt != nil && aligned > first {
		other = aligned
	}
	last, err := ed.number("Last sector, +/-sectors or +/-size{K,M,G,T,P}", first, g.last, other, func(s string) (int64, error) {
		if s[0] != '+' && s[0] != '-' {
			return plain(s)
		}
		n, err := tools.Size(s[1:])
		if c := s[len(s)-1]; c < '0' || c > '9' {
			n /= ed.ss
		}
		if s[0] == '-' {
			return g.last - n, err
		}
		return first + n - 1, err
	}, always)
	return span{first, last}, err
}

func (ed *editor) add() error {
	if ed.mbr != nil {
		return ed.addMBR()
	}
	var numbers []int
	for n := 1; n <= ed.gpt.Entries; n++ {
		if !slices.ContainsFunc(ed.gpt.Partitions, func(p gpt.Partition) bool { return p.Number == n }) {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return errors.New("all partitions are in use")
	}
	number, err := ed.pick(numbers, numbers[0])
	if err != nil {
		return err
	}
	s, err := ed.where(ed.free(false))
	if err != nil {
		return err
	}
	p := gpt.Partition{Number: number, First: s.first, Last: s.last, GUID: strings.ToUpper(uuid.New()), Type: gptTypes[1].guid}
	ed.gpt.Partitions = append(ed.gpt.Partitions, p)
	slices.SortFunc(ed.gpt.Partitions, func(a, b gpt.Partition) int { return a.Number - b.Number })
	ed.created(p.Number, gptType(p.Type), s)
	return nil
}

func (ed *editor) created(number int, typ string, s span) {
	ed.Printf("\nCreated a new partition %d of type '%s' and of size %s.\n", number, typ, size(ed.ss*(s.last-s.first+1)))
}

// size is a number of bytes with one decimal: "4.9 MiB".
func size(n int64) string {
	s := short(n)
	if unit := s[len(s)-1:]; unit != "B" {
		return s[:len(s)-1] + " " + unit + "iB"
	}
	return s
}

// ranges lists numbers in order, three or more in a row as "5-7".
func ranges(numbers []int) string {
	var out []string
	for i := 0; i < len(numbers); i++ {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		if j-i < 2 {
			out = append(out, strconv.Itoa(numbers[i]))
			continue
		}
		out = append(out, fmt.Sprintf("%d-%d", numbers[i], numbers[j]))
		i = j
	}
	return strings.Join(out, ",")
}

// pick asks for one of several numbers.
func (ed *editor) pick(numbers []int, other int) (int, error) {
	if len(numbers) == 1 {
		ed.Printf("Selected partition %d\n", numbers[0])
		return numbers[0], nil
	}
	for {
		s, err := ed.ask(fmt.Sprintf("Partition number (%s, default %d): ", ranges(numbers), other))
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(firstOf(s, strconv.Itoa(other)))
		if err == nil && slices.Contains(numbers, n) {
			return n, nil
		}
		ed.Fault(0, "value out of range")
	}
}

// possible is the kind of a new partition: l, a logical one, where no other is possible, or what is asked for.
func (ed *editor) possible(x *mbr.Partition, numbers, gaps int) (string, error) {
	switch {
	case numbers == 0 && x == nil:
		return "", errors.New("to create more than four partitions, you must replace a primary partition with an extended partition first")
	case numbers == 0:
		ed.Printf("All primary partitions are in use.\n")
		return "l", nil
	case gaps == 0 && x != nil:
		ed.Printf("All space for primary partitions is in use.\n")
		return "l", nil
	}
	return ed.kind(x, numbers)
}

func (ed *editor) addMBR() error {
	x := ed.extended()
	var numbers []int
	for n := range 4 {
		if !slices.ContainsFunc(ed.mbr.Partitions, func(p mbr.Partition) bool { return p.Number == n+1 }) {
			numbers = append(numbers, n+1)
		}
	}
	gaps := ed.free(false)
	kind, err := ed.possible(x, len(numbers), len(gaps))
	if err != nil {
		return err
	}
	p := mbr.Partition{Type: 0x83}
	switch {
	case kind == "l" && x != nil:
		p.Number = 5 + len(ed.mbr.Logical())
		ed.Printf("Adding logical partition %d\n", p.Number)
		gaps = ed.free(true)
	case kind == "p", kind == "e" && x == nil:
		n, err := ed.pick(numbers, numbers[0])
		if err != nil {
			return err
		}
		if p.Number = n; kind == "e" {
			p.Type = 5
		}
	default:
		return fmt.Errorf("invalid partition type '%s'", kind)
	}
	s, err := ed.where(gaps)
	if err != nil {
		return err
	}
	p.Start, p.Count = s.first, s.last-s.first+1
	if p.Number > 4 {
		p.EBR = p.Start - alignment/ed.ss
	}
	ed.mbr.Partitions = append(ed.mbr.Partitions, p)
	slices.SortFunc(ed.mbr.Partitions, func(a, b mbr.Partition) int { return a.Number - b.Number })
	ed.created(p.Number, mbrTypes[p.Type], s)
	return nil
}

// kind asks for what kind of partition is to be made.
func (ed *editor) kind(x *mbr.Partition, free int) (string, error) {
	extended, other, line := 0, "p", "   e   extended (container for logical partitions)"
	if x != nil {
		extended, line = 1, "   l   logical (numbered from 5)"
	}
	if free == 1 {
		other = "e"
		if x != nil {
			other = "l"
		}
	}
	ed.Printf("Partition type\n   p   primary (%d primary, %d extended, %d free)\n%s\n", 4-free-extended, extended, free, line)
	s, err := ed.ask("Select (default " + other + "): ")
	if err == nil && s == "" {
		ed.Printf("\nUsing default response %s.\n", other)
	}
	return firstOf(s, other), err
}

// choose asks for the number of a partition.
func (ed *editor) choose() (int, error) {
	var numbers []int
	for _, r := range ed.rows() {
		numbers = append(numbers, r.number)
	}
	if len(numbers) == 0 {
		return 0, errors.New("no partition is defined yet")
	}
	return ed.pick(numbers, numbers[len(numbers)-1])
}

func (ed *editor) remove() error {
	n, err := ed.choose()
	if err != nil {
		return err
	}
	if ed.gpt != nil {
		ed.gpt.Partitions = slices.DeleteFunc(ed.gpt.Partitions, func(p gpt.Partition) bool { return p.Number == n })
	} else {
		x := ed.extended()
		all := x != nil && x.Number == n
		ed.mbr.Partitions = slices.DeleteFunc(ed.mbr.Partitions, func(p mbr.Partition) bool { return p.Number == n || all && p.Number > 4 })
		for i, p := range ed.mbr.Partitions {
			if p.Number > n && n > 4 {
				ed.mbr.Partitions[i].Number--
			}
		}
	}
	ed.Printf("\nPartition %d has been deleted.\n", n)
	return nil
}

func (ed *editor) changeType() error {
	n, err := ed.choose()
	if err != nil {
		return err
	}
	question := "Partition type or alias (type L to list all): "
	if ed.mbr != nil {
		question = "Hex code or alias (type L to list all): "
	}
	s, err := ed.ask(question)
	for err == nil && s == "L" {
		ed.listTypes()
		s, err = ed.ask("\n" + question)
	}
	if err != nil {
		return err
	}
	var before, after string
	if ed.gpt != nil {
		i := slices.IndexFunc(ed.gpt.Partitions, func(p gpt.Partition) bool { return p.Number == n })
		p := &ed.gpt.Partitions[i]
		before = gptType(p.Type)
		if s != "" {
			typ, err := typeGUID(s)
			if err != nil {
				return err
			}
			p.Type = typ
		}
		after = gptType(p.Type)
	} else {
		i := slices.IndexFunc(ed.mbr.Partitions, func(p mbr.Partition) bool { return p.Number == n })
		p := &ed.mbr.Partitions[i]
		typ := p.Type
		if s != "" {
			if typ, err = mbrType(s); err != nil {
				return err
			}
			if typ == 0 {
				return errors.New("type 0 marks an entry as free; d deletes a partition")
			}
		}
		if mbr.Extended(p.Type) != mbr.Extended(typ) {
			return errors.New("you cannot change a partition into an extended one or vice versa; delete it first")
		}
		before, after, p.Type = mbrTypes[p.Type], mbrTypes[typ], typ
	}
	if before == after {
		ed.Printf("Type of partition %d is unchanged: %s.\n", n, before)
	} else {
		ed.Printf("Changed type of partition '%s' to '%s'.\n", before, after)
	}
	return nil
}

// toggle changes which partition is marked for booting.
func (ed *editor) toggle() error {
	if ed.mbr == nil {
		return errors.New("a GPT has no bootable flag")
	}
	n, err := ed.choose()
	if err != nil {
		return err
	}
	for i, p := range ed.mbr.Partitions {
		if p.Number == n {
			ed.mbr.Partitions[i].Active = !p.Active
			ed.Printf("The bootable flag on partition %d is %s now.\n", n, map[bool]string{true: "disabled", false: "enabled"}[p.Active])
		}
	}
	return nil
}

func (ed *editor) listFree() {
	for _, g := range ed.free(false) {
		ed.Printf("%12d %12d %12d %8s\n", g.first, g.last, g.last-g.first+1, short((g.last-g.first+1)*ed.ss))
	}
}

func (ed *editor) listTypes() {
	if ed.gpt != nil {
		for _, t := range gptTypes {
			ed.Printf("%-2s %-30s %s\n", t.short, t.name, t.guid)
		}
		return
	}
	for n := 1; n < 256; n++ {
		if name, ok := mbrTypes[byte(n)]; ok {
			ed.Printf("%02x %s\n", n, name)
		}
	}
}

// write writes the table. A GPT that it replaces is erased, so that nothing finds it again.
func (ed *editor) write() error {
	var err error
	switch {
	case ed.gpt != nil:
		err = ed.gpt.Write(ed.f, ed.ss, ed.size)
	default:
		if err = ed.mbr.Check(ed.size / ed.ss); err != nil {
			break
		}
		for _, at := range []int64{ed.ss, (ed.size/ed.ss - 1) * ed.ss} {
			if ed.was && err == nil {
				_, err = ed.f.WriteAt(make([]byte, ed.ss), at)
			}
		}
		if err == nil {
			err = ed.mbr.Write(ed.f, ed.ss)
		}
	}
	if err = errors.Join(err, ed.f.Sync()); err != nil {
		return err
	}
	ed.Printf("The partition table has been altered.\n")
	if st, err := ed.f.Stat(); err == nil && !st.Mode().IsRegular() {
		ed.Printf("Calling ioctl() to re-read partition table.\n")
		if err := blockdev.Reread(context.Background(), ed.f); err != nil {
			return err
		}
	}
	ed.Printf("Syncing disks.\n\n")
	return nil
}
