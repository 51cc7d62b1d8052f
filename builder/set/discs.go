package set

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// DiscImage is one image that was made.
type DiscImage struct {
	File  string        `json:"file"`
	Label string        `json:"label"`
	Size  quantity.Size `json:"size"`
}

// minVolume is the smallest piece that is worth a volume of its own, bytes.
const minVolume = 4 << 20

// Discs is a sink of images for discs: NAME_1.iso, which starts the rescue system,
// NAME_2.iso ... An image appears whole. The set is written to a directory first, and
// divided when it is whole: then the content of every disc is known exactly.
type Discs struct {
	// Placed is where the set is written, below a directory of this machine; nil if only Divide
	// is called.
	Placed
	Into    string // where the images are put
	Work    string // for temporary files, on the same file system
	Size    int64  // of a disc, bytes
	KeepSet bool   // the set stays beside its images
	// Medium writes an image that starts the rescue system, with what extra adds to it.
	Medium func(iso string, extra func(*media.ISO)) error
	// Sign signs the manifest of the discs, which is another one than that of the set; nil for
	// none.
	Sign   func([]byte) ([]byte, error)
	Report progress.Reporter
	Images []DiscImage // that were made

	whole bool // the set is complete
	set   *parts
	index manifest.Discs
	next  []volume.Header // of each archive, the volume to be made
}

// Commit names the set and makes its images. When that fails the set stays, and the error
// reports it.
func (d *Discs) Commit(ctx context.Context) error {
	if err := d.Placed.Commit(ctx); err != nil {
		return err
	}
	d.whole = true
	from := d.Final()
	if err := d.Divide(ctx, from); err != nil {
		return fmt.Errorf("%w\nthe backup itself is whole in %s; continue with: mkcdrec cdrom --from %s", err, from, from)
	}
	if d.KeepSet {
		return nil
	}
	if err := os.RemoveAll(from); err != nil {
		return fmt.Errorf("cannot remove the set that the discs were made of: %w", err)
	}
	return nil
}

// Remove takes away an unfinished set. A complete one stays when its images can't be made.
func (d *Discs) Remove() error {
	if d.whole {
		return nil
	}
	return d.Placed.Remove()
}

// Divide makes the images of a set in a directory, disc by disc.
func (d *Discs) Divide(ctx context.Context, from string) (err error) {
	if d.set, err = readParts(from, d.Work, d.Sign); err != nil {
		return fmt.Errorf("cannot divide %s: %w", from, err)
	}
	defer d.set.close()
	d.index = manifest.Discs{Version: manifest.Version, ID: d.set.id}
	for _, p := range d.set.divided {
		d.index.Archives = append(d.index.Archives, manifest.Divided{File: p.name, Size: quantity.Size(p.size), Tail: p.tail, TailAt: quantity.Size(p.tailAt)})
	}
	bootable, err := d.measure(true)
	if err != nil {
		return err
	}
	data, err := d.measure(false)
	if err != nil {
		return err
	}
	if err := d.divide(d.Size-bootable, d.Size-data); err != nil {
		return err
	}
	for _, x := range d.index.Discs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.image(ctx, x); err != nil {
			return fmt.Errorf("disc %d of %d: %w", x.Number, len(d.index.Discs), err)
		}
	}
	return nil
}

// image makes the image of a disc, under its name when it is whole.
func (d *Discs) image(ctx context.Context, x manifest.Disc) error {
	name := filepath.Join(d.Into, fmt.Sprintf("%s_%d.iso", filepath.Base(d.set.dir), x.Number))
	tmp := filepath.Join(d.Work, "disc.iso")
	if err := d.disc(ctx, x, tmp); err != nil {
		return err
	}
	st, err := os.Stat(tmp)
	if err != nil {
		return err
	}
	if st.Size() > d.Size {
		return fmt.Errorf("the image has %d bytes, more than %d", st.Size(), d.Size)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	d.Images = append(d.Images, DiscImage{name, x.Label, quantity.Size(st.Size())})
	d.Report.Note("%s: %s, label %s", name, quantity.Size(st.Size()), x.Label)
	return nil
}

// reserve is for what is not known before the archives are divided: the index,
// lists of checksums, directories, and rounding.
const reserve = 1<<20 + 256<<10

// measure makes the image without archives and gives what it takes, in bytes.
func (d *Discs) measure(first bool) (int64, error) {
	iso := filepath.Join(d.Work, "measure.iso")
	defer os.Remove(iso)
	if err := d.put(first, iso, manifest.Disc{Number: 1, Label: "MEASURE"}, nil); err != nil {
		return 0, err
	}
	st, err := os.Stat(iso)
	if err != nil {
		return 0, err
	}
	return st.Size() + reserve, nil
}

// put writes an image with what is not an archive.
func (d *Discs) put(first bool, iso string, disc manifest.Disc, more func(*media.ISO, string)) error {
	base := filepath.Base(d.set.dir) + "/"
	extra := func(img *media.ISO) {
		img.Label, img.Max, img.Private = disc.Label, 0, true
		for n, f := range d.set.common {
			img.Files[base+n] = f
		}
		if first {
			for n, f := range d.set.first {
				img.Files[base+n] = f
			}
		}
		img.Content[disc.Label] = []byte(fmt.Sprintf("disc %d of the backup of %s\n", disc.Number, d.set.host))
		if more != nil {
			more(img, base)
		}
	}
	if first {
		return d.Medium(iso, extra)
	}
	now, _, err := media.Epoch()
	if err != nil {
		return err
	}
	img := media.ISO{Data: true, Files: map[string]string{}, Content: map[string][]byte{}, Time: now}
	extra(&img)
	if err := img.Write(iso); err != nil {
		return err
	}
	return os.Chmod(iso, 0o600)
}

// divide decides which frames of which archive go onto which disc; room is
// what the first and the other discs have for volumes.
func (d *Discs) divide(first, others int64) error {
	if first < minVolume || others < minVolume {
		return fmt.Errorf("cannot divide the set: beside the rescue system and the small files, a disc of %s has %s left for archives, the first one %s; want at least %s", quantity.Size(d.Size), quantity.Size(max(others, 0)), quantity.Size(max(first, 0)), quantity.Size(minVolume))
	}
	left := first
	disc := 1
	for i := range d.index.Archives {
		a := &d.index.Archives[i]
		lens, err := d.set.divided[i].lengths()
		if err != nil {
			return err
		}
		at := int64(0)
		for len(lens) > 0 {
			// Each file takes whole sectors; one more for its directory record. A
			// file on ISO 9660 has at most 4 GiB.
			n, length := fit(a, lens, min(left-8<<10, 4<<30-4096))
			if n == 0 || length < minVolume && n < len(lens) {
				if left == others || disc > 1 && left == first {
					return fmt.Errorf("cannot divide %s: a frame of %d bytes does not fit on a disc of %d", a.File, lens[0], d.Size)
				}
				disc, left = disc+1, others
				continue
			}
			v := manifest.Volume{Disc: disc, Number: len(a.Volumes) + 1, Offset: quantity.Size(at), Length: quantity.Size(length)}
			v.File = volume.FileName(a.File, v.Number)
			for _, l := range lens[:n] {
				v.Size += quantity.Size(l)
			}
			a.Volumes = append(a.Volumes, v)
			at += int64(v.Size)
			lens = lens[n:]
			left -= length + 8<<10
		}
	}
	short := strings.ToUpper(d.index.ID[:8])
	for n := 1; n <= disc; n++ {
		d.index.Discs = append(d.index.Discs, manifest.Disc{Number: n, Label: fmt.Sprintf("%s_%s_%d", rescue.VolumeLabel, short, n)})
	}
	created := d.set.created
	id, err := volume.ParseID(d.index.ID)
	if err != nil {
		return err
	}
	for _, a := range d.index.Archives {
		d.next = append(d.next, volume.Header{ID: id, Name: a.File, Created: created, Number: 1})
	}
	return nil
}

// fit is how many pieces of a file go into a volume of at most room bytes, and its length.
func fit(a *manifest.Divided, pieces []int64, room int64) (n int, length int64) {
	if a.Tail != "" {
		return volume.Fit(a.File, pieces, room)
	}
	for n < len(pieces) && length+pieces[n] <= room {
		length += pieces[n]
		n++
	}
	return n, length
}

// disc writes one image with its volumes and the lists of checksums.
func (d *Discs) disc(ctx context.Context, disc manifest.Disc, iso string) error {
	index := d.index
	index.This = disc.Number
	ij, err := json.MarshalIndent(index, "", " ")
	if err != nil {
		return err
	}
	d.Report.Phase(fmt.Sprintf("writing disc %d of %d", disc.Number, len(d.index.Discs)), 0)
	return d.put(disc.Number == 1, iso, disc, func(img *media.ISO, base string) {
		img.Content[base+manifest.DiscsFile] = ij
		sums := discSums{}
		sums.add(base, maps.Keys(img.Files), maps.Keys(img.Content))
		d.addVolumes(ctx, img, base, disc.Number, sums)
		sums.lists(img, base)
	})
}

// addVolumes puts the volumes of a disc into its image; sums gets theirs when they are
// written.
func (d *Discs) addVolumes(ctx context.Context, img *media.ISO, base string, disc int, sums discSums) {
	for i, a := range d.index.Archives {
		for _, v := range a.Volumes {
			if v.Disc != disc {
				continue
			}
			sums[v.File] = [2]string{}
			img.Streams = append(img.Streams, media.Stream{Path: base + v.File, Size: int64(v.Length), Write: func(w io.Writer) error {
				h, c := sha256.New(), crc32.NewIEEE()
				err := d.volume(ctx, i, a, v, io.MultiWriter(w, h, c))
				sums[v.File] = [2]string{hex.EncodeToString(h.Sum(nil)), fmt.Sprintf("%08X", c.Sum32())}
				return err
			}})
		}
	}
}

// discSums are the SHA-256 and CRC-32 of a disc's files by name; "" for one that was not
// read yet.
type discSums map[string][2]string

// add enters the names that are in the set's directory.
func (s discSums) add(base string, all ...iter.Seq[string]) {
	for _, names := range all {
		for name := range names {
			if n, ok := strings.CutPrefix(name, base); ok {
				s[n] = [2]string{}
			}
		}
	}
}

// lists puts the lists of checksums into an image, the last of its streams: volumes have
// their sums by then. The lengths of the lists are known before.
func (s discSums) lists(img *media.ISO, base string) {
	sha := func(n string, sums [2]string) string { return sumLine(sums[0], n) }
	sfv := func(n string, sums [2]string) string { return n + " " + sums[1] + "\n" }
	files, content := img.Files, img.Content
	add := func(name string, line func(string, [2]string) string) {
		size := 0
		for n := range s {
			size += len(line(n, [2]string{strings.Repeat("0", 64), strings.Repeat("0", 8)}))
		}
		img.Streams = append(img.Streams, media.Stream{Path: base + name, Size: int64(size), Write: func(w io.Writer) error {
			var b strings.Builder
			for _, n := range slices.Sorted(maps.Keys(s)) {
				if s[n][0] == "" {
					sums, err := sumOf(files[base+n], content[base+n])
					if err != nil {
						return err
					}
					s[n] = sums
				}
				b.WriteString(line(n, s[n]))
			}
			_, err := io.WriteString(w, b.String())
			return err
		}})
	}
	add(manifest.SHA256, sha)
	add(manifest.SFV, sfv)
}

func sumOf(file string, content []byte) ([2]string, error) {
	var r io.Reader = strings.NewReader(string(content))
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return [2]string{}, err
		}
		defer f.Close()
		r = f
	}
	h, c := sha256.New(), crc32.NewIEEE()
	_, err := io.Copy(io.MultiWriter(h, c), r)
	return [2]string{hex.EncodeToString(h.Sum(nil)), fmt.Sprintf("%08X", c.Sum32())}, err
}

// volume writes one volume of an archive.
func (d *Discs) volume(ctx context.Context, i int, a manifest.Divided, v manifest.Volume, w io.Writer) error {
	f, err := os.Open(filepath.Join(d.set.dir, a.File))
	if err != nil {
		return err
	}
	defer f.Close()
	if a.Tail == "" {
		_, err := io.Copy(w, io.NewSectionReader(f, int64(v.Offset), int64(v.Size)))
		return errors.Join(err, ctx.Err())
	}
	if d.next[i].Number != v.Number {
		return fmt.Errorf("volume %d of %s comes after %d", v.Number, a.File, d.next[i].Number)
	}
	c := &volume.Cutter{Header: d.next[i], More: v.Number < len(a.Volumes), Next: func(context.Context, volume.Header) (volume.Medium, error) { return streamMedium{w}, nil }}
	d.next[i], err = c.Cut(ctx, io.NewSectionReader(f, int64(v.Offset), int64(v.Size)))
	return err
}

// streamMedium is a volume that goes into a stream.
type streamMedium struct{ io.Writer }

func (streamMedium) Room() int64            { return volume.Unlimited }
func (streamMedium) Full() bool             { return false }
func (streamMedium) Close(volume.End) error { return nil }
