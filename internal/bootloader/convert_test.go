package bootloader

import (
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

func TestFollowArrays(t *testing.T) {
	const old = "HOMEHOST <system>\nARRAY /dev/md0 metadata=1.2 UUID=11111111:00000000:00000000:00000001\nARRAY /dev/md/data metadata=1.2 UUID=11111111:00000000:00000000:00000002 name=h:data\nARRAY /dev/md9 uuid=99999999:00000000:00000000:00000009"
	l := &layout.Layout{Moved: map[string]string{"md0": "sda1", "md/root": "sda1"}, Arrays: []layout.Array{
		{Name: "md1", UUID: "11111111:00000000:00000000:00000002"},
		{Name: "md2", UUID: "22222222:00000000:00000000:00000003", Metadata: "1.2", New: true},
	}}
	want := "HOMEHOST <system>\n# not restored: ARRAY /dev/md0 metadata=1.2 UUID=11111111:00000000:00000000:00000001\nARRAY /dev/md/data metadata=1.2 UUID=11111111:00000000:00000000:00000002 name=h:data\n" +
		"ARRAY /dev/md9 uuid=99999999:00000000:00000000:00000009\nARRAY /dev/md2 metadata=1.2 UUID=22222222:00000000:00000000:00000003\n"
	got, notes := FollowArrays(old, l, renames(l, nil))
	if got != want || len(notes) != 2 {
		t.Errorf("%s%q", got, notes)
	}
	if again, notes := FollowArrays(got, l, renames(l, nil)); again != got || len(notes) != 0 {
		t.Errorf("a second time: %s%q", again, notes)
	}
	if same, notes := FollowArrays(old, &layout.Layout{}, renames(&layout.Layout{}, nil)); same != old || len(notes) != 0 {
		t.Errorf("nothing moved: %s%q", same, notes)
	}
}
