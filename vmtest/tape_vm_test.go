//go:build vmtest

package vmtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTryTape is for finding out.
func TestTryTape(t *testing.T) {
	if os.Getenv("TRYTAPE") == "" {
		t.Skip("only by hand")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r := &circle{Circle: Circle{Kind: BIOSLVM, Work: workDir(t), Say: t.Logf}, out: &Outcome{}}
	r.setDisk = filepath.Join(r.Work, "set.img")
	r.Mkcdrec, r.Guest = programs(t)
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	tapes, err := StartTapes(ctx, r.Work, 60, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer tapes.Stop()
	disk := filepath.Join(r.Work, "source.qcow2")
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Disk, disk); err != nil {
		t.Fatal(err)
	}
	vm, err := Start(ctx, Machine{Name: "tape-source", CPUs: 2, Log: filepath.Join(r.Work, "source.log"), Extra: tapes.Args(), Disks: []Disk{{File: disk, Serial: r.src.Serial}, {File: r.setDisk, Serial: "SETDISK01"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Login(Password, bootLimit); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{
		"modprobe st; ls -l /dev/*st*; dmesg | tail -5",
		"mkdir -p /backup && mount LABEL=SETDISK /backup",
		`printf 'exclude:\n  - /usr/share/*\n  - /usr/lib/x86_64-linux-gnu/perl*\n  - /usr/lib/grub/x86_64-efi*\n' > /etc/mkcdrec.yaml`,
		"/backup/bin/mkcdrec -q obdr --force --overwrite /dev/nst0 /dev/nst1 2>&1 | tail -40; dmesg | tail -8",
		"dd if=/dev/st0 of=/dev/null bs=512 count=1; dd if=/dev/nst0 bs=512 count=20 | head -c 12; dd if=/dev/nst0 of=/backup/obdr.iso bs=2048; ls -l /backup/obdr.iso; dd if=/dev/nst0 bs=64k | head -20",
		"dd if=/dev/nst0 bs=64k | zstd -dc | tar -tv | head",
		"/backup/bin/mkcdrec -q obdr --force /dev/nst0 2>&1 | tail -40",
	} {
		out, code, err := vm.Run(c, jobLimit)
		t.Logf("%s: %d %v\n%s", c, code, err, out)
	}
}
