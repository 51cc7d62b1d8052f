package disks

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestEditor: nothing is written before w, and a disk whose table was not written is as before.
func TestEditor(t *testing.T) {
	image := t.TempDir() + "/image"
	if err := os.WriteFile(image, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	edit := func(keys string) (int, string) {
		var out bytes.Buffer
		for _, c := range Commands() {
			if c.Name == "fdisk" {
				e := tools.New(c, strings.NewReader(keys), &out, &out)
				rc := e.Run([]string{image})
				e.Out.Flush()
				return rc, out.String()
			}
		}
		return -1, ""
	}
	content := func() string {
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := content()
	for keys, want := range map[string]int{"g\nn\n\n\n\nq\n": 0, "g\nn\n\n\n\n": 1, "g\nn\n": 1, "o\nn\np\n1\n\n\np\n": 1, "zz\nd\nt\na\nF\nl\nm\nq\n": 0, "n\ne\n1\n\n+5M\nn\nl\n\n\nt\n1\n83\nq\n": 0} {
		if rc, out := edit(keys); rc != want || content() != before {
			t.Errorf("fdisk with %q = %d; want %d, and nothing written\n%s", keys, rc, want, out)
		}
	}
	if rc, out := edit("g\nn\n\n\n+5M\nn\n\n\n\nt\n2\nV\nw\n"); rc != 0 || content() == before {
		t.Fatalf("fdisk = %d\n%s", rc, out)
	}
	d, err := readDisk(image)
	if err != nil || d.gpt == nil || len(d.gpt.Partitions) != 2 || d.gpt.Partitions[1].First != 12288 || gptType(d.gpt.Partitions[1].Type) != "Linux LVM" {
		t.Fatalf("after w: %+v, %v", d, err)
	}
	// A type that is mistyped changes nothing.
	for _, typo := range []string{"X9", "home2", "0FC63DAF-8483-4772-8E79-3D69D8477DEX", "0FC63DAF-8483-4772-8E79-3D69D8477DE", "999", "0FC63DAF_8483_4772_8E79_3D69D8477DE4"} {
		if rc, out := edit("t\n2\n" + typo + "\nw\n"); rc != 0 || !strings.Contains(out, "type '"+typo+"'") {
			t.Errorf("t with %s = %d\n%s; want a refusal", typo, rc, out)
		}
		if d, err := readDisk(image); err != nil || gptType(d.gpt.Partitions[1].Type) != "Linux LVM" {
			t.Errorf("t with %s: %+v, %v; want the type as before", typo, d, err)
		}
	}
	// A new MBR leaves nothing of the GPT.
	if rc, out := edit("o\nn\n\n\n\n\na\nw\n"); rc != 0 || strings.Contains(content(), "EFI PART") {
		t.Errorf("fdisk = %d, and the GPT is still there: %v\n%s", rc, strings.Contains(content(), "EFI PART"), out)
	}
	if d, err := readDisk(image); err != nil || d.mbr == nil || len(d.mbr.Partitions) != 1 || !d.mbr.Partitions[0].Active {
		t.Errorf("after w: %+v, %v", d, err)
	}
	for _, typo := range []string{"0", "zz", "1ff", "8e8e"} {
		if rc, out := edit("t\n" + typo + "\nw\n"); rc != 0 || !strings.Contains(out, "type") {
			t.Errorf("t with %s = %d\n%s; want a refusal", typo, rc, out)
		}
		if d, err := readDisk(image); err != nil || len(d.mbr.Partitions) != 1 || d.mbr.Partitions[0].Type != 0x83 {
			t.Errorf("t with %s: %+v, %v; want the type as before", typo, d, err)
		}
	}
	for list, want := range map[string][]int{"1": {1}, "1,2": {1, 2}, "1-3,5,7,8": {1, 2, 3, 5, 7, 8}, "2,4-6": {2, 4, 5, 6}} {
		if got := ranges(want); got != list {
			t.Errorf("ranges(%v) = %s; want %s", want, got, list)
		}
	}
}
