// Package builder orchestrates the source machine's side: a configuration
// becomes a plan, and the plan is carried out: one call is one rescue medium
// or one backup set.
package builder

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/strictyaml"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// DefaultConfig is read when no other file is named; it may be missing.
const DefaultConfig = "/etc/mkcdrec.yaml"

// Config is what an administrator can set.
type Config struct {
	// Destination is where `mkcdrec path` writes if no directory is given.
	Destination string `yaml:"destination"`
	// Exclude leaves out paths; see archive.Matcher for the rules.
	Exclude []string `yaml:"exclude"`
	// Include are the only directories, file systems and devices that are saved; nil for
	// all.
	Include []string `yaml:"include"`
	// ExcludeDevices leaves out what is on devices, by their names in the
	// layout ("vdb1", "vg0/scratch"), mount points or pool names.
	ExcludeDevices []string `yaml:"exclude_devices"`
	// Snapshot is auto, to read file systems from snapshots where that is possible, or off.
	Snapshot string `yaml:"snapshot"`
	// Compression is fastest, default or better.
	Compression string        `yaml:"compression"`
	Rescue      rescue.Config `yaml:"rescue"`
	// Encrypt has whole sets encrypted for the recipients.
	Encrypt bool `yaml:"encrypt"`
	// Credentials is the file with the secrets of servers.
	Credentials string `yaml:"credentials_file"`
	// Recipients are age or SSH public keys, which sets and the headers of LUKS devices
	// are encrypted for: their private keys are not needed here.
	Recipients []string `yaml:"recipients"`
	// PassphraseFile has a passphrase that takes the place of recipients.
	PassphraseFile string `yaml:"passphrase_file"`
	// LUKSHeaders is encrypted, or none: then a restore recreates LUKS, with a
	// new passphrase. "" is encrypted when there are recipients; without any
	// the headers are reported as not covered.
	LUKSHeaders string       `yaml:"luks_headers"`
	Hooks       hooks.Config `yaml:"hooks"`
	// Keep is which sets stay when `mkcdrec path` has made one; nothing is removed without it.
	Keep retention.Keep `yaml:"keep"`
	// Generations is when `mkcdrec path` makes a full backup, and not an increment.
	Generations Generations    `yaml:"generations"`
	Status      nightly.Config `yaml:"status"`
}

// maxConfig is the largest configuration that is read, in bytes.
const maxConfig = 1 << 20

// LoadConfig reads a configuration file; unknown keys and wrong types are
// errors with line and column. A missing file is one only if required.
func LoadConfig(file string, required bool) (*Config, error) {
	c := &Config{}
	defer c.defaults()
	f, err := regular.OpenTrusted(file)
	if errors.Is(err, os.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("it has more than %d bytes", maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration %s: %w", file, err)
	}
	if err := strictyaml.Decode(b, c); err != nil {
		return nil, fmt.Errorf("cannot read configuration %s: %s", file, cmp.Or(privateLines(b), strictyaml.Text(err)))
	}
	c.defaults()
	if err := c.Validate(); err != nil {
		if err = placed(err, b); agekey.HasPrivate(err.Error()) {
			err = placedError{err, cmp.Or(privateLines(b), agekey.ErrPrivate.Error())}
		}
		return nil, fmt.Errorf("cannot use configuration %s:\n%w", file, err)
	}
	return c, nil
}

// privateLines is the text of an error that takes the place of one that may quote a private key of the configuration b:
// it names the lines of such keys. "" if there are none.
func privateLines(b []byte) string {
	var out []string
	n := 0
	for l := range strings.Lines(string(b)) {
		n++
		if agekey.HasPrivate(l) {
			out = append(out, fmt.Sprintf("line %d: %v", n, agekey.ErrPrivate))
		}
	}
	return strings.Join(out, "\n")
}

// placed adds to each line of an error of Validate, which begins with a key, where that is in the configuration b.
func placed(err error, b []byte) error {
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		key, _, _ := strings.Cut(l, " ")
		if at := strictyaml.Place(b, strings.TrimSuffix(key, ":")); at != "" {
			lines[i] = at + " " + l
		}
	}
	return placedError{err, strings.Join(lines, "\n")}
}

// placedError is an error with another text.
type placedError struct {
	error
	text string
}

func (e placedError) Error() string { return e.text }
func (e placedError) Unwrap() error { return e.error }

// defaults fills in what was not said.
func (c *Config) defaults() {
	if c.Compression == "" {
		c.Compression = "fastest"
	}
	c.Snapshot = cmp.Or(c.Snapshot, snapshotOff)
	c.Hooks.Dir = cmp.Or(c.Hooks.Dir, hooks.Dir)
	c.Hooks.Timeout = cmp.Or(c.Hooks.Timeout, hooks.DefaultTimeout)
	c.Status.Warn = cmp.Or(c.Status.Warn, nightly.DefaultWarn)
	c.Status.Critical = cmp.Or(c.Status.Critical, nightly.DefaultCritical)
	c.Status.NotifyTimeout = cmp.Or(c.Status.NotifyTimeout, nightly.DefaultNotifyTimeout)
	if c.Rescue.Modules == "" {
		c.Rescue.Modules = kernelcfg.SetDefault
	}
	if c.Rescue.Programs == "" {
		c.Rescue.Programs = rescue.Comfort
	}
}

// Validate reports all faults at once.
func (c *Config) Validate() error {
	var errs []error
	if _, err := c.level(); err != nil {
		errs = append(errs, err)
	}
	if _, err := archive.NewMatcher(c.Exclude); err != nil {
		errs = append(errs, fmt.Errorf("exclude: %w", err))
	}
	errs = append(errs, c.checkInclude(), c.Rescue.Validate(), c.Hooks.Validate(), c.Keep.Validate(), c.Generations.Validate(), c.Status.Validate())
	if c.Snapshot != "" && c.Snapshot != snapshotAuto && c.Snapshot != snapshotOff {
		errs = append(errs, fmt.Errorf("snapshot: %q; want auto or off", c.Snapshot))
	}
	// Without its passphrase a configuration is good for all but encryption, which fails then.
	if _, err := c.recipients(); err != nil && (c.PassphraseFile == "" || !errors.Is(err, os.ErrNotExist)) {
		errs = append(errs, err)
	}
	keys := len(c.Recipients) > 0 || c.PassphraseFile != ""
	if len(c.Recipients) > 0 && c.PassphraseFile != "" {
		errs = append(errs, errors.New("recipients and passphrase_file exclude each other"))
	}
	if c.Encrypt && !keys {
		errs = append(errs, errors.New("encrypt: true wants recipients, or a passphrase_file"))
	}
	switch {
	case c.LUKSHeaders == "encrypted" && !keys:
		errs = append(errs, errors.New("luks_headers: encrypted wants recipients, or a passphrase_file"))
	case c.LUKSHeaders != "" && c.LUKSHeaders != "encrypted" && c.LUKSHeaders != "none":
		errs = append(errs, fmt.Errorf("luks_headers: %q; want encrypted or none", c.LUKSHeaders))
	}
	return errors.Join(errs...)
}

// rules are those of exclude, and one for the key that signs sets: whoever had it could make
// sets that are taken for this machine's. A restored machine must not get the record of a run in progress.
func (c *Config) rules() []string {
	return append(slices.Clone(c.Exclude), archive.QuoteRule(signing.KeyFile), archive.QuoteRule(nightly.BegunFile))
}

func (c *Config) level() (archive.Level, error) {
	l, ok := map[string]archive.Level{"": archive.Fastest, "fastest": archive.Fastest, "default": archive.Default, "better": archive.Better}[c.Compression]
	if !ok {
		return 0, fmt.Errorf("compression: %q; want fastest, default or better", c.Compression)
	}
	return l, nil
}
