package set

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// LUKSHeaders gives the headers of LUKS devices, encrypted for to, by the names of their files. One that
// can't be read is not covered: the layout lists none then, and lacks names it.
func LUKSHeaders(l *layout.Layout, to []age.Recipient) (files map[string][]byte, lacks []string) {
	files = map[string][]byte{}
	for i := range l.Crypts {
		k := &l.Crypts[i]
		if k.Header == "" {
			continue
		}
		b, err := luksHeader(k, to)
		if err != nil {
			lacks = append(lacks, fmt.Sprintf("%s: its LUKS header can't be saved: %v; a restore makes a new one", k.Device, err))
			k.Header = ""
			continue
		}
		files[k.Header] = b
	}
	return files, lacks
}

// luksHeader reads all that is before a device's data: both headers of LUKS2,
// keyslots, tokens.
func luksHeader(k *layout.Crypt, to []age.Recipient) ([]byte, error) {
	f, err := os.Open(filepath.Join("/dev", k.Device))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(w, io.LimitReader(f, k.LUKS.Offset))
	if err == nil && n < k.LUKS.Offset {
		err = io.ErrUnexpectedEOF
	}
	// The end comes with Close.
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
