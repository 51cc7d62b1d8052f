package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// Key opens a LUKS device.
type Key struct {
	// Header is all that is before its data; nil recreates the device.
	Header     []byte
	Passphrase []byte // or the content of a key file
}

// makeCrypt brings back a LUKS device, and opens it.
func (r *Recreator) makeCrypt(ctx context.Context, s *plan.MakeCrypt) error {
	k, ok := r.Keys[s.Crypt.Name]
	if !ok {
		return fmt.Errorf("there is no key for %s", s.Crypt.Name)
	}
	if storage.CryptIsOpen(r.Run, s.Crypt.Name) {
		return &exit.Refusal{Reason: fmt.Sprintf("there is a device /dev/mapper/%s already; cryptsetup close %s gives its name free", s.Crypt.Name, s.Crypt.Name)}
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
		if err := storage.Cryptsetup(ctx, r.Run, k.Passphrase, commands.LUKSFormat(s.Crypt, "/dev/"+s.Device)[1:]...); err != nil {
			return err
		}
	}
	if err := storage.OpenCrypt(ctx, r.Run, s.Crypt, s.Device, k.Passphrase, storage.ReadWrite); err != nil {
		return err
	}
	if err := r.kernel().Await(ctx, s.Crypt.Mapper(), s.Crypt.Size); err != nil {
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

// AddKeyFile gives a LUKS device that was recreated a key file as well.
func (r *Recreator) AddKeyFile(ctx context.Context, s *plan.MakeCrypt, file string) error {
	k := r.Keys[s.Crypt.Name]
	return storage.Cryptsetup(ctx, r.Run, k.Passphrase, "luksAddKey", "--batch-mode", "--key-file", "-", "/dev/"+s.Device, file)
}
