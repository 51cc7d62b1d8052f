package identity

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func TestPersonal(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "kept")
	for name, text := range map[string]string{
		"etc/hostname": "old.example\n", "etc/hosts": "127.0.0.1 localhost old\n127.0.1.1\told.example old oldest # old\n",
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/ssh/ssh_host_rsa_key": "k", "etc/ssh/ssh_host_rsa_key.pub": "k", "etc/ssh/sshd_config": "c",
		"var/lib/dhcp/dhclient.eth0.leases": "l", "var/lib/systemd/random-seed": "s", "opt/license.key": "l", outside: "x",
	} {
		if !filepath.IsAbs(name) {
			name = filepath.Join(root, name)
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dbus"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"var/lib/dbus/machine-id": "/etc/machine-id", "var/lib/seedrng": filepath.Dir(outside)} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	rec := &tool.Recorder{Answers: map[string]string{"ssh-keygen": ""}}
	p := Personal{Hostname: "lab-01.example", Forget: []string{"/opt/*.key", "/no/such"}}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(context.Background(), &bootloader.System{Root: root, Run: rec, Report: progress.None{}}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	if read("etc/hostname") != "lab-01.example\n" || read("etc/hosts") != "127.0.0.1 localhost lab-01\n127.0.1.1\tlab-01.example lab-01 oldest # old\n" {
		t.Errorf("%q, %q", read("etc/hostname"), read("etc/hosts"))
	}
	if id := read("etc/machine-id"); len(id) != 33 || strings.HasPrefix(id, "0123") {
		t.Errorf("machine-id %q", id)
	}
	for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "var/lib/dhcp/dhclient.eth0.leases", "var/lib/systemd/random-seed", "opt/license.key"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file outside of the system was removed: %v", err)
	}
	if read("etc/ssh/sshd_config") != "c" || len(rec.Calls) != 1 || !strings.HasSuffix(rec.Calls[0], " ssh-keygen -A") {
		t.Errorf("%v", rec.Calls)
	}
	for _, bad := range []Personal{{Hostname: "a b"}, {Hostname: "-x"}, {Hostname: strings.Repeat("x", 65)}, {Hostname: "../x"}, {Forget: []string{"x"}}, {Forget: []string{"/"}}, {Forget: []string{"/["}}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
