package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScheme: what kind of place each URL is.
func TestScheme(t *testing.T) {
	for place, want := range map[string]string{
		"/backups": KindDir, "backups": KindDir, "file:///backups": KindDir, "./rclone:x": KindDir, "a/b://c": KindDir, "tape:/dev/st0": KindDir,
		"http://h/": KindHTTP, "https://h": KindHTTPS, "sftp://h/x": KindSFTP, "s3://h/bucket": KindS3, "s3+http://h/bucket": KindS3Plain,
		"rclone:r:p": KindRclone, "nfs://h/x": KindNFS, "smb://h/x": KindSMB, "ftp://h/x": "", "SFTP://h": "",
	} {
		if got := Scheme(place); got != want {
			t.Errorf("Scheme(%q) = %q; want %q", place, got, want)
		}
		if got := IsHome(place); got != (want != KindDir && want != "") {
			t.Errorf("IsHome(%q) = %v", place, got)
		}
	}
}

// TestParse: what the parts of URLs are, and which URLs are refused.
func TestParse(t *testing.T) {
	for _, c := range []struct{ place, want string }{
		{"sftp://me@Host:2222/a%20b/", "sftp me host 2222 /a b sftp://me@Host:2222/a%20b"},
		{"sftp://host", "sftp  host 22 / sftp://host"},
		{"s3://[::1]:9000/bucket/p/q", "s3  ::1 9000 /bucket/p/q s3://[::1]:9000/bucket/p/q"},
		{"https://u:secret@h/x", "https u h 443 /x https://u@h/x"},
		{"smb://u@h/share/d", "smb u h 445 /share/d smb://u@h/share/d"},
		{"nfs://@LLLLs://@LLLA", "nfs  lllls 2049 /@LLLA nfs://LLLLs://@LLLA"},
		{"rclone:my remote:a/b/", "rclone    a/b rclone:my remote:a/b"},
	} {
		a, err := parse(c.place)
		if got := fmt.Sprintf("%s %s %s %s %s %s", a.kind, a.user, a.host, a.port, a.path, a.text); got != c.want || err != nil {
			t.Errorf("parse(%q) = %q, %v; want %q", c.place, got, err, c.want)
		}
	}
	for place, want := range map[string]string{
		"ftp://h/x": "expected a directory", "": "empty", "sftp://u:secret@h/x": "seen by other users", "s3://u:secret@h/bucket": "seen by other users", "s3://key@h/bucket": "access key",
		"sftp:///x": "no valid host", "sftp://h:0/x": "not a port", "sftp://h:port/x": "not a URL", "s3://h/": "BUCKET", "s3://h/B": "small letters", "s3://h/a..b": "small letters",
		"smb://h": "SHARE", "nfs://u@h/x": "no user names", "sftp://h/a/../b": "\"..\"", "sftp://h/a?b=c": "? or #", "sftp://h/a#b": "? or #", "sftp://h/a\nb": "can't be printed",
		"rclone:x": "REMOTE:PATH", "rclone::s3,key=secret:x": "name of a remote", "rclone:-v:x": "name of a remote", "rclone:r,key=secret:x": "name of a remote", "rclone:r:../x": "\"..\"", "http://": "no valid host",
	} {
		_, err := parse(place)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("parse(%q): %v; want %q, and no secret", place, err, want)
		}
	}
}

// TestJoin: names are escaped in URLs, so that parse gives them again.
func TestJoin(t *testing.T) {
	for place, want := range map[string]string{"/b": "/b/a %?#/b", "sftp://h/b/": "sftp://h/b/a%20%25%3F%23/b", "rclone:r:": "rclone:r:a %?#/b", "rclone:r:x": "rclone:r:x/a %?#/b", "s3://h/bucket": "s3://h/bucket/a%20%25%3F%23/b"} {
		got := Join(place, "a %?#/b")
		if a, err := parse(got); got != want || err != nil || !strings.HasSuffix(a.path, "a %?#/b") {
			t.Errorf("Join(%q) = %q, %v; want %q", place, got, err, want)
		}
	}
}

// TestCanonical: the forms of one place are the same, however it is written, and those of others are not.
func TestCanonical(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.MkdirAll("disk/sets", 0o700), os.Symlink("disk", "link"), os.Symlink(dir+"/unmounted/sets", "dangling"), os.Symlink("loop", "loop"))
	if err != nil {
		t.Fatal(err)
	}
	for want, places := range map[string][]string{
		"sftp://h/x":               {"sftp://h/x", "sftp://h/x/", "sftp://H:22/x", "sftp://h:022//x", "sftp://root@h/x", "sftp://other@h./x", "sftp://h/%78"},
		"sftp://h/x/X":             {"sftp://h/x/X"},
		"sftp://h/root/x":          {"sftp://h/root/x"},
		"sftp://h":                 {"sftp://h", "sftp://h/"},
		"sftp://h:2222/x":          {"sftp://h:2222/x"},
		"sftp://[::1]/x":           {"sftp://[::1]/x", "sftp://[0:0::1]:22/x/"},
		"s3://h/bucket":            {"s3://h/bucket", "s3://h/bucket/", "s3://H:443/bucket"},
		"s3://h:80/bucket":         {"s3://h:80/bucket"},
		"s3+http://h/bucket":       {"s3+http://h:80/bucket"},
		"https://h/dav":            {"https://h/dav/", "https://me:secret@h:443/dav", "https://h/dav?token=secret"},
		"http://h/dav":             {"http://h/dav/"},
		"rclone:r:x":               {"rclone:r:x", "rclone:r:x/", "rclone:r:/x", "rclone:r:./x"},
		"rclone:r:":                {"rclone:r:", "rclone:r:/", "rclone:r:."},
		"rclone:R:x":               {"rclone:R:x"},
		"nfs://h/x":                {"nfs://H/x", "nfs://h:2049/x/"},
		"smb://h/share/d":          {"smb://H/Share/D/", "smb://me@h:445/share/d"},
		real + "/disk/sets":        {"disk/sets", dir + "/disk/sets/", "file://" + dir + "/disk//sets", "link/sets", "./link/../link/sets"},
		real + "/disk/new/x":       {"link/new/x"},
		real + "/unmounted/sets/a": {"dangling/a"},
		real + "/loop/a":           {"loop/a"},
		"/":                        {"/", "file:///"},
	} {
		for _, p := range places {
			got, err := Canonical(p)
			if got != want && got != strings.Replace(want, real, dir, 1) || err != nil {
				t.Errorf("Canonical(%q) = %q, %v; want %q", p, got, err, want)
			}
		}
	}
	for _, p := range []string{"", "ftp://h/x", "SFTP://h/x", "sftp://u:secret@h/x", "s3://h"} {
		if got, err := Canonical(p); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Canonical(%q) = %q, %v; want an error without the secret", p, got, err)
		}
	}
}

const someCredentials = `
- {url: "sftp://backup.example.com", user: all, password: one}
- {url: "sftp://backup.example.com/srv", user: srv, key: /etc/key, passphrase: two}
- {url: "sftp://root@backup.example.com/srv", password: three}
- {url: "s3://s3.example.com/", access_key: A, secret_key: four}
- {url: "s3://s3.example.com/bucket/host", access_key: B, secret_key: five, region: eu-1}
- {url: "smb://nas", user: nas, password: six, domain: D}
- {url: "rclone:r:", password: seven}
- {url: "https://w:8443/dav/", ca: /etc/ca.pem}
`

// TestFind: the longest URL wins, at whole parts of a path only.
func TestFind(t *testing.T) {
	c, err := ParseCredentials([]byte(someCredentials))
	if err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]string{
		"sftp://backup.example.com/x": "all one", "sftp://Backup.example.com:22/srv/x": "srv /etc/key", "sftp://backup.example.com/srv2": "all one", "sftp://root@backup.example.com/srv/a": "root three",
		"sftp://backup.example.com.evil.org/srv": "none", "sftp://backup.example.com:2222/srv": "none", "s3://s3.example.com/other": "A four", "s3://s3.example.com/bucket/host": "B five",
		"s3://s3.example.com/bucket/host2": "A four", "s3+http://s3.example.com/bucket": "none", "smb://nas/share": "nas six", "rclone:r:x": "seven", "rclone:q:x": "none", "https://w:8443/dav/x": "/etc/ca.pem", "https://w/dav": "none",
	} {
		a, err := parse(place)
		if err != nil {
			t.Fatal(err)
		}
		l := c.find(a)
		got := strings.TrimSpace(strings.Join(strings.Fields(l.user+" "+l.AccessKey+" "+string(l.Password+l.SecretKey)+" "+l.Key+l.CA), " "))
		if !l.found {
			got = "none"
		}
		if got != want {
			t.Errorf("%s: %q; want %q", place, got, want)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "four") || !strings.Contains(text, "hidden") {
		t.Errorf("a secret is printed: %s", text)
	}
}

// TestCredentialsFaults: what is wrong is named by its place, without the text.
func TestCredentialsFaults(t *testing.T) {
	for text, want := range map[string]string{
		"- {url: 'sftp://h/', pasword: TOPSECRET}":                          "line 1, column 22: unknown key",
		"- url: 'sftp://h/'\n  password: [TOPSECRET]":                       "line 2, column 13",
		"- url: 'sftp://h/'\n  password: 'TOPSECRET":                        "line 2",
		"- url: 'sftp://h/'\n  password: TOPSECRET\n  password: TOPSECRET":  "line 3, column 3: not valid YAML, or a repeated key",
		"!\x00\x01rl: TOPSECRET \"a\\":                                      "not a list in YAML", // the library panics
		"TOPSECRET":                                                         "expected a list",
		"- {password: TOPSECRET}":                                           "entry 1: its url",
		"- {url: 'sftp://u:TOPSECRET@h/'}":                                  "entry 1: its url",
		"- {url: /dir}":                                                     "entry 1: its url",
		"- {url: 's3://h', access_key: TOPSECRET}":                          "entry 1: access_key and secret_key",
		"- {url: 'sftp://h'}\n- {url: 'sftp://H:22/', password: TOPSECRET}": "entry 2: another entry",
		"- url: 'sftp://h'\n  key: |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n    TOPSECRET\n": "entry 1: it has a private key where the name of a file",
		"- {url: 'sftp://h'}\n---\n- {url: 'sftp://h/'}":                                        "a second document",
		"": "",
		"- {url: 'sftp://h', password: 12345}\n- {url: 'nfs://h', options: vers=3}": "",
	} {
		_, err := ParseCredentials([]byte(text))
		if want == "" && err == nil {
			continue
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "credentials")
	for _, mode := range []os.FileMode{0o644, 0o640, 0o606, 0o600, 0o400} {
		if err := errors.Join(os.WriteFile(file, []byte(someCredentials), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		c, err := ReadCredentials(file)
		if good := mode&0o077 == 0; good != (err == nil) || good && len(c) != 8 || !good && !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %d entries, %v", mode, len(c), err)
		}
		os.Remove(file)
	}
	if _, err := ReadCredentials(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// FuzzParse: no URL panics; what is accepted names a host, and its text parses again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"sftp://u@h:22/a%20b", "s3://[::1]/bucket/x", "rclone:r:x/y", "nfs://h/a", "smb://h/s/d", "https://u:p@h/x?y", "file:///x", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parse(s)
		if err != nil || a.kind == KindDir { // of which the text is the path
			return
		}
		again, err := parse(a.text)
		if err != nil || again.path != a.path && a.password == "" || again.host != a.host || again.port != a.port || again.remote != a.remote {
			t.Fatalf("parse(%q) = %+v, of its text %+v, %v", s, a, again, err)
		}
		if a.kind != KindRclone && a.host == "" || a.kind != KindRclone && !strings.HasPrefix(a.path, "/") {
			t.Fatalf("parse(%q) = %+v", s, a)
		}
		if !strings.ContainsAny(s, "?#") {
			if j, err := parse(Join(a.text, "x y%")); err != nil || !strings.HasSuffix(j.path, "x y%") {
				t.Fatalf("Join(%q) = %+v, %v", a.text, j, err)
			}
		}
	})
}

// FuzzCredentials: no text panics, and errors have no value of it.
func FuzzCredentials(f *testing.F) {
	f.Add(someCredentials)
	f.Add("- url: sftp://h\n  password: \"a\\")
	f.Add("- {url: 'sftp://h/', x: [1, {2: 3}]}")
	f.Fuzz(func(t *testing.T, s string) {
		const secret = "qZ9vTOPSECRET"
		for _, text := range []string{s, strings.ReplaceAll(s, "one", secret), s + "\n" + secret, secret + s} {
			c, err := ParseCredentials([]byte(text))
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Fatalf("%q: %v", text, err)
			}
			for _, e := range c {
				if e.at.kind == "" || e.at.kind == KindDir {
					t.Fatalf("%q: entry %v", text, e)
				}
			}
		}
	})
}
