package rescue

import (
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// maxCredentials is the largest file of credentials that is read, in bytes.
const maxCredentials = 1 << 20

// addTrust adds whose sets are restored without a question, which servers are known, and the
// secrets of servers if the configuration wants them on the medium.
func (b *Maker) addTrust(t *initramfs.Files, info *rescue.Info) error {
	if b.Signer != nil {
		line, err := b.Signer()
		if err == nil && line != nil {
			err = t.AddContent(rescue.SignersFile, line, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if strings.HasPrefix(info.Source, "sftp://") {
		for _, f := range []string{"/root/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"} {
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
				if err := t.AddFile(f, f); err != nil {
					return err
				}
			}
		}
	}
	if !info.Credentials {
		return nil
	}
	c, err := regular.ReadFile(b.Credentials, maxCredentials)
	if err != nil {
		return fmt.Errorf("cannot put the credentials onto the medium: %w", err)
	}
	list, err := store.ParseCredentials(c)
	if err != nil {
		return fmt.Errorf("cannot put the credentials onto the medium: %s: %w", b.Credentials, err)
	}
	for _, l := range list {
		for _, f := range []string{l.Key, l.KnownHosts, l.CA} {
			if f == "" {
				continue
			}
			if err := t.AddFile(f, f); err != nil {
				return fmt.Errorf("cannot put the credentials onto the medium: %w", err)
			}
		}
	}
	b.Report.Warn("the medium has the secrets of %s (rescue.credentials: include): keep it as safe as these", b.Credentials)
	return t.AddContent(rescue.CredentialsFile, c, 0o600)
}
