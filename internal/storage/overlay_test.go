package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

const mib = quantity.MiB

// mapper is a machine with dmsetup and LVM: what is created appears in sysfs.
type mapper struct {
	*machinetest.Machine
	pvs, lvs string // what pvs and lvs report
	ran      []string
	overlays int // how many were made
}

func (m *mapper) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	m.ran = append(m.ran, strings.Join(c.Args, " "))
	return m.Machine.Run(ctx, c)
}

// newMapper makes one with two disks.
func newMapper(t *testing.T) *mapper {
	m := &mapper{Machine: machinetest.New(t)}
	m.AddDisk("vda", mib, "A")
	m.AddDisk("vdb", mib, "B")
	m.Write("/proc/meminfo", "MemTotal: 800000 kB\nMemAvailable:   65536 kB\n")
	m.Answer("", "lvm vgchange", "lvm lvchange")
	m.Programs["lvm pvs"] = func(tool.Cmd) (string, error) { return m.pvs, nil }
	m.Programs["lvm lvs"] = func(tool.Cmd) (string, error) { return m.lvs, nil }
	m.Programs["dmsetup create"] = func(c tool.Cmd) (string, error) { return "", m.create(c.Args[2], c.Args[4]) }
	m.Programs["dmsetup remove"] = func(c tool.Cmd) (string, error) {
		m.Remove("mapper/" + c.Args[len(c.Args)-1])
		return "", nil
	}
	return m
}

// create makes an overlay, whose store has to be in memory.
func (m *mapper) create(name, table string) error {
	f := strings.Fields(table)
	if len(f) != 7 || f[0] != "0" || f[1] != "2048" || f[2] != "snapshot" || f[5] != "N" || f[6] != "8" {
		return fmt.Errorf("the table is %q", table)
	}
	dev, loop := strings.TrimPrefix(f[3], "/dev/"), strings.TrimPrefix(f[4], "/dev/")
	if b := m.Read("/sys/block/" + loop + "/loop/backing_file"); b != "/memfd:mkcdrec-overlay (deleted)\n" {
		return fmt.Errorf("the store is %q", b)
	}
	m.AddVirtual(fmt.Sprint("dm-", m.overlays), name, mib, dev, loop)
	m.overlays++
	return nil
}

// calls are the command lines since it was asked before.
func (m *mapper) calls() []string {
	out := m.ran
	m.ran = nil
	return out
}

// overlaidGroup has a group "vg0" with volumes of some types on two physical volumes.
func overlaidGroup(t *testing.T, lvs ...string) (*mapper, group) {
	m := newMapper(t)
	m.pvs = `{"report":[{"pv":[{"pv_name":"/dev/vda","vg_name":"vg0","vg_uuid":"u0"},{"pv_name":"/dev/vdb","vg_name":"vg0","vg_uuid":"u0"},{"pv_name":"/dev/no-such-disk","vg_name":"vg1","vg_uuid":"u1"},{"pv_name":"/dev/sdx","vg_name":"","vg_uuid":""}]}]}`
	var all []string
	for _, v := range lvs {
		f := strings.Fields(v)
		all = append(all, fmt.Sprintf(`{"lv_name":%q,"segtype":%q,"lv_attr":%q}`, f[0], f[1], f[2]))
	}
	m.lvs = `{"report":[{"lv":[` + strings.Join(all, ",") + `]}]}`
	return m, group{m, "vg0"}
}

// freed checks that the loop devices of n stores are there no more.
func (m *mapper) freed(t *testing.T, n int) {
	t.Helper()
	left, err := filepath.Glob(m.Path("/sys/block/loop*"))
	if made := m.Did("loop"); err != nil || len(made) != n || len(left) > 0 {
		t.Errorf("%q, of which stay %q, %v; want %d, and none to stay", made, left, err, n)
	}
}

const (
	hide = `--config devices{global_filter=["r|^/dev/mapper/mkcdrec[0-9]+-|"]}`
	only = `--config devices{filter=["a|^/dev/mapper/mkcdrec0-vg0$|","a|^/dev/mapper/mkcdrec1-vg0$|","r|.*|"] global_filter=["a|^/dev/mapper/mkcdrec0-vg0$|","a|^/dev/mapper/mkcdrec1-vg0$|","r|.*|"] use_devicesfile=0}`
	list = "lvm lvs --readonly " + hide + " --reportformat json -o lv_name,segtype,lv_attr vg0"
	pvs  = "lvm pvs --readonly " + hide + " --reportformat json -o pv_name,vg_name,vg_uuid"
	up   = "lvm vgchange -ay --ignoremonitoring --poll n " + only + " vg0"
)

var errTold = errors.New("told to fail")

// made is the command line for the overlay of a group's physical volume.
func made(n int) string {
	return fmt.Sprintf("dmsetup create mkcdrec%d-vg0 --table 0 2048 snapshot /dev/vd%c /dev/loop%d N 8", n, 'a'+n, n)
}

func sameCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestActivatePlain: a group whose volumes write nothing needs no overlay.
func TestActivatePlain(t *testing.T) {
	m, g := overlaidGroup(t, "root linear -wi-------", "root striped -wi-------", "home linear owi-------")
	if err := g.activateReadOnly(context.Background()); err != nil {
		t.Error(err)
	}
	sameCalls(t, m.calls(), list, `lvm lvchange -ay --ignoremonitoring --config activation/read_only_volume_list=["vg0"] vg0/root vg0/home`)
}

// TestActivateOverlaid: the disks are opened through overlays alone, RAID volumes are
// brought in step slowly, and everything is closed in the opposite order.
func TestActivateOverlaid(t *testing.T) {
	ctx := context.Background()
	m, g := overlaidGroup(t, "root linear -wi-------", "pool thin-pool twi---tz--", "home thin Vwi---tz--", "mix linear -wi-------", "mix raid1 rwi-------", "zero raid0 rwi-------")
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls(), list, pvs, made(0), made(1), "lvm lvchange --minrecoveryrate 1k --maxrecoveryrate 1k "+only+" vg0/mix", up)

	// What is open stays so.
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls(), list, pvs, up)

	// Of one that is called like the end of it, nothing.
	m.AddVirtual("dm-7", "mkcdrec0-my-vg0", mib, "vda")
	if err := g.deactivate(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls(), "lvm vgchange -an "+only+" vg0", "dmsetup remove --retry mkcdrec1-vg0", "dmsetup remove --retry mkcdrec0-vg0")
	if left, err := g.overlays(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if err := g.deactivate(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls(), "lvm vgchange -an vg0")
	m.freed(t, 2)
}

// TestDeactivateFull: where LVM does not find the group, since the store is full, its
// volumes are removed without it, and the memory is freed. What is in use stays, and what
// is below it.
func TestDeactivateFull(t *testing.T) {
	ctx := context.Background()
	m, g := overlaidGroup(t, "home thin Vwi---tz--")
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	m.AddVirtual("dm-5", "vg0-home", mib, "dm-0")
	m.AddVirtual("dm-6", "vg0--2-home", mib, "vda") // of vg0-2
	m.Fail["run lvm vgchange -an"], m.Fail["run dmsetup remove vg0-home"] = errTold, errTold
	m.calls()
	if err := g.deactivate(ctx); err == nil || !strings.Contains(err.Error(), "cannot deactivate volume group vg0") || !strings.Contains(err.Error(), "cannot remove the volumes of vg0") {
		t.Errorf("%v", err)
	}
	sameCalls(t, m.calls(), "lvm vgchange -an "+only+" vg0", "dmsetup remove vg0-home")
	delete(m.Fail, "run dmsetup remove vg0-home")
	if err := g.deactivate(ctx); err != nil {
		t.Error(err)
	}
	sameCalls(t, m.calls(), "lvm vgchange -an "+only+" vg0", "dmsetup remove vg0-home", "dmsetup remove --retry mkcdrec1-vg0", "dmsetup remove --retry mkcdrec0-vg0")
	m.freed(t, 2)
	// Without overlays, that is a failure.
	if err := g.deactivate(ctx); err == nil {
		t.Error("LVM's failure was not reported")
	}
	sameCalls(t, m.calls(), "lvm vgchange -an vg0")
}

// TestOverlayFails: what was made before a failure is removed; plain volumes are activated
// without overlays, and the others named with the cause.
func TestOverlayFails(t *testing.T) {
	m, g := overlaidGroup(t, "root linear -wi-------", "home thin Vwi---tz--")
	m.Fail["run dmsetup create mkcdrec1-vg0"] = errTold
	err := g.activateReadOnly(context.Background())
	if err == nil {
		t.Fatal("an overlay that can't be made is no error")
	}
	for _, want := range []string{"cannot activate vg0/home without writing: it is of type thin", "cannot put an overlay over /dev/vdb", "told to fail"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	sameCalls(t, m.calls(), list, pvs, made(0), made(1), "dmsetup remove --retry mkcdrec0-vg0", `lvm lvchange -ay --ignoremonitoring --config activation/read_only_volume_list=["vg0"] vg0/root`)
	if left, err := g.overlays(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	m.freed(t, 2)
}

// TestOverlayParts: a group without one of its disks is opened, and its metadata not
// changed; of two groups with one name neither is.
func TestOverlayParts(t *testing.T) {
	ctx := context.Background()
	m, g := overlaidGroup(t, "mix raid1 rwi-----p-")
	m.pvs = strings.Replace(m.pvs, `{"pv":[`, `{"pv":[{"pv_name":"[unknown]","vg_name":"vg0","vg_uuid":"u0"},`, 1)
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls(), list, pvs, made(0), made(1), up)
	m, g = overlaidGroup(t, "mix raid1 rwi-------")
	m.pvs = strings.Replace(m.pvs, `{"pv":[`, `{"pv":[{"pv_name":"/dev/sdy","vg_name":"vg0","vg_uuid":"u9"},`, 1)
	if err := g.activateReadOnly(ctx); err == nil || !strings.Contains(err.Error(), "two volume groups are called vg0") {
		t.Errorf("%v", err)
	}
	sameCalls(t, m.calls(), list, pvs)
}

// TestStoreFull: a group that can't be activated since its store is full is said to be so.
func TestStoreFull(t *testing.T) {
	ctx := context.Background()
	m, g := overlaidGroup(t, "home thin Vwi---tz--")
	m.Fail["run lvm vgchange -ay"] = errTold
	m.Answer("0 2048 snapshot Invalid\n", "dmsetup status")
	if err := g.activateReadOnly(ctx); err == nil || !strings.Contains(err.Error(), "cannot activate volume group vg0") || !strings.Contains(err.Error(), "the memory for what the volumes of vg0 write is full") {
		t.Errorf("%v", err)
	}
	m.Answer("0 2048 snapshot 16/8192 0\n", "dmsetup status")
	if err := g.full(ctx); err != nil {
		t.Error(err)
	}
}

func TestStoreSize(t *testing.T) {
	for _, c := range []struct {
		meminfo string
		n       int
		want    quantity.Size
	}{
		{"MemFree: 1 kB\nMemAvailable:  1048576 kB\n", 1, 256 << 20},
		{"MemAvailable:  1048576 kB\n", 3, 87380 << 10}, // a multiple of overlayChunk
		{"MemAvailable:  8192 kB\n", 2, 1 << 20},
		{"MemAvailable:  8191 kB\n", 2, 0},
		{"MemAvailable:  much kB\n", 2, 0},
		{"MemFree: 1048576 kB\n", 1, 0},
	} {
		if got, err := storeSize(c.meminfo, c.n); got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("storeSize(%q, %d) = %d, %v; want %d", c.meminfo, c.n, got, err, c.want)
		}
	}
}

func TestWritingType(t *testing.T) {
	for _, c := range [][3]string{
		{"linear", "-wi-a-----", ""}, {"striped", "", ""}, {"linear", "owi-aos---", ""},
		{"raid1", "rwi-a-r---", "raid1"}, {"thin", "Vwi-aotz--", "thin"}, {"cache", "Cwi-aoC---", "cache"}, {"mirror", "mwi-a-m---", "mirror"},
		{"linear", "swi-a-s---", "snapshot"}, {"linear", "Swi-I-s---", "snapshot"}, {"linear", "Owi-aos---", "snapshot-merge"}, {"linear", "-wI-ao----", "pvmove"},
	} {
		if got := writingType(c[0], c[1]); got != c[2] {
			t.Errorf("writingType(%s, %s) = %q; want %q", c[0], c[1], got, c[2])
		}
	}
}

// TestOverlayFilters: LVM itself sees with the one filter what is over a disk and nothing
// else, and with the other nothing that is over one.
func TestOverlayFilters(t *testing.T) {
	if _, err := exec.LookPath("lvm"); err != nil || os.Getuid() != 0 {
		t.Skip("lvm is not installed, or this is not root; make test has both")
	}
	const vg = "mkcdrec-test.a+b"
	over, other := loopOver(t, blank(t, 16<<20).Name()), loopOver(t, blank(t, 16<<20).Name())
	conf := []string{"--config", `devices{filter=["a|^` + over + `$|","a|^` + other + `$|","r|.*|"] use_devicesfile=0} backup{backup=0 archive=0}`}
	lvm := func(args ...string) string {
		t.Helper()
		c := exec.Command("lvm", args...)
		c.Env = append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1", "DM_DISABLE_UDEV=1")
		out, err := c.Output()
		if err != nil {
			t.Fatalf("lvm %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	lvm(append([]string{"vgcreate", "-q", vg, over}, conf...)...)
	lvm(append([]string{"vgcreate", "-q", vg + "2", other}, conf...)...)
	// The node that LVM makes for an overlay.
	var st unix.Stat_t
	name := "mkcdrec0-" + vg
	if err := errors.Join(unix.Stat(over, &st), os.MkdirAll("/dev/mapper", 0o755), unix.Mknod("/dev/mapper/"+name, unix.S_IFBLK|0o600, int(st.Rdev))); err != nil {
		t.Fatal(err)
	}
	defer os.Remove("/dev/mapper/" + name)
	report := []string{"--readonly", "--noheadings", "-o", "vg_name"}
	if got := lvm(append(append([]string{"pvs"}, onlyOverlays([]overlay{{name: name}})...), report...)...); got != vg {
		t.Errorf("with overlays only: %q; want %q", got, vg)
	}
	if got := lvm(append(append([]string{"pvs"}, onlyOverlays([]overlay{{name: "mkcdrec0-mkcdrec-testXa+b"}})...), report...)...); got != "" {
		t.Errorf("with those of another group: %q", got)
	}
	got := lvm(append(append([]string{"pvs"}, HideOverlays()...), report...)...)
	if strings.Contains(got+"\n", vg+"\n") || !strings.Contains(got, vg+"2") {
		t.Errorf("without overlays: %q", got)
	}
}

// TestReleaseOverlays: a restore closes what restore mount --ro left open on its disks,
// and removes overlays on which nothing is active any more.
func TestReleaseOverlays(t *testing.T) {
	ctx := context.Background()
	for name, active := range map[string]bool{"active": true, "only the overlay": false} {
		t.Run(name, func(t *testing.T) {
			m := newMapper(t)
			m.AddVirtual("loop3", "", mib)
			m.Write("/sys/block/loop3/loop/backing_file", "/memfd:mkcdrec-overlay (deleted)\n")
			m.AddVirtual("dm-0", "mkcdrec0-vg0", mib, "vda", "loop3")
			m.AddVirtual("dm-1", "mkcdrec1-vg0", mib, "vdb") // on a disk that stays
			var want []string
			if active {
				m.AddVirtual("dm-2", "vg0-home", mib, "dm-0")
				want = append(want, `lvm vgchange -an --config devices{filter=["a|^/dev/mapper/mkcdrec0-vg0$|","r|.*|"] global_filter=["a|^/dev/mapper/mkcdrec0-vg0$|","r|.*|"] use_devicesfile=0} vg0`)
			}
			own := func(dev string) bool { return slices.Equal(m.Probe().DisksOf(dev), []string{"vda"}) }
			if err := CloseGroup(ctx, m, "vg0", own); err != nil {
				t.Fatal(err)
			}
			sameCalls(t, m.calls(), append(want, "dmsetup remove --retry mkcdrec0-vg0")...)
		})
	}
}
