package store

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rcloneSite is a directory that is a remote of rclone's configuration.
func rcloneSite(t *testing.T) *site { return rcloneAt(t, t.TempDir()) }

func rcloneAt(t *testing.T, dir string) *site {
	t.Helper()
	if _, err := exec.LookPath("rclone"); err != nil {
		t.Skip("needs rclone")
	}
	conf := filepath.Join(t.TempDir(), "rclone.conf")
	if err := os.WriteFile(conf, []byte("[my remote]\ntype = alias\nremote = "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RCLONE_CONFIG", conf)
	return &site{url: "rclone:my remote:ho me/x"}
}

// TestRcloneRoot: a remote without a path is what rclone takes it for, which for a disk is the
// current directory, and not "/".
func TestRcloneRoot(t *testing.T) {
	for place, want := range map[string]string{"rclone:r:": "r: r:set/x", "rclone:r:/": "r:/ r:/set/x", "rclone:r://": "r:/ r:/set/x", "rclone:r:a/": "r:a r:a/set/x", "rclone:r:/a": "r:/a r:/a/set/x"} {
		at, err := parse(place)
		if err != nil {
			t.Fatal(err)
		}
		h := &rcloneHome{at: at}
		if got := h.full("") + " " + h.full("set/x"); got != want {
			t.Errorf("%s: %q; want %q", place, got, want)
		}
		if got := h.At(t.Context(), "").String(); got != at.text {
			t.Errorf("%s: the set in it is %s", place, got)
		}
	}
	rcloneSite(t) // for its skip
	dir := t.TempDir()
	t.Chdir(dir)
	conf := filepath.Join(t.TempDir(), "rclone.conf")
	if err := os.WriteFile(conf, []byte("[disk]\ntype = local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RCLONE_CONFIG", conf)
	h := (&site{url: "rclone:disk:"}).open(t)
	name := "mkcdrec-test-" + filepath.Base(dir) + "/x"
	put(t, h, name, []byte("text"))
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if dirs, err := h.Dirs(t.Context()); err != nil || len(dirs) != 1 {
		t.Errorf("%q, %v", dirs, err)
	}
	if err := h.Remove(t.Context(), filepath.Dir(name)); err != nil {
		t.Error(err)
	}
}

// TestRcloneFaults: a missing program, a missing remote, and one that fails while it writes.
func TestRcloneFaults(t *testing.T) {
	s := rcloneSite(t)
	if _, err := OpenHome(t.Context(), "rclone:other:x", s.access); err == nil || !strings.Contains(err.Error(), "other") || !strings.Contains(err.Error(), "rclone failed") {
		t.Errorf("an unknown remote: %v", err)
	}
	h := s.open(t)
	u, err := h.Create(t.Context(), "a/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(1<<20, 1)); err != nil {
		t.Fatal(err)
	}
	killTree(u.(*rcloneUpload).cmd.Process.Pid)
	_, err = u.Write(random(20<<20, 1))
	if err == nil {
		err = u.Commit()
	}
	if err == nil || !strings.Contains(err.Error(), "cannot write rclone:my remote:ho me/x/a/x: rclone failed (signal: killed)") {
		t.Errorf("rclone was killed: %v", err)
	}
	if _, err := u.Write([]byte("x")); err == nil {
		t.Error("writing to a program that has ended succeeds")
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if got := listed(t, h, "a"); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := OpenHome(t.Context(), s.url, s.access); err == nil || !strings.Contains(err.Error(), "rclone is not installed") {
		t.Errorf("without rclone: %v", err)
	}
}

// TestRclonePassword: the password of rclone's configuration is in no argument and no message.
func TestRclonePassword(t *testing.T) {
	if _, err := exec.LookPath("true"); err != nil {
		t.Skip("needs true")
	}
	dir := t.TempDir()
	program := "#!/bin/sh\necho \"$@\" >>" + dir + "/args\necho pass=$RCLONE_CONFIG_PASS >>" + dir + "/env\necho failed for a reason >&2\nexit 1\n"
	if err := os.WriteFile(dir+"/rclone", []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c, err := ParseCredentials([]byte("- {url: 'rclone:r:', password: TOPSECRET}"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenHome(t.Context(), "rclone:r:-x", Access{Credentials: c})
	args, err2 := os.ReadFile(dir + "/args")
	env, err3 := os.ReadFile(dir + "/env")
	if err == nil || !strings.Contains(err.Error(), "failed for a reason") || errors.Join(err2, err3) != nil {
		t.Fatalf("%v, %v, %v", err, err2, err3)
	}
	if strings.Contains(string(args)+err.Error(), "TOPSECRET") || string(env) != "pass=TOPSECRET\n" || !strings.HasSuffix(string(args), "-- r:-x\n") {
		t.Errorf("arguments %q, environment %q, error %v", args, env, err)
	}
}
