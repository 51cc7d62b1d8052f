package vmtest

import (
	"strings"
	"testing"
)

// TestKernelWords: the machines that are installed have the words as well.
func TestKernelWords(t *testing.T) {
	if !strings.Contains(installScript, " "+KernelWords+`"`) {
		t.Errorf("install.sh has not %q in GRUB's command line", KernelWords)
	}
}
