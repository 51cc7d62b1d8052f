package probe

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// addDisk puts a disk of a size in bytes into a fake machine, and gives its image.
func addDisk(t *testing.T, root, name string, size int64) string {
	t.Helper()
	sys, img := root+"/sys/block/"+strings.ReplaceAll(name, "/", "!"), root+"/dev/"+name
	for _, d := range []string{sys + "/queue", filepath.Dir(img)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for p, s := range map[string]string{sys + "/size": fmt.Sprint(size / 512), sys + "/queue/logical_block_size": "512", img: ""} {
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	return img
}

func program(t *testing.T, stdin string, args ...string) {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func write(t *testing.T, img string, at int64, b string) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(b), at); err != nil {
		t.Fatal(err)
	}
}

// readFake reads a fake machine, which must give a layout that can be used.
func readFake(t *testing.T, root string) *layout.Layout {
	t.Helper()
	l, err := Machine{Root: root, Run: &tool.Recorder{}}.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Validate(); err != nil {
		t.Fatalf("the layout is not valid:\n%v", err)
	}
	return l
}

// told gives the reasons why a device is not covered.
func told(l *layout.Layout, dev string) string {
	var out []string
	for _, u := range l.Unsupported {
		if u.Device == dev {
			out = append(out, u.Reason)
		}
	}
	return strings.Join(out, "\n")
}

// What the kernel has of a disk counts. An odd table is its disk's fault, which is named:
// the machine is read all the same.
func TestOddTables(t *testing.T) {
	pmbr := "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff"
	for _, c := range []struct {
		name  string
		make  func(img string)
		parts []string // what the kernel has, "NUMBER START SIZE"
		want  string   // partitions of the layout
		told  string   // why something of the disk is not covered
		image bool     // saved as a whole
	}{
		{"protective MBR without GPT", func(img string) { write(t, img, 446, pmbr); write(t, img, 510, "\x55\xaa") }, nil, "no table", "no GPT", false},
		{"MBR over a stale GPT", func(img string) {
			program(t, "", "sgdisk", "-n", "1:2048:+20M", "-n", "2:0:+20M", img)
			other := filepath.Join(t.TempDir(), "t")
			if err := os.WriteFile(other, make([]byte, 64<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			program(t, "label: dos\nlabel-id: 0xbeef0001\nstart=4096,size=98304,type=83\n", "sfdisk", "-q", other)
			b, err := os.ReadFile(other)
			if err != nil {
				t.Fatal(err)
			}
			write(t, img, 0, string(b[:512]))
		}, []string{"1 4096 98304"}, "dos 1 4096 98304", "", false},
		{"a partition beyond the end, cut by the kernel", func(img string) {
			program(t, "label: dos\nstart=63,size=40000,type=83\nstart=40063,size=90000,type=83\n", "sfdisk", "-q", img)
			if err := os.Truncate(img, 60<<20); err != nil {
				t.Fatal(err)
			}
		}, []string{"1 63 40000", "2 40063 82817"}, "dos 1 63 40000, 2 40063 82817", "partition 2 has bytes", false},
		{"a partition that the kernel refuses", func(img string) {
			program(t, "label: dos\nstart=63,size=40000,type=83\nstart=40063,size=90000,type=83\n", "sfdisk", "-q", img)
		}, []string{"1 63 40000"}, "dos 1 63 40000", "the kernel has no partition 2", false},
		{"GPT with 256 entries", func(img string) { program(t, "", "sgdisk", "-S", "256", "-n", "1:2048:+20M", "-n", "130:0:+20M", img) }, []string{"1 2048 40960", "130 43008 40960"}, "gpt 1 2048 40960, 130 43008 40960, 256 entries", "", false},
		{"an old signature beside a table", func(img string) {
			program(t, "", "mke2fs", "-q", "-F", img)
			program(t, "label: dos\nstart=4096,size=8192,type=83\n", "sfdisk", "-q", "-w", "never", img)
		}, []string{"1 4096 8192"}, "dos 1 4096 8192", "", false},
		{"logical partitions not in disk order", func(img string) {
			program(t, "label: dos\nlabel-id: 0xbeef0002\n1 : start=2048,size=8000,type=83,bootable\n2 : start=20000,size=100000,type=5\n5 : start=22048,size=4000,type=83\n6 : start=60000,size=4000,type=83\n7 : start=40000,size=8000,type=82\n", "sfdisk", "-q", img)
		}, []string{"1 2048 8000", "2 20000 2", "5 22048 4000", "6 60000 4000", "7 40000 8000"}, "dos 1 2048 8000, 2 20000 100000, 5 22048 4000, 6 60000 4000, 7 40000 8000", "", false},
		{"a table of another kind", func(img string) { write(t, img, 0, "ER\x02\x00"); write(t, img, 512, "PM") }, []string{"1 1 63", "2 64 1000"}, "no table", "of a kind that is not supported", false},
		{"partitions over each other", func(img string) {
			program(t, "label: dos\nstart=2048,size=8192,type=83\nstart=20480,size=8192,type=83\n", "sfdisk", "-q", img)
			write(t, img, 446+16+8, "\x00\x10\x00\x00")
		}, []string{"1 2048 8192", "2 4096 8192"}, "no table", "overlaps", false},
		{"an empty table", func(img string) { program(t, "label: dos\n", "sfdisk", "-q", img) }, nil, "dos ", "", false},
		{"data behind an empty table", func(img string) {
			program(t, "label: dos\n", "sfdisk", "-q", img)
			write(t, img, 8<<20, strings.Repeat("data of somebody", 1<<14))
		}, nil, "dos ", "its partition table is empty, but there is data", false},
		{"unknown content", func(img string) { write(t, img, 4096, "x") }, nil, "no table", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := machine(t)
			c.make(addDisk(t, root, "vde", 64<<20))
			if st, err := os.Stat(root + "/dev/vde"); err != nil {
				t.Fatal(err)
			} else if err := os.WriteFile(root+"/sys/block/vde/size", fmt.Append(nil, st.Size()/512), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, p := range c.parts {
				n, at, _ := strings.Cut(p, " ")
				partition(t, root, "vde/vde"+n, at)
				if err := os.WriteFile(root+"/dev/vde"+n, make([]byte, 1<<20), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l := readFake(t, root)
			d := l.Disk("vde")
			got := "no table"
			if d != nil && d.Table != nil {
				var ps []string
				for _, p := range d.Table.Partitions {
					ps = append(ps, fmt.Sprintf("%d %d %d", p.Number, p.Start/512, p.Size/512))
				}
				if d.Table.Entries != 0 {
					ps = append(ps, fmt.Sprint(d.Table.Entries, " entries"))
				}
				got = d.Table.Label + " " + strings.Join(ps, ", ")
			}
			if got != c.want {
				t.Errorf("table %q; want %q", got, c.want)
			}
			if why := told(l, "vde"); c.told == "" && why != "" || !strings.Contains(why, c.told) {
				t.Errorf("told: %q; want %q", why, c.told)
			}
			if image := slices.ContainsFunc(l.Images, func(i layout.Image) bool { return i.Device == "vde" }); image != c.image {
				t.Errorf("saved as a whole: %v", image)
			}
			if l.Mounted("/") == nil {
				t.Error("the machine is not saved")
			}
		})
	}
}

// Names with a slash are those of sysfs with an exclamation mark; a hidden path of an
// NVMe disk and a drive without a medium are no disks; a blank disk is known as such.
func TestOddNames(t *testing.T) {
	root := machine(t)
	img := addDisk(t, root, "cciss/c0d0", 64<<20)
	program(t, "label: dos\nlabel-id: 0xbeef0001\nstart=2048,size=20480,type=83\n", "sfdisk", "-q", img)
	partition(t, root, "cciss!c0d0/cciss!c0d0p1", "2048 20480")
	program(t, "", "mke2fs", "-q", "-F", "-t", "ext4", root+"/dev/cciss/c0d0p1", "10M")
	for p, s := range map[string]string{"/sys/block/nvme0c0n1/size": "2048", "/sys/block/nvme0c0n1/hidden": "1", "/sys/block/sdx/size": "0"} {
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, []byte(s+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := readFake(t, root)
	if f := l.On("cciss/c0d0p1"); f == nil || fmt.Sprint(l.DisksUnder(f.Device)) != "[cciss/c0d0]" {
		t.Errorf("%+v %+v", f, l.Unsupported)
	}
	for _, n := range []string{"nvme0c0n1", "sdx"} {
		if l.Disk(n) != nil || told(l, n) != "" {
			t.Errorf("%s: %+v, told %q", n, l.Disk(n), told(l, n))
		}
	}
	if i := l.Images; len(i) != 1 || i[0].Device != "sda" || !i[0].Blank {
		t.Errorf("the blank disk: %+v", i)
	}
}
