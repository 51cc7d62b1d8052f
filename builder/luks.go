package builder

import (
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// recipients parses the public keys that LUKS headers are encrypted for.
func (c *Config) recipients() ([]age.Recipient, error) {
	var out []age.Recipient
	for i, s := range c.Recipients {
		var r age.Recipient
		var err error
		if strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-") {
			return nil, fmt.Errorf("recipients[%d] is a private key, which does not belong here: name the public one, which begins with age1", i)
		}
		if strings.HasPrefix(s, "ssh-") {
			r, err = agessh.ParseRecipient(s)
		} else {
			r, err = age.ParseX25519Recipient(s)
		}
		if err != nil {
			return nil, fmt.Errorf("recipients[%d]: %q is neither an age nor an SSH public key: %w", i, s, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// luks decides what becomes of the headers of LUKS devices.
func (p *Plan) luks(c *Config) error {
	r, err := c.recipients()
	if err != nil {
		return err
	}
	p.recipients = r
	for i := range p.Layout.Crypts {
		k := &p.Layout.Crypts[i]
		switch {
		case c.excludes(append(p.names(k.Device), k.Mapper(), k.Name)...) != "":
		case c.LUKSHeaders == "none":
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: its LUKS header with all keys: luks_headers: none", k.Device))
		case len(r) == 0:
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s: its LUKS header: no recipients are named that it could be encrypted for (recipients, or luks_headers: none); a restore makes a new one", k.Device))
		default:
			k.Header = manifest.HeaderName(k.Device)
		}
	}
	return nil
}

// cryptModules are the modules that dm-crypt and cryptsetup ask the kernel for
// by the names of ciphers and hashes.
func cryptModules(x *kmod.Index, k *superblock.LUKS) []string {
	out := []string{"dm_crypt"}
	words := append(strings.FieldsFunc(k.Cipher, func(r rune) bool { return r == '-' || r == ':' }), k.Hash, "sha256", "sha512")
	for _, w := range words {
		for _, m := range []string{w, w + "_generic", w + "_x86_64", w + "_ssse3"} {
			if _, ok := x.Path[m]; ok {
				out = append(out, m)
			}
		}
	}
	for _, m := range []string{"aesni_intel", "crypto_simd", "cryptd", "af_alg", "algif_skcipher", "algif_hash"} {
		if _, ok := x.Path[m]; ok {
			out = append(out, m)
		}
	}
	return out
}
