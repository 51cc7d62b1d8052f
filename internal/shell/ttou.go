package shell

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// blockTTOU blocks SIGTTOU for the calling thread, until the function that it gives is called.
// A signal that was ignored instead would be ignored by the programs that are started, too.
func blockTTOU() func() {
	runtime.LockOSThread()
	var set, old unix.Sigset_t
	set.Val[(unix.SIGTTOU-1)/64] |= 1 << ((unix.SIGTTOU - 1) % 64)
	err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old)
	return func() {
		if err == nil {
			_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) // it was set before
		}
		runtime.UnlockOSThread()
	}
}
