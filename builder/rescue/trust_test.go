package rescue

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// contents are the regular files of a tree, by their paths.
func contents(t *testing.T, tree *initramfs.Files) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := tree.WriteTo(&b, initramfs.Gzip); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if err := initramfs.Walk(&b, func(p string, content []byte) error { out[p] = string(content); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// texts makes the texts of a rescue system, and what was reported with them.
func texts(t *testing.T, b *Maker) (files map[string]string, info *rescue.Info, reported string) {
	t.Helper()
	w := &warnings{}
	b.Report, b.Run = w, tool.Exec{}
	p := &Machine{Layout: secretLayout("word")}
	info, err := b.info(p, &kernelcfg.Kernel{Release: "6.1"}, Hint{})
	if err != nil {
		t.Fatal(err)
	}
	tree := initramfs.New()
	if err := b.addTexts(t.Context(), tree, p, info); err != nil {
		t.Fatal(err)
	}
	return contents(t, tree), info, strings.Join(w.said, "\n")
}

// put writes files below dir.
func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKnownHosts: the host keys that the credential of the source names are on the medium, where restore finds them
// without the credentials and with them; secrets are there only with include.
func TestKnownHosts(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, map[string]string{"known": "nas ssh-ed25519 KNOWN\n", "other": "other ssh-ed25519 OTHER\n", "key": "s3cr3t key", "ca.pem": "OUR CA"})
	put(t, dir, map[string]string{"credentials": "- {url: 'sftp://nas/', password: s3cr3t, key: " + dir + "/key, known_hosts: " + dir + "/known}\n" +
		"- {url: 'sftp://other/', known_hosts: " + dir + "/other}\n- {url: 'https://web/', ca: " + dir + "/ca.pem}\n"})
	inTree := func(name string) string { return initramfs.Canonical(filepath.Join(dir, name)) }
	for _, mode := range []string{"", "ask", "include"} {
		files, _, said := texts(t, &Maker{Config: Config{Credentials: mode}, Destination: "sftp://nas/srv/b", Credentials: dir + "/credentials"})
		for _, f := range []string{"etc/ssh/ssh_known_hosts", inTree("known")} {
			if !strings.Contains(files[f], "KNOWN") || strings.Contains(files[f], "OTHER") {
				t.Errorf("%q: %s = %q; want the host keys of the credential\n%s", mode, f, files[f], said)
			}
		}
		for name, text := range files {
			if mode != "include" && strings.Contains(text, "s3cr3t") {
				t.Errorf("%q: %s has a secret", mode, name)
			}
		}
		if has := files["etc/mkcdrec/credentials"] != "" && files[inTree("key")] != "" && files[inTree("other")] != ""; has != (mode == "include") {
			t.Errorf("%q: the secrets are on the medium = %v", mode, has)
		}
	}
	if files, _, _ := texts(t, &Maker{Destination: "https://web/b", Credentials: dir + "/credentials"}); files[inTree("ca.pem")] != "OUR CA" || files[inTree("known")] != "" {
		t.Errorf("the source is https: %d files, certificates %q, host keys %q; want the certificates only", len(files), files[inTree("ca.pem")], files[inTree("known")])
	}
	if files, _, _ := texts(t, &Maker{Credentials: dir + "/credentials"}); files[inTree("known")]+files[inTree("ca.pem")] != "" {
		t.Error("without a source the medium has host keys or certificates")
	}
	os.Remove(dir + "/known")
	if _, _, said := texts(t, &Maker{Destination: "sftp://nas/srv/b", Credentials: dir + "/credentials"}); !strings.Contains(said, dir+"/known") {
		t.Errorf("a missing file: reported %q; want a warning", said)
	}
	put(t, dir, map[string]string{"credentials": "s3cr3t"})
	if _, _, said := texts(t, &Maker{Destination: "sftp://nas/srv/b", Credentials: dir + "/credentials"}); !strings.Contains(said, "lacks the host keys") || strings.Contains(said, "s3cr3t") {
		t.Errorf("credentials that can't be read: reported %q; want a warning without their text", said)
	}
}

// TestBundle: the certificates of each distribution are put where the rescue system's programs read them; a source
// with TLS and none is reported.
func TestBundle(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", "/etc/hostname")
	if got := bundle(t.TempDir()); got != "" {
		t.Errorf("bundle of an empty system = %q; want none", got)
	}
	for _, f := range []string{"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/ca-bundle.pem", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/cert.pem"} {
		root := t.TempDir()
		put(t, root, map[string]string{f: "CERTIFICATES"})
		tree, w := initramfs.New(), &warnings{}
		if err := (&Maker{Report: w}).addCertificates(tree, bundle(root), "https://h/x", store.Credential{}); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, tree)[certificates]; got != "CERTIFICATES" || len(w.said) > 0 {
			t.Errorf("%s: %s has %q; reported %q", f, certificates, got, w.said)
		}
	}
	root := t.TempDir()
	put(t, root, map[string]string{"real": "CERTIFICATES", "etc/ssl/certs/ca-certificates.crt": ""})
	if err := errors.Join(os.MkdirAll(root+"/etc/pki/tls/certs", 0o755), os.Symlink(root+"/real", root+"/etc/pki/tls/certs/ca-bundle.crt")); err != nil {
		t.Fatal(err)
	}
	if got, want := bundle(root), root+"/etc/pki/tls/certs/ca-bundle.crt"; got != want {
		t.Errorf("bundle with an empty file and a link = %q; want %q", got, want)
	}
	for source, warns := range map[string]bool{"https://h/x": true, "s3://h/bucket": true, "rclone:r:x": true, "http://h/x": false, "s3+http://h/bucket": false, "sftp://h/x": false, "": false} {
		w := &warnings{}
		if err := (&Maker{Report: w}).addCertificates(initramfs.New(), "", source, store.Credential{}); err != nil || len(w.said) > 0 != warns {
			t.Errorf("source %q without certificates: %v, reported %q; want a warning = %v", source, err, *w, warns)
		}
	}
	w := &warnings{}
	if err := (&Maker{Report: w}).addCertificates(initramfs.New(), "", "https://h/x", store.Credential{CA: "/none"}); err != nil || len(w.said) > 0 {
		t.Errorf("with ca of the credentials: %v, reported %q; want no warning", err, w.said)
	}
}

// rcloneMachine is a machine whose rclone has a remote "nas", and a backup on it.
func rcloneMachine(t *testing.T) (b *Maker, conf string) {
	t.Helper()
	if _, err := initramfs.LookPath("", "rclone"); err != nil {
		t.Skipf("%v; make test installs rclone", err)
	}
	conf = filepath.Join(t.TempDir(), "rclone.conf")
	put(t, filepath.Dir(conf), map[string]string{"rclone.conf": "[nas]\ntype = alias\nremote = /srv\n"})
	t.Setenv("RCLONE_CONFIG", conf)
	return &Maker{Destination: "rclone:nas:backups"}, conf
}

// TestRclone: the medium has rclone's configuration only with include, and is marked then; otherwise the run reports
// what is to be brought.
func TestRclone(t *testing.T) {
	b, conf := rcloneMachine(t)
	const at = "root/.config/rclone/rclone.conf"
	files, info, said := texts(t, b)
	if files[at] != "" || info.Credentials || !strings.Contains(said, "bring it to a restore from rclone:nas:backups as /"+at) {
		t.Errorf("without include: %q, secrets %v, reported %q; want a note and no secrets", files[at], info.Credentials, said)
	}
	if !strings.Contains(said, "lacks the program rclone") {
		t.Errorf("without the program: reported %q; want a warning", said)
	}
	b.Config.Credentials = "include"
	files, info, said = texts(t, b)
	if !strings.Contains(files[at], "[nas]") || !info.Credentials || !strings.Contains(files["etc/mkcdrec/rescue.json"], `"credentials": true`) || !strings.Contains(said, "the medium has the secrets of "+conf) {
		t.Errorf("with include: %q, secrets %v, reported %q; want the configuration and a warning", files[at], info.Credentials, said)
	}
	b.Destination = "sftp://nas/b"
	if files, info, _ = texts(t, b); files[at] != "" || info.Credentials {
		t.Errorf("the source is sftp: %q, secrets %v; want none", files[at], info.Credentials)
	}
	b.Destination = "rclone:nas:backups"
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	if files, info, said = texts(t, b); files[at] != "" || info.Credentials || strings.Contains(files["etc/mkcdrec/rescue.json"], `"credentials": true`) || !strings.Contains(said, "lacks the configuration of rclone") {
		t.Errorf("without a file: %q, secrets %v, reported %q; want a warning and no mark", files[at], info.Credentials, said)
	}
	for source, want := range map[string]int{"rclone:nas:x": 1, "sftp://nas/x": 0, "": 0} {
		if got := b.forRclone(nil, source); len(got) != want {
			t.Errorf("source %q: %d programs; want %d", source, len(got), want)
		}
	}
	b.Config.Carry = []string{"rclone"}
	progs := b.Programs(&Machine{Layout: &layout.Layout{}})
	if got := b.forRclone(progs, "rclone:nas:x"); len(got) != len(progs) {
		t.Error("with rescue.carry the program is carried twice")
	}
	b.Config.Programs = "none"
	if got := b.forRclone(nil, "rclone:nas:x"); len(got) != 0 {
		t.Error("with rescue.programs: none the program is carried")
	}
}

// TestRcloneInTree: the program starts in the tree of the rescue system, and finds its configuration with the
// environment that commands have there.
func TestRcloneInTree(t *testing.T) {
	b, _ := rcloneMachine(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chroot")
	}
	w := &warnings{}
	b.Report, b.Run, b.Config = w, tool.Exec{}, Config{Programs: "required", Credentials: "include"}
	p := &Machine{Layout: secretLayout("word")}
	info, err := b.info(p, &kernelcfg.Kernel{Release: "6.1"}, Hint{})
	if err != nil {
		t.Fatal(err)
	}
	tree := initramfs.New()
	carried, _, _, err := b.carry(t.Context(), tree, b.forRclone(b.Programs(p), info.Source))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.addTexts(t.Context(), tree, p, info); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(w.said, "\n"); strings.Contains(said, "lacks the program") || len(carried) == 0 {
		t.Errorf("%d programs are carried, reported %q; want rclone", len(carried), said)
	}
	root := t.TempDir()
	if err := tree.Try(t.Context(), b.Run, root, carried); err != nil {
		t.Fatal(err)
	}
	for name, text := range contents(t, tree) {
		if _, err := os.Stat(filepath.Join(root, name)); errors.Is(err, fs.ErrNotExist) {
			put(t, root, map[string]string{name: text})
		}
	}
	put(t, root, map[string]string{"srv/backups/host/set.json": "{}", "proc/sys/fs/pipe-max-size": "1048576\n", "dev/null": ""}) // which it opens
	t.Setenv("HOME", "/root")                                                                                                    // as rescueinit sets it
	out, err := b.Run.Run(t.Context(), tool.Cmd{Args: []string{"rclone", "lsf", "--", "nas:backups"}, Root: root})
	if err != nil || string(out) != "host/\n" {
		t.Errorf("rclone lsf in the tree = %q, %v; want host/", out, err)
	}
}

// TestPrivateSSHKey: a private key among those who may log in is refused, and the message has no part of it.
func TestPrivateSSHKey(t *testing.T) {
	const secret = "AGE-SECRET-KEY-1QQQQQQQQQQQQ"
	for _, k := range []string{secret, secret + " ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhKqXv5Vw1yXb6xwCLTJEtYR9eTzqRXUZQPnqLwT1qT", "-----BEGIN OPENSSH PRIVATE KEY-----\nQQQQQQQQ\n"} {
		_, err := (&Config{SSHKeys: []string{k}}).AuthorizedKeys()
		if err == nil || !strings.Contains(err.Error(), "a private key was given") || strings.Contains(strings.ToUpper(err.Error()), "QQQQ") {
			t.Errorf("AuthorizedKeys(%.20q...) = %v; want an error without the key", k, err)
		}
	}
}
