package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func TestConvert(t *testing.T) {
	l := plain()
	got, err := convert(l, map[string]string{"/": "xfs", "/home": "ext3"})
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if f := got.Mounted("/"); f.Type != "xfs" || f.XFS == nil || f.Ext != nil || f.UUID != l.Mounted("/").UUID {
		t.Errorf("/ is %+v", f)
	}
	if f := got.Mounted("/home"); f.Type != "ext3" || strings.Contains(strings.Join(f.Ext.Features, " "), "extent") {
		t.Errorf("/home is %+v", f.Ext)
	}
	if l.Mounted("/").Type != "ext4" {
		t.Error("the layout that was given changed")
	}
	// The new types' file systems can be made, of the least size too.
	for _, at := range []string{"/", "/home"} {
		f := got.Mounted(at)
		for _, size := range []quantity.Size{Least(f), 2 * f.Size} {
			run, err := commands.Mkfs(f, "FILE", size)
			if err != nil {
				t.Fatal(err)
			}
			i := mk(t, int64(size), run...)
			if i != nil && (i.Type != f.Type || !strings.EqualFold(i.UUID, f.UUID)) {
				t.Errorf("%s: made %+v", at, i)
			}
		}
	}
	l.Filesystems[1].Label = "a-label-of-16-cs"
	for wish, want := range map[[2]string]string{{"/srv", "xfs"}: "nothing is mounted there", {"/", "zfs"}: "one of ext2", {"/boot/efi", "ext4"}: "has to stay vfat", {"/", "xfs"}: "XFS takes 12"} {
		_, err := convert(l, map[string]string{wish[0]: wish[1]})
		var r *exit.Refusal
		if !errors.As(err, &r) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want a refusal with %q", wish, err, want)
		}
	}
}
