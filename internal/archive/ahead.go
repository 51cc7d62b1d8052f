package archive

import (
	"cmp"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// slowOpen is how long opening a file takes on average where it pays to open several at once: a disk that has
	// to seek, or a network. A local disk that has what it needs in memory takes some microseconds.
	slowOpen = 300 * time.Microsecond
	// aheadOpeners is how many files are opened at once, aheadOpen how many are open before their turn.
	aheadOpeners, aheadOpen = 16, 64
	// aheadNames is how many names are prepared for at once: a directory may have millions.
	aheadNames = 1024
	// aheadRead is how much of a file the kernel is asked to read before its turn, in bytes.
	aheadRead = 1 << 20
)

// ahead opens files of one directory before their turn, several at once. All methods may be called of nil, which opens
// nothing.
type ahead struct {
	slots map[string]*slot
	room  chan struct{} // one for each file that may be opened before its turn
	stop  chan struct{}
	wg    sync.WaitGroup
}

// slot is a file that is opened before its turn.
type slot struct {
	ready chan struct{} // closed when the others are set, or when it will not be opened
	fd    int
	err   error
	took  time.Duration
	taken bool
}

// openAhead begins to open the regular files among the first of names in the directory dir.
func (c *creator) openAhead(dir int, names []string) *ahead {
	if c.opt.alone || c.since != nil || c.opening < cmp.Or(c.opt.slow, slowOpen) || len(names) < 2 { // most files of an increment are not opened at all
		return nil
	}
	names = names[:min(len(names), aheadNames)]
	a := &ahead{slots: make(map[string]*slot, len(names)), room: make(chan struct{}, aheadOpen), stop: make(chan struct{})}
	for _, n := range names {
		a.slots[n] = &slot{ready: make(chan struct{}), fd: -1, err: unix.EAGAIN}
	}
	next := make(chan string)
	for range min(aheadOpeners, len(names)) {
		a.wg.Go(func() {
			for n := range next {
				a.slots[n].open(c.open(), dir, n)
			}
		})
	}
	a.wg.Go(func() {
		defer close(next)
		for i, n := range names {
			select {
			case a.room <- struct{}{}:
				next <- n
			case <-a.stop:
				for _, n := range names[i:] {
					close(a.slots[n].ready)
				}
				return
			}
		}
	})
	return a
}

// open opens the file if it is a regular one: opening a device can do anything.
func (s *slot) open(open opener, dir int, name string) {
	defer close(s.ready)
	var st unix.Stat_t
	if err := quietly(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	begin := time.Now()
	if s.fd, s.err = open(dir, name, unix.O_NONBLOCK); s.err == nil {
		_ = unix.Fadvise(s.fd, 0, min(st.Size, aheadRead), unix.FADV_WILLNEED) // a hint
	}
	s.took = time.Since(begin)
}

// has reports whether a name was prepared for.
func (a *ahead) has(name string) bool { return a != nil && a.slots[name] != nil }

// take gives the file that was opened, if it still is the one with what stat has returned. Its caller closes it.
func (a *ahead) take(name string, st *unix.Stat_t) (fd int, took time.Duration, ok bool) {
	if !a.has(name) {
		return -1, 0, false
	}
	s := a.slots[name]
	<-s.ready
	var is unix.Stat_t
	if s.err != nil || s.taken || unix.Fstat(s.fd, &is) != nil || is.Dev != st.Dev || is.Ino != st.Ino {
		return -1, 0, false
	}
	s.taken = true
	return s.fd, s.took, true
}

// passed makes room: the turn of a name is over.
func (a *ahead) passed(name string) {
	if !a.has(name) {
		return
	}
	s := a.slots[name]
	<-s.ready
	s.end()
	<-a.room
}

// end closes the file if nobody has taken it.
func (s *slot) end() {
	if s.err == nil && !s.taken {
		unix.Close(s.fd)
		s.taken = true
	}
}

// close ends all of it.
func (a *ahead) close() {
	if a == nil {
		return
	}
	close(a.stop)
	a.wg.Wait()
	for _, s := range a.slots {
		s.end()
	}
}
