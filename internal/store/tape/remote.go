package tape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// remote is a drive of another machine, where only dd and mt are needed. It is
// reached by ssh, without questions. What dd has taken may not be on the tape
// yet: a tape that ends is an error here, and no further reel is asked for.
type remote struct {
	host, dev string
	command   []string // ssh with its options

	write *exec.Cmd
	in    io.WriteCloser
	read  *exec.Cmd
	out   io.ReadCloser
	text  *bytes.Buffer // messages of the running dd
	block int
}

var (
	remoteName = lazyregexp.New(`^([A-Za-z0-9][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*$`)
	remoteDev  = lazyregexp.New(`^/dev/[A-Za-z0-9/._-]+$`)
)

// IsRemote reports whether a name is HOST:/dev/DEVICE.
func IsRemote(name string) bool {
	h, d, ok := strings.Cut(name, ":")
	return ok && remoteName().MatchString(h) && remoteDev().MatchString(d)
}

// OpenRemote opens HOST:/dev/nst0 by ssh. command are ssh and its options; nil
// is ssh without questions.
func OpenRemote(name string, write bool, command []string) (Drive, error) {
	if !IsRemote(name) {
		return nil, fmt.Errorf("cannot use %q: want HOST:/dev/nst0", name)
	}
	if command == nil {
		// A connection that no longer answers ends after a minute; ssh_config(5).
		command = []string{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"}
	}
	h, d, _ := strings.Cut(name, ":")
	r := &remote{host: h, dev: d, command: command}
	p, err := r.Position()
	if err != nil {
		return nil, err
	}
	if write && p.WriteProtected {
		return nil, fmt.Errorf("cannot write to the tape in %s: it is write-protected", name)
	}
	return r, nil
}

func (r *remote) String() string { return r.host + ":" + r.dev }

func (r *remote) cmd(args ...string) *exec.Cmd {
	a := append(append([]string{}, r.command...), r.host)
	return exec.Command(a[0], append(a[1:], args...)...)
}

// mt runs mt there, after what was going on has ended.
func (r *remote) mt(args ...string) (string, error) {
	if err := r.end(); err != nil {
		return "", err
	}
	c := r.cmd(append([]string{"mt", "-f", r.dev}, args...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("cannot run mt %s for %v: %w: %s", strings.Join(args, " "), r, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// end ends a dd that writes, which puts a file mark on the tape, or one that
// reads.
func (r *remote) end() error {
	if r.read != nil {
		r.out.Close()
		_ = r.read.Process.Kill()
		_ = r.read.Wait()
		r.read = nil
	}
	return r.endWrite()
}

func (r *remote) endWrite() error {
	if r.write == nil {
		return nil
	}
	c := r.write
	r.write = nil
	if err := errors.Join(r.in.Close(), c.Wait()); err != nil {
		return r.said(err)
	}
	return nil
}

// said makes an error of what dd said.
func (r *remote) said(err error) error {
	t := strings.TrimSpace(r.text.String())
	if strings.Contains(t, "No space left") {
		return fmt.Errorf("cannot write to %v: the tape is full, and a set can't continue on another remote tape; use a larger tape: %s", r, t)
	}
	return fmt.Errorf("cannot write to %v: %w: %s", r, err, t)
}

func (r *remote) Write(p []byte) (bool, error) {
	if r.read != nil {
		if err := r.end(); err != nil {
			return false, err
		}
	}
	if r.write == nil {
		r.text = &bytes.Buffer{}
		c := r.cmd("dd", "of="+r.dev, "bs="+strconv.Itoa(r.block), "iflag=fullblock")
		c.Stderr = r.text
		in, err := c.StdinPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			return false, fmt.Errorf("cannot write to %v: %w", r, err)
		}
		r.write, r.in = c, in
	}
	if _, err := r.in.Write(p); err != nil {
		c := r.write
		r.write = nil
		r.in.Close()
		return false, r.said(errors.Join(err, c.Wait()))
	}
	return false, nil
}

// Mark: the driver writes a file mark when dd closes the device.
func (r *remote) Mark() error {
	if r.write == nil {
		_, err := r.mt("weof", "1")
		return err
	}
	return r.endWrite()
}

func (r *remote) Read(p []byte) (int, error) {
	if err := r.endWrite(); err != nil {
		return 0, err
	}
	if r.read == nil {
		r.text = &bytes.Buffer{}
		c := r.cmd("dd", "if="+r.dev, "bs=1M")
		c.Stderr = r.text
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			return 0, fmt.Errorf("cannot read %v: %w", r, err)
		}
		r.read, r.out = c, out
		n, err := io.ReadFull(out, p)
		if n > 0 {
			return n, nil
		}
		if err == io.EOF {
			// Nothing at all: a file mark, or the end of what was written.
			return 0, r.endRead(true)
		}
		return 0, err
	}
	n, err := io.ReadFull(r.out, p)
	if n > 0 {
		return n, nil
	}
	if err == io.EOF {
		return 0, r.endRead(false)
	}
	return n, err
}

// endRead waits for dd, and distinguishes a file mark, a blank tape and an error.
func (r *remote) endRead(nothing bool) error {
	c := r.read
	r.read = nil
	if err := c.Wait(); err != nil {
		t := strings.TrimSpace(r.text.String())
		if p, e := r.Position(); e == nil && p.End && nothing {
			return ErrBlank
		}
		return fmt.Errorf("cannot read %v: %w: %s", r, err, t)
	}
	if nothing {
		if p, err := r.Position(); err == nil && p.End {
			return ErrBlank
		}
	}
	return io.EOF
}

func (r *remote) SetBlock(n int) error {
	r.block = n
	_, err := r.mt("setblk", strconv.Itoa(n))
	return err
}

func (r *remote) Rewind() error { _, err := r.mt("rewind"); return err }
func (r *remote) Forward(n int) error {
	if n == 0 {
		return nil
	}
	_, err := r.mt("fsf", strconv.Itoa(n))
	return err
}
func (r *remote) Back(n int) error { _, err := r.mt("bsf", strconv.Itoa(n)); return err }
func (r *remote) ToEnd() error     { _, err := r.mt("eom"); return err }
func (r *remote) Reload() error    { return r.end() }
func (r *remote) Eject() error     { _, err := r.mt("offline"); return err }
func (r *remote) Close() error     { return r.end() }

// Compression is left as its machine has it: mt's word for it differs.
func (r *remote) Compression(bool) error {
	return errors.New("a remote drive's compression is left alone")
}

var fileNumber = lazyregexp.New(`(?i)file number *= *(-?\d+)`)

// Position reads the output of mt status.
func (r *remote) Position() (Position, error) {
	out, err := r.mt("status")
	if err != nil {
		return Position{}, err
	}
	has := func(w string) bool { return regexp.MustCompile(`\b` + w + `\b`).MatchString(out) }
	p := Position{File: -1, Block: -1, Online: has("ONLINE"), WriteProtected: has("WR_PROT"), End: has("EOD")}
	if g := fileNumber().FindStringSubmatch(out); g != nil {
		p.File, _ = strconv.Atoi(g[1])
	}
	return p, nil
}
