// Command fleet simulates rooms of up to 1,000 machines with internal/swarm/sim, and
// writes docs/FLEET-SIMULATION.md: go run ./internal/swarm/sim/fleet
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/sim"
)

// What was measured, and what follows from it. Times of a hop are those of the real
// program between real network namespaces, which docs/FLEET-SIMULATION.md names.
const (
	link = 125e6 * 1448 / 1538 // bytes a second of data on 1 GbE: TCP with time stamps in frames of 1,538 bytes with the gap
	size = 50e9
)

const report = "docs/FLEET-SIMULATION.md"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// room is one simulated room.
type room struct {
	name       string
	n          int
	slow, dies float64
	hop        time.Duration
	piece      float64
}

func run() error {
	var b strings.Builder
	bound := size / link
	fmt.Fprintf(&b, `# Simulation of a room of machines

Written by `+"`go run ./internal/swarm/sim/fleet`"+`. It runs the chain of internal/swarm/chain, as the server does, with
modelled machines in simulated time. Nothing here was measured on 1,000 machines.

The model:

- %.0f GB go to N machines. Every link is 1 GbE, full duplex, with %.1f MB/s of data.
- The bound is the time of one machine at full speed: %.1f s.
- Machines start within 30 s of each other at random. 24 at a time are one subnet. Times are from a machine's own start.
- A slow machine receives at 10 to 50 %% of the link.
- A dying machine loses its power at a random time and closes no connection.
- Reports are sent every second. Another peer costs 100 ms. Silence is noticed after 2.5 s.
- A hop is the time from a complete piece to the first byte of it at the next machine. The program's window of requests
  is 60 ms long, and the library sends what was requested in no order: a hop is between one window and one piece.

| machines | piece, MiB | hop, ms | slow | dying | last healthy one, s | relative to the bound | median, s | seeder's upload, copies | longest wait of a healthy one, s |
|---|---|---|---|---|---|---|---|---|---|
`, size/1e9, link/1e6, bound)
	for _, r := range []room{
		{"", 1, 0, 0, 5, 4}, {"", 30, 0, 0, 5, 4}, {"", 100, 0.02, 0.01, 5, 4},
		{"", 1000, 0, 0, 5, 4}, {"", 1000, 0.02, 0.01, 5, 4}, {"", 1000, 0.02, 0.01, 20, 4}, {"", 1000, 0.02, 0.01, 60, 4}, {"", 1000, 0.02, 0.01, 100, 4},
	} {
		line, err := simulate(r, bound)
		if err != nil {
			return err
		}
		b.WriteString(line)
		fmt.Fprint(os.Stderr, line)
	}
	b.WriteString("\nGoal: of 1,000 machines, 2 % slow and 1 % dying, the last healthy one takes at most 1.25 times the bound.\n")
	return os.WriteFile(report, []byte(b.String()), 0o644)
}

func simulate(r room, bound float64) (string, error) {
	rnd := rand.New(rand.NewPCG(uint64(r.n), 7))
	c := sim.Config{Bytes: size, Piece: r.piece * (1 << 20), SeederUp: link, Hop: r.hop * time.Millisecond, Connect: 100 * time.Millisecond, Silent: 2500 * time.Millisecond, Step: 5 * time.Millisecond, Limit: time.Hour}
	bad := make([]bool, r.n)
	for i := range r.n {
		m := sim.Machine{Down: link, Up: link, Subnet: byte(i / 24), Joins: time.Duration(rnd.Int64N(int64(30 * time.Second)))}
		if r.n == 1 {
			m.Joins = 0
		}
		switch x := rnd.Float64(); {
		case x < r.slow:
			m.Down *= 0.1 + 0.4*rnd.Float64()
			bad[i] = true
		case x < r.slow+r.dies:
			m.Dies = m.Joins + time.Duration(rnd.Float64()*bound*float64(time.Second))
			bad[i] = true
		}
		c.Machines = append(c.Machines, m)
	}
	got := sim.Run(c)
	var done []float64
	worst := time.Duration(0)
	for i, m := range got.Machines {
		if bad[i] {
			continue
		}
		if m.Done == 0 {
			return "", fmt.Errorf("machine %d of %d never had everything: %d pieces, from %v", i, r.n, m.Pieces, m.From)
		}
		done = append(done, (m.Done - c.Machines[i].Joins).Seconds())
		worst = max(worst, m.Worst)
		if d := (m.Done - c.Machines[i].Joins).Seconds(); d > 1.25*bound {
			fmt.Fprintf(os.Stderr, "machine %d: %.1f s, from %v, events:", i, d, m.From)
			for _, e := range got.Events {
				if strings.HasPrefix(e.Addr.String(), fmt.Sprintf("10.%d.%d.%d:", i/24%256, i>>8, i&255)) || e.Kind == "silent" || e.Kind == "slow" {
					fmt.Fprint(os.Stderr, " ", e, ";")
				}
			}
			fmt.Fprintln(os.Stderr)
		}
	}
	last := 0.0
	for _, d := range done {
		last = max(last, d)
	}
	return fmt.Sprintf("| %d | %.0f | %d | %.0f %% | %.0f %% | %.1f | %.3f | %.1f | %.2f | %.1f |\n", r.n, r.piece, r.hop, 100*r.slow, 100*r.dies, last, last/bound, median(done), got.Seeder, worst.Seconds()), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
