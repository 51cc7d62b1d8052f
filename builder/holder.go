package builder

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// holder finds the file system that dir is on, by device number.
func (p *Plan) holder(dir string, mounts []probe.MountInfo) error {
	if dir == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	p.over = probe.MountOver(mounts, real)
	if p.over != nil {
		p.content = lookAtHolder(p.over.Path, real)
	}
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		for _, m := range f.Mounts {
			var ms unix.Stat_t
			if unix.Stat(m.Path, &ms) != nil || ms.Dev != st.Dev {
				continue
			}
			if m.Path == "/" {
				return &exit.Refusal{Reason: fmt.Sprintf("cannot back up to %s: it is on the root file system, which a restore recreates: the set would be erased before it is read", dir)}
			}
			p.Holder = f
			p.holderMount = m
			p.HolderPath = real
			root := m.Path
			if rel, err := filepath.Rel(m.Path, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
				p.HolderPath = "/" + rel
			} else if mi := slices.IndexFunc(mounts, func(x probe.MountInfo) bool { return x.Device == f.Device && strings.HasPrefix(real+"/", x.Path+"/") }); mi >= 0 {
				p.HolderPath = filepath.Join(mounts[mi].Root, strings.TrimPrefix(real, mounts[mi].Path))
			}
			p.HolderPath = filepath.Clean(p.HolderPath)
			p.content = lookAtHolder(root, filepath.Join(root, p.HolderPath))
			return nil
		}
	}
	return p.inSubvolume(dir)
}

// inSubvolume refuses a directory in a subvolume of a btrfs that is to be saved:
// the set would be a part of itself.
func (p *Plan) inSubvolume(dir string) error {
	if p.over == nil || p.over.Type != fstype.TypeBtrfs {
		return nil
	}
	if f := p.Layout.On(p.over.Device); f != nil {
		return fmt.Errorf("cannot back up to %s: it is in a subvolume of the btrfs on %s, which is to be saved; mount that subvolume, or choose another file system", dir, f.Device)
	}
	return nil
}

// holderContent is what the file system has that the set is written to.
type holderContent struct {
	sets   []string // names in the set's directory that are backups
	bytes  int64    // of those
	others []string // the first few paths of what is not a backup
}

// backupOnly reports whether there is nothing but backups.
func (c *holderContent) backupOnly() bool { return c != nil && len(c.others) == 0 }

// ownImage is the name of an image that cdrom or rescue wrote.
var ownImage = lazyregexp.New(`(-\d{8}T\d{6}Z_\d+|-rescue)\.iso$`)

// litter are entries of a file system's root that are nobody's files.
func litter(name string) bool {
	return slices.Contains([]string{"lost+found", "System Volume Information", "$RECYCLE.BIN", ".Trashes"}, name) || strings.HasPrefix(name, ".Trash-")
}

// isBackup reports whether an entry of a directory is a set, an unfinished one with
// its owner, a lock, or an image.
func isBackup(dir string, e os.DirEntry) bool {
	name := e.Name()
	if strings.HasPrefix(name, set.Partial) || strings.HasPrefix(name, set.LockPrefix) {
		return true
	}
	if e.Type().IsRegular() {
		return ownImage().MatchString(name)
	}
	if !e.IsDir() {
		return false
	}
	for _, f := range []string{manifest.File, sealed.HeadFile, set.UnfinishedFile} {
		if st, err := os.Lstat(filepath.Join(dir, name, f)); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// lookAtHolder looks for what is not a backup on the file system mounted at root;
// dir, below it, is where sets are written.
func lookAtHolder(root, dir string) *holderContent {
	c := &holderContent{}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		c.others = append(c.others, root)
		return c
	}
	at := root
	for _, next := range append(slices.DeleteFunc(strings.Split(rel, "/"), func(s string) bool { return s == "." || s == "" }), "") {
		entries, err := os.ReadDir(at)
		if err != nil {
			c.others = append(c.others, at)
			return c
		}
		for _, e := range entries {
			name := filepath.Join(at, e.Name())
			switch {
			case e.Name() == next || at == root && litter(e.Name()):
			case isBackup(at, e):
				if next == "" {
					c.sets = append(c.sets, e.Name())
					c.bytes += sizeOfBackup(name, e)
				}
			case e.IsDir() && onlyBackups(name, 3):
			case len(c.others) < 5:
				c.others = append(c.others, name)
			}
		}
		at = filepath.Join(at, next)
	}
	return c
}

// onlyBackups reports whether a directory has nothing but backups, of other
// machines for example, some levels down.
func onlyBackups(dir string, depth int) bool {
	entries, err := os.ReadDir(dir)
	if err != nil || depth == 0 {
		return false
	}
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return !isBackup(dir, e) && !(e.IsDir() && onlyBackups(filepath.Join(dir, e.Name()), depth-1))
	})
}

// sizeOfBackup is what a backup has, in bytes, by its manifest.
func sizeOfBackup(name string, e os.DirEntry) int64 {
	if !e.IsDir() {
		if i, err := e.Info(); err == nil {
			return i.Size()
		}
		return 0
	}
	b, err := regular.ReadFile(filepath.Join(name, manifest.File), manifest.MaxText)
	if err != nil {
		return 0
	}
	var m struct{ Files []struct{ Size int64 } }
	if json.Unmarshal(b, &m) != nil {
		return 0
	}
	n := int64(0)
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// holderRule decides about the file system that the set is written to. One with
// nothing but backups is left out, by the rule that is returned. Otherwise it is
// saved without the backups, if it is a part of the machine and there is room; if
// not, lacks is why its files are not in the set.
func (p *Plan) holderRule() (rule, lacks string) {
	f := p.Holder
	if p.content.backupOnly() {
		return manifest.RuleHolder, ""
	}
	others := strings.Join(p.content.others, ", ")
	if !p.refersTo(f) && !p.shares(f, p.Layout.Mounted("/")) {
		return "", fmt.Sprintf("it holds the backup set, but also other files (%s), and is not in fstab; name it in exclude_devices if it is a disk for backups", others)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.holderMount.Path, &st); err == nil {
		free, need := int64(st.Bavail)*st.Bsize, (int64(f.Used)-p.content.bytes)/2
		if need > free {
			return "", fmt.Sprintf("it holds the backup set, but also other files (%s) for which it has no room: at least %s is needed, %s is free; write the set to another file system", others, quantity.Size(need), quantity.Size(free))
		}
	}
	return "", ""
}

// leaveSets has the archive of the file system that the set is on leave out the
// sets in its directory.
func (p *Plan) leaveSets() {
	if p.Holder == nil || p.Holder.Excluded != "" || p.content == nil {
		return
	}
	for i := range p.Archives {
		a := &p.Archives[i]
		if a.Device != p.Holder.Device || p.Holder.MountAt(a.Mount).Subvolume != p.holderMount.Subvolume {
			continue
		}
		for _, s := range p.content.sets {
			a.leftOut[strings.TrimPrefix(path.Join(p.HolderPath, s), "/")] = "a backup in the directory of the set"
		}
		p.holderArchive = i + 1
	}
	p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: the %d backups in %s; a restore can't recreate the file system that it reads the set from: copy the set to another machine or disk", p.Holder.Device, len(p.content.sets), filepath.Join(p.holderMount.Path, p.HolderPath)))
}

// leaveUnfinished has that archive leave out what has appeared in the directory of
// the set since the plan: the set that is being written, and those of other machines.
func (p *Plan) leaveUnfinished(dir string) error {
	if p.holderArchive == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	for _, e := range entries {
		if isBackup(dir, e) {
			p.Archives[p.holderArchive-1].leftOut[strings.TrimPrefix(path.Join(p.HolderPath, e.Name()), "/")] = "a backup in the directory of the set"
		}
	}
	return nil
}

// shares reports whether two file systems have a disk in common.
func (p *Plan) shares(a, b *layout.Filesystem) bool {
	if a == nil || b == nil {
		return false
	}
	var disks []string
	for _, d := range b.Devs() {
		disks = append(disks, p.Layout.DisksUnder(d)...)
	}
	return slices.ContainsFunc(a.Devs(), func(d string) bool {
		return slices.ContainsFunc(p.Layout.DisksUnder(d), func(u string) bool { return slices.Contains(disks, u) })
	})
}

// refersTo reports whether a line of fstab mounts the file system at one of its
// places.
func (p *Plan) refersTo(f *layout.Filesystem) bool {
	t := sysconf.ParseFstab(p.Layout.Fstab)
	return slices.ContainsFunc(f.Mounts, func(m layout.Mount) bool { return t.At(m.Path) != nil })
}
