package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/reference"
)

//go:embed files
var own embed.FS

// release is what the packages are a release of.
type release struct {
	version string // 0.2.0
	number  string // 1, and one more for each commit since the tag
	date    time.Time
}

// tagged gives the release by the last tag, or version 0.1.0 with the number of all commits.
func tagged() (release, error) {
	git := func(args ...string) string {
		out, err := exec.Command("git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	r := release{version: "0.1.0"}
	since := git("rev-list", "--count", "HEAD")
	if f := strings.Split(git("describe", "--tags", "--long", "--match", "v[0-9]*"), "-"); len(f) == 3 {
		r.version, since = f[0][1:], f[1]
	}
	n, err := strconv.Atoi(since)
	if err != nil {
		return r, errors.New("cannot find the version: this is not a git checkout")
	}
	r.number = strconv.Itoa(n + 1)
	r.date, err = time.Parse(time.RFC3339, git("log", "-1", "--format=%cI"))
	return r, err
}

func packed(text string) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // into memory
	}
	return b.Bytes()
}

// install puts all files of a package below dir: those that `make build` has made in bin,
// and what is made of definitions.
func install(ctx context.Context, dir string, r release) error {
	cs, err := reference.Definitions(ctx, ".")
	if err != nil {
		return err
	}
	keys, err := builder.Keys()
	if err != nil {
		return err
	}
	on := reference.Release{Version: r.version, Date: r.date.Format(time.DateOnly)}
	content := map[string][]byte{
		"etc/mkcdrec.yaml":                          []byte(reference.ConfigFile(keys)),
		"usr/share/man/man5/mkcdrec.yaml.5.gz":      packed(reference.ConfigMan(keys, on)),
		"usr/share/doc/mkcdrec/changelog.Debian.gz": packed(fmt.Sprintf("mkcdrec (%s-%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n", r.version, r.number, maintainer, r.date.Format(time.RFC1123Z))),
	}
	for _, c := range cs {
		for name, text := range reference.Man(c, on) {
			content["usr/share/man/man8/"+name+".gz"] = packed(text)
		}
		content["usr/share/bash-completion/completions/"+c.Name] = []byte(c.Completion("bash"))
		content["usr/share/zsh/vendor-completions/_"+c.Name] = []byte(c.Completion("zsh"))
		content["usr/share/fish/vendor_completions.d/"+c.Name+".fish"] = []byte(c.Completion("fish"))
		if strings.HasPrefix(c.Name, "mkcdrec") {
			b, err := os.ReadFile("bin/" + c.Name)
			if err != nil {
				return fmt.Errorf("cannot read what make build makes: %w", err)
			}
			content["usr/sbin/"+c.Name] = b
		} else if err := link(filepath.Join(dir, "usr/sbin", c.Name), "mkcdrec"); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{"files/mkcdrec.service": "usr/lib/systemd/system/mkcdrec.service", "files/mkcdrec.timer": "usr/lib/systemd/system/mkcdrec.timer", "files/lintian-overrides": "usr/share/lintian/overrides/mkcdrec"} {
		if content[to], err = own.ReadFile(from); err != nil {
			return err
		}
	}
	docs, err := documents()
	for name, b := range docs {
		content["usr/share/doc/mkcdrec/"+name] = b
	}
	for name, b := range content {
		name = filepath.Join(dir, name)
		mode := fs.FileMode(0o644)
		if filepath.Base(filepath.Dir(name)) == "sbin" {
			mode = 0o755
		}
		err = errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o755), replace(name, b, mode))
	}
	return err
}

// documents gives the documents by where they are below the package's directory: as in the
// source, so that links between them lead somewhere, but for two that have names of their own
// in packages.
func documents() (map[string][]byte, error) {
	out := map[string][]byte{}
	names, err := filepath.Glob("docs/*")
	for _, name := range append(names, "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE") {
		b, e := os.ReadFile(name)
		err = errors.Join(err, e)
		switch {
		case name == "CHANGELOG.md":
			name, b = "changelog.gz", packed(string(b))
		case name == "LICENSE":
			name = "copyright"
		case strings.HasSuffix(name, ".md"):
			b = []byte(strings.NewReplacer("CHANGELOG.md)", "changelog.gz)", "LICENSE)", "copyright)").Replace(string(b)))
		}
		out[name] = b
	}
	return out, err
}

// replace writes a file that may be a program that runs. A configuration that is there stays.
func replace(name string, b []byte, mode fs.FileMode) error {
	if _, err := os.Stat(name); err == nil && filepath.Base(filepath.Dir(name)) == "etc" {
		name += ".new"
	}
	if err := os.WriteFile(name+".tmp", b, mode); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// link makes a symbolic link, and keeps a file of somebody else.
func link(name, to string) error {
	if old, err := os.Readlink(name); err == nil && old == to {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.Symlink(to, name)
}

const maintainer = "The mkcdrec authors <mkcdrec@users.noreply.github.com>"

const description = `disaster recovery: rescue media and backup sets
Records the storage layout of a machine, archives its file systems, and makes a
rescue medium that boots it again on blank disks: partitions, RAID, LUKS, LVM,
file systems, files and boot loader. It also clones disks and installs many
machines from the network.`

// pack makes a deb and an rpm in dir.
func pack(ctx context.Context, dir string, r release) error {
	tree, err := os.MkdirTemp("", "mkcdrec-package-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := install(ctx, tree, r); err != nil {
		return err
	}
	return packTree(tree, dir, r)
}

// packTree makes packages of what is installed below tree.
func packTree(tree, dir string, r release) error {
	scripts, err := os.MkdirTemp("", "mkcdrec-package-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scripts)
	if err := errors.Join(os.CopyFS(scripts, own), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	scripts += "/files/"
	for _, kind := range []string{"deb", "rpm"} {
		contents, err := contents(tree, kind, r)
		if err != nil {
			return err
		}
		p, err := nfpm.Get(kind)
		if err != nil {
			return err
		}
		info := nfpm.WithDefaults(&nfpm.Info{Name: "mkcdrec", Arch: runtime.GOARCH, Version: r.version, VersionSchema: "none", Release: r.number, Section: "admin", Priority: "optional",
			Maintainer: maintainer, Description: description, Homepage: "https://github.com/mkcdrec/mkcdrec", License: "BSD-3-Clause", MTime: r.date, DisableGlobbing: true,
			Overridables: nfpm.Overridables{Contents: contents, Conflicts: []string{"dump"}, // it has a command restore, too
				Scripts: nfpm.Scripts{PostInstall: scripts + "postinstall", PreRemove: scripts + "preremove", PostRemove: scripts + "postremove"},
				Deb:     nfpm.Deb{Compression: "gzip"}, RPM: nfpm.RPM{Compression: "zstd", BuildHost: "localhost", Summary: "Disaster recovery: rescue media and backup sets"}}})
		name := filepath.Join(dir, p.ConventionalFileName(info))
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := errors.Join(p.Package(info, f), f.Close()); err != nil {
			return fmt.Errorf("cannot make %s: %w", name, err)
		}
	}
	return nil
}

// contents lists the files below root for a kind of package.
func contents(root, kind string, r release) (files.Contents, error) {
	var all files.Contents
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := strings.TrimPrefix(p, root)
		c := &files.Content{Source: p, Destination: to, FileInfo: &files.ContentFileInfo{MTime: r.date}}
		switch {
		case d.Type() == fs.ModeSymlink:
			c.Type = files.TypeSymlink
			if c.Source, err = os.Readlink(p); err != nil {
				return err
			}
		case strings.HasPrefix(to, "/etc/"):
			c.Type = files.TypeConfigNoReplace
		}
		if kind == "rpm" {
			if strings.Contains(to, "/lintian/") || strings.HasSuffix(to, "changelog.Debian.gz") {
				return nil
			}
			c.Destination = strings.Replace(to, "/zsh/vendor-completions/", "/zsh/site-functions/", 1)
		}
		all = append(all, c)
		return nil
	})
	return all, err
}
