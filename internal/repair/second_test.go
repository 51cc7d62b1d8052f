package repair

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// TestSecond: the medium's second system is opened so that it can be written to, or at least
// read, with what programs in it need, and is closed again.
func TestSecond(t *testing.T) {
	for name, overlay := range map[string]error{"writable": nil, "read-only": errors.New("no overlay")} {
		t.Run(name, func(t *testing.T) {
			m := machinetest.New(t)
			m.AddDisk("loop7", quantity.MiB, "")
			m.Answer("", "modprobe")
			if overlay != nil {
				m.Fail["mount overlay"] = overlay
			}
			r := &Opener{Run: m, Report: progress.None{}}
			attach := func(file string) (string, io.Closer, error) {
				if file != m.Path("/mnt/medium/extra/tree.squashfs") {
					t.Errorf("attached %s", file)
				}
				// What the image has: the fake machine keeps what is mounted on a directory.
				for _, d := range []string{"dev", "proc", "sys", "run"} {
					if err := os.MkdirAll(m.Path(rescue.SecondDir+"/"+d), 0o755); err != nil {
						t.Error(err)
					}
				}
				return "loop7", io.NopCloser(nil), nil
			}
			if err := r.OpenSecond(t.Context(), attach); err == nil || !strings.Contains(err.Error(), "no second system") {
				t.Errorf("OpenSecond(no image) = %v", err)
			}
			m.Write("/mnt/medium/extra/tree.squashfs", "hsqs")
			if err := r.OpenSecond(t.Context(), attach); err != nil {
				t.Fatal(err)
			}
			want := []string{"/run/mkcdrec/second", "/run/mkcdrec/second/lower", "/mnt/superrescue", "/mnt/superrescue/dev", "/mnt/superrescue/proc", "/mnt/superrescue/sys", "/mnt/superrescue/run"}
			var got []string
			for _, l := range m.Mounted() {
				_, at, _ := strings.Cut(l, " ")
				got = append(got, at)
			}
			if !slices.Equal(got, want) || (len(m.Did("mount /run/mkcdrec/second/lower /mnt/superrescue")) > 0) != (overlay != nil) {
				t.Errorf("Mounted() = %q; want %q; log %q", got, want, m.Log())
			}
			if err := r.OpenSecond(t.Context(), attach); err == nil || !strings.Contains(err.Error(), "open already") {
				t.Errorf("OpenSecond(again) = %v", err)
			}
			if err := r.CloseSecond(); err != nil || len(m.Mounted()) > 0 {
				t.Errorf("CloseSecond() = %v, mounted %q", err, m.Mounted())
			}
			m.Fail["mount tmpfs"] = errors.New("no memory")
			if err := r.OpenSecond(t.Context(), attach); err == nil || !strings.Contains(err.Error(), "no memory") || len(m.Mounted()) > 0 {
				t.Errorf("OpenSecond() = %v, mounted %q", err, m.Mounted())
			}
		})
	}
}
