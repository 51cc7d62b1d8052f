package recreate

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// A FAT or NTFS that is put elsewhere knows where, in both boot sectors, and is
// still in order by its own programs.
func TestHiddenSectors(t *testing.T) {
	for typ, c := range map[string]struct {
		make, check []string
		copy        int64
	}{
		fstype.TypeNTFS: {[]string{"mkntfs", "-q", "-F", "-f", "-s", "512", "-p", "63", "-H", "255", "-S", "63"}, []string{"ntfsfix", "-n"}, 20<<20 - 512},
		fstype.TypeVFAT: {[]string{"mkfs.fat", "-F", "32", "-s", "1", "-h", "63"}, []string{"fsck.fat", "-n"}, 6 * 512},
	} {
		t.Run(typ, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			size := int64(20 << 20)
			if typ == fstype.TypeVFAT {
				size = 40 << 20
			}
			if err := os.Truncate(img, size); err != nil {
				t.Fatal(err)
			}
			if _, err := exec.LookPath(c.make[0]); err != nil {
				t.Skipf("%s is not installed; make test installs it", c.make[0])
			}
			if out, err := exec.Command(c.make[0], append(c.make[1:], img)...).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := setHidden(f, typ, 4096*512); err != nil {
				t.Fatal(err)
			}
			for _, at := range []int64{0, c.copy} {
				b := make([]byte, 512)
				if _, err := f.ReadAt(b, at); err != nil {
					t.Fatal(err)
				}
				if n := binary.LittleEndian.Uint32(b[28:]); n != 4096 {
					t.Errorf("the boot sector at %d says %d", at, n)
				}
			}
			if out, err := exec.Command(c.check[0], append(c.check[1:], img)...).CombinedOutput(); err != nil {
				t.Errorf("%v %s", err, out)
			}
		})
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := setHidden(f, "", 4096); err != nil {
		t.Errorf("unknown content has no boot sector: %v", err)
	}
}
