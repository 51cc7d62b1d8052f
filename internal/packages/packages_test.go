//go:build packages

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func command(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// packages makes those of two releases, of which the second has another configuration
// file. It gives the directories that they are in.
var packages = sync.OnceValues(func() ([2]string, error) {
	var dirs [2]string
	base, err := os.MkdirTemp("", "mkcdrec-packages-test-")
	if err == nil {
		err = os.Chdir("../..")
	}
	tree := base + "/tree"
	for i, n := range []string{"1", "2"} {
		dirs[i] = filepath.Join(base, n)
		r := release{version: "1.2.3", number: n, date: time.Date(2026, 11, 30, 1, 2, 3, 0, time.UTC)}
		if err == nil && i == 0 {
			err = install(context.Background(), tree, r)
		} else if err == nil {
			err = add(tree+"/etc/mkcdrec.yaml", "# another release\n")
		}
		if err == nil {
			err = packTree(tree, dirs[i], r)
		}
	}
	return dirs, errors.Join(err, os.RemoveAll(tree))
})

// add appends to a file.
func add(file, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, text...), 0o644)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dirs, err := packages(); err == nil {
		os.RemoveAll(filepath.Dir(dirs[0]))
	}
	os.Exit(code)
}

func made(t *testing.T) [2]string {
	t.Helper()
	dirs, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// TestLint: other people's programs find no error in the packages.
func TestLint(t *testing.T) {
	dir := made(t)[0]
	if out := command(t, "lintian", "--fail-on", "error", "--allow-root", dir+"/mkcdrec_1.2.3-1_amd64.deb"); strings.Contains(out, "E: ") {
		t.Errorf("lintian:\n%s", out)
	}
	if out := command(t, "rpm", "-K", "--nosignature", dir+"/mkcdrec-1.2.3-1.x86_64.rpm"); !strings.Contains(out, "digests OK") {
		t.Errorf("rpm -K: %s", out)
	}
}

// TestInstall installs, upgrades, removes and purges in clean Debian systems.
func TestInstall(t *testing.T) {
	dirs := made(t)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			root := t.TempDir()
			command(t, "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=systemd", suite, root)
			in := func(args ...string) string {
				t.Helper()
				return command(t, append([]string{"chroot", root}, args...)...)
			}
			exists := func(name string, want bool) {
				t.Helper()
				if _, err := os.Lstat(root + name); (err == nil) != want {
					t.Errorf("%s exists: %v; want %v", name, err == nil, want)
				}
			}
			for i, d := range dirs {
				command(t, "cp", d+"/mkcdrec_1.2.3-"+string(rune('1'+i))+"_amd64.deb", root+"/"+string(rune('1'+i))+".deb")
			}
			in("dpkg", "--install", "/1.deb")
			used(t, in)
			in("systemd-analyze", "--man=no", "verify", "/usr/lib/systemd/system/mkcdrec.service", "/usr/lib/systemd/system/mkcdrec.timer")
			in("systemctl", "enable", "mkcdrec.timer")
			exists("/etc/systemd/system/timers.target.wants/mkcdrec.timer", true)
			for _, f := range []string{"/usr/share/man/man8/restore-mount.8.gz", "/usr/share/man/man5/mkcdrec.yaml.5.gz", "/usr/share/zsh/vendor-completions/_restore"} {
				exists(f, true)
			}
			if out := in("bash", "--norc", "-c", ". /usr/share/bash-completion/completions/mkcdrec; compopt() { :; }; COMP_WORDS=(mkcdrec ob) COMP_CWORD=1; _mkcdrec; echo $COMPREPLY"); out != "obdr\n" {
				t.Errorf("completion: %q", out)
			}

			const mine = "compression: better # mine\n"
			if err := errors.Join(add(root+"/etc/mkcdrec.yaml", mine), os.MkdirAll(root+"/var/lib/mkcdrec", 0o700)); err != nil {
				t.Fatal(err)
			}
			keeps := func() {
				t.Helper()
				if b, err := os.ReadFile(root + "/etc/mkcdrec.yaml"); err != nil || !strings.HasSuffix(string(b), mine) {
					t.Errorf("the edited configuration is lost: %v\n%s", err, b)
				}
			}
			in("dpkg", "--force-confold", "--install", "/2.deb")
			keeps()
			exists("/etc/mkcdrec.yaml.dpkg-dist", true)
			exists("/etc/systemd/system/timers.target.wants/mkcdrec.timer", true)
			if out := in("dpkg-query", "-W", "-f", "${Version}", "mkcdrec"); out != "1.2.3-2" {
				t.Errorf("after the upgrade: version %s", out)
			}
			in("dpkg", "--remove", "mkcdrec")
			keeps()
			exists("/usr/sbin/mkcdrec", false)
			exists("/usr/sbin/restore", false)
			exists("/etc/systemd/system/timers.target.wants/mkcdrec.timer", false)
			in("dpkg", "--purge", "mkcdrec")
			for _, f := range []string{"/etc/mkcdrec.yaml", "/etc/mkcdrec.yaml.dpkg-dist", "/var/lib/mkcdrec", "/usr/share/doc/mkcdrec"} {
				exists(f, false)
			}

			rpm := func(args ...string) string {
				t.Helper()
				return command(t, append([]string{"rpm", "--root", root}, args...)...)
			}
			rpm("--initdb")
			rpm("-i", "--nodeps", "--nosignature", dirs[0]+"/mkcdrec-1.2.3-1.x86_64.rpm")
			used(t, in)
			exists("/usr/share/zsh/site-functions/_restore", true)
			in("systemctl", "enable", "mkcdrec.timer")
			if err := add(root+"/etc/mkcdrec.yaml", mine); err != nil {
				t.Fatal(err)
			}
			rpm("-U", "--nodeps", "--nosignature", dirs[1]+"/mkcdrec-1.2.3-2.x86_64.rpm")
			keeps()
			exists("/etc/mkcdrec.yaml.rpmnew", true)
			exists("/etc/systemd/system/timers.target.wants/mkcdrec.timer", true)
			if out := rpm("-q", "mkcdrec"); !strings.HasPrefix(out, "mkcdrec-1.2.3-2.") {
				t.Errorf("after the upgrade: %s", out)
			}
			rpm("-e", "mkcdrec")
			exists("/usr/sbin/mkcdrec", false)
			exists("/etc/systemd/system/timers.target.wants/mkcdrec.timer", false)
		})
	}
}

// used runs the programs of a package.
func used(t *testing.T, in func(...string) string) {
	t.Helper()
	if out := in("mkcdrec", "version"); !strings.HasPrefix(out, "mkcdrec ") {
		t.Errorf("version: %s", out)
	}
	for _, c := range []string{"restore", "clonedsk", "cutstream", "pastestream", "mkcdrec-swarm"} {
		if out := in(c, "--help"); !strings.HasPrefix(out, c+" - ") {
			t.Errorf("%s --help: %s", c, out)
		}
	}
	if out := in("sh", "-c", "mkcdrec layout diff /nosuch; test $? = 1"); !strings.Contains(out, "/nosuch") {
		t.Errorf("with the installed configuration: %s", out)
	}
}
