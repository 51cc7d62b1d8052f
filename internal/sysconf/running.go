package sysconf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mounts lists what is mounted, in the order of mounting, by the proc file system
// below root; "" is that of the running system.
func Mounts(root string) ([]Mount, error) {
	b, err := os.ReadFile(filepath.Join(root, "/proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	out, err := ParseMountinfo(string(b))
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	return out, nil
}

// RunningCmdline reads the command line of the running kernel by the proc file system
// below root.
func RunningCmdline(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "/proc/cmdline"))
	if err != nil {
		return "", fmt.Errorf("cannot read the kernel command line: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// SwapArea is an active swap device or file.
type SwapArea struct {
	Path string // decoded
	Kind string // "partition" or "file", proc(5)
}

// SwapAreas lists the active swap devices and files by the proc file system below root.
func SwapAreas(root string) ([]SwapArea, error) {
	b, err := os.ReadFile(filepath.Join(root, "/proc/swaps"))
	if err != nil {
		return nil, fmt.Errorf("cannot list swap devices: %w", err)
	}
	var out []SwapArea
	for _, l := range splitLines(string(b)) {
		if l.scan(); len(l.fields) > 2 && l.raw(0) != "Filename" { // its heading
			out = append(out, SwapArea{Unescape(l.raw(0)), l.raw(1)})
		}
	}
	return out, nil
}
