package sysconf

import (
	"regexp"
	"slices"
	"strings"
)

// Format is how a file has kernel command lines in it.
type Format int

// Formats of files with kernel command lines.
const (
	Plain    Format = iota // nothing but a command line: /etc/kernel/cmdline
	Shell                  // assignments: /etc/default/grub, dracut's and initramfs-tools' configuration
	GRUB                   // grub.cfg
	BLS                    // entries of the Boot Loader Specification
	Grubenv                // GRUB's environment block
	Syslinux               // APPEND lines: extlinux.conf
)

// Form is what a place of a command line takes as a device's name.
type Form int

// Forms of names.
const (
	Spec     Form = iota // any name, as in root=
	LUKSUUID             // a UUID without a tag, "luks-" before it or not
	ArrayID              // the UUID of an array
	VG                   // the name of a volume group
	LV                   // "VG/LV"
	FSUUID               // GRUB's search --fs-uuid
	FSLabel              // GRUB's search --label
)

// KernelRef is a place in which a kernel parameter or a command of GRUB names a
// device.
type KernelRef struct {
	Line  int    // from 1
	Param string // "root", "rd.luks.uuid", "search"
	Text  string // the name as it is there, without quotes
	Form  Form
	Ref   Ref // of names of form Spec
	// Direct is set for an entry of a boot loader that loads a kernel without an
	// initramfs: the kernel itself looks for the device.
	Direct bool
}

// grubenvSize is the size of GRUB's environment block, of which every byte counts.
const grubenvSize = 1024

// VisitKernelRefs gives each name of a device in the command lines of a text to
// visit, and writes what it returns with ok in its place. Everything else stays as
// it is. A text of format Grubenv may get longer than GRUB's block: see FitGrubenv.
func VisitKernelRefs(text string, f Format, visit func(KernelRef) (name string, ok bool)) string {
	switch f {
	case Plain:
		return visitLine(text, 1, visit)
	case Shell:
		return visitShell(text, visit)
	case GRUB:
		return visitGRUB(text, visit)
	}
	lines := splitLines(text)
	direct := directLines(lines, f)
	for i, l := range lines {
		visit := func(k KernelRef) (string, bool) {
			k.Direct = direct[i]
			return visit(k)
		}
		if f == Grubenv {
			if name, v, ok := strings.Cut(l.body, "="); ok && kernelVariable(name) {
				raw := strings.NewReplacer(`\\`, `\`).Replace(v)
				if out := visitLine(raw, i+1, visit); out != raw {
					l.body = name + "=" + strings.ReplaceAll(out, `\`, `\\`)
				}
			}
			continue
		}
		at := len(l.body) - len(strings.TrimLeft(l.body, " \t"))
		to := at + max(strings.IndexAny(l.body[at:], " \t"), 0)
		key := strings.ToLower(l.body[at:to])
		if f == BLS && key == "options" || f == Syslinux && (key == "append" || key == "default_kernel_opts") {
			l.body = l.body[:to] + visitLine(l.body[to:], i+1, visit)
		}
	}
	return joinLines(lines)
}

// directLines are the lines of entries that have a kernel and no initramfs. An entry
// of the Boot Loader Specification is a file, and one of Syslinux begins with LABEL.
func directLines(lines []*line, f Format) map[int]bool {
	out := map[int]bool{}
	from, linux, initrd := 0, false, false
	flush := func(to int) {
		for i := from; i < to; i++ {
			out[i] = linux && !initrd
		}
		from, linux, initrd = to, false, false
	}
	for i, l := range lines {
		w := strings.Fields(strings.ToLower(l.body))
		switch {
		case len(w) < 2:
		case w[0] == "label" && f == Syslinux:
			flush(i)
		case w[0] == "linux", w[0] == "kernel" && f == Syslinux && !strings.HasSuffix(w[1], ".c32"):
			linux = true
		case w[0] == "initrd", w[0] == "include":
			initrd = true
		case w[0] == "append", w[0] == "options": // of Syslinux, and of the kernel itself on UEFI
			initrd = initrd || strings.Contains(l.body, "initrd=")
		}
	}
	flush(len(lines))
	return out
}

// direct reports a command of GRUB that loads a kernel which no initramfs follows.
func (s *Script) direct(at int) bool {
	for _, c := range s.Commands[at+1:] {
		switch w := c.Words[0].Text; {
		case strings.HasPrefix(w, "initrd"):
			if len(c.Words) > 1 {
				return false
			}
		case strings.HasPrefix(w, "linux"), w == "menuentry", w == "submenu", w == "}":
			return true
		}
	}
	return true
}

// kernelVariable reports variables of GRUB that are command lines.
func kernelVariable(name string) bool {
	return name == "kernelopts" || name == "default_kernelopts" || name == "tuned_params"
}

// visitLine visits a command line.
func visitLine(text string, line int, visit func(KernelRef) (string, bool)) string {
	var edits []edit
	c := ParseCmdline(text)
	for _, w := range c.Words {
		for _, p := range w.refs() {
			p.ref.Line = line + strings.Count(text[:w.all.from], "\n")
			if s, ok := visit(p.ref); ok && s != p.ref.Text {
				edits = append(edits, edit{span{w.value.from + p.from, w.value.from + p.to}, s})
			}
		}
	}
	return apply(text, edits)
}

// visitShell visits the values of assignments. One whose name is a parameter, as
// RESUME of initramfs-tools, is that parameter.
func visitShell(text string, visit func(KernelRef) (string, bool)) string {
	s := ParseScript(text, false)
	for _, c := range s.Commands {
		for _, w := range c.Words {
			name, at, ok := w.Assignment()
			if !ok {
				continue
			}
			value := w.Text[at:]
			if name == "RESUME" || name == "ROOT" || name == "root" {
				value = w.Text // "RESUME=UUID=..." reads as a parameter
				at = 0
			}
			for _, k := range ParseCmdline(value).Words {
				s.visit(w, at, k, c.Line, visit)
			}
		}
	}
	return s.String()
}

// visit visits a kernel parameter in a word of a script, from a byte of it on.
func (s *Script) visit(w *ScriptWord, at int, k *Word, line int, visit func(KernelRef) (string, bool)) {
	for _, p := range k.refs() {
		p.ref.Line = line
		if name, ok := visit(p.ref); ok && name != p.ref.Text {
			s.Replace(w, at+k.value.from+p.from, at+k.value.from+p.to, name)
		}
	}
}

// visitGRUB visits the commands of a grub.cfg that load a kernel or look for a
// device.
func visitGRUB(text string, visit func(KernelRef) (string, bool)) string {
	s := ParseScript(text, true)
	for i, c := range s.Commands {
		switch name := c.Words[0].Text; name {
		case "linux", "linux16", "linuxefi":
			direct := s.direct(i)
			visit := func(k KernelRef) (string, bool) {
				k.Direct = direct
				return visit(k)
			}
			for _, w := range c.Words[min(2, len(c.Words)):] {
				// Each word is a parameter, with blanks if it was quoted.
				k := &Word{}
				if n, v, ok := strings.Cut(w.Text, "="); ok {
					*k = Word{Name: n, Value: v, Assigned: true, value: span{len(n) + 1, len(w.Text)}}
					if u, ok := unquote(v); ok && u != v {
						k.Value, k.value = u, span{len(n) + 2, len(w.Text) - 1}
					}
				}
				s.visit(w, 0, k, c.Line, visit)
			}
		case "set", "export":
			for _, w := range c.Words[1:] {
				if n, at, ok := w.Assignment(); ok && kernelVariable(n) {
					for _, k := range ParseCmdline(w.Text[at:]).Words {
						s.visit(w, at, k, c.Line, visit)
					}
				}
			}
		case "search", "search.fs_uuid", "search.fs_label", "cryptomount":
			s.visitSearch(c, visit)
		}
	}
	return s.String()
}

// visitSearch visits a command that looks for a device.
func (s *Script) visitSearch(c *Command, visit func(KernelRef) (string, bool)) {
	command := c.Words[0].Text
	form, is := searchForm(command, command)
	for i := 1; i < len(c.Words); i++ {
		w := c.Words[i]
		if f, ok := searchForm(command, w.Text); ok {
			form, is = f, true
			continue
		}
		switch o := w.Text; {
		case slices.Contains([]string{"--file", "-f", "-a", "-b"}, o):
			return
		case strings.HasPrefix(o, "--hint") && !strings.Contains(o, "="):
			i++ // its value
		case strings.HasPrefix(o, "-"):
		case is && !w.Expands:
			ref := KernelRef{Line: c.Line, Param: command, Text: o, Form: form}
			if name, ok := visit(ref); ok && name != o {
				s.Replace(w, 0, len(o), name)
			}
			return
		}
	}
}

// searchForm returns what GRUB's search, or cryptomount, looks for by the command's own name
// or an option.
func searchForm(command, word string) (Form, bool) {
	switch {
	case word == "search.fs_uuid", word == "--fs-uuid", word == "-u" && command == "search":
		return FSUUID, true
	case word == "search.fs_label", word == "--label", word == "--fs-label", word == "-l":
		return FSLabel, true
	case word == "-u" && command == "cryptomount":
		return LUKSUUID, true
	}
	return 0, false
}

// place is a reference and where it is in the value of a word.
type place struct {
	ref      KernelRef
	from, to int
}

// refs are the names of devices in the value of a kernel parameter: of the kernel,
// dracut, systemd, mkinitcpio, initramfs-tools, genkernel and mkinitfs.
func (w *Word) refs() []place {
	if !w.Assigned || strings.ContainsAny(w.Value, "$`") {
		return nil
	}
	all := len(w.Value)
	name := strings.ToLower(w.Name)
	switch {
	case w.Is("root", "resume", "real_root", "real_resume", "crypt_root", "crypt_swap", "cryptroot", "mount.usr", "boot"), name == "resume", name == "root":
		spec := strings.TrimPrefix(strings.TrimPrefix(w.Value, "block:"), "swap:")
		return w.at(all-len(spec), all, Spec)
	case w.Is("cryptdevice", "cryptkey"): // SPEC:name:options
		return w.at(0, colon(w.Value), Spec)
	case w.Is("cryptopts"): // target=NAME,source=SPEC,...
		spans := optionSpans(w.Value)
		if i := slices.IndexFunc(spans, func(s span) bool { return strings.HasPrefix(w.Value[s.from:s.to], "source=") }); i >= 0 {
			return w.at(spans[i].from+len("source="), spans[i].to, Spec)
		}
	case w.Is("rootflags", "mount.usrflags"):
		var out []place
		for _, s := range deviceOptions(w.Value) {
			out = append(out, w.at(s.from, s.to, Spec)...)
		}
		return out
	case w.Is("rd.luks.uuid", "luks.uuid"):
		return w.at(0, all, LUKSUUID)
	case w.Is("rd.luks.name", "luks.name", "rd.luks.options", "luks.options", "rd.luks.data", "luks.data"):
		return w.at(0, max(strings.IndexByte(w.Value, '='), 0), LUKSUUID)
	case w.Is("rd.md.uuid"):
		return w.at(0, all, ArrayID)
	case w.Is("rd.lvm.vg"):
		return w.at(0, all, VG)
	case w.Is("rd.lvm.lv"):
		return w.at(0, all, LV)
	}
	return nil
}

// at is the reference that bytes from to to of the value are.
func (w *Word) at(from, to int, f Form) []place {
	// Without one quote of a pair, words behind it would belong to this one.
	if from >= to || strings.Count(w.Value[from:to], `"`)%2 != 0 {
		return nil
	}
	r := KernelRef{Param: w.Name, Text: w.Value[from:to], Form: f}
	if f == Spec {
		r.Ref = parseKernelRef(r.Text)
	}
	return []place{{r, from, to}}
}

// colon is where the first part of a value that is divided by colons ends.
func colon(s string) int {
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return i
	}
	return len(s)
}

// deviceOptions are the values of mount options that name a device: of btrfs, xfs
// and ext4.
func deviceOptions(options string) []span {
	var out []span
	for _, s := range optionSpans(options) {
		k, v, ok := strings.Cut(options[s.from:s.to], "=")
		if ok && v != "" && (k == "device" || k == "logdev" || k == "rtdev" || k == "journal_path") {
			out = append(out, span{s.from + len(k) + 1, s.to})
		}
	}
	return out
}

// parseKernelRef reads root= and the like, which may be numbers of a device, too.
func parseKernelRef(s string) Ref {
	if regexp.MustCompile(`^(\d+:\d+|[0-9a-fA-F]{3,8})$`).MatchString(s) {
		return Ref{Kind: Path, Value: "block/" + s, Text: s}
	}
	if v, ok := strings.CutPrefix(s, "UUID=luks-"); ok {
		return Ref{Kind: UUID, Value: strings.ToLower(v), Text: s}
	}
	return ParseRef(s)
}

// FitGrubenv pads GRUB's environment block to its size, or reports that it has no
// room.
func FitGrubenv(text string) (string, bool) {
	text = strings.TrimRight(text, "#")
	if len(text) > grubenvSize {
		return text, false
	}
	return text + strings.Repeat("#", grubenvSize-len(text)), true
}
