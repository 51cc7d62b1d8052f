package recreate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// forgetful is a machine whose disks lose what is at a byte when the kernel forgets it.
type forgetful struct {
	*machinetest.Machine
	at int64
}

func (m forgetful) Forget(f *os.File) error {
	_, err := f.WriteAt([]byte("lost"), m.at)
	return errors.Join(err, m.Machine.Forget(f))
}

// Disks that are gone or that end early are found by reading, and all of them are named.
func TestEndsWithoutRoot(t *testing.T) {
	m, r := on(t, []string{"vda", "vdb", "vdc"})
	if err := r.Ends(); err != nil {
		t.Errorf("Ends() = %v; want nil", err)
	}
	if err := errors.Join(os.Truncate(m.Path("/dev/vda"), int64(16*mib)), os.Remove(m.Path("/dev/vdc"))); err != nil {
		t.Fatal(err)
	}
	err := r.Ends()
	var refused *exit.Refusal
	if !errors.As(err, &refused) {
		t.Fatalf("Ends() = %v; want a refusal", err)
	}
	for _, want := range []string{"cannot read /dev/vda at byte 16777216 of 33554432", "cannot open /dev/vdc", "smaller than it reports"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Ends() = %v; want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "vdb") || len(m.Did("open")) > 0 {
		t.Errorf("Ends() = %v after %q; want nothing of vdb, and nothing opened for writing", err, m.Log())
	}
}

// A disk that does not keep what is written gets no table.
func TestCapacityRefuses(t *testing.T) {
	step := &plan.WriteTable{Device: "vda", Sector: 512, Table: &layout.Table{Label: layout.GPT, GUID: "00000000-0000-4000-8000-000000000001"}}
	m, r := on(t, []string{"vda"}, step)
	r.Run = forgetful{m, int64(16 * mib)}
	if err := all(r); err == nil || !strings.Contains(err.Error(), "/dev/vda did not keep what was written at byte 16777216 of 33554432") || len(m.Did("reread")) > 0 || len(m.StillOpen()) > 0 {
		t.Errorf("Do(1) = %v after %q, open %q; want that nothing follows the check", err, acts(m), m.StillOpen())
	}
}

// Boot code is around the table, which is written as without it.
func TestBootCode(t *testing.T) {
	sector := make([]byte, 440)
	copy(sector, "boot code")
	step := &plan.WriteTable{Device: "vda", Sector: 512, Boot: &plan.BootCode{Sector: sector, Gap: []byte("core image")},
		Table: &layout.Table{Label: layout.MBR, Signature: "0xdeadbeef", Partitions: []layout.Partition{{Number: 1, Device: "vda1", Start: mib, Size: 8 * mib, Type: "0x83"}}}}
	m, r := on(t, []string{"vda"}, step)
	if err := all(r); err != nil {
		t.Fatal(err)
	}
	if got := m.Read("/dev/vda"); !strings.HasPrefix(got, "boot code\x00") || !strings.HasPrefix(got[512:], "core image\x00") {
		t.Errorf("/dev/vda begins with %q; want the boot code", got[:600])
	}
	if size, _, err := m.Geometry("vda1"); err != nil || size != 8*mib {
		t.Errorf("vda1 has %v, %v; want 8 MiB", size, err)
	}
}

// warnings is a Reporter that keeps them.
type warnings struct {
	progress.None
	said []string
}

func (w *warnings) Warn(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// An image is written to a device that is cleared before, and grown; what fails then is a
// warning, unless the device would be taken for its source.
func TestPutImage(t *testing.T) {
	boot := make([]byte, 512)
	copy(boot[3:], "NTFS    ")
	binary.LittleEndian.PutUint16(boot[11:], 512)
	binary.LittleEndian.PutUint64(boot[40:], 16) // the copy is in that sector
	for name, c := range map[string]struct {
		uuid        string
		write, run  error
		want, warns string
		did         []string
	}{
		"grown":      {"", nil, nil, "", "", []string{"open /dev/vda for writing", "run ntfsresize /dev/vda"}},
		"not grown":  {"", nil, errTold, "", "keeps its size of 4.0 MiB: ", []string{"open /dev/vda for writing", "run ntfsresize /dev/vda"}},
		"same UUID":  {"u", nil, errTold, "told to fail", "", []string{"open /dev/vda for writing", "run ntfsresize /dev/vda"}},
		"unreadable": {"", errTold, nil, "told to fail", "", []string{"open /dev/vda for writing"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := on(t, []string{"vda"}, &plan.PutImage{Device: "vda", Image: &layout.Image{Device: "sda1", Type: fstype.TypeNTFS, Size: 4 * mib}, Start: mib, UUID: c.uuid, Run: [][]string{{"ntfsresize", "/dev/vda"}}})
			fill(t, m, "vda", 0, 32*mib)
			said := &warnings{}
			r.Report = said
			r.Image = func(_ context.Context, _ *layout.Image, dst *os.File) error {
				_, err1 := dst.WriteAt(boot, 0)
				_, err2 := dst.WriteAt(boot, 16*512)
				return errors.Join(err1, err2, c.write)
			}
			m.Programs["ntfsresize"] = func(tool.Cmd) (string, error) {
				if open := m.StillOpen(); len(open) > 0 {
					t.Errorf("ntfsresize runs while %q are open", open)
				}
				return "", c.run
			}
			err := all(r)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Do(1) = %v; want an error with %q", err, c.want)
			}
			if got := strings.Join(said.said, "\n"); (got == "") != (c.warns == "") || !strings.Contains(got, c.warns) {
				t.Errorf("Do(1) warns %q; want %q", got, c.warns)
			}
			if got := m.Did("open", "run"); !slices.Equal(got, c.did) || len(m.StillOpen()) > 0 {
				t.Errorf("Do(1) did %q, open %q; want %q", got, m.StillOpen(), c.did)
			}
			got := []byte(m.Read("/dev/vda"))
			for _, at := range []int{0, 16 * 512} {
				if n := binary.LittleEndian.Uint32(got[at+28:]); c.write == nil && n != 2048 {
					t.Errorf("the boot sector at %d has %d sectors before it; want 2048", at, n)
				}
			}
		})
	}
}

// What Cleared names is what is zero on a disk that was full before, and nothing else.
func TestCleared(t *testing.T) {
	m, r := on(t, []string{"vda"})
	fill(t, m, "vda", 0, 32*mib)
	f, err := r.claim("vda")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	want := bytes.Repeat([]byte{0xff}, 32<<20)
	for _, c := range Cleared(32 << 20) {
		clear(want[c[0] : c[0]+c[1]])
	}
	if got := []byte(m.Read("/dev/vda")); !bytes.Equal(got, want) {
		t.Error("claim(vda) clears other bytes than Cleared(32 MiB) names")
	}
}

// All of the disks are read, or written and read; bad sectors and disks that changed are
// found, and nothing is written where one of them is not the one that was confirmed.
func TestSurface(t *testing.T) {
	for name, c := range map[string]struct {
		how     string
		change  func(m *machinetest.Machine, r *Recreator)
		want    string
		touched bool
	}{
		"read":    {CheckRead, nil, "", false},
		"written": {CheckWrite, nil, "", false},
		"missing": {CheckRead, func(m *machinetest.Machine, _ *Recreator) { m.Remove("vdb") }, "cannot check /dev/vdb", false},
		"changed": {CheckWrite, func(m *machinetest.Machine, _ *Recreator) { m.Write("/sys/block/vdb/serial", "OTHER") }, "/dev/vdb is not the disk it was", false},
		"bad": {CheckWrite, func(m *machinetest.Machine, r *Recreator) { r.Run = forgetful{m, 512 * 1000} },
			"/dev/vdb ( SERIAL-vdb) has bad sectors: 1000; replace it, or restore onto another disk with --map", true},
		"not flushed": {CheckWrite, func(m *machinetest.Machine, _ *Recreator) { m.Fail["forget /dev/vdb"] = errTold }, "cannot check /dev/vdb: told to fail", true},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := on(t, []string{"vda", "vdb"})
			before := m.Sum("vda")
			if c.change != nil {
				c.change(m, r)
			}
			err := r.Surface(t.Context(), c.how)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Surface(%s) = %v; want an error with %q", c.how, err, c.want)
			}
			var over *Overwritten
			var refused *exit.Refusal
			if errors.As(err, &over) != c.touched || c.touched && (!over.Touched() || errors.Unwrap(over) == nil) || err != nil && errors.As(err, &refused) == c.touched {
				t.Errorf("Surface(%s) = %#v; want that disks were touched: %v", c.how, err, c.touched)
			}
			if wrote, want := m.Sum("vda") != before, c.touched || name == "written"; wrote != want || len(m.StillOpen()) > 0 {
				t.Errorf("Surface(%s): written %v, open %q; want %v", c.how, wrote, m.StillOpen(), want)
			}
		})
	}
	_, r := on(t, []string{"vda"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Surface(ctx, CheckRead); !errors.Is(err, context.Canceled) || errors.As(err, new(*exit.Refusal)) {
		t.Errorf("Surface() of what was stopped = %v; want context.Canceled", err)
	}
}

// Bad sectors are listed as ranges, and not all of very many.
func TestSectors(t *testing.T) {
	var many []blockcopy.Extent
	for i := range 21 {
		many = append(many, blockcopy.Extent{Start: int64(i) * 10, Length: 1})
	}
	for want, bad := range map[string][]blockcopy.Extent{
		"7, 9-10": {{Start: 7, Length: 1}, {Start: 9, Length: 2}},
		"0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, ...": many,
	} {
		if got := sectors(bad); got != want {
			t.Errorf("sectors(%v) = %q; want %q", bad, got, want)
		}
	}
}

// Sparse files stand in for disks behind loop devices, the same ones when a run is resumed,
// and are taken away; a file whose device is in use stays.
func TestSparse(t *testing.T) {
	m := machinetest.New(t)
	s := Sparse{Dir: filepath.Join(t.TempDir(), "disks"), Run: m}
	disks := plan.Mapping{"sda": {Disk: layout.Disk{Name: "vda", Model: "M", Size: 32 * mib, LogicalSector: 4096, PhysicalSector: 4096}}}
	got, err := s.Disks(disks)
	want := layout.Disk{Name: "loop0", Model: sparseModel, Size: 32 * mib, LogicalSector: 4096, PhysicalSector: 4096}
	if d := got["sda"]; err != nil || d.Name != want.Name || d.Model != want.Model || d.Size != want.Size || d.LogicalSector != want.LogicalSector || d.PhysicalSector != want.PhysicalSector || d.Serial != "" {
		t.Errorf("Disks() = %+v, %v; want %+v", d, err, want)
	}
	if again, err := s.Disks(disks); err != nil || again["sda"].Name != "loop0" || len(m.Did("loop")) != 1 {
		t.Errorf("Disks() again = %+v, %v after %q; want the same one", again, err, m.Log())
	}
	if loops, err := s.Loops(); err != nil || !slices.Equal(loops, []string{"loop0"}) || !s.There() {
		t.Errorf("Loops() = %q, %v; want loop0", loops, err)
	}
	m.Fail["detach /dev/loop0"] = errTold
	if err := s.Remove(); err == nil || !strings.Contains(err.Error(), "cannot detach /dev/loop0: told to fail") || !s.There() {
		t.Errorf("Remove() = %v, there %v; want that the file stays", err, s.There())
	}
	delete(m.Fail, "detach /dev/loop0")
	if err := s.Remove(); err != nil || s.There() || m.Probe().There("loop0") {
		t.Errorf("Remove() = %v, there %v; want nothing left", err, s.There())
	}
	if loops, err := s.Loops(); err != nil || loops == nil || len(loops) > 0 {
		t.Errorf("Loops() = %#v, %v; want none, and not nil", loops, err)
	}
	m.Fail["loop"] = errTold
	if _, err := s.Disks(disks); err == nil || !strings.Contains(err.Error(), "cannot make a sparse disk in the place of vda: told to fail") {
		t.Errorf("Disks() = %v; want an error that names the disk", err)
	}
}

// Loop devices that are tried are free again.
func TestFreeLoopsReleases(t *testing.T) {
	m := machinetest.New(t)
	if err := FreeLoops(m, 3); err != nil || len(m.Did("loop")) != 3 {
		t.Errorf("FreeLoops(3) = %v after %q", err, m.Log())
	}
	if left, err := filepath.Glob(m.Path("/sys/block/loop*")); err != nil || len(left) > 0 {
		t.Errorf("FreeLoops(3) leaves %q, %v", left, err)
	}
	m.Fail["loop"] = errTold
	if err := FreeLoops(m, 3); !errors.As(err, new(*exit.Refusal)) || !strings.Contains(err.Error(), "the plan needs 3 loop devices, and the kernel gives 0: told to fail") {
		t.Errorf("FreeLoops(3) = %v; want a refusal", err)
	}
}

// A group's text is tried on loop devices that LVM sees alone; what LVM does not take is
// refused, and without loop devices nothing is known. None of them stays.
func TestRehearseGroup(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "lvm"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	const pv1, pv2 = pvUUID, "aaaaaa-0009-4567-89ab-cdef-0123-456789"
	run := []string{"lvm pvcreate", "lvm pvcreate", "lvm vgcfgrestore", "lvm vgck", "lvm vgs"}
	for name, c := range map[string]struct {
		fail string
		want string
		ran  int
	}{
		"taken":           {"", "", 5},
		"no volume":       {"run lvm pvcreate", "told to fail", 1},
		"no group":        {"run lvm vgcfgrestore", "told to fail", 3},
		"damaged":         {"run lvm vgck", "told to fail", 4},
		"no loop devices": {"loop", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			vg := &plan.RestoreVG{Device: "vda", Group: "vg0", Config: mirrorText}
			m, r := on(t, []string{"vda", "vdb"}, vg, &plan.MakePV{Device: "vda", Group: "vg0", UUID: pv1}, &plan.MakePV{Device: "vdb", Group: "vg0", UUID: pv2}, &plan.MakePV{Device: "vdc", Group: "vg1", UUID: pv2})
			r.Loops = true
			r.Plan.Layout.Disks = []layout.Disk{{Name: "sda", Size: 32 * mib}, {Name: "sdb", Size: 16 * mib}}
			r.Plan.Devices = map[string]string{"sda": "vda", "sdb": "vdb"}
			if c.fail != "" {
				m.Fail[c.fail] = errTold
			}
			var sizes []quantity.Size
			m.Programs["lvm"] = func(cmd tool.Cmd) (string, error) {
				i := slices.IndexFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "LVM_SYSTEM_DIR=") })
				b, err := os.ReadFile(strings.TrimPrefix(cmd.Env[i], "LVM_SYSTEM_DIR=") + "/lvm.conf")
				if want := `filter = [ "a|^/dev/loop0$|", "a|^/dev/loop1$|", "r|.*|" ]`; err != nil || !strings.Contains(string(b), "\n "+want) || !strings.Contains(string(b), "global_"+want) {
					t.Errorf("%s has the configuration %s, %v; want that only the loop devices are seen", cmd, b, err)
				}
				if dev, ok := strings.CutPrefix(cmd.Args[len(cmd.Args)-1], "/dev/"); ok {
					size, _, err := m.Geometry(dev)
					if err != nil {
						t.Error(err)
					}
					sizes = append(sizes, size)
				}
				return "", nil
			}
			got := refusedBy(t, r)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || got != "" && !strings.Contains(got, "step 1 would fail: make LVM volume group vg0") {
				t.Errorf("Rehearse() refuses %q; want %q", got, c.want)
			}
			did := m.Did("run")
			if len(did) != c.ran {
				t.Fatalf("Rehearse() ran %q; want %q", did, run[:c.ran])
			}
			for i, l := range did {
				if !strings.HasPrefix(l, "run "+run[i]+" ") {
					t.Errorf("Rehearse() ran %q; want %q", did, run[:c.ran])
				}
			}
			if name == "taken" && (!strings.Contains(did[0], " --uuid "+pv1+" ") || !strings.HasSuffix(did[1], " /dev/loop1") || !slices.Equal(sizes, []quantity.Size{32 * mib, 16 * mib})) {
				t.Errorf("Rehearse() ran %q on devices of %v; want both volumes in their sizes", did, sizes)
			}
			if left, err := filepath.Glob(m.Path("/sys/block/loop*")); err != nil || len(left) > 0 || len(m.Did("open")) > 0 {
				t.Errorf("Rehearse() leaves %q, %v, and opened %q", left, err, m.Did("open"))
			}
		})
	}
}

// Options of a LUKS device that only an old cryptsetup refuses are tried in its way.
func TestRehearseOldCryptsetup(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "cryptsetup"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	crypt := stackedCrypt()
	m, r := on(t, []string{"vda"}, &plan.MakeCrypt{Device: "vda", Crypt: crypt})
	options := commands.LUKSFormat(crypt, "FILE")
	m.Programs["cryptsetup luksFormat"] = func(c tool.Cmd) (string, error) {
		if slices.Contains(c.Args, "--pbkdf") {
			return "", errors.New("unknown option")
		}
		if c.Args[2] != "--iter-time" || !slices.Equal(c.Args[4:len(c.Args)-1], options[2:len(options)-1]) {
			t.Errorf("cryptsetup %q; want the options of %q", c.Args, options)
		}
		return "", nil
	}
	if got := refusedBy(t, r); got != "" || len(m.Did("run")) != 2 || len(m.Did("open")) > 0 {
		t.Errorf("Rehearse() refuses %q after %q", got, m.Log())
	}
}
