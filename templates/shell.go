package templates

// Profile is read by every interactive shell of the rescue system.
const Profile = `PS1='RESCUE \h:\w# '
export PATH=/usr/sbin:/usr/bin:/bbin HOME=/root TERM=${TERM:-linux} DM_DISABLE_UDEV=1 EDITOR=vi
export HISTFILE=/root/.bash_history
alias ll='ls -l'
`

// History is what a shell's history begins with: the commands that a person
// in front of a dead machine wants, one key away.
const History = `ip addr
dmesg
lsblk
restore --help
restore --plan
restore
`
