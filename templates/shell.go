package templates

import (
	_ "embed"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Help is the screen that `help` prints.
//
//go:embed help.txt
var Help string

// Profile is read by every interactive shell of the rescue system.
const Profile = `PS1='RESCUE \h:\w# '
export PATH=/usr/sbin:/usr/bin:/bbin HOME=/root TERM=${TERM:-linux} ` + tool.NoUdev + `=1 EDITOR=editor PAGER=less
export HISTFILE=/root/.bash_history
alias ll='ls -l'
alias help=/bbin/help
alias log='${PAGER:-less} /var/log/mkcdrec.log'
command -v less >/dev/null || export PAGER=more
`

// History is what a shell's history begins with: the commands that a person
// in front of a dead machine wants, one key away.
const History = `restore mount
checkmedium
ip addr
dmesg
lsblk
help
restore --help
restore --plan
restore
`
