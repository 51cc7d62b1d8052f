package archive

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookMany is how many files are looked at at once where that takes long, see slowOpen: inodes on a disk that
	// has to seek, or on a server. Where it does not, one helper is enough for what else there is to do.
	lookMany = 8
	// lookNames is how many names are looked at before their turn: a directory may have millions.
	lookNames = 1024
	// lookFew names are not worth a helper.
	lookFew = 6
)

// looks has what stat(2) returned for names of one directory before their turn. A name whose turn comes earlier is
// not waited for.
type looks struct {
	dir    int
	names  []string
	at     []look
	next   atomic.Int64 // the first name that nobody has taken
	turn   atomic.Int64 // of which name it is
	helper sync.WaitGroup
}

// look is one name's.
type look struct {
	done atomic.Bool
	used bool
	st   unix.Stat_t
	took time.Duration
}

// lookAhead begins to look at names in the directory dir, but the first, whose turn it is.
func (k *walker) lookAhead(dir int, names []string) *looks {
	if !k.foresee || len(names) < lookFew {
		return nil
	}
	names = names[:min(len(names), lookNames)]
	l := &looks{dir: dir, names: names, at: make([]look, len(names))}
	l.next.Store(1)
	helpers := 1
	if k.looking >= cmp.Or(k.opt.slow, slowOpen) {
		helpers = lookMany
	}
	for range helpers {
		l.helper.Go(l.look)
	}
	return l
}

// look looks at names until there are no more.
func (l *looks) look() {
	for {
		i := l.next.Add(1) - 1
		if i >= int64(len(l.names)) {
			return
		}
		if i <= l.turn.Load() {
			continue
		}
		begin := time.Now()
		if quietly(func() error { return unix.Fstatat(l.dir, l.names[i], &l.at[i].st, unix.AT_SYMLINK_NOFOLLOW) }) == nil {
			l.at[i].took = time.Since(begin)
			l.at[i].done.Store(true)
		}
	}
}

// take gives what was found under the name with number i, once.
func (l *looks) take(i int) *look {
	if l == nil || i >= len(l.at) {
		return nil
	}
	l.turn.Store(int64(i))
	if f := &l.at[i]; f.done.Load() && !f.used {
		f.used = true
		return f
	}
	return nil
}

// close ends the helpers.
func (l *looks) close() {
	if l != nil {
		l.next.Store(int64(len(l.names)))
		l.helper.Wait()
	}
}
