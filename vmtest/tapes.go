package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Tapes are SCSI tape drives with a tape in each, of tgtd (Debian's tgt): a
// machine sees them as /dev/nst0, /dev/nst1 ...
type Tapes struct {
	cmd     *exec.Cmd
	control string // tgtd's number
	port    int
	n       int
}

const tapeTarget = "iqn.2026-01.org.mkcdrec:tapes"

// StartTapes starts tgtd with drives whose tapes hold so many MiB each. Their
// contents are files in dir.
func StartTapes(ctx context.Context, dir string, mib ...int) (*Tapes, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	t := &Tapes{port: port, control: strconv.Itoa(port & 0x3fff), n: len(mib)}
	if err := os.MkdirAll("/var/run/tgtd", 0o755); err != nil {
		return nil, err
	}
	t.cmd = exec.CommandContext(ctx, "tgtd", "-f", "-C", t.control, "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d", port))
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start tgtd (Debian's tgt): %w", err)
	}
	adm := func(args ...string) error {
		return command(ctx, append([]string{"tgtadm", "-C", t.control, "--lld", "iscsi"}, args...)...)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if err = adm("--op", "new", "--mode", "target", "--tid", "1", "-T", tapeTarget); err == nil || time.Now().After(end) {
			break
		}
	}
	for i, size := range mib {
		file := filepath.Join(dir, fmt.Sprintf("tape%d", i))
		if err == nil {
			err = command(ctx, "tgtimg", "--op", "new", "--device-type", "tape", "--barcode", fmt.Sprintf("MKC%03d", i), "--size", strconv.Itoa(size), "--type", "data", "--file", file)
		}
		if err == nil {
			err = adm("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", strconv.Itoa(i+1), "-b", file, "--device-type", "tape")
		}
	}
	if err == nil {
		err = adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
	}
	if err != nil {
		_ = t.Stop()
		return nil, err
	}
	return t, nil
}

// Args are QEMU's words for the drives.
func (t *Tapes) Args() []string {
	a := []string{"-device", "virtio-scsi-pci,id=tapes"}
	for i := range t.n {
		a = append(a, "-drive", fmt.Sprintf("if=none,id=tape%d,format=raw,file=iscsi://127.0.0.1:%d/%s/%d", i, t.port, tapeTarget, i+1), "-device", fmt.Sprintf("scsi-generic,bus=tapes.0,scsi-id=%d,drive=tape%d", i, i))
	}
	return a
}

// Stop ends tgtd; the tapes' files stay.
func (t *Tapes) Stop() error {
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
	return os.Remove("/var/run/tgtd/socket." + t.control)
}
