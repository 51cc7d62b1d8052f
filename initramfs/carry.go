package initramfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Program is a program of the host that the rescue system carries.
type Program struct {
	Name string
	// File is where it is; "" to look for it by its name.
	File string
	// Check is the argument list it is started with in the packed tree.
	Check []string
	// Data are files that it reads; missing ones are left out.
	Data []string
	// Or are other programs that do the same; the first one found is carried,
	// under its own name and as Name.
	Or []string
	// Max is the size in bytes up to which one is taken before a larger one; 0
	// for any.
	Max int64
	// Optional programs may be missing on the host.
	Optional bool
	For      string // what needs it, for messages
}

// ForComfort is what programs are for that a person likes and no restore needs.
const ForComfort = "shell"

// ProgramsFor is the table of what the parts of a layout need: file system
// types, "lvm", and ForComfort.
func ProgramsFor(what string) []Program {
	switch what {
	case "lvm":
		return []Program{{Name: "lvm", Check: []string{"version"}}, {Name: "dmsetup", Check: []string{"--version"}, Optional: true}}
	case "thin":
		return []Program{{Name: "thin_check", Check: []string{"-V"}, Optional: true}, {Name: "thin_repair", Check: []string{"-V"}, Optional: true}}
	case "luks":
		// Its threads want libgcc when they end, without being linked to it.
		return []Program{{Name: "cryptsetup", Check: []string{"--version"}, Data: []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/libgcc_s.so.1"}}, {Name: "dmsetup", Check: []string{"--version"}, Optional: true}}
	case "md":
		return []Program{{Name: "mdadm", Check: []string{"--version"}}, {Name: "dmsetup", Check: []string{"--version"}, Optional: true}}
	case ForComfort:
		return []Program{{Name: "bash", Check: []string{"--version"}, Optional: true}, {Name: "less", Check: []string{"--version"}, Optional: true}, {Name: "editor", Or: []string{"vim.tiny", "nano", "vi", "mg"}, Max: 5 << 19, Check: []string{"--version"}, Optional: true}, {Name: "tar", Check: []string{"--version"}, Optional: true}, {Name: "sed", Check: []string{"--version"}, Optional: true}, {Name: "awk", Check: []string{"1"}, Optional: true}, {Name: "diff", Check: []string{"--version"}, Optional: true}, {Name: "sfdisk", Check: []string{"--version"}, Optional: true}, {Name: "smartctl", Check: []string{"--version"}, Optional: true}}
	}
	var out []Program
	for _, p := range fstype.Of(what).Programs {
		out = append(out, Program{Name: p.Name, Check: []string{p.Check}, Data: p.Data, Optional: p.Optional})
	}
	return out
}

// terminals are the terminfo entries that line editors and pagers want.
var terminals = []string{"l/linux", "v/vt100", "v/vt102", "v/vt220", "x/xterm", "x/xterm-256color", "s/screen", "d/dumb", "a/ansi"}

// searchPath is where programs are looked for on the host.
var searchPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// LookPath finds a program below root.
func LookPath(root, name string) (string, error) {
	for _, d := range searchPath {
		p := filepath.Join(root+"/", d, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("cannot find program %s in %s", name, strings.Join(searchPath, ":"))
}

func (p Program) find(root string) (string, error) {
	if p.File != "" {
		return p.File, nil
	}
	large := ""
	for _, n := range p.Or {
		file, err := LookPath(root, n)
		if err != nil {
			continue
		}
		if st, err := os.Stat(file); err == nil && (p.Max == 0 || st.Size() <= p.Max) {
			return file, nil
		}
		if large == "" {
			large = file
		}
	}
	if large != "" {
		return large, nil
	}
	if len(p.Or) > 0 {
		return "", fmt.Errorf("cannot find one of %s", strings.Join(p.Or, ", "))
	}
	return LookPath(root, p.Name)
}

// Carry adds programs with their libraries and data. All that are missing are
// reported at once.
func (f *Files) Carry(ctx context.Context, run tool.Runner, progs []Program) ([]Program, error) {
	var errs []error
	var carried []Program
	at := map[string]string{} // a program's file: where in the tree it is
	for _, p := range progs {
		file, err := p.find("")
		if err != nil {
			if !p.Optional {
				errs = append(errs, fmt.Errorf("%w, needed for %s", err, p.For))
			}
			continue
		}
		libs, err := Libraries(ctx, run, file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dir := "usr/bin/"
		if strings.Contains(file, "/sbin/") {
			dir = "usr/sbin/"
		}
		own := filepath.Base(file)
		// One program under several names (Debian's pdata_tools is thin_check
		// and thin_repair) takes its room once.
		to, err := filepath.EvalSymlinks(file)
		if at[to] != "" && at[to] != dir+own {
			err = f.AddLink(dir+own, "/"+at[to])
		} else if err == nil {
			at[to] = dir + own
			err = f.AddFile(dir+own, file)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if own != p.Name {
			errs = append(errs, f.AddLink(dir+p.Name, own))
		}
		if own == "vim.tiny" && !f.Has(dir+"vi") {
			errs = append(errs, f.AddLink(dir+"vi", own))
		}
		f.packing.note(dir+own, append(slices.Clone(libs), p.Data...))
		for _, l := range libs {
			if err := f.AddFile(l, l); err != nil {
				errs = append(errs, err)
			}
		}
		for _, d := range p.Data {
			if _, err := os.Stat(d); err == nil {
				errs = append(errs, f.AddFile(d, d))
			}
		}
		carried = append(carried, p)
	}
	for _, t := range terminals {
		for _, d := range []string{"/lib/terminfo/", "/usr/share/terminfo/", "/etc/terminfo/"} {
			if _, err := os.Stat(d + t); err == nil {
				errs = append(errs, f.AddFile("usr/share/terminfo/"+t, d+t))
				break
			}
		}
	}
	return carried, errors.Join(errs...)
}

// Libraries lists the shared libraries of a program, and its interpreter, as
// the interpreter itself finds them. Static programs have none; a script's
// interpreter is not followed.
func Libraries(ctx context.Context, run tool.Runner, file string) ([]string, error) {
	ld, err := interpreter(file)
	if err != nil || ld == "" {
		return nil, err
	}
	out, err := run.Run(ctx, tool.New(ld, "--list", file))
	if err != nil {
		return nil, fmt.Errorf("cannot list libraries of %s: %w", file, err)
	}
	libs := []string{ld}
	for _, l := range strings.Split(string(out), "\n") {
		w := strings.Fields(l)
		if len(w) >= 3 && w[1] == "=>" {
			if w[2] == "not" {
				return nil, fmt.Errorf("cannot carry %s: its library %s is not found", file, w[0])
			}
			libs = append(libs, w[2])
		}
	}
	// Loaded by glibc at run time when a thread ends, and by no name in the file.
	if i := slices.IndexFunc(libs, func(l string) bool { return strings.Contains(l, "/libc.so.6") }); i >= 0 {
		if p := filepath.Join(filepath.Dir(libs[i]), "libgcc_s.so.1"); exists(p) && slices.ContainsFunc(libs, func(l string) bool {
			return strings.Contains(l, "libpthread") || strings.Contains(l, "libdevmapper") || strings.Contains(l, "liburcu")
		}) {
			libs = append(libs, p)
		}
	}
	return libs, nil
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// Try starts each carried program once, in a tree of just those files below
// dir, which it makes. It needs root for chroot. A program that can't start
// is an error; what it prints or returns is not.
func (f *Files) Try(ctx context.Context, run tool.Runner, dir string, progs []Program) error {
	if err := f.stage(dir); err != nil {
		return fmt.Errorf("cannot try the carried programs: %w", err)
	}
	var errs []error
	for _, p := range progs {
		c, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := run.Run(c, tool.Cmd{Args: append([]string{p.Name}, p.Check...), Root: dir, Env: []string{"LD_LIBRARY_PATH=", "LD_PRELOAD="}})
		cancel()
		var te *tool.Error
		if err == nil || errors.As(err, &te) && te.Code >= 0 && te.Code < 126 && !strings.Contains(te.Stderr, "error while loading shared libraries") {
			continue
		}
		errs = append(errs, fmt.Errorf("%s does not start in the rescue system: %w", p.Name, err))
	}
	return errors.Join(errs...)
}

// stage lays out programs, libraries and links, as hard links or copies.
func (f *Files) stage(dir string) error {
	for _, p := range f.Paths() {
		e := f.entries[p]
		to := filepath.Join(dir, p)
		switch {
		case e.link != "":
			if strings.HasPrefix(p, "bbin/") {
				continue
			}
			if err := os.Symlink(e.link, to); err != nil && !os.IsExist(err) {
				return err
			}
		case e.source != "" && (strings.HasPrefix(p, "usr/") && !strings.HasPrefix(p, "usr/lib/modules/") && !strings.HasPrefix(p, "usr/lib/firmware/")):
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			b, err := os.ReadFile(e.source)
			if err != nil {
				return err
			}
			if err := os.WriteFile(to, b, os.FileMode(e.mode&0o777)); err != nil {
				return err
			}
		case e.source == "" && e.content == nil && e.major == 0:
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}
