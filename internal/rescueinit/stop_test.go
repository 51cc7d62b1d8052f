package rescueinit

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// TestSearchEnds: the search of the set ends when the machine is being stopped, while
// it waits for a server that does not answer, or for a device.
func TestSearchEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, sources := range map[string][]medium.Source{
		"a server": {{Kind: "url", Value: "http://" + l.Addr().String() + "/set"}},
		"a device": {{Kind: "UUID", Value: "01234567-89ab-4def-8123-456789abcdef"}},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		s := &System{host: machine{}, ctx: ctx, out: io.Discard, info: &rescue.Info{SetID: "x", Host: "h"}, drivers: newDrivers(machine{})}
		time.AfterFunc(300*time.Millisecond, cancel)
		t0 := time.Now()
		_, _, err := s.findSet(sources, time.Minute)
		if took := time.Since(t0); !errors.Is(err, context.Canceled) || took > 10*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
}

// TestNothingUnattendedAtTheEnd: a worker that is being stopped begins nothing.
func TestNothingUnattendedAtTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := &System{host: machine{}, ctx: ctx, out: io.Discard, info: &rescue.Info{}, drivers: newDrivers(machine{}), consoles: []string{"/dev/null"}, opts: rescue.Options{Auto: "restore"}}
	done := make(chan struct{})
	go func() { s.work(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it works on")
	}
	if len(s.state) > 0 {
		t.Errorf("it did: %q", s.state)
	}
}

func TestOnDisks(t *testing.T) {
	const text = `20 1 0:2 / / rw shared:1 - rootfs rootfs rw
21 20 0:20 / /proc rw - proc proc rw
30 20 8:1 / /mnt/a\040b rw - ext4 /dev/sda1 rw
31 20 0:40 / ` + rescue.TargetDir + ` rw - btrfs /dev/sda2 rw
32 31 0:5 / ` + rescue.TargetDir + `/dev rw master:2 propagate_from:1 - devtmpfs devtmpfs rw
33 20 0:41 / ` + rescue.TargetDir + `-other rw - tmpfs tmpfs rw
34 20 0:42 / /net rw - nfs4 server:/dev/x rw
`
	mounts, err := sysconf.ParseMountinfo(text)
	got := onDisks(mounts)
	if want := []string{rescue.TargetDir + "/dev", rescue.TargetDir, "/mnt/a b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
