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

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// mapper is a kernel's device mapper with dmsetup and LVM: what is created appears in
// sysfs.
type mapper struct {
	t        *testing.T
	root     string
	pvs, lvs string // what pvs and lvs report
	fail     string // the command that begins so fails
	busy     string // the device that can't be removed
	status   string
	calls    []string
	stores   []string // the loop devices of tables
}

func (m *mapper) Run(_ context.Context, c tool.Cmd) ([]byte, error) {
	m.calls = append(m.calls, strings.Join(c.Args, " "))
	if m.busy != "" && c.Args[0] == "dmsetup" && c.Args[len(c.Args)-1] == m.busy || m.fail != "" && strings.HasPrefix(strings.Join(c.Args, " "), m.fail) {
		return nil, &tool.Error{Cmd: c, Code: 1, Err: errors.New("told to fail")}
	}
	switch strings.Join(c.Args[:2], " ") {
	case "lvm pvs":
		return []byte(m.pvs), nil
	case "lvm lvs":
		return []byte(m.lvs), nil
	case "dmsetup status":
		return []byte(m.status), nil
	case "dmsetup create":
		m.create(c.Args[2], c.Args[4])
	case "dmsetup remove":
		at, err := filepath.Glob(m.root + "/sys/block/dm-*/dm/name")
		if err != nil {
			m.t.Fatal(err)
		}
		for _, n := range at {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == c.Args[len(c.Args)-1] {
				if err := os.RemoveAll(filepath.Dir(filepath.Dir(n))); err != nil {
					m.t.Fatal(err)
				}
			}
		}
	case "lvm vgchange", "lvm lvchange":
	default:
		m.t.Errorf("this call was not expected: %v", c.Args)
	}
	return nil, nil
}

func (m *mapper) put(name, text string) {
	m.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)); err != nil {
		m.t.Fatal(err)
	}
}

// create looks at an overlay's table, and whether its store is in memory.
func (m *mapper) create(name, table string) {
	f := strings.Fields(table)
	if len(f) != 7 || f[0] != "0" || f[2] != "snapshot" || f[5] != "N" || f[6] != "8" {
		m.t.Fatalf("table %q", table)
	}
	loop := strings.TrimPrefix(f[4], "/dev/")
	if b, err := os.ReadFile("/sys/block/" + loop + "/loop/backing_file"); err != nil || !strings.HasPrefix(string(b), "/memfd:mkcdrec-overlay") {
		m.t.Errorf("the store is %q, %v", b, err)
	}
	m.stores = append(m.stores, f[4])
	size, number, err := blockdev.Geometry(f[3])
	if err != nil || f[1] != fmt.Sprint(int64(size)/512) {
		m.t.Errorf("table %q of a device of %d bytes, %v", table, size, err)
	}
	n := 0
	for {
		if _, err := os.Stat(fmt.Sprintf("%s/sys/block/dm-%d", m.root, n)); err != nil {
			break
		}
		n++
	}
	dm := fmt.Sprintf("/sys/block/dm-%d", n)
	m.put(dm+"/dm/name", name+"\n")
	m.put(dm+"/slaves/"+filepath.Base(f[3])+"/dev", number+"\n")
	m.put(dm+"/slaves/"+loop+"/dev", "7:99\n")
}

// overlaidGroup has a group "vg0" with volumes of some types on two physical volumes.
func overlaidGroup(t *testing.T, lvs ...string) (*mapper, group, []string) {
	m := &mapper{t: t, root: t.TempDir()}
	var names, pvs, all []string
	for range 2 {
		n := loopOver(t, blank(t, 1<<20).Name())
		names, pvs = append(names, n), append(pvs, fmt.Sprintf(`{"pv_name":%q,"vg_name":"vg0","vg_uuid":"u0"}`, n))
	}
	pvs = append(pvs, `{"pv_name":"/dev/no-such-disk","vg_name":"vg1","vg_uuid":"u1"}`, `{"pv_name":"/dev/sdx","vg_name":"","vg_uuid":""}`)
	m.pvs = `{"report":[{"pv":[` + strings.Join(pvs, ",") + `]}]}`
	for _, v := range lvs {
		f := strings.Fields(v)
		all = append(all, fmt.Sprintf(`{"lv_name":%q,"segtype":%q,"lv_attr":%q}`, f[0], f[1], f[2]))
	}
	m.lvs = `{"report":[{"lv":[` + strings.Join(all, ",") + `]}]}`
	m.put("/proc/meminfo", "MemTotal: 800000 kB\nMemAvailable:   65536 kB\n")
	return m, group{run: m, name: "vg0", root: m.root}, names
}

// gone tells whether the loop devices of all stores were freed.
func (m *mapper) gone() {
	m.t.Helper()
	for _, s := range m.stores {
		if b, err := os.ReadFile("/sys/block/" + strings.TrimPrefix(s, "/dev/") + "/loop/backing_file"); err == nil && strings.HasPrefix(string(b), "/memfd:mkcdrec-overlay") {
			m.t.Errorf("the store %s stays", s)
		}
	}
}

const (
	hide = `--config devices{global_filter=["r|^/dev/mapper/mkcdrec[0-9]+-|"]}`
	only = `--config devices{filter=["a|^/dev/mapper/mkcdrec0-vg0$|","a|^/dev/mapper/mkcdrec1-vg0$|","r|.*|"] global_filter=["a|^/dev/mapper/mkcdrec0-vg0$|","a|^/dev/mapper/mkcdrec1-vg0$|","r|.*|"] use_devicesfile=0}`
	list = "lvm lvs --readonly " + hide + " --reportformat json -o lv_name,segtype,lv_attr vg0"
	pvs  = "lvm pvs --readonly " + hide + " --reportformat json -o pv_name,vg_name,vg_uuid"
	up   = "lvm vgchange -ay --ignoremonitoring --poll n " + only + " vg0"
)

func sameCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestActivatePlain: a group whose volumes write nothing needs no overlay.
func TestActivatePlain(t *testing.T) {
	m, g, _ := overlaidGroup(t, "root linear -wi-------", "root striped -wi-------", "home linear owi-------")
	if err := g.activateReadOnly(context.Background()); err != nil {
		t.Error(err)
	}
	sameCalls(t, m.calls, list, `lvm lvchange -ay --ignoremonitoring --config activation/read_only_volume_list=["vg0"] vg0/root vg0/home`)
}

// TestActivateOverlaid: the disks are opened through overlays alone, RAID volumes are
// brought in step slowly, and everything is closed in the opposite order.
func TestActivateOverlaid(t *testing.T) {
	ctx := context.Background()
	m, g, names := overlaidGroup(t, "root linear -wi-------", "pool thin-pool twi---tz--", "home thin Vwi---tz--", "mix linear -wi-------", "mix raid1 rwi-------", "zero raid0 rwi-------")
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	made := func(n int) string {
		return fmt.Sprintf("dmsetup create mkcdrec%d-vg0 --table 0 2048 snapshot %s %s N 8", n, names[n], m.stores[n])
	}
	sameCalls(t, m.calls, list, pvs, made(0), made(1), "lvm lvchange --minrecoveryrate 1k --maxrecoveryrate 1k "+only+" vg0/mix", up)

	m.calls = nil // what is open stays so
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls, list, pvs, up)

	// Of one that is called like the end of it, nothing.
	m.put("/sys/block/dm-7/dm/name", "mkcdrec0-my-vg0\n")
	m.calls = nil
	if err := g.deactivate(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls, "lvm vgchange -an "+only+" vg0", "dmsetup remove --retry mkcdrec1-vg0", "dmsetup remove --retry mkcdrec0-vg0")
	if left, err := g.overlays(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	m.calls = nil
	if err := g.deactivate(ctx); err != nil {
		t.Fatal(err)
	}
	sameCalls(t, m.calls, "lvm vgchange -an vg0")
	m.gone()
}

// TestDeactivateFull: where LVM does not find the group, since the store is full, its
// volumes are removed without it, and the memory is freed. What is in use stays, and what
// is below it.
func TestDeactivateFull(t *testing.T) {
	ctx := context.Background()
	m, g, _ := overlaidGroup(t, "home thin Vwi---tz--")
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	m.put("/sys/block/dm-5/dm/name", "vg0-home\n")
	m.put("/sys/block/dm-5/dm/uuid", "LVM-x\n")
	m.put("/sys/block/dm-6/dm/name", "vg0--2-home\n") // of vg0-2
	m.put("/sys/block/dm-6/dm/uuid", "LVM-y\n")
	m.fail, m.busy, m.calls = "lvm vgchange -an", "vg0-home", nil
	if err := g.deactivate(ctx); err == nil || !strings.Contains(err.Error(), "cannot deactivate volume group vg0") || !strings.Contains(err.Error(), "cannot remove the volumes of vg0") {
		t.Errorf("%v", err)
	}
	sameCalls(t, m.calls, "lvm vgchange -an "+only+" vg0", "dmsetup remove vg0-home")
	m.busy, m.calls = "", nil
	if err := g.deactivate(ctx); err != nil {
		t.Error(err)
	}
	sameCalls(t, m.calls, "lvm vgchange -an "+only+" vg0", "dmsetup remove vg0-home", "dmsetup remove --retry mkcdrec1-vg0", "dmsetup remove --retry mkcdrec0-vg0")
	m.gone()
	// Without overlays, that is a failure.
	m.calls = nil
	if err := g.deactivate(ctx); err == nil {
		t.Error("LVM's failure was not reported")
	}
	sameCalls(t, m.calls, "lvm vgchange -an vg0")
}

// TestOverlayFails: what was made before a failure is removed; plain volumes are activated
// without overlays, and the others named with the cause.
func TestOverlayFails(t *testing.T) {
	m, g, _ := overlaidGroup(t, "root linear -wi-------", "home thin Vwi---tz--")
	m.fail = "dmsetup create mkcdrec1-vg0"
	err := g.activateReadOnly(context.Background())
	if err == nil {
		t.Fatal("an overlay that can't be made is no error")
	}
	for _, want := range []string{"cannot activate vg0/home without writing: it is of type thin", "cannot put an overlay over /dev/loop", "told to fail"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if n := len(m.calls); n != 6 || m.calls[4] != "dmsetup remove --retry mkcdrec0-vg0" || !strings.HasPrefix(m.calls[5], "lvm lvchange -ay") || !strings.HasSuffix(m.calls[5], " vg0/root") {
		t.Errorf("calls:\n%s", strings.Join(m.calls, "\n"))
	}
	if left, err := g.overlays(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	m.gone()
}

// TestOverlayParts: a group without one of its disks is opened, and its metadata not
// changed; of two groups with one name neither is.
func TestOverlayParts(t *testing.T) {
	ctx := context.Background()
	m, g, _ := overlaidGroup(t, "mix raid1 rwi-----p-")
	m.pvs = strings.Replace(m.pvs, `{"pv":[`, `{"pv":[{"pv_name":"[unknown]","vg_name":"vg0","vg_uuid":"u0"},`, 1)
	if err := g.activateReadOnly(ctx); err != nil {
		t.Fatal(err)
	}
	if last := m.calls[len(m.calls)-1]; len(m.calls) != 5 || last != up {
		t.Errorf("calls:\n%s", strings.Join(m.calls, "\n"))
	}
	m, g, _ = overlaidGroup(t, "mix raid1 rwi-------")
	m.pvs = strings.Replace(m.pvs, `{"pv":[`, `{"pv":[{"pv_name":"/dev/sdy","vg_name":"vg0","vg_uuid":"u9"},`, 1)
	if err := g.activateReadOnly(ctx); err == nil || !strings.Contains(err.Error(), "two volume groups are called vg0") {
		t.Errorf("%v", err)
	}
	sameCalls(t, m.calls, list, pvs)
}

// TestStoreFull: a group that can't be activated since its store is full is said to be so.
func TestStoreFull(t *testing.T) {
	ctx := context.Background()
	m, g, _ := overlaidGroup(t, "home thin Vwi---tz--")
	m.fail, m.status = "lvm vgchange -ay", "0 2048 snapshot Invalid\n"
	if err := g.activateReadOnly(ctx); err == nil || !strings.Contains(err.Error(), "cannot activate volume group vg0") || !strings.Contains(err.Error(), "the memory for what the volumes of vg0 write is full") {
		t.Errorf("%v", err)
	}
	m.status = "0 2048 snapshot 16/8192 0\n"
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
			m := &mapper{t: t, root: t.TempDir()}
			m.put("/sys/block/dm-0/dm/name", "mkcdrec0-vg0\n")
			m.put("/sys/class/block/dm-0/slaves/vda/x", "")
			m.put("/sys/class/block/dm-0/slaves/loop3/x", "")
			m.put("/sys/block/loop3/loop/backing_file", "/memfd:mkcdrec-overlay (deleted)\n")
			m.put("/sys/class/block/vda/size", "2048\n")
			m.put("/sys/block/dm-1/dm/name", "mkcdrec1-vg0\n") // on a disk that stays
			m.put("/sys/class/block/dm-1/slaves/vdb/x", "")
			m.put("/sys/class/block/vdb/size", "2048\n")
			var want []string
			if active {
				m.put("/sys/block/dm-2/dm/name", "vg0-home\n")
				m.put("/sys/block/dm-2/dm/uuid", "LVM-x\n")
				m.put("/sys/class/block/dm-2/slaves/dm-0/x", "")
				want = append(want, `lvm vgchange -an --config devices{filter=["a|^/dev/mapper/mkcdrec0-vg0$|","r|.*|"] global_filter=["a|^/dev/mapper/mkcdrec0-vg0$|","r|.*|"] use_devicesfile=0} vg0`)
			}
			machine := probe.Machine{Root: m.root}
			own := func(dev string) bool { return slices.Equal(machine.DisksOf(dev), []string{"vda"}) }
			if err := CloseGroup(ctx, m, m.root, "vg0", own); err != nil {
				t.Fatal(err)
			}
			sameCalls(t, m.calls, append(want, "dmsetup remove --retry mkcdrec0-vg0")...)
		})
	}
}
