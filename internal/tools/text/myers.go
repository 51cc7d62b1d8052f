package text

type myers struct {
	a, b         []int
	goneA, goneB []bool
	v1, v2       []int
}

func (m *myers) compare(a0, a1, b0, b1 int) {
	for a0 < a1 && b0 < b1 && m.a[a0] == m.b[b0] {
		a0, b0 = a0+1, b0+1
	}
	for a0 < a1 && b0 < b1 && m.a[a1-1] == m.b[b1-1] {
		a1, b1 = a1-1, b1-1
	}
	switch {
	case a0 == a1:
		for ; b0 < b1; b0++ {
			m.goneB[b0] = true
		}
	case b0 == b1:
		for ; a0 < a1; a0++ {
			m.goneA[a0] = true
		}
	default:
		x, y := m.middle(a0, a1, b0, b1)
		m.compare(a0, x, b0, y)
		m.compare(x, a1, y, b1)
	}
}

// extend follows diagonal q of a path as far as lines are the same.
func extend(v []int, off, d, q int, same func(x, y int) bool) (x, y int) {
	x = v[off+q-1] + 1
	if q == -d || q != d && v[off+q-1] < v[off+q+1] {
		x = v[off+q+1]
	}
	for y = x - q; same(x, y); {
		x, y = x+1, y+1
	}
	v[off+q] = x
	return x, y
}

// middle finds a point that a shortest path passes.
func (m *myers) middle(a0, a1, b0, b1 int) (int, int) {
	n, k := a1-a0, b1-b0
	delta, off := n-k, n+k+1
	fw, bw := m.v1[:2*(n+k)+3], m.v2[:2*(n+k)+3]
	fw[off+1], bw[off+1] = 0, 0
	inside := func(x, y int) bool { return x < n && y < k && x >= 0 && y >= 0 }
	forward := func(x, y int) bool { return inside(x, y) && m.a[a0+x] == m.b[b0+y] }
	backward := func(x, y int) bool { return inside(x, y) && m.a[a1-1-x] == m.b[b1-1-y] }
	meets := func(v []int, x, q, d int) bool { r := delta - q; return r >= -d && r <= d && x+v[off+r] >= n }
	for d := 0; d <= (n+k+1)/2; d++ {
		for q := -d; q <= d; q += 2 {
			if x, y := extend(fw, off, d, q, forward); delta%2 != 0 && meets(bw, x, q, d-1) {
				return a0 + min(x, n), b0 + max(0, min(y, k))
			}
		}
		for q := -d; q <= d; q += 2 {
			if x, y := extend(bw, off, d, q, backward); delta%2 == 0 && meets(fw, x, q, d) {
				return a1 - min(x, n), b1 - max(0, min(y, k))
			}
		}
	}
	return a1, b0 // not reached: the paths meet
}

// shift moves runs of changed lines down as far as they can be, as GNU's diff does.
func shift(l []int, gone []bool) {
	for i := 0; i < len(l); i++ {
		if !gone[i] {
			continue
		}
		end := i
		for end < len(l) && gone[end] {
			end++
		}
		for end < len(l) && l[i] == l[end] {
			gone[i], gone[end] = false, true
			i, end = i+1, end+1
			for end < len(l) && gone[end] {
				end++
			}
		}
		i = end
	}
}
