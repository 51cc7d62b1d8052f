package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAnswers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	load := func(text string) (*Answers, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadAnswers(context.Background(), file)
	}
	a, err := load("set: /mnt/set\nyes: true\nconfirm: [A, B]\nmap: {vda: sdb, vdb: sda}\nsize:\n  /: 20G\nfs-type: {/home: xfs}\nexclude-disk: [vdc]\nkey-file: /k\n")
	if err != nil || a.Set != "/mnt/set" {
		t.Fatalf("%+v %v", a, err)
	}
	var got []string
	for _, o := range a.Options() {
		got = append(got, o.Name+" "+o.Value)
	}
	if want := "confirm A, confirm B, exclude-disk vdc, key-file /k, map vda=sdb, map vdb=sda, size /=20G, fs-type /home=xfs, yes true"; strings.Join(got, ", ") != want {
		t.Errorf("%s", strings.Join(got, ", "))
	}
	if a, err := load(""); err != nil || len(a.Options()) != 0 {
		t.Errorf("an empty file: %v %v", a, err)
	}
	for text, want := range map[string]string{"maps: {}\n": "[1:1]", "yes: true\nconfirm: {a: b}\n": "[2:", "set: [\n": "[1:"} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want the place %s", text, err, want)
		}
	}
	if _, err := LoadAnswers(context.Background(), file+".none"); err == nil {
		t.Error("a file that is not there")
	}
}

// TestAnswersFifo: answers come from a file or a server; a fifo is refused, and not
// waited for.
func TestAnswersFifo(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "answers.yaml")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{fifo: "it is a fifo", "/dev/zero": "it is a character device"} {
		done := make(chan error, 1)
		go func() { _, err := LoadAnswers(context.Background(), file); done <- err }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %s", file, err, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is waited for", file)
		}
	}
}
