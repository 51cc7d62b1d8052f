// Package process identifies processes beyond their numbers, which are used again.
package process

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// BootID is the kernel's random name of this boot, "" if it can't be read.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Start is when a process was started, in clock ticks since the boot, "" if it does not exist: field 22 of proc(5), stat.
func Start(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return start(b)
}

// start takes the field out of a line; the second one, the program's name, may contain spaces and parentheses.
func start(stat []byte) string {
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 20 {
		return ""
	}
	return f[19]
}
