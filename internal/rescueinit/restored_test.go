package rescueinit

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/probe"
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
		s := &System{host: machine{}, out: &out}
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

// Entries for the network and for partitions that are not there are not the restored
// system's.
func TestOnDisk(t *testing.T) {
	root := t.TempDir()
	vars := root + "/sys/firmware/efi/efivars"
	for name, text := range map[string]string{"/sys/block/vda/size": "16384\n", "/sys/block/vda/queue/logical_block_size": "512\n", "/sys/block/vda/vda1/partition": "1\n", "/sys/block/vda/vda1/start": "2048\n", "/sys/block/vda/vda1/size": "8192\n", "/proc/self/mountinfo": "", "/proc/self/mounts": ""} {
		if err := os.MkdirAll(filepath.Dir(root+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const here, gone = "11112222-3333-4444-8555-666677778888", "11112222-3333-4444-8555-666677770000"
	if err := errors.Join(os.MkdirAll(vars, 0o755), os.MkdirAll(root+"/dev", 0o755), os.WriteFile(root+"/dev/vda", make([]byte, 8<<20), 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sgdisk", "-n1:2048:10239", "-t1:ef00", "-u1:"+here, root+"/dev/vda").CombinedOutput(); err != nil {
		t.Skipf("no sgdisk: %v %s", err, out)
	}
	// A network entry as firmware makes it: the hardware's path, no partition.
	network := append([]byte{7, 0, 0, 0, 1, 0, 0, 0, 10, 0, 'P', 0, 0, 0}, 2, 1, 6, 0, 0, 0, 0x7f, 0xff, 4, 0)
	if err := os.WriteFile(vars+"/Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c", network, 0o644); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, g := range []string{gone, here} {
		id, err := efivar.Add(vars, efivar.Entry{Label: g, Number: 1, Start: 2048, Size: 8192, GUID: g, Path: "/EFI/debian/shimx64.efi"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	is := onDisk(probe.Machine{Root: root})
	if is("0000") || is(ids[0]) || !is(ids[1]) || is("0009") {
		t.Errorf("network %v, partition that is gone %v, one that is there %v, no entry %v; want only the third", is("0000"), is(ids[0]), is(ids[1]), is("0009"))
	}
	if next, err := efivar.Next(vars, is); err != nil || next != ids[1] {
		t.Errorf("next: %s, %v; want %s", next, err, ids[1])
	}
}
