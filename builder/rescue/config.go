package rescue

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// Comfort is the choice of programs that has those for comfort on the medium, and not in
// memory.
const Comfort = "comfort"

// Config is about the rescue system.
type Config struct {
	Kernel         string   `yaml:"kernel"`      // image; "" takes the running one, "best" the newest in /boot
	ModulesDir     string   `yaml:"modules_dir"` // "" takes the kernel's own
	Modules        string   `yaml:"modules"`     // host, default or all
	ExtraModules   []string `yaml:"extra_modules"`
	ExcludeModules []string `yaml:"exclude_modules"`
	Carry          []string `yaml:"carry"`    // further programs of the host
	Programs       string   `yaml:"programs"` // comfort, needed (or ""), required (without comfort), or none
	// Files are files and directories of the host that the rescue system has at the same
	// paths, in memory.
	Files []string `yaml:"files"`
	// ExtraTree is a directory, or an image of squashfs, that goes onto the medium as a
	// second system; "" for none.
	ExtraTree string `yaml:"extra_tree"`
	Append    string `yaml:"append"` // kernel command line
	// SSHKeys are public keys, or files of them, of those who may log in by
	// ssh; without any there is no ssh server.
	SSHKeys []string `yaml:"ssh_keys"`
	// Credentials is ask, or include to have the secrets of servers on the medium.
	Credentials string `yaml:"credentials"`
	// Default is the menu's default: local or rescue; "" takes rescue for a
	// medium that works unattended, and local otherwise.
	Default string `yaml:"default"`
	// CheckTarget is whether restore looks for bad sectors before it overwrites disks: none
	// (or ""), read or write.
	CheckTarget string `yaml:"check_target"`
	// MediumSize is the size of the medium, as quantity.Parse or
	// quantity.Medium take it; a larger image is refused.
	MediumSize string `yaml:"medium_size"`
}

// Validate reports all faults at once.
func (c *Config) Validate() error {
	var errs []error
	if !slices.Contains(kernelcfg.Sets, c.Modules) {
		errs = append(errs, fmt.Errorf("rescue.modules: %q; want %s", c.Modules, strings.Join(kernelcfg.Sets, ", ")))
	}
	if !slices.Contains([]string{"", Comfort, "needed", "required", "none"}, c.Programs) {
		errs = append(errs, fmt.Errorf("rescue.programs: %q; want comfort, needed, required or none", c.Programs))
	}
	if _, err := c.Size(); err != nil {
		errs = append(errs, fmt.Errorf("rescue.medium_size: %w", err))
	}
	if !slices.Contains([]string{"", "local", "rescue"}, c.Default) {
		errs = append(errs, fmt.Errorf("rescue.default: %q; want local or rescue", c.Default))
	}
	if !slices.Contains([]string{"", "ask", "include"}, c.Credentials) {
		errs = append(errs, fmt.Errorf("rescue.credentials: %q; want ask or include", c.Credentials))
	}
	if !slices.Contains([]string{"", "none", "read", "write"}, c.CheckTarget) {
		errs = append(errs, fmt.Errorf("rescue.check_target: %q; want none, read or write", c.CheckTarget))
	}
	if strings.ContainsFunc(c.Append, unicode.IsControl) {
		errs = append(errs, fmt.Errorf("rescue.append: %q; want one line, without control characters", c.Append))
	}
	for _, f := range append(slices.Clone(c.Files), c.ExtraTree) {
		if f != "" && !filepath.IsAbs(f) {
			errs = append(errs, fmt.Errorf("rescue.files, rescue.extra_tree: %q; want an absolute path", f))
		}
	}
	return errors.Join(errs...)
}

// Size is that of the medium in bytes, 0 for any.
func (c *Config) Size() (int64, error) {
	v := c.MediumSize
	if v == "" {
		return 0, nil
	}
	if s, ok := quantity.Medium(v); ok {
		return int64(s), nil
	}
	s, err := quantity.Parse(v)
	return int64(s), err
}
