// Package builder orchestrates the source machine's side: a configuration
// becomes a plan, and the plan is carried out: one call is one rescue medium
// or one backup set.
package builder

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// DefaultConfig is read when no other file is named; it may be missing.
const DefaultConfig = "/etc/mkcdrec.yaml"

// Config is what an administrator can set.
type Config struct {
	// Exclude leaves out paths; see archive.Matcher for the rules.
	Exclude []string `yaml:"exclude"`
	// ExcludeDevices leaves out what lies on devices, by their names in the
	// layout ("vdb1", "vg0/scratch"), mount points or pool names.
	ExcludeDevices []string `yaml:"exclude_devices"`
	// Compression is fastest, default or better.
	Compression string       `yaml:"compression"`
	Rescue      RescueConfig `yaml:"rescue"`
}

// RescueConfig is about the rescue system.
type RescueConfig struct {
	Kernel         string   `yaml:"kernel"`      // image; "" takes the running one
	ModulesDir     string   `yaml:"modules_dir"` // "" takes the kernel's own
	Modules        string   `yaml:"modules"`     // host or all
	ExtraModules   []string `yaml:"extra_modules"`
	ExcludeModules []string `yaml:"exclude_modules"`
	Carry          []string `yaml:"carry"`    // further programs of the host
	Programs       string   `yaml:"programs"` // needed (or ""), or none
	Append         string   `yaml:"append"`   // kernel command line
}

// LoadConfig reads a configuration file; unknown keys and wrong types are
// errors with line and column. A missing file is one only if required.
func LoadConfig(file string, required bool) (*Config, error) {
	c := &Config{}
	defer c.defaults()
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	defer f.Close()
	if err := yaml.NewDecoder(f, yaml.Strict(), yaml.DisallowUnknownField()).Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read configuration %s: %s", file, yaml.FormatError(err, false, true))
	}
	c.defaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use configuration %s:\n%w", file, err)
	}
	return c, nil
}

// defaults fills in what was not said.
func (c *Config) defaults() {
	if c.Compression == "" {
		c.Compression = "fastest"
	}
	if c.Rescue.Modules == "" {
		c.Rescue.Modules = kernelcfg.SetHost
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
	if m := c.Rescue.Modules; m != kernelcfg.SetHost && m != kernelcfg.SetAll {
		errs = append(errs, fmt.Errorf("rescue.modules: %q; want %s or %s", m, kernelcfg.SetHost, kernelcfg.SetAll))
	}
	return errors.Join(errs...)
}

func (c *Config) level() (archive.Level, error) {
	l, ok := map[string]archive.Level{"": archive.Fastest, "fastest": archive.Fastest, "default": archive.Default, "better": archive.Better}[c.Compression]
	if !ok {
		return 0, fmt.Errorf("compression: %q; want fastest, default or better", c.Compression)
	}
	return l, nil
}
