package builder

import (
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
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
