//go:build tools

package deps

import (
	_ "github.com/u-root/u-root/cmds/core/backoff"
	_ "github.com/u-root/u-root/cmds/core/chroot"
	_ "github.com/u-root/u-root/cmds/core/cpio"
	_ "github.com/u-root/u-root/cmds/core/gpt"
	_ "github.com/u-root/u-root/cmds/core/insmod"
	_ "github.com/u-root/u-root/cmds/core/io"
	_ "github.com/u-root/u-root/cmds/core/kexec"
	_ "github.com/u-root/u-root/cmds/core/lsdrivers"
	_ "github.com/u-root/u-root/cmds/core/lsfd"
	_ "github.com/u-root/u-root/cmds/core/lsmod"
	_ "github.com/u-root/u-root/cmds/core/mknod"
	_ "github.com/u-root/u-root/cmds/core/more"
	_ "github.com/u-root/u-root/cmds/core/netstat"
	_ "github.com/u-root/u-root/cmds/core/ntpdate"
	_ "github.com/u-root/u-root/cmds/core/rmmod"
	_ "github.com/u-root/u-root/cmds/core/strace"
	_ "github.com/u-root/u-root/cmds/core/stty"
	_ "github.com/u-root/u-root/cmds/core/switch_root"
	_ "github.com/u-root/u-root/cmds/core/time"
	_ "github.com/u-root/u-root/cmds/core/unshare"
	_ "github.com/u-root/u-root/cmds/exp/dmidecode"
	_ "github.com/u-root/u-root/cmds/exp/ed"
	_ "github.com/u-root/u-root/cmds/exp/traceroute"
)
