package rescueinit

import "testing"

// TestQuiet: the console is for people once the system is ready, unless the kernel's command
// line asks for its messages.
func TestQuiet(t *testing.T) {
	for line, want := range map[string]string{"console=ttyS0 quiet": "1\n", "": "1\n", "loglevel=7 console=ttyS0": "7 4 1 7\n", "debug": "7 4 1 7\n", "ignore_loglevel": "7 4 1 7\n", "x.debug=1": "1\n"} {
		s, f := rescueSystem(t, line)
		f.Write("/proc/sys/kernel/printk", "7 4 1 7\n")
		s.quiet()
		if got := f.Read("/proc/sys/kernel/printk"); got != want {
			t.Errorf("printk with %q = %q; want %q", line, got, want)
		}
	}
}
