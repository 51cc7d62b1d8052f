package builder

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Burning into a file stands for a drive: xorriso does the same.
func TestBurn(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "x.iso")
	if err := (media.ISO{Data: true, Label: "X", Content: map[string][]byte{"f": []byte("x")}}).Write(img); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{Report: progress.None{}, Run: tool.Exec{}}
	im := []DiscImage{{File: img, Size: quantity.Size(st.Size())}}
	disc := filepath.Join(dir, "disc")
	if err := b.Burn(context.Background(), "stdio:"+disc, im, nil); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(img)
	c, _ := os.ReadFile(disc)
	if !bytes.HasPrefix(c, a) {
		t.Error("the disc does not begin with the image")
	}
	asked := 0
	ask := func(string) error {
		if asked++; asked > 5 {
			return io.EOF
		}
		return nil
	}
	if err := b.Burn(context.Background(), "stdio:"+filepath.Dir(disc)+"/none/disc", im, ask); err == nil || asked != burnTries-1 || !strings.Contains(err.Error(), "the image is whole") {
		t.Errorf("no drive: asked %d times, %v", asked, err)
	}
	if err := b.Burn(context.Background(), "stdio:"+disc, append(im, im...), nil); err == nil || !strings.Contains(err.Error(), "no terminal") {
		t.Errorf("two discs and no terminal: %v", err)
	}
}
