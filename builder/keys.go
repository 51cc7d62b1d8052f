package builder

import (
	"fmt"
	"reflect"
	"strings"
)

// Key is what the reference has about one key of the configuration.
type Key struct {
	Name    string // "rescue.modules"
	Text    string
	Values  string // what it may be, "fastest|default|better"; "" for any
	Example string // in YAML

	// Of the struct.
	Type    string // text, list of text, yes or no, number
	Default string // in YAML, "" if it is empty
}

// keys describe all of Config, in the order in which they are shown.
var keys = []Key{
	{Name: "destination", Text: "Directory, or URL of a server (docs/STORES.md), that mkcdrec path writes to if none is given, as mkcdrec.timer does every night. It should be on another disk, or on another machine's.", Example: "/mnt/backup"},
	{Name: "exclude", Text: "Absolute paths to leave out, with all that is below them. * and ? stand for characters other than /, ** for any, [a-z] for one of a set. /dir/* leaves out what is in a directory, and keeps the directory.", Example: "[/var/cache/*, /srv/scratch, /home/**/*.iso]"},
	{Name: "include", Text: "Save only these directories with all that is below them, also of file systems mounted there, and these devices. All else is left out. A set without the whole root file system does not restore a system that boots: restore then leaves boot loader, swap and disks that hold nothing of it alone.", Example: "[/etc, /home, /dev/vg0/db]"},
	{Name: "exclude_devices", Text: "Devices whose content is not saved, by their names in the layout, mount points or names of pools. They are recreated empty.", Example: "[vdb1, vg0/scratch, /srv/cache]"},
	{Name: "snapshot", Text: "auto reads each file system as it was at one moment, from a snapshot of LVM or btrfs that is made for the backup and removed again; docs/NIGHTLY.md describes it. File systems that can't have one are read while they are in use, as all are with off, and files that changed meanwhile are listed.", Values: "auto|off", Example: "auto"},
	{Name: "compression", Text: "How much work is put into small archives. fastest is as fast as most disks.", Values: "fastest|default|better", Example: "better"},
	{Name: "encrypt", Text: "Whether whole sets are encrypted, for the recipients or with the passphrase. docs/FORMAT.md lists what remains readable: the name of the host, times and sizes.", Example: "true"},
	{Name: "credentials_file", Text: "File with user names, passwords and keys for servers that sets are written to; docs/STORES.md describes it. Only root may be able to read it. Without this key it is /etc/mkcdrec.credentials, if that exists.", Example: "/root/mkcdrec.credentials"},
	{Name: "recipients", Text: "Public keys of age or SSH that sets, with encrypt, and the headers of LUKS devices are encrypted for, or files with such keys, one a line. Their private keys belong elsewhere: restore asks for one.", Example: "[age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]"},
	{Name: "passphrase_file", Text: "A file of mode 0600 whose passphrase encrypts sets, and the headers of LUKS devices, in the place of recipients: for discs, sticks and tapes that are restored by somebody who has no key file. Each file of a set takes about a second more.", Example: "/etc/mkcdrec.passphrase"},
	{Name: "luks_headers", Text: "encrypted saves the headers of LUKS devices for the recipients; none saves none: a restore recreates the devices with a new passphrase. Without this key they are encrypted if there are recipients; otherwise the run ends with status 3.", Values: "encrypted|none", Example: "none"},
	{Name: "hooks.dir", Text: "Directory with the directories before-backup, before-snapshot, after-snapshot, after-backup, before-restore and after-restore, whose executables run at these points, in the order of their names. Media carry those for a restore.", Example: "/srv/hooks"},
	{Name: "hooks.timeout", Text: "Time that one hook has, such as 30s, 5m or 1h. One that takes longer is killed, and has failed.", Example: "30m"},
	{Name: "keep.last", Text: "How many of the newest backup sets of this machine stay. With any of the four keys of keep, mkcdrec path removes the others once a new set is complete; mkcdrec prune does so at any time. A set that one of them names stays. Without all of them nothing is removed.", Example: "3"},
	{Name: "keep.daily", Text: "Of how many of the last days that have a set the newest one stays.", Example: "7"},
	{Name: "keep.weekly", Text: "Of how many of the last weeks, from Monday on, that have a set the newest one stays.", Example: "4"},
	{Name: "keep.make_room", Text: "true has a run whose set will probably not fit remove old sets before it writes: those that the other keys of keep will not keep once the set is there. The last good set stays in any case. Without it old sets are removed only after the new one is complete.", Example: "true"},
	{Name: "keep.monthly", Text: "Of how many of the last months that have a set the newest one stays.", Example: "6"},
	{Name: "generations.full", Text: "Save only what has changed since the set before, but everything in the first backup of each week or month. An increment needs all sets back to the last full one, in the same directory: they are not removed before it. restore takes it like any other set. Without the keys of generations every backup is full.", Values: "weekly|monthly", Example: "weekly"},
	{Name: "generations.full_every", Text: "Make a full backup, then increments, so that this is the number of sets from one full backup to the next.", Example: "7"},
	{Name: "status.warn", Text: "Age of the last backup from which on mkcdrec status reports a warning, such as 36h.", Example: "30h"},
	{Name: "status.critical", Text: "Age of the last backup from which on mkcdrec status reports it as critical.", Example: "48h"},
	{Name: "status.textfile", Text: "File that gets the state of the backups after each run of mkcdrec path, for the textfile collector of Prometheus' node_exporter; its name has to end in .prom.", Example: "/var/lib/prometheus/node-exporter/mkcdrec.prom"},
	{Name: "status.webhook", Text: "URL, http or https, that gets a message in JSON by POST when a run of mkcdrec path failed or does not cover everything, and once when the next is good again. mkcdrec status --test-notify sends one. If the URL has a secret, use status.webhook_file.", Example: "https://alerts.example.com/mkcdrec"},
	{Name: "status.webhook_file", Text: "File with that URL instead, which only root may read.", Example: "/etc/mkcdrec/webhook"},
	{Name: "status.command", Text: "Program, by its absolute path, and its arguments, that gets the same message on standard input. No shell is used.", Example: "[/usr/local/sbin/backup-alert, --to, admin@example.com]"},
	{Name: "status.notify_timeout", Text: "Time that the webhook and the command each have.", Example: "1m"},
	{Name: "rescue.kernel", Text: "Image of the kernel for the rescue system. Without it the running kernel is used; best is the newest in /boot that can be used.", Example: "/boot/vmlinuz-6.1.0-40-amd64"},
	{Name: "rescue.modules_dir", Text: "Directory of the kernel's modules, if it is not /lib/modules/VERSION; the top directory of an unpacked kernel package will do.", Example: "/srv/kernel/lib/modules/6.1.0-40-amd64"},
	{Name: "rescue.modules", Text: "Drivers on the medium: those of this machine, those of most machines, or all.", Values: "host|default|all", Example: "all"},
	{Name: "rescue.extra_modules", Text: "Further drivers, by name.", Example: "[mlx5_core]"},
	{Name: "rescue.exclude_modules", Text: "Drivers to leave out, by name.", Example: "[nouveau]"},
	{Name: "rescue.carry", Text: "Further programs of this machine, by name or path, with their libraries.", Example: "[tcpdump, /opt/raid/bin/storcli64]"},
	{Name: "rescue.programs", Text: "Programs of this machine on the medium: all that help, of which those for comfort are read from the medium when they are used; the same, all in memory; those without which a restore is not possible; or none, for a medium that can't restore.", Values: "comfort|needed|required|none", Example: "required"},
	{Name: "rescue.files", Text: "Files and directories of this machine that the rescue system has at the same paths. They take memory there, and everyone who has the medium can read them.", Example: "[/root/notes.txt, /opt/raid]"},
	{Name: "rescue.extra_tree", Text: "Second system on the medium: a directory, whose file system is packed with mksquashfs, or an image of squashfs. The command superrescue of the rescue system opens it. / is this machine's own system, with its secrets.", Example: "/srv/tools-root"},
	{Name: "rescue.append", Text: "Words for the rescue system's kernel command line.", Example: "console=ttyS0,115200"},
	{Name: "rescue.ssh_keys", Text: "Public keys, or files with such keys, of those who may log in by ssh. Without any there is no ssh server.", Example: "[/root/.ssh/authorized_keys]"},
	{Name: "rescue.credentials", Text: "Whether the medium has the secrets of servers (credentials_file, and the configuration of rclone if the sets are on rclone:), so that restore does not ask for them: everyone who has the medium can read them. Such a medium reports it when it boots.", Values: "ask|include", Example: "include"},
	{Name: "rescue.default", Text: "Entry of the medium's menu that starts after the time-out: the local disk or the rescue system. Without this key it is the rescue system if the medium works unattended, and the local disk otherwise.", Values: "local|rescue", Example: "rescue"},
	{Name: "rescue.check_target", Text: "Whether restore looks for bad sectors on the disks that it is going to overwrite, before anything is written: it reads all of them, or writes and reads them, which takes hours. restore --check-target overrides it.", Values: "none|read|write", Example: "read"},
	{Name: "rescue.medium_size", Text: "Refuse a rescue medium that is larger: bytes with K, M or G, or CD, DVD, DVD-DL, BD.", Example: "700M"},
}

// Keys gives the reference of the configuration. An error names a key that is described
// and does not exist, or the other way round.
func Keys() ([]Key, error) {
	var c Config
	c.defaults()
	fields := map[string]reflect.Value{}
	flatten(reflect.ValueOf(c), "", fields)
	var out []Key
	for _, k := range keys {
		v, ok := fields[k.Name]
		if !ok {
			return nil, fmt.Errorf("key %s is described, and Config lacks it", k.Name)
		}
		delete(fields, k.Name)
		k.Type = map[reflect.Kind]string{reflect.String: "text", reflect.Bool: "true or false", reflect.Int: "number", reflect.Slice: "list of text"}[v.Kind()]
		if k.Type == "" || v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.String {
			return nil, fmt.Errorf("key %s is of type %v, which the reference does not know", k.Name, v.Type())
		}
		if !v.IsZero() || v.Kind() == reflect.Bool {
			k.Default = fmt.Sprint(v)
		}
		out = append(out, k)
	}
	for name := range fields {
		return nil, fmt.Errorf("key %s is not described in builder/keys.go", name)
	}
	return out, nil
}

// flatten gives the fields of a struct by their keys.
func flatten(v reflect.Value, prefix string, out map[string]reflect.Value) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case name == "" || name == "-":
		case v.Field(i).Kind() == reflect.Struct:
			flatten(v.Field(i), prefix+name+".", out)
		default:
			out[prefix+name] = v.Field(i)
		}
	}
}
