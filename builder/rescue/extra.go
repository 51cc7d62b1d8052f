package rescue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// addFiles puts in the files and directories that the configuration names, at their paths.
// What a rescue system has there already stays as it is.
func (b *Maker) addFiles(t *initramfs.Files) error {
	before := t.Size()
	var errs []error
	for _, root := range b.Config.Files {
		errs = append(errs, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch {
			case e.IsDir():
				return nil
			case t.Has(p):
				b.Report.Warn("rescue.files: %s: the rescue system has its own", p)
				return nil
			case e.Type() == fs.ModeSymlink:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				return t.AddLink(p, to)
			case e.Type() != 0:
				b.Report.Warn("rescue.files: %s is left out: it is neither a file nor a directory", p)
				return nil
			}
			return t.AddFile(p, p)
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot add rescue.files: %w", err)
	}
	if n := t.Size() - before; n > 0 {
		b.Report.Note("rescue.files: %s, in the memory of the rescue system", quantity.Size(n))
	}
	return nil
}

// CheckExtraTree reports why the second system can't be put onto a medium.
func (c *Config) CheckExtraTree() error {
	if c.ExtraTree == "" {
		return nil
	}
	st, err := os.Stat(c.ExtraTree)
	if err != nil {
		return fmt.Errorf("cannot use rescue.extra_tree: %w", err)
	}
	if st.IsDir() {
		if _, err := initramfs.LookPath("", "mksquashfs"); err != nil {
			return fmt.Errorf("cannot pack rescue.extra_tree: %w; install squashfs-tools, or name an image", err)
		}
		return nil
	}
	f, err := regular.Open(c.ExtraTree)
	if err != nil {
		return fmt.Errorf("cannot use rescue.extra_tree: %w", err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err != nil || string(magic) != "hsqs" {
		return fmt.Errorf("cannot use rescue.extra_tree: %s is neither a directory nor an image of squashfs", c.ExtraTree)
	}
	return nil
}

// extraTree adds the second system to the image of a medium. A directory is packed without
// the file systems that are mounted in it.
func (s *System) extraTree(ctx context.Context, img *media.ISO) error {
	b, from := s.by, s.by.Config.ExtraTree
	if err := b.Config.CheckExtraTree(); err != nil || from == "" {
		return err
	}
	for _, m := range s.Kernel.Config.Check([]kernelcfg.Requirement{{Option: "CONFIG_SQUASHFS", Module: true, Breaks: "the second system can't be opened"}, {Option: "CONFIG_BLK_DEV_LOOP", Module: true, Breaks: "the second system can't be opened"}}) {
		if s.Kernel.Config != nil {
			return fmt.Errorf("cannot use rescue.extra_tree with kernel %s: %s", s.Kernel.Image, m)
		}
	}
	file, work := from, filepath.Dir(s.Initrd)
	if st, err := os.Stat(from); err == nil && st.IsDir() {
		b.Report.Phase("packing "+from, 0)
		file = filepath.Join(work, filepath.Base(rescue.SecondFile))
		args := []string{"mksquashfs", from, file, "-noappend", "-quiet", "-no-progress", "-one-file-system", "-comp", "gzip"}
		if s.Kernel.Config["CONFIG_SQUASHFS_ZSTD"] == "y" {
			args[len(args)-1] = "zstd"
		}
		if rel, err := filepath.Rel(from, work); err == nil && !strings.HasPrefix(rel, "..") {
			args = append(args, "-e", rel)
		}
		var env []string
		if e := os.Getenv("SOURCE_DATE_EPOCH"); e != "" {
			env = []string{"SOURCE_DATE_EPOCH=" + e}
		}
		if _, err := b.Run.Run(ctx, tool.Cmd{Args: args, Env: env}); err != nil {
			return fmt.Errorf("cannot pack rescue.extra_tree: %w", err)
		}
	}
	st, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("cannot use rescue.extra_tree: %w", err)
	}
	img.Files[rescue.SecondFile] = file
	b.Report.Note("second system: %s, packed %s; everyone who has the medium can read it", from, quantity.Size(st.Size()))
	return nil
}
