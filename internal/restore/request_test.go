package restore

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// filled is a request that a command line and an answer file fill; "" for no file.
func filled(t *testing.T, line, answers string) (*Request, error) {
	t.Helper()
	r := &Request{}
	f := flag.NewFlagSet("restore", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	r.Flags(f)
	if err := f.Parse(strings.Fields(line)); err != nil {
		return r, err
	}
	if answers == "" {
		return r, nil
	}
	file := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(file, []byte(answers), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, r.Answers(context.Background(), f, file)
}

// TestRequest: the command line and the answer file fill the same request, and the command
// line counts more.
func TestRequest(t *testing.T) {
	const (
		line    = "--yes --confirm A,B --map /dev/vda=sdb --map vdb=sda --size /=20G --fs-type /home=xfs --exclude-disk vdc --key-file /k --new-identity --hostname h2 --forget /etc/licence --no-verify"
		answers = "set: /mnt/set\nyes: true\nconfirm: [A, B]\nmap: {/dev/vda: sdb, vdb: sda}\nsize:\n  /: 20G\nfs-type: {/home: xfs}\nexclude-disk: [vdc]\nkey-file: /k\nnew-identity: true\nhostname: h2\nforget: [/etc/licence]\nno-verify: true\n"
	)
	typed, err := filled(t, line, "")
	if err != nil {
		t.Fatal(err)
	}
	want, err := typed.Validate()
	if err != nil {
		t.Fatal(err)
	}
	if w := want.Wish; w.Map["vda"] != "sdb" || w.Sizes["/"] != 20*quantity.GiB || w.Types["/home"] != "xfs" || !slices.Equal(w.Confirmed, []string{"A", "B"}) || want.Personal.Hostname != "h2" {
		t.Errorf("Validate(%s) = %+v", line, want)
	}
	read, err := filled(t, "", answers)
	if err != nil || read.Set != "/mnt/set" {
		t.Fatalf("Answers = %v, set %q", err, read.Set)
	}
	got, err := read.Validate()
	if err != nil || !reflect.DeepEqual(got.Wish, want.Wish) || !reflect.DeepEqual(got.Personal, want.Personal) || got.KeyFile != "/k" || !got.Yes || !got.NoVerify || !got.NewIdentity {
		t.Errorf("Validate(answers) = %+v, %v; want %+v", got, err, want)
	}
	both, err := filled(t, "--size /=30G --yes=false --confirm C", answers)
	if err != nil || both.Yes || !slices.Equal(both.Size, Pairs{"/=30G"}) || !slices.Equal(both.Confirm, List{"C"}) || both.KeyFile != "/k" {
		t.Errorf("both: %+v, %v", both, err)
	}
	if r, err := filled(t, "", " "); err != nil || r.Wishes() != "" {
		t.Errorf("an empty file: %+v, %v", r, err)
	}
	if got, want := typed.Wishes(), "--map /dev/vda=sdb --map vdb=sda --size /=20G --fs-type /home=xfs --exclude-disk vdc"; got != want {
		t.Errorf("Wishes() = %s; want %s", got, want)
	}
}

// TestRequestErrors: an error has the status of wrong usage, and names the option, or the
// key and its file.
func TestRequestErrors(t *testing.T) {
	for _, c := range []struct{ line, answers, want string }{
		{"--size 20G", "", `--size "20G" is not WHAT=SIZE`},
		{"--size /=much", "", `--size /=much: "much" is not a size`},
		{"", "size: {/: much}", `a.yaml) /=much: "much" is not a size`},
		{"--fs-type xfs", "", `--fs-type "xfs" is not MOUNT=TYPE`},
		{"--map sda", "", `--map "sda" is not OLD=NEW`},
		{"--fs-type /=zfs", "", "--fs-type /=zfs: it can be one of "},
		{"", "fs-type: {/: zfs}", "a.yaml) /=zfs: it can be one of "},
		{"", "map: {'': sda}", `map (in `},
		{"--plan --dry-run", "", "use either --plan or --dry-run"},
		{"--kill-after 2", "", "--kill-after is for --dry-run"},
		{"--only / --mirror sda", "", "--only takes a device as it is: not with --mirror"},
		{"--only / --dry-run", "", "--only takes a device as it is: not with --dry-run"},
		{"--only / --map sda=sdb", "", "not with --map"},
		{"--only / --size /=1G", "", "not with --size"},
		{"--only / --exclude-disk sda", "", "not with --exclude-disk"},
		{"--only /home --firmware uefi", "", "--only takes a device as it is: not with --firmware"},
		{"--only /home --keep-sizes", "", "--only takes a device as it is: not with --keep-sizes"},
		{"--only /home --new-luks", "", "--only takes a device as it is: not with --new-luks"},
		{"--unmirror", "only: /", "a.yaml) takes a device as it is: not with --unmirror"},
		{"--only /", "firmware: uefi", "--only takes a device as it is: not with firmware (in "},
		{"--only /", "keep-sizes: true", "not with keep-sizes (in "},
		{"--only /", "new-luks: true", "not with new-luks (in "},
		{"--only / --new-identity", "", "identity of its own: not with --new-identity"},
		{"--only /", "new-identity: true", "not with new-identity (in "},
		{"--only / --check-target write", "", "--check-target overwrites whole disks: not with --only"},
		{"--check-target write", "only: /", "--check-target overwrites whole disks: not with only (in "},
		{"--onto sda1", "", "--onto wants --only"},
		{"--size /=1G --keep-sizes", "", "--size and --keep-sizes exclude each other"},
		{"--size /=1G", "keep-sizes: true", "--size and keep-sizes (in "},
		{"--keep-sizes", "size: {/: 1G}", "a.yaml) and --keep-sizes exclude each other"},
		{"--hostname x", "", "--hostname is for --new-identity only"},
		{"", "hostname: x", "a.yaml) is for --new-identity only"},
		{"--forget /x", "", "--forget is for --new-identity only"},
		{"", "forget: [/x]", "forget (in "},
		{"--new-identity --hostname -x", "", `--hostname: "-x" is not a host name`},
		{"--new-identity", "forget: [x]", "forget (in "},
		{"--firmware coreboot", "", `--firmware "coreboot" is neither uefi nor bios`},
		{"", "maps: {}\n", "[1:1]"},
		{"", "yes: true\nconfirm: {a: b}\n", "[2:"},
		{"", "yes: true\nmap: [a]\n", "[2:"},
		{"", "set: [\n", "[1:"},
		{"", "plan: true\n", "[1:1]"},
	} {
		r, err := filled(t, c.line, c.answers)
		if err == nil {
			_, err = r.Validate()
		}
		if exit.Code(err) != exit.BadUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s and %q: %v; want %s", c.line, c.answers, err, c.want)
		}
	}
	if err := (&Request{}).Answers(context.Background(), flag.NewFlagSet("", flag.ContinueOnError), "/no/such/file"); err == nil {
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
		go func() {
			done <- (&Request{}).Answers(context.Background(), flag.NewFlagSet("", flag.ContinueOnError), file)
		}()
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
