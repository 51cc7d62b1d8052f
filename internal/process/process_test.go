package process

import (
	"os"
	"testing"
)

func TestStart(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
	for stat, want := range map[string]string{"7 (sh)" + rest: "4711", "7 (a) b) c)" + rest: "4711", "7 (sh) S 1": "", "": ""} {
		if got := start([]byte(stat)); got != want {
			t.Errorf("start(%q) = %q; want %q", stat, got, want)
		}
	}
	me := Start(os.Getpid())
	if again := Start(os.Getpid()); me == "" || again != me {
		t.Errorf("Start() of this process = %q, then %q; want the same", me, again)
	}
	if got := Start(1 << 30); got != "" {
		t.Errorf("Start() of no process = %q", got)
	}
	id := BootID()
	if again := BootID(); id == "" || again != id {
		t.Errorf("BootID() = %q, then %q; want the same", id, again)
	}
}
