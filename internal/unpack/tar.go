package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Tar calls fn for each regular file of a tar. A name that leads out of the directory that
// the tar is unpacked into is an error.
func Tar(r io.Reader, fn func(name string, r io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("the name %q leads out of the directory", h.Name)
		}
		if err := fn(h.Name, t); err != nil {
			return err
		}
	}
}

// Into is a function for Tar that writes the files below dir, for their owner alone.
func Into(dir string) func(name string, r io.Reader) error {
	return func(name string, r io.Reader) error {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = io.Copy(f, r)
			err = errors.Join(err, f.Close())
		}
		return err
	}
}
