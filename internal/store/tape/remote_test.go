package tape_test

import (
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
)

// TestMain is also the ssh of TestRemote: it runs dd and mt on a tape that is
// kept in a file.
func TestMain(m *testing.M) {
	if file := os.Getenv("MKCDREC_TEST_ARGS"); file != "" {
		if err := os.WriteFile(file, []byte(strings.Join(os.Args[1:], "\n")), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(255) // as ssh does when a connection ends
	}
	if state := os.Getenv("MKCDREC_TEST_TAPE"); state != "" {
		if err := fakeSSH(state, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// kept is a tape with where it stands.
type kept struct {
	Tape  model.Tape
	File  int // -1: at the end
	Block int
}

func load(file string) (k kept, err error) {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	defer f.Close()
	return k, gob.NewDecoder(f).Decode(&k)
}

func (k kept) save(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewEncoder(f).Encode(k)
}

// wound gives a drive that stands where the tape was left, which is always at a
// file mark or at an end.
func (k *kept) wound() (*model.Drive, error) {
	// gob has no nil among byte slices: a mark is an empty one.
	for i, b := range k.Tape.Items {
		if len(b) == 0 {
			k.Tape.Items[i] = nil
		}
	}
	d := &model.Drive{Tape: &k.Tape, Block: k.Block}
	if k.File < 0 {
		return d, d.ToEnd()
	}
	return d, d.Forward(k.File)
}

func fakeSSH(state string, args []string) error {
	if len(args) < 3 || args[0] != "backup@tapehost" {
		return fmt.Errorf("ssh %v", args)
	}
	if os.Getenv("MKCDREC_TEST_GONE") != "" {
		return fmt.Errorf("ssh: connect to host tapehost: No route to host")
	}
	k, err := load(state)
	if err != nil {
		return err
	}
	d, err := k.wound()
	if err != nil {
		return err
	}
	args = args[1:]
	word := func(p string) string {
		for _, a := range args {
			if v, ok := strings.CutPrefix(a, p); ok {
				return v
			}
		}
		return ""
	}
	switch {
	case args[0] == "dd" && word("of=") == "/dev/nst0":
		bs, _ := strconv.Atoi(word("bs="))
		b, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			n := min(bs, len(b))
			if _, err := d.Write(b[:n]); err != nil {
				return fmt.Errorf("dd: error writing '/dev/nst0': No space left on device")
			}
			b = b[n:]
		}
		if err := d.Mark(); err != nil {
			return err
		}
	case args[0] == "dd" && word("if=") == "/dev/nst0":
		b := make([]byte, 1<<20)
		for {
			n, err := d.Read(b)
			if err != nil {
				break
			}
			os.Stdout.Write(b[:n])
		}
	case args[0] == "mt" && args[1] == "-f" && args[2] == "/dev/nst0":
		n := 1
		if len(args) > 4 {
			n, _ = strconv.Atoi(args[4])
		}
		switch args[3] {
		case "rewind":
			err = d.Rewind()
		case "fsf":
			err = d.Forward(n)
		case "eom":
			err = d.ToEnd()
		case "bsf":
			// Before a mark: shown as the file that ends there; what follows is fsf.
			if err = d.Back(n); err == nil {
				p, _ := d.Position()
				k.File = p.File
				return k.save(state)
			}
		case "setblk":
			k.Block = n
		case "weof":
			err = d.Mark()
		case "status":
			p, _ := d.Position()
			fmt.Printf("SCSI 2 tape drive:\nFile number=%d, block number=%d, partition=0.\nGeneral status bits on (1010000):\n ONLINE IM_REP_EN", p.File, p.Block)
			if p.End {
				fmt.Print(" EOD")
			}
			if k.Tape.Protected {
				fmt.Print(" WR_PROT")
			}
			fmt.Println()
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("only dd and mt are here: %v", args)
	}
	p, _ := d.Position()
	if k.File = p.File; p.End {
		k.File = -1
	}
	return k.save(state)
}

// A drive of another machine, where there is nothing but dd and mt.
func TestRemote(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "tape")
	t.Setenv("MKCDREC_TEST_TAPE", state)
	open := func(write bool) (tape.Drive, error) {
		return tape.OpenRemote("backup@tapehost:/dev/nst0", write, []string{self})
	}
	d, err := open(true)
	if err != nil {
		t.Fatal(err)
	}
	archives := map[string][]byte{"a": pack(t, 20), "b": pack(t, 3)}
	if err := writeSet(t, &tape.Writer{Drives: []tape.Drive{d}}, archives); err != nil {
		t.Fatal(err)
	}
	if d, err = open(false); err != nil {
		t.Fatal(err)
	}
	if err := read(t, []tape.Drive{d}, nil, archives); err != nil {
		t.Error(err)
	}
	d.Close()
	// Full, protected, gone.
	if err := (kept{Tape: model.Tape{Capacity: 3 << 20}}).save(state); err != nil {
		t.Fatal(err)
	}
	if d, err = open(true); err != nil {
		t.Fatal(err)
	}
	if err := writeSet(t, &tape.Writer{Drives: []tape.Drive{d}}, archives); err == nil || !strings.Contains(err.Error(), "larger tape") {
		t.Errorf("a full tape: %v", err)
	}
	if err := (kept{Tape: model.Tape{Protected: true}}).save(state); err != nil {
		t.Fatal(err)
	}
	if _, err := open(true); err == nil || !strings.Contains(err.Error(), "write-protected") {
		t.Errorf("a protected tape: %v", err)
	}
	t.Setenv("MKCDREC_TEST_GONE", "1")
	if _, err := open(true); err == nil || !strings.Contains(err.Error(), "No route to host") {
		t.Errorf("a host that is gone: %v", err)
	}
}

// Without a command of the caller, ssh asks nothing, and neither a host that is not there
// nor a connection that dies keeps it waiting.
func TestRemoteOptions(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	real, _ := exec.LookPath("ssh")
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	t.Setenv("MKCDREC_TEST_ARGS", filepath.Join(dir, "args"))
	if _, err := tape.OpenRemote("backup@tapehost:/dev/nst0", false, nil); err == nil {
		t.Error("no error when ssh fails")
	}
	b, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil {
		t.Fatal(err)
	}
	options := []string{"-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"}
	got := strings.Split(string(b), "\n")
	if want := append(slices.Clone(options), "backup@tapehost", "mt", "-f", "/dev/nst0"); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("ssh %q; want %q", got, want)
	}
	if real == "" {
		t.Log("ssh is not here to read its options")
		return
	}
	out, err := exec.Command(real, slices.Concat([]string{"-F", "none", "-G"}, options, []string{"backup@tapehost"})...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"batchmode yes", "connecttimeout 20", "serveraliveinterval 15", "serveralivecountmax 4"} {
		if !strings.Contains(string(out), "\n"+l+"\n") {
			t.Errorf("ssh -G does not print %q:\n%s", l, out)
		}
	}
}

func TestIsRemote(t *testing.T) {
	for name, want := range map[string]bool{"host:/dev/nst0": true, "root@10.0.0.1:/dev/nst1": true, "/dev/nst0": false, "host:/etc/passwd": false, "-oProxyCommand=x:/dev/nst0": false, "host:/dev/nst0;reboot": false, "ho st:/dev/nst0": false} {
		if got := tape.IsRemote(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
