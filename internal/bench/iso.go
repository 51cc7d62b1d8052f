package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/media"
)

// isoPayload is what goes into the image, in bytes: one file, as an archive is.
const isoPayload = 2 << 30

// writeISO makes an image of the file src; the child of the measurement.
func writeISO(src, out string) error {
	bios, err := media.FindBIOS("")
	if err != nil {
		return err
	}
	return media.ISO{Label: "MKCDREC", Files: map[string]string{"set/archive": src}, Content: map[string][]byte{"isolinux/isolinux.cfg": []byte("DEFAULT x\n")}, BIOS: bios, Time: time.Unix(1700000000, 0)}.Write(out)
}

// iso measures writing an image against cp and xorriso, on the disk that holds
// the current directory: each ends with the data on the disk.
func (b *bench) iso(ctx context.Context) error {
	dir, err := os.MkdirTemp("out", "bench-iso-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src := filepath.Join(dir, "src", "archive")
	if err := os.MkdirAll(filepath.Dir(src), 0o755); err != nil {
		return err
	}
	rnd, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer rnd.Close()
	f, err := os.Create(src)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rnd, isoPayload); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out := filepath.Join(dir, "out")
	ways := []struct {
		name string
		args []string
	}{
		{"mkcdrec", []string{self, "iso", src, out}},
		{"cp, sync", []string{"sh", "-c", `cp --reflink=never "$1" "$2" && sync "$2"`, "sh", src, out}},
		{"xorriso, sync", []string{"sh", "-c", `xorriso -as mkisofs -quiet -R -o "$2" "$1" 2>/dev/null && sync "$2"`, "sh", filepath.Dir(src), out}},
		{"xorriso, implantisomd5, sync", []string{"sh", "-c", `xorriso -as mkisofs -quiet -R -o "$2" "$1" 2>/dev/null && implantisomd5 "$2" >/dev/null && sync "$2"`, "sh", filepath.Dir(src), out}},
	}
	got := make([][]usage, len(ways))
	for range runs {
		for i, w := range ways {
			// Twice: the first run gets the memory for the page cache, which a
			// virtual machine may have given back to its host, and is not counted.
			var u usage
			for range 2 {
				os.Remove(out)
				var err error
				if u, err = pipe(ctx, "", w.args); err != nil {
					return err
				}
			}
			got[i] = append(got[i], u)
		}
	}
	b.say("## ISO image\n\nOne file of %d MiB is put into an image on the disk, until it is written. mkcdrec computes the sum for checkisomd5 in the same pass, as implantisomd5 does; MD5 can't be computed in parallel, and is the limit on a disk this fast.\n", isoPayload>>20)
	b.say("| method | s | MB/s | CPU s | relative to cp |\n|---|---|---|---|---|")
	cp := median(got[1]).seconds
	for i, w := range ways {
		u := median(got[i])
		b.say("| %s | %.1f | %.0f | %.1f | %.2f |", w.name, u.seconds, isoPayload/1e6/u.seconds, u.cpu, u.seconds/cp)
	}
	b.say("\nGoals: at most 1.1 times cp, at least twice as fast as xorriso (here %.1f; %.1f if xorriso's image gets its sum, too).\n", median(got[2]).seconds/median(got[0]).seconds, median(got[3]).seconds/median(got[0]).seconds)
	return nil
}
