package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// person answers what is asked, in order.
type person struct {
	progress.None
	answers []string
	asked   []string
	warned  []string
}

func (p *person) Secret(prompt string) ([]byte, error) {
	p.asked = append(p.asked, prompt)
	if len(p.answers) == 0 {
		return nil, errors.New("nobody is there")
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	return []byte(a), nil
}
func (p *person) Warn(f string, a ...any)  { p.warned = append(p.warned, fmt.Sprintf(f, a...)) }
func (p *person) Plan(*plan.Plan, Content) {}
func (p *person) Choose(u *plan.Undecided) (string, error) {
	a, err := p.Secret(u.Old.Name)
	return string(a), err
}
func (p *person) Confirm(*plan.Plan) ([]string, error) { return nil, nil }

// locked is a restorer of a set with one LUKS header, which "right" opens.
func locked(t *testing.T, answers ...string) (*Restorer, *person, *age.X25519Identity) {
	t.Helper()
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 20<<20); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", img)
	c.Stdin = strings.NewReader("right")
	if out, err := c.CombinedOutput(); err != nil {
		t.Skipf("cryptsetup does not work here: %v %s", err, out)
	}
	header, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var enc bytes.Buffer
	w, err := age.Encrypt(&enc, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(header[:16<<20]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vda3.luks.age"), enc.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := store.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	crypt := &layout.Crypt{Name: "secret", Device: "vda3", Header: "vda3.luks.age", LUKS: &superblock.LUKS{Version: 2, Offset: 16 << 20}}
	p := &person{answers: answers}
	return &Restorer{Run: tool.Exec{}, Screen: p, content: setContent{manifest.At(st)}, plan: &plan.Plan{Steps: []plan.Step{&plan.MakeCrypt{Crypt: crypt}}}, rec: &recreate.Recreator{Keys: map[string]recreate.Key{}}}, p, id
}

func TestKeys(t *testing.T) {
	r, p, id := locked(t)
	p.answers = []string{id.String(), "wrong", "right"}
	if err := r.keys(context.Background()); err != nil {
		t.Fatal(err)
	}
	k := r.rec.Keys["secret"]
	if string(k.Passphrase) != "right" || len(k.Header) != 16<<20 || !strings.HasPrefix(string(k.Header), "LUKS\xba\xbe") || len(p.warned) != 1 {
		t.Errorf("passphrase %q, %d bytes of header, warned %v", k.Passphrase, len(k.Header), p.warned)
	}
	for name, c := range map[string]struct {
		answers []string
		spoil   func(r *Restorer)
		want    string
	}{
		"nobody":         {nil, nil, "no identity given"},
		"no identity":    {[]string{""}, nil, "no identity given"},
		"no passphrase":  {[]string{"ID"}, nil, "no passphrase given"},
		"three wrong":    {[]string{"ID", "a", "b", "c"}, nil, "no passphrase for secret"},
		"wrong key file": {[]string{"ID"}, func(r *Restorer) { r.opt.KeyFile = "/etc/hostname" }, "/etc/hostname does not open secret"},
		"no key file":    {[]string{"ID"}, func(r *Restorer) { r.opt.KeyFile = "/nosuch" }, "cannot read the key"},
		"other header":   {[]string{"ID"}, func(r *Restorer) { r.plan.Steps[0].(*plan.MakeCrypt).Crypt.LUKS.Offset = 8 << 20 }, "begins at 8388608"},
		"header is gone": {[]string{"ID"}, func(r *Restorer) { r.plan.Steps[0].(*plan.MakeCrypt).Crypt.Header = "x" }, "cannot read LUKS header"},
	} {
		r, p, id := locked(t, c.answers...)
		for i, a := range p.answers {
			if a == "ID" {
				p.answers[i] = id.String()
			}
		}
		if c.spoil != nil {
			c.spoil(r)
		}
		if err := r.keys(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	r, p, _ = locked(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	p.answers = []string{other.String()}
	var ref *exit.Refusal
	if err := r.keys(context.Background()); !errors.As(err, &ref) || !strings.Contains(err.Error(), "does not decrypt") {
		t.Errorf("somebody else's identity: %v", err)
	}
}

// A new LUKS device gets a passphrase that was typed twice.
func TestNewKeys(t *testing.T) {
	r, p, _ := locked(t, "one", "two", "new", "new")
	r.plan.Steps[0].(*plan.MakeCrypt).Crypt.Header = ""
	if err := r.keys(context.Background()); err != nil {
		t.Fatal(err)
	}
	if k := r.rec.Keys["secret"]; string(k.Passphrase) != "new" || k.Header != nil || len(p.warned) != 1 {
		t.Errorf("%q %v", k.Passphrase, p.warned)
	}
}

// Where two disks are possible a person is asked, once for each; where nobody is
// to be asked, or nobody answers, it is refused with the table.
func TestMapDisksAsks(t *testing.T) {
	disk := func(name, serial string) layout.Present {
		return layout.Present{Disk: layout.Disk{Name: name, Serial: serial, Size: 8 << 30, LogicalSector: 512, PhysicalSector: 512}}
	}
	table := func(dev string) *layout.Table {
		return &layout.Table{Label: layout.MBR, Signature: "0x12345678", Partitions: []layout.Partition{{Number: 1, Device: dev, Start: 1 << 20, Size: 1 << 30, Type: "0x83"}}}
	}
	l := &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}, Disks: []layout.Disk{{Name: "vda", Size: 4 << 30, LogicalSector: 512, PhysicalSector: 512, Table: table("vda1")}, {Name: "vdb", Size: 4 << 30, LogicalSector: 512, PhysicalSector: 512, Table: table("vdb1")}},
		Filesystems: []layout.Filesystem{{Device: "vda1", Type: "ext4", Size: 1 << 30, Geometry: fstype.Geometry{Ext: fstype.NewExt("ext4", 1<<30)}, Mounts: []layout.Mount{{Path: "/"}}}, {Device: "vdb1", Type: "ext4", Size: 1 << 30, Geometry: fstype.Geometry{Ext: fstype.NewExt("ext4", 1<<30)}, Mounts: []layout.Mount{{Path: "/srv"}}}}}
	have := []layout.Present{disk("sda", "A"), disk("sdb", "B"), disk("sdc", "C")}
	for name, c := range map[string]struct {
		answers []string
		yes     bool
		asked   int
		want    string // the disks, or a part of the error after "!"
	}{
		"both":   {[]string{"sdc", "sda"}, false, 2, "sdc sda"},
		"nobody": {nil, false, 1, "!possible; say --map vda=sda"},
		"--yes":  {[]string{"sda", "sdb"}, true, 0, "!it is not clear"},
	} {
		p := &person{answers: c.answers}
		r := &Restorer{Screen: p, opt: Options{Request: Request{Yes: c.yes}}}
		d, err := r.draft(l, have)
		var m plan.Mapping
		if d != nil {
			m = d.Disks
		}
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			var no *exit.Refusal
			if !errors.As(err, &no) || !strings.Contains(err.Error(), want) || (c.asked > 0) != strings.Contains(err.Error(), "nobody is there") {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || m["vda"].Name+" "+m["vdb"].Name != c.want {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		if len(p.asked) != c.asked {
			t.Errorf("%s: asked %v", name, p.asked)
		}
	}
}
