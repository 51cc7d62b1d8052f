package rescue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	text, list, err := b.readCredentials(info)
	if err == nil && info.Credentials && text != nil {
		err = b.addSecrets(t, text, list)
	}
	if err != nil && info.Credentials {
		return fmt.Errorf("cannot put the credentials onto the medium: %w", err)
	}
	if err != nil {
		b.Report.Warn("the medium lacks the host keys and certificates that the credentials may name: %v", err)
	}
	own, _ := list.For(info.Source)
	return errors.Join(b.addKnownHosts(t, info.Source, own), b.addCertificates(t, bundle("/"), info.Source, own))
}

// readCredentials reads the file of credentials, if there is one, for what the medium gets of it: all with
// rescue.credentials: include, otherwise what is not secret and for the server of the source.
func (b *Maker) readCredentials(info *rescue.Info) (text []byte, list store.Credentials, err error) {
	if b.Credentials == "" || !info.Credentials && !store.IsHome(info.Source) {
		return nil, nil, nil
	}
	if text, err = regular.ReadFile(b.Credentials, maxCredentials); err != nil {
		return nil, nil, err
	}
	if list, err = store.ParseCredentials(text); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", b.Credentials, err)
	}
	return text, list, nil
}

// addSecrets adds the file of credentials, and the files that it names.
func (b *Maker) addSecrets(t *initramfs.Files, text []byte, list store.Credentials) error {
	for _, l := range list {
		for _, f := range []string{l.Key, l.KnownHosts, l.CA} {
			if f == "" {
				continue
			}
			if err := t.AddFile(f, f); err != nil {
				return err
			}
		}
	}
	b.warnSecrets(b.Credentials)
	return t.AddContent(rescue.CredentialsFile, text, 0o600)
}

// warnSecrets reports that the medium has the secrets of a file.
func (b *Maker) warnSecrets(file string) {
	b.Report.Warn("the medium has the secrets of %s (rescue.credentials: include): keep it as safe as these", file)
}

// Files of host keys that are looked at where the credentials name none; see store.Access.
const (
	userKnownHosts   = "/root/.ssh/known_hosts"
	systemKnownHosts = "/etc/ssh/ssh_known_hosts"
)

// addKnownHosts adds the host keys of a server of ssh, which are not secret: those that its credential names, where
// restore finds them without the credentials, or those that this machine knows.
func (b *Maker) addKnownHosts(t *initramfs.Files, source string, own store.Credential) error {
	if store.Scheme(source) != store.KindSFTP {
		return nil
	}
	from := map[string]string{userKnownHosts: userKnownHosts, systemKnownHosts: systemKnownHosts}
	if f := own.KnownHosts; f != "" {
		if st, err := os.Stat(f); err != nil || !st.Mode().IsRegular() {
			b.Report.Warn("the medium lacks the host keys of %s, known_hosts of the credentials: it is not a file", f)
			return nil
		}
		from = map[string]string{f: f, systemKnownHosts: f}
	}
	for to, f := range from {
		if st, err := os.Stat(f); err != nil || !st.Mode().IsRegular() || t.Has(to) {
			continue
		}
		if err := t.AddFile(to, f); err != nil {
			return err
		}
	}
	return nil
}

// certificates is where the rescue system's programs look for the certificates that they trust.
const certificates = "etc/ssl/certs/ca-certificates.crt"

// bundle is the first file below root that has the certificates that a system trusts, "" if there is none. The paths
// are those of crypto/x509/root_linux.go.
func bundle(root string) string {
	for _, f := range []string{
		certificates,                                       // Debian, Arch, Gentoo
		"etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
		"etc/ssl/ca-bundle.pem",                            // SUSE
		"etc/pki/tls/cacert.pem",                           // OpenELEC
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and later
		"etc/ssl/cert.pem",                                 // Alpine
	} {
		f = filepath.Join(root, f)
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
			return f
		}
	}
	return ""
}

// addCertificates adds the certificates that the machine trusts, from the file named bundle, and those that the
// credential of the source names, which are not secret.
func (b *Maker) addCertificates(t *initramfs.Files, bundle, source string, own store.Credential) error {
	if st, err := os.Stat(own.CA); err == nil && st.Mode().IsRegular() && !t.Has(own.CA) {
		if err := t.AddFile(own.CA, own.CA); err != nil {
			return err
		}
	}
	if bundle != "" && !t.Has(certificates) {
		return t.AddFile(certificates, bundle)
	}
	kind := store.Scheme(source)
	tls := kind == store.KindHTTPS || kind == store.KindS3 || kind == store.KindRclone
	if tls && bundle == "" && own.CA == "" {
		b.Report.Warn("the medium lacks certificates of authorities, so that restore can't check the server of %s: no file with them was found on this machine; install the package ca-certificates and make the medium again", source)
	}
	return nil
}
