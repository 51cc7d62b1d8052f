package rescueinit

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// A medium that stays in the drive leads to the restored system, by the firmware or by
// kexec; where neither works it waits.
func TestStartRestored(t *testing.T) {
	fail := errors.New("restore ended with exit status 1")
	for _, c := range []struct {
		name       string
		after      string
		uefi       bool
		next, boot error
		did        []string
		waits      bool
	}{
		{"UEFI", "", true, nil, nil, []string{"next", "stop reboot"}, false},
		{"UEFI without an entry", "", true, fail, nil, []string{"next", "boot"}, false},
		{"BIOS", "", false, nil, nil, []string{"boot"}, false},
		{"BIOS without kexec", "reboot", false, nil, fail, []string{"boot"}, true},
		{"a shell is wanted", "shell", false, nil, nil, nil, true},
		{"a shell is wanted, UEFI", "shell", true, nil, nil, nil, true},
	} {
		var out bytes.Buffer
		s := &System{out: &out}
		s.opts.After = c.after
		var did []string
		s.startRestored(starter{
			uefi: func() bool { return c.uefi },
			next: func() (string, error) { did = append(did, "next"); return "0003", c.next },
			boot: func() error { did = append(did, "boot"); return c.boot },
			stop: func(how string) { did = append(did, "stop "+how) },
		})
		if !slices.Equal(did, c.did) {
			t.Errorf("%s: %q; want %q", c.name, did, c.did)
		}
		if waits := strings.Contains(out.String(), "remove the medium"); waits != c.waits || !strings.HasPrefix(out.String(), "mkcdrec: NOT RESTORED AGAIN") {
			t.Errorf("%s: prints %q", c.name, out.String())
		}
	}
}

func TestBootArgs(t *testing.T) {
	file := t.TempDir() + "/repeated"
	for text, want := range map[string][]string{
		"/mnt/set/web\n":   {"/bbin/restore", "boot", "/mnt/set/web"},
		"tape:/dev/nst0\n": {"/bbin/restore", "boot"},
		"\n":               {"/bbin/restore", "boot"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := bootArgs(file); !slices.Equal(got, want) {
			t.Errorf("%q: %q; want %q", text, got, want)
		}
	}
}
