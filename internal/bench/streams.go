package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
)

// streamSize is what is cut and pasted, in bytes.
const streamSize = 1 << 30

// streams measures cutstream against split and pastestream against cat, in
// memory, where nothing but the programs takes time.
func (b *bench) streams(ctx context.Context) error {
	src := filepath.Join(b.dir, "stream")
	rnd, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer rnd.Close()
	f, err := os.Create(src)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rnd, streamSize); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	defer os.Remove(src)
	exe, err := filepath.Abs("bin/mkcdrec")
	if err != nil {
		return err
	}
	bin := filepath.Join(b.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for _, n := range []string{"cutstream", "pastestream"} {
		if err := os.Symlink(exe, filepath.Join(bin, n)); err != nil {
			return err
		}
	}
	ours, theirs := filepath.Join(b.dir, "ours"), filepath.Join(b.dir, "theirs")
	ways := []struct {
		name  string
		clean string // recreated before
		args  []string
	}{
		{"split -b 300M", theirs, []string{"sh", "-c", `split -b 300M - "$1/x." < "$2"`, "sh", theirs, src}},
		{"cutstream -size 300M", ours, []string{"sh", "-c", `"$3/cutstream" -size 300M -name x -dir "$1" < "$2" 2>/dev/null`, "sh", ours, src, bin}},
		{"cat", "", []string{"sh", "-c", `cat "$1"/x.* > /dev/null`, "sh", theirs}},
		{"pastestream", "", []string{"sh", "-c", `"$2/pastestream" "$1" > /dev/null`, "sh", ours, bin}},
		{"cat, to a pipe", "", []string{"sh", "-c", `cat "$1"/x.* | cat > /dev/null`, "sh", theirs}},
		{"pastestream, to a pipe", "", []string{"sh", "-c", `"$2/pastestream" "$1" | cat > /dev/null`, "sh", ours, bin}},
	}
	got := make([][]usage, len(ways))
	for range runs {
		for i, w := range ways {
			if w.clean != "" {
				if err := os.RemoveAll(w.clean); err != nil {
					return err
				}
				if err := os.Mkdir(w.clean, 0o755); err != nil {
					return err
				}
			}
			u, err := pipe(ctx, "", w.args)
			if err != nil {
				return err
			}
			got[i] = append(got[i], u)
		}
	}
	b.say("## Volumes\n\nA stream of %d MiB in memory is split into volumes and joined again. mkcdrec computes and compares the SHA-256 of every byte in the same pass.\n", streamSize>>20)
	b.say("| method | s | MB/s | CPU s | peak memory MB | relative |\n|---|---|---|---|---|---|")
	for i, w := range ways {
		u, peer := median(got[i]), median(got[i&^1])
		b.say("| %s | %.2f | %.0f | %.1f | %d | %.2f |", w.name, u.seconds, streamSize/1e6/u.seconds, u.cpu, u.rss>>10, peer.seconds/u.seconds)
	}
	b.say("\nGoal: at least 0.90 of split and of cat, with less than 64 MB.\n")
	return nil
}
