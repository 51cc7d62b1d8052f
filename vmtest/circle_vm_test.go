//go:build vmtest

package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// programs builds what runs in the machines, once for all scenarios.
func programs(t *testing.T) (mkcdrec, guest string) {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	mkcdrec = filepath.Join(root, "bin/mkcdrec")
	if _, err := os.Stat(mkcdrec); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	guest = filepath.Join(t.TempDir(), "guest")
	c := exec.Command("go", "build", "-o", guest, "./guest")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("cannot build guest: %v\n%s", err, out)
	}
	return mkcdrec, guest
}

func runCircle(t *testing.T, c Circle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Minute)
	defer cancel()
	c.Mkcdrec, c.Guest = programs(t)
	c.Work = workDir(t)
	c.Say = t.Logf
	out, err := c.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("backup:\n%s", Shown(out.Backup))
	t.Logf("restore:\n%s", Shown(out.Restore))
	t.Logf("%d paths; named differences: %v", out.Paths, out.Named)
	for _, d := range out.Differences {
		t.Errorf("differs: %v", d)
	}
	record(t, c, out)
}

// record writes a cell of the matrix, when MKCDREC_MATRIX names its file.
func record(t *testing.T, c Circle, out *Outcome) {
	t.Helper()
	file := os.Getenv("MKCDREC_MATRIX")
	if file == "" || len(out.Differences) > 0 {
		return
	}
	matrixLock.Lock()
	defer matrixLock.Unlock()
	if err := c.Record(file, out); err != nil {
		t.Error(err)
	}
}

// matrixLock is for docs/MATRIX.md, which circles write side by side.
var matrixLock sync.Mutex

// workDir is kept when MKCDREC_KEEP names a directory.
func workDir(t *testing.T) string {
	if d := os.Getenv("MKCDREC_KEEP"); d != "" {
		d = filepath.Join(d, strings.ReplaceAll(t.Name(), "/", "-"))
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	return t.TempDir()
}

// long is for what make test leaves out: it has one machine of each firmware that is restored, what boots, and a
// repairer's work, and ends within the hour with two processors. make test-all has the rest.
func long(t *testing.T) {
	t.Helper()
	onlyAll(t)
	t.Parallel()
}

// onlyAll is long for what does not run beside others of its test.
func onlyAll(t *testing.T) {
	t.Helper()
	if os.Getenv("MKCDREC_ALL") == "" {
		t.Skip("MKCDREC_ALL is not set: make test-all")
	}
}

// short runs beside others with make test, too; on a slow computer not if it would begin late.
func short(t *testing.T) {
	t.Helper()
	t.Parallel()
	if d := time.Since(begun); os.Getenv("MKCDREC_ALL") == "" && d > lastBegin {
		t.Skipf("the machines have run for %s, which leaves it no time: make test-all", d.Round(time.Second))
	}
}

// begun is when the tests began; after lastBegin make test starts no more machines.
var begun = time.Now()

const lastBegin = 25 * time.Minute

// TestBIOSLVM is what make demo does; TestKey, TestFit and TestTape have the same
// machine, so that it is one of the long ones.
func TestBIOSLVM(t *testing.T) {
	long(t)
	runCircle(t, Circle{Kind: BIOSLVM})
}

// TestFit restores with wishes for sizes and types. Disks of 60 % and 200 % of
// the old size are what TestKey, TestTape, TestDiscs and TestNetboot restore onto.
func TestFit(t *testing.T) {
	long(t)
	t.Run("wishes", func(t *testing.T) {
		runCircle(t, Circle{Kind: BIOSLVM, Wishes: "--fs-type /home=ext4 --size /=2G", Wished: `test $(findmnt -no FSTYPE /home) = ext4 && test $(blockdev --getsize64 /dev/vg0/root) = 2147483648 && lvs --noheadings -o lv_size --units m vg0/home-dirs`})
	})
}

// TestMD restores a machine with two disks, RAID1 and LVM on RAID0.
func TestMD(t *testing.T) {
	long(t)
	t.Run("md", func(t *testing.T) { runCircle(t, Circle{Kind: BIOSMD}) })
}

// TestKey has the machine on a stick that is written twice; the stick starts
// with both kinds of firmware. Without it, TestBoot starts sticks, too.
func TestKey(t *testing.T) {
	long(t)
	t.Run("usbkey", func(t *testing.T) {
		runCircle(t, Circle{Kind: BIOSLVM, Key: true, CPUs: 2, TargetSize: machines[BIOSLVM].smaller})
	})
}

// TestDiscs has the UEFI machine on three discs, with one drive, a wrong disc first, and once encrypted with a passphrase.
// TestNetboot restores the same machine over HTTP, the long matrix from a directory.
func TestDiscs(t *testing.T) {
	long(t)
	t.Run("cdrom-set", func(t *testing.T) {
		runCircle(t, Circle{Kind: UEFIPlain, Discs: "85M", TargetSize: machines[UEFIPlain].larger})
	})
	t.Run("cdrom-sealed", func(t *testing.T) {
		runCircle(t, Circle{Kind: UEFIPlain, Discs: "85M", Sealed: true, TargetSize: machines[UEFIPlain].larger})
	})
}

// TestBtrfs restores a btrfs over two disks, RAID1, with subvolumes in one
// another, a default one, one that is read-only, and a snapshot that stays away.
func TestBtrfs(t *testing.T) {
	long(t)
	t.Run("btrfs", func(t *testing.T) {
		runCircle(t, Circle{Kind: UEFIBtrfs, TargetSize: machines[UEFIBtrfs].smaller, Wished: strings.Join([]string{
			`btrfs subvolume list / | grep -c 'path .*lib/machines/inner$' | grep -x 1`, `! btrfs subvolume list -q / | grep -v 'parent_uuid - '`,
			`btrfs subvolume get-default / | grep 'path @$'`,
			`btrfs property get -t subvol /srv/sealed ro | grep ro=true`, `! touch /srv/sealed/x`,
			`btrfs filesystem df / | grep 'Data, RAID1'`, `btrfs filesystem df / | grep 'Metadata, RAID1'`, `btrfs filesystem show / | grep -c devid | grep -x 2`,
			`btrfs scrub start -Bq /`, `btrfs device stats --check /`,
			`grep ' /home ' /etc/fstab | grep 'subvol=@home,nodev'`,
			`grep subvolume /var/lib/machines/inner/file`, `test ! -e /.snapshots/1/home`}, " && ")})
	})
}

// TestLUKS restores LVM on LUKS2 with a thin pool: the header is restored with
// both keys and the token, and opens with the old passphrase.
func TestLUKS(t *testing.T) {
	long(t)
	t.Run("luks", func(t *testing.T) {
		runCircle(t, Circle{Kind: BIOSLUKS, Walk: "5", TargetSize: machines[BIOSLUKS].smaller, Wished: strings.Join([]string{
			`cryptsetup open --test-passphrase --key-slot 1 --key-file /etc/secret.key /dev/vda3`, `cryptsetup luksDump /dev/vda3 | grep mkcdrec-test`,
			`lvs --noheadings -o segtype vg0/home vg0/srv | grep -c thin | grep -x 2`, `lvs --noheadings -o chunk_size --units k vg0/pool | grep 128.00k`, `findmnt -no FSTYPE /home | grep -x xfs`}, " && ")})
	})
}
