package partclone

import (
	"io"
	"os"
	"testing"
)

// BenchmarkRead reads the image that MKCDREC_PARTCLONE_IMAGE names, to be compared with
// partclone.chkimg, and writes it to the file MKCDREC_PARTCLONE_TARGET, if there is one,
// as partclone.restore does. MB/s are of data.
func BenchmarkRead(b *testing.B) {
	name := os.Getenv("MKCDREC_PARTCLONE_IMAGE")
	if name == "" {
		b.Skip("MKCDREC_PARTCLONE_IMAGE names no image")
	}
	var target *os.File
	if t := os.Getenv("MKCDREC_PARTCLONE_TARGET"); t != "" {
		var err error
		if target, err = os.OpenFile(t, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			b.Fatal(err)
		}
		defer target.Close()
	}
	for range b.N {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		m, err := Open(f)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(m.UsedBlocks * m.BlockSize)
		for {
			off, data, err := m.Next()
			if err == io.EOF {
				break
			}
			if err == nil && target != nil {
				_, err = target.WriteAt(data, off)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
	}
}
