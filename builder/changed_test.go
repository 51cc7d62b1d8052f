package builder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestRescueChanged: a medium that would be made the same is recognised, and each change of what
// goes onto it is named; a damaged medium, and one that is not there, are made again.
func TestRescueChanged(t *testing.T) {
	b, p := fakeMachine(t), machinePlan(t)
	own := t.TempDir() + "/own"
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(own, "1")
	b.Config.Rescue.Files = []string{own}
	iso := filepath.Join(t.TempDir(), "rescue.iso")
	is := func(what string, want ...string) {
		t.Helper()
		got, err := b.Maker().Changed(t.Context(), p.Machine(), iso)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: Changed() = %q, %v; want %q", what, got, err, want)
		}
	}
	is("none yet", "there is no such medium yet")
	if err := b.Maker().Medium(t.Context(), p.Machine(), rescue.Hint{}, iso); err != nil {
		t.Fatal(err)
	}
	is("just made")
	p.Layout.Filesystems[0].Used += 4096
	is("another file was written")
	p.Layout.Disks = append(p.Layout.Disks, layout.Disk{Name: "sdz", Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512})
	is("a disk", "storage layout")
	p.Layout.Disks = p.Layout.Disks[:len(p.Layout.Disks)-1]
	write(own, "2")
	is("a file of rescue.files", "programs and files")
	write(own, "1")
	program, kernel := b.Executable, b.Config.Rescue.Kernel
	write(program, "the program 2")
	is("the program", "mkcdrec itself")
	write(program, "the program")
	image, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	write(kernel, string(image)+"x")
	is("the kernel", "kernel")
	write(kernel, string(image))
	b.Config.Rescue.CheckTarget = "read"
	is("an option of restore", "configuration")
	b.Config.Rescue.CheckTarget = ""
	b.Config.Rescue.Append = "quiet"
	is("the kernel command line", "boot loaders and menus")
	b.Config.Rescue.Append = ""
	is("as before")
	if left, err := os.ReadDir(filepath.Dir(iso)); err != nil || len(left) != 1 {
		t.Errorf("there: %v, %v; want the medium only", left, err)
	}
	f, err := os.OpenFile(iso, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 40*2048); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, c := range []struct{ text, want string }{{"", "it is damaged"}, {"not an image", "cannot read the volume descriptor"}} {
		if c.text != "" {
			write(iso, c.text)
		}
		if got, err := b.Maker().Changed(t.Context(), p.Machine(), iso); err != nil || len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("Changed() = %q, %v; want %q", got, err, c.want)
		}
	}
	if err := b.Maker().Medium(t.Context(), p.Machine(), rescue.Hint{SetID: "11111111-1111-4111-8111-111111111111"}, iso); err != nil {
		t.Fatal(err)
	}
	is("the medium of a set", "it was made by another version of mkcdrec, or by another command")
}
