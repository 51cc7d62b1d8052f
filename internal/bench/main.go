// Command bench measures mkcdrec against tar, gzip and zstd on the same data
// in the same run, the rescue system's sizes and times, and writes
// docs/BENCHMARKS.md. `make bench` runs it as root; it wants an idle machine.
package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/memory"
)

const runs = 3

func main() {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	var err error
	if len(os.Args) == 4 { // as cmds/mkcdrec and cmds/restore do
		memory.Limit(archive.MemoryLimit())
	}
	if part := measured[first(os.Args[1:])]; part != nil && len(os.Args) == 4 {
		err = part(ctx, os.Args[2], os.Args[3])
	} else {
		err = all(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measured are the processes that are measured, by their first argument; they have two more.
var measured = map[string]func(ctx context.Context, from, to string) error{
	"create": create, "extract": extract, "save": save, "fetch": fetch, "clone": clone, "dhcpserve": dhcpServe, "dhcpload": dhcpLoad,
	"iso":  func(_ context.Context, from, to string) error { return writeISO(from, to) },
	"tape": func(ctx context.Context, _, to string) error { return writeTape(ctx, to) },
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func create(ctx context.Context, src, out string) error {
	root, err := os.Open(src)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if _, err := archive.Create(ctx, f, root, archive.CreateOptions{}); err != nil {
		return err
	}
	return f.Close()
}

func extract(ctx context.Context, from, dst string) error {
	r, err := archive.OpenFile(from)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	_, err = r.Extract(ctx, dst, archive.ExtractOptions{})
	return err
}

// bench collects the report.
type bench struct {
	dir  string // in memory
	text strings.Builder
}

func (b *bench) say(f string, a ...any) {
	s := fmt.Sprintf(f, a...)
	fmt.Println(s)
	b.text.WriteString(s + "\n")
}

// report is where the results are kept.
const report = "docs/BENCHMARKS.md"

// all measures everything, or the named parts only: archives, night, files, iso, streams, tape, plan, blocks, clones, swarm,
// dhcp, rescue. The other parts of the report stay as they are.
func all(ctx context.Context, parts []string) error {
	dir, err := os.MkdirTemp("/dev/shm", "mkcdrec-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll("out", 0o755); err != nil {
		return err
	}
	old, err := os.ReadFile(report)
	if err != nil && len(parts) > 0 {
		return err
	}
	b := &bench{dir: dir}
	today := time.Now().UTC().Format("2006-01-02")
	b.say("# Benchmarks\n\nWritten by `make bench` (one part of it: `go run ./internal/bench PART`) on %d cores, %s.\n\n- Each part has the date when it was measured; those without a date were measured until 2026-11-22.\n- Every ratio compares two programs on the same data in the same run, runs interleaved, medians of %d.\n- Absolute figures are valid for this machine only.\n", runtime.NumCPU(), cpu(), runs)
	known := []struct {
		name     string
		headings []string
		fn       func(context.Context) error
	}{{"archives", []string{"Backup", "Restore"}, b.archives}, {"night", []string{"Every night"}, b.night}, {"files", []string{"Many files"}, b.files}, {"iso", []string{"ISO image"}, b.iso}, {"streams", []string{"Volumes"}, b.streams}, {"tape", []string{"Tape"}, b.tape}, {"plan", []string{"Plan"}, b.plan}, {"blocks", []string{"Blocks in use"}, b.blocks}, {"clones", []string{"Clones"}, b.clones}, {"swarm", []string{"Swarm"}, b.swarm}, {"dhcp", []string{"DHCP"}, b.dhcp}, {"rescue", []string{"Rescue system"}, b.rescue}}
	left := slices.Clone(parts)
	for _, p := range known {
		left = slices.DeleteFunc(left, func(s string) bool { return s == p.name })
	}
	if len(left) > 0 {
		return fmt.Errorf("cannot measure %s: there is no such part", strings.Join(left, ", "))
	}
	for _, p := range known {
		if len(parts) == 0 || slices.Contains(parts, p.name) {
			done := b.text.Len()
			if err := p.fn(ctx); err != nil {
				return err
			}
			all, text := b.text.String(), ""
			for i, part := range strings.Split(all[done:], "## ") {
				if i > 0 {
					part = "## " + strings.Replace(part, "\n\n", "\n\nMeasured on "+today+". ", 1)
				}
				text += part
			}
			b.text.Reset()
			b.text.WriteString(all[:done] + text)
			continue
		}
		for _, h := range p.headings {
			b.text.WriteString(section(string(old), h))
		}
	}
	// What other commands measured: vmtest/rear.
	if s := section(string(old), "Side by side with Relax-and-Recover"); s != "" {
		b.text.WriteString("\n" + s)
	}
	text := regexp.MustCompile(`\n{3,}`).ReplaceAllString(strings.TrimSpace(b.text.String()), "\n\n") + "\n"
	return os.WriteFile(report, []byte(fill(text)), 0o644)
}

// fill returns text with its lines broken at 120 columns; rows of tables stay as they are.
func fill(text string) string {
	long := regexp.MustCompile(`(?m)^([^|\n].{0,118}\S) +(.+)$`)
	for prev := ""; prev != text; {
		prev, text = text, long.ReplaceAllStringFunc(text, func(l string) string {
			if utf8.RuneCountInString(l) <= 120 {
				return l
			}
			m := long.FindStringSubmatch(l)
			return m[1] + "\n" + m[2]
		})
	}
	return text
}

// section gives a part of the report with its heading.
func section(text, heading string) string {
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		return ""
	}
	if i := strings.Index(rest, "\n## "); i >= 0 {
		rest = rest[:i+1]
	}
	return "## " + heading + "\n" + rest
}

func cpu() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for _, l := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// usage is what one run took.
type usage struct {
	seconds float64
	cpu     float64
	rss     int64 // KiB, the largest of its processes
}

// pipe runs programs with their streams joined; the last one's output goes to
// out.
func pipe(ctx context.Context, out string, cmds ...[]string) (usage, error) {
	var cs []*exec.Cmd
	for _, a := range cmds {
		cs = append(cs, exec.CommandContext(ctx, a[0], a[1:]...))
	}
	for i := range len(cs) - 1 {
		r, w, err := os.Pipe()
		if err != nil {
			return usage{}, err
		}
		cs[i].Stdout, cs[i+1].Stdin = w, r
		defer r.Close()
		defer w.Close()
	}
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			return usage{}, err
		}
		defer f.Close()
		cs[len(cs)-1].Stdout = f
	}
	var u usage
	t := time.Now()
	for _, c := range cs {
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			return u, err
		}
		// The parent's ends must go, or nobody sees the end of the stream.
		for _, f := range []any{c.Stdout, c.Stdin} {
			if p, ok := f.(*os.File); ok && p.Name() != out {
				p.Close()
			}
		}
	}
	for _, c := range cs {
		if err := c.Wait(); err != nil {
			return u, fmt.Errorf("%v: %w", c.Args, err)
		}
		ru := c.ProcessState.SysUsage().(*syscall.Rusage)
		u.rss = max(u.rss, ru.Maxrss)
		u.cpu += c.ProcessState.UserTime().Seconds() + c.ProcessState.SystemTime().Seconds()
	}
	u.seconds = time.Since(t).Seconds()
	return u, nil
}

func median(us []usage) usage {
	s := slices.Clone(us)
	slices.SortFunc(s, func(a, b usage) int {
		switch {
		case a.seconds < b.seconds:
			return -1
		case a.seconds > b.seconds:
			return 1
		}
		return 0
	})
	return s[len(s)/2]
}

// data copies parts of /usr, in order of name, until there are 2 GB.
func (b *bench) data(ctx context.Context) (dir string, bytes, files int64, err error) {
	dir = b.dir + "/usr"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", 0, 0, err
	}
	var parts []string
	for _, g := range []string{"/usr/bin", "/usr/lib/*", "/usr/share/*", "/usr/sbin", "/usr/include", "/usr/local/*"} {
		m, err := filepath.Glob(g)
		if err != nil {
			return "", 0, 0, err
		}
		parts = append(parts, m...)
	}
	for _, p := range parts {
		if bytes >= 2<<30 {
			break
		}
		to := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(p, "/usr/"), "/", "_"))
		if out, err := exec.CommandContext(ctx, "cp", "-a", p, to).CombinedOutput(); err != nil {
			return "", 0, 0, fmt.Errorf("cp: %w: %s", err, out)
		}
		err := filepath.WalkDir(to, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				i, err := d.Info()
				if err != nil {
					return err
				}
				bytes += i.Size()
				files++
			}
			return err
		})
		if err != nil {
			return "", 0, 0, err
		}
	}
	if bytes < 2e9 {
		return "", 0, 0, fmt.Errorf("/usr has only %d MB; 2000 are needed", bytes/1e6)
	}
	return dir, bytes, files, nil
}

func size(file string) int64 {
	st, err := os.Stat(file)
	if err != nil {
		return -1
	}
	return st.Size()
}

func (b *bench) archives(ctx context.Context) error {
	src, bytes, files, err := b.data(ctx)
	if err != nil {
		return err
	}
	mb := float64(bytes) / 1e6
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.say("## Backup\n\n%.0f MB of /usr in %d files, from memory to memory.\n", mb, files)
	type method struct {
		name, out string
		run       func(out string) (usage, error)
		us        []usage
	}
	ms := []*method{
		{name: "mkcdrec (fastest)", out: "m.tar.zst", run: func(o string) (usage, error) { return pipe(ctx, "", []string{self, "create", src, o}) }},
		{name: "tar \\| zstd -1 -T0", out: "t.tar.zst", run: func(o string) (usage, error) {
			return pipe(ctx, o, []string{"tar", "-C", src, "--xattrs", "--acls", "-cf", "-", "."}, []string{"zstd", "-q", "-1", "-T0", "-c"})
		}},
		{name: "tar \\| gzip", out: "t.tar.gz", run: func(o string) (usage, error) {
			return pipe(ctx, o, []string{"tar", "-C", src, "--xattrs", "--acls", "-cf", "-", "."}, []string{"gzip", "-c"})
		}},
	}
	for i := range runs {
		for _, m := range ms {
			if i > 0 && m.out == "t.tar.gz" {
				continue // a minute each: once is enough for a factor
			}
			u, err := m.run(filepath.Join(b.dir, m.out))
			if err != nil {
				return err
			}
			m.us = append(m.us, u)
		}
	}
	first := median(ms[0].us)
	b.say("| method | MB/s | CPU s | archive MB | peak memory MB | time relative to mkcdrec's |\n|---|---|---|---|---|---|")
	for _, m := range ms {
		u := median(m.us)
		b.say("| %s | %.0f | %.1f | %.1f | %d | %.2f |", m.name, mb/u.seconds, u.cpu, float64(size(filepath.Join(b.dir, m.out)))/1e6, u.rss/1024, u.seconds/first.seconds)
	}
	b.say("\nArchive size relative to tar | zstd -1: %.3f. Goals: at least 5 times tar | gzip, not slower than tar | zstd -1 -T0 by more than 10 %% (0.90), at most 1.08 times its size.\n", float64(size(b.dir+"/m.tar.zst"))/float64(size(b.dir+"/t.tar.zst")))
	os.Remove(b.dir + "/t.tar.gz")
	os.RemoveAll(src)
	return b.restores(ctx, self, mb)
}

func (b *bench) restores(ctx context.Context, self string, mb float64) error {
	b.say("## Restore\n\nThe same data into tmpfs.\n")
	dst := b.dir + "/dst"
	var ours, theirs []usage
	for range runs {
		for _, m := range []struct {
			us  *[]usage
			cmd [][]string
		}{{&ours, [][]string{{self, "extract", b.dir + "/m.tar.zst", dst}}}, {&theirs, [][]string{{"zstd", "-dcq", b.dir + "/t.tar.zst"}, {"tar", "-C", dst, "-xp", "--numeric-owner", "--xattrs", "--acls", "-f", "-"}}}} {
			if err := os.MkdirAll(dst, 0o755); err != nil {
				return err
			}
			u, err := pipe(ctx, "", m.cmd...)
			if err != nil {
				return err
			}
			*m.us = append(*m.us, u)
			if err := os.RemoveAll(dst); err != nil {
				return err
			}
		}
	}
	o, t := median(ours), median(theirs)
	b.say("| method | MB/s | CPU s | peak memory MB |\n|---|---|---|---|\n| mkcdrec | %.0f | %.1f | %d |\n| zstd -dc \\| tar -x | %.0f | %.1f | %d |\n", mb/o.seconds, o.cpu, o.rss/1024, mb/t.seconds, t.cpu, t.rss/1024)
	b.say("mkcdrec is faster by %.2f. Goal: at least 1.5 on two cores.\n", t.seconds/o.seconds)
	return nil
}
