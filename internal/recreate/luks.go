package recreate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Key opens a LUKS device.
type Key struct {
	// Header is all that is before its data; nil recreates the device.
	Header     []byte
	Passphrase []byte // or the content of a key file
}

// makeCrypt brings back a LUKS device, and opens it.
func (r *Recreator) makeCrypt(ctx context.Context, s plan.Step) error {
	k, ok := r.Keys[s.Crypt.Name]
	if !ok {
		return fmt.Errorf("there is no key for %s", s.Crypt.Name)
	}
	if CryptIsOpen(s.Crypt.Name) {
		return &plan.Refused{Reason: fmt.Sprintf("there is a device /dev/mapper/%s already; cryptsetup close %s gives its name free", s.Crypt.Name, s.Crypt.Name)}
	}
	f, err := r.claim(s.Device)
	if err != nil {
		return err
	}
	if k.Header != nil {
		err = writeHeader(f, k.Header)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if k.Header == nil {
		if err := cryptsetup(ctx, r.Run, k.Passphrase, plan.LUKSFormat(s.Crypt, "/dev/"+s.Device)[1:]...); err != nil {
			return err
		}
	}
	if err := OpenCrypt(ctx, r.Run, s.Crypt, s.Device, k.Passphrase, ReadWrite); err != nil {
		return err
	}
	if err := blockdev.Await(ctx, s.Crypt.Mapper(), s.Crypt.Size); err != nil {
		return err
	}
	// What the disk had there before looks like anything, once decrypted.
	if f, err = r.open(s.Crypt.Mapper()); err != nil {
		return err
	}
	defer f.Close()
	if err := wipeEnds(f, 0, int64(s.Crypt.Size)); err != nil {
		return err
	}
	return f.Sync()
}

func writeHeader(f *os.File, header []byte) error {
	_, err := f.WriteAt(header, 0)
	if err = errors.Join(err, f.Sync()); err != nil {
		return fmt.Errorf("cannot write the LUKS header of %s: %w", f.Name(), err)
	}
	return nil
}

// CryptIsOpen tells whether there is an open LUKS device of that name.
func CryptIsOpen(name string) bool {
	_, err := os.Stat("/dev/" + layout.MapperPrefix + name)
	return err == nil
}

// cryptsetup runs without udev, and gets the key from standard input.
func cryptsetup(ctx context.Context, run tool.Runner, key []byte, args ...string) error {
	_, err := run.Run(ctx, tool.Cmd{Args: append([]string{"cryptsetup"}, args...), Stdin: bytes.NewReader(key), Env: noUdev})
	return err
}

// CloseCrypt closes a LUKS device, if it is open.
func CloseCrypt(ctx context.Context, run tool.Runner, name string) error {
	if !CryptIsOpen(name) {
		return nil
	}
	if err := cryptsetup(ctx, run, nil, "close", name); err != nil {
		return fmt.Errorf("cannot close the LUKS device %s: %w", name, err)
	}
	return nil
}

// AddKeyFile gives a LUKS device that was recreated a key file as well.
func (r *Recreator) AddKeyFile(ctx context.Context, s plan.Step, file string) error {
	k := r.Keys[s.Crypt.Name]
	return cryptsetup(ctx, r.Run, k.Passphrase, "luksAddKey", "--batch-mode", "--key-file", "-", "/dev/"+s.Device, file)
}
