package rescue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// FingerprintFile is the file on a medium with the sums of what it was made of.
const FingerprintFile = "boot/fingerprint.json"

const maxFingerprint = 64 << 10

// fingerprint has SHA-256 sums of what a medium is made of, by what a person calls that part:
// equal sums make an equal medium, but for its id and its date.
type fingerprint struct {
	Version int               `json:"version"`
	Parts   map[string]string `json:"parts"`
}

// Parts of a medium.
const (
	ofLayout   = "storage layout"
	ofKernel   = "kernel"
	ofProgram  = "mkcdrec itself"
	ofDrivers  = "drivers and firmware"
	ofPrograms = "programs and files"
	ofSettings = "configuration"
	ofLoaders  = "boot loaders and menus"
	ofSecond   = "second system"
)

// partOf names the part of the rescue system that a path of its tree belongs to, "" for what
// differs between any two media, and for the layout.
func partOf(p string) string {
	switch under := func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }; {
	case "/"+p == rescue.InfoFile, "/"+p == rescue.LayoutFile, p == initramfs.List:
		return ""
	case under("bbin"), p == "init":
		return ofProgram
	case under("usr/lib/modules"), under("usr/lib/firmware"), under("etc/modprobe.d"):
		return ofDrivers
	case under("etc"), under("root"):
		return ofSettings
	}
	return ofPrograms
}

// fingerprint sums up what the medium img is made of.
func (s *System) fingerprint(img *media.ISO) (*fingerprint, error) {
	parts, err := s.files.Sum(partOf)
	if err != nil {
		return nil, err
	}
	sums := map[string]hash.Hash{}
	add := func(part, what string, b []byte) {
		if sums[part] == nil {
			sums[part] = sha256.New()
			fmt.Fprintln(sums[part], parts[part])
		}
		fmt.Fprintf(sums[part], "%q %d\n", what, len(b))
		sums[part].Write(b)
	}
	lay := publicLayout(s.machine.Layout)
	add(ofLayout, "layout", []byte(lay.Fingerprint()))
	if line, _, err := s.by.Config.Cmdline(lay); err == nil && strings.Contains(line, "mkcdrec.ip=source") {
		add(ofLayout, "network", fmt.Appendf(nil, "%+v", lay.Network))
	}
	add(ofSettings, "info", fmt.Appendf(nil, "%s %s %s %s", s.Info.Host, s.Info.Machine, s.Info.HookTimeout, s.Info.CheckTarget))
	add(ofKernel, "release", []byte(s.Kernel.Release))
	for _, name := range slices.Sorted(maps.Keys(img.Files)) {
		part := ofLoaders
		switch name {
		case "boot/initrd.img", rescue.SecondFile:
			continue // its files are compared
		case "boot/vmlinuz":
			part = ofKernel
		case initramfs.ComfortFile:
			part = ofPrograms
		}
		b, err := sumFile(img.Files[name])
		if err != nil {
			return nil, err
		}
		add(part, name, b)
	}
	for _, name := range slices.Sorted(maps.Keys(img.Content)) {
		add(ofLoaders, s.undated(name), []byte(s.undated(string(img.Content[name]))))
	}
	if err := s.loaders(img, func(name string, b []byte) { add(ofLoaders, name, b) }); err != nil {
		return nil, err
	}
	if from := s.by.Config.ExtraTree; from != "" {
		b, err := sumTree(from)
		if err != nil {
			return nil, err
		}
		add(ofSecond, from, b)
	}
	for part, h := range sums {
		parts[part] = hex.EncodeToString(h.Sum(nil))
	}
	return &fingerprint{Version: 1, Parts: parts}, nil
}

// undated is a text of the medium without its id and its date.
func (s *System) undated(text string) string {
	return strings.NewReplacer(s.Info.MediumID, "", s.Info.Created.Format("2006-01-02 15:04 UTC"), "").Replace(text)
}

// loaders adds the boot loaders of img.
func (s *System) loaders(img *media.ISO, add func(name string, b []byte)) error {
	var files []string
	if l := img.BIOS; l != nil {
		files = append(files, l.ISOLinux, l.LDLinux, l.HybridMBR)
		files = append(files, l.Modules...)
	}
	if l := img.UEFI; l != nil {
		for _, name := range slices.Sorted(maps.Keys(l.Files)) {
			files = append(files, l.Files[name])
		}
		add("uefi", []byte(s.undated(string(l.Config))))
	}
	for _, f := range files {
		if f == "" {
			continue
		}
		b, err := sumFile(f)
		if err != nil {
			return err
		}
		add(filepath.Base(f), b)
	}
	return nil
}

// sumFile is the SHA-256 of a file.
func sumFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read what goes onto the medium: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("cannot read what goes onto the medium: %w", err)
	}
	return h.Sum(nil), nil
}

// sumTree is a SHA-256 of names, sizes, modes and times of a file, or of all that is below a
// directory. The content of a whole system is not read.
func sumTree(root string) ([]byte, error) {
	h := sha256.New()
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v %d %d\n", p, st.Mode(), st.Size(), st.ModTime().UnixNano())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read what goes onto the medium: %w", err)
	}
	return h.Sum(nil), nil
}

// mark adds the fingerprint to the medium img.
func (s *System) mark(img *media.ISO) error {
	f, err := s.fingerprint(img)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	img.Content[FingerprintFile] = append(b, '\n')
	return nil
}

// Changed returns why the medium iso is to be made again, in the order of the alphabet: which
// parts of what it is made of have changed since, or why that is not known. It is empty for a
// medium that is whole, and that would be made the same, but for its id and date.
func (b *Maker) Changed(ctx context.Context, p *Machine, iso string) (why []string, err error) {
	was, reason := readFingerprint(iso)
	if was == nil {
		return []string{reason}, nil
	}
	work, err := os.MkdirTemp(filepath.Dir(iso), ".mkcdrec-iso-*")
	if err != nil {
		return nil, fmt.Errorf("cannot look for changes: %w", err)
	}
	defer os.RemoveAll(work)
	b.Report.Phase("looking for changes", 0)
	s, img, err := b.draft(ctx, p, work)
	if err != nil {
		return nil, err
	}
	is, err := s.fingerprint(img)
	if err != nil {
		return nil, err
	}
	parts := slices.Sorted(maps.Keys(is.Parts))
	for part := range was.Parts {
		if _, ok := is.Parts[part]; !ok {
			parts = append(parts, part)
		}
	}
	for _, part := range parts {
		if is.Parts[part] != was.Parts[part] {
			why = append(why, part)
		}
	}
	return why, nil
}

// Try looks for what keeps a medium from being made, without making it.
func (b *Maker) Try(ctx context.Context, p *Machine) error {
	work, end, err := regular.TempDir("", "mkcdrec-try-")
	if err != nil {
		return fmt.Errorf("cannot try to make the rescue system: %w", err)
	}
	defer end()
	_, _, err = b.draft(ctx, p, work)
	return err
}

// draft collects below work what a medium has, without reports, and without packing it.
func (b *Maker) draft(ctx context.Context, p *Machine, work string) (*System, *media.ISO, error) {
	quiet := *b
	quiet.Report = progress.None{}
	s, _, err := quiet.collect(ctx, p, Hint{}, work, false)
	if err != nil {
		return nil, nil, err
	}
	img, err := s.image()
	return s, img, err
}

// readFingerprint reads the fingerprint of a medium that is whole; reason is why there is none.
func readFingerprint(iso string) (f *fingerprint, reason string) {
	in, err := os.Open(iso)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "there is no such medium yet"
	}
	if err != nil {
		return nil, err.Error()
	}
	defer in.Close()
	if _, err := media.CheckSum(in, func(int64) {}); err != nil {
		return nil, fmt.Sprintf("%s: %v", iso, err)
	}
	b, err := media.ReadFile(iso, FingerprintFile, maxFingerprint)
	if err != nil {
		return nil, "it was made by another version of mkcdrec, or by another command"
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	f = &fingerprint{}
	if err := d.Decode(f); err != nil || f.Version != 1 {
		return nil, "it was made by another version of mkcdrec"
	}
	return f, ""
}
