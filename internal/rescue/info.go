// Package rescue is what source machine and rescue system must agree on: the
// facts that the medium carries, and the words of the kernel command line.
package rescue

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Paths in the rescue system.
const (
	InfoFile   = "/etc/mkcdrec/rescue.json"
	LayoutFile = "/etc/mkcdrec/layout.json"
	KeymapFile = "/etc/mkcdrec/keymap.json"
	KeysFile   = "/root/.ssh/authorized_keys" // who may log in by ssh
	// SignersFile has the public keys of whose sets are restored without a question, as
	// internal/signing reads them.
	SignersFile = "/etc/mkcdrec/signers"
	// CredentialsFile has secrets of servers, if the configuration wants them on the medium.
	CredentialsFile = "/etc/mkcdrec/credentials"
	SetDir          = "/mnt/set"            // where the set's file system is mounted
	MediumDir       = "/mnt/medium"         // where the boot medium is mounted
	TargetDir       = "/mnt/target"         // the restored root
	SecondDir       = "/mnt/superrescue"    // where the medium's second system is opened
	SecondFile      = "extra/tree.squashfs" // its image on the medium
	StateDir        = "/run/mkcdrec"
	LogFile         = "/var/log/mkcdrec.log"
	// SetFile holds the directory of the set that was found.
	SetFile = StateDir + "/set"
	// RepeatedFile is there when an unattended restore was refused because the disks
	// were restored from the set before; it has the place of the set.
	RepeatedFile = StateDir + "/repeated"
)

// LoggedEnv is set for programs whose output goes into LogFile already.
const LoggedEnv = "MKCDREC_LOGGED"

// Ready is the line that means: devices settled, medium searched, prompt usable.
const Ready = "mkcdrec: rescue system ready"

// VolumeLabel is the label of our ISO images, ISOMark a file at their root
// that holds the medium's id.
const (
	VolumeLabel = "MKCDREC"
	ISOMark     = ".mkcdrec"
)

// Info is what the medium knows of the machine it was made on.
type Info struct {
	Version  int       `json:"version"`
	Host     string    `json:"host"`
	Created  time.Time `json:"created"`
	Program  string    `json:"program"`
	Kernel   string    `json:"kernel"`
	MediumID string    `json:"mediumID"`
	// Machine is what the sets of that machine have as manifest.Manifest.Machine, so that those
	// of another machine with its name are not taken for its own; "" where it has no id.
	Machine string `json:"machine,omitempty"`
	// SetID, FSUUID and Path say where the set was written: the file system's
	// UUID and the directory on it. Empty for a medium without a backup.
	SetID  string `json:"setID,omitempty"`
	FSUUID string `json:"fsUUID,omitempty"`
	Path   string `json:"path,omitempty"`
	// Source is the URL of the home that the set was written to, without secrets.
	Source string `json:"source,omitempty"`
	// Credentials is set if the medium has secrets of servers.
	Credentials bool `json:"credentials,omitempty"`
	// Tape is the drive that the set was written with, for a set on tape.
	Tape string `json:"tape,omitempty"`
	// HookTimeout is how long a hook of a restore may run, "" for the default.
	HookTimeout string `json:"hookTimeout,omitempty"`
	// CheckTarget is restore's --check-target where the command line has none.
	CheckTarget string `json:"checkTarget,omitempty"`
}

// InfoVersion is the only version of Info there is.
const InfoVersion = 1

// ReadInfo reads the facts below root. Outside of a rescue system the error
// is os.ErrNotExist.
func ReadInfo(root string) (*Info, error) {
	b, err := os.ReadFile(root + InfoFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the rescue system's facts: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var i Info
	if err := d.Decode(&i); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", InfoFile, err)
	}
	if i.Version != InfoVersion {
		return nil, fmt.Errorf("cannot use %s: version %d is not known", InfoFile, i.Version)
	}
	return &i, nil
}

// Inside reports whether we run in a rescue system.
func Inside() bool {
	_, err := os.Stat(InfoFile)
	return err == nil
}

// Options are the words of the kernel command line that are ours.
type Options struct {
	Source  []string // where to look for the set, in this order
	Host    string   // whose sets are meant, if not the medium's own host's
	Again   bool     // restore unattended also what was restored from this set before
	Auto    string   // "restore" or ""
	Confirm []string // serial numbers of disks that may be overwritten
	Map     []string // OLD=NEW
	Answers string   // file or URL for restore --answers
	Net     Network
	NTP     string // server to set the clock by
	SSHKeys []string
	After   string // what follows the unattended job: poweroff, reboot, shell
	Medium  string // id of the medium that the loader read us from
	Check   bool   // read the medium through before anything else
	Shell   bool   // nothing but a shell
	Debug   bool
	// Fleet is the server of a room that the machine joins, https://ADDRESS:PORT, and
	// FleetCert the SHA-256 of its certificate in hex; both or none.
	Fleet, FleetCert string
}

// Network is how the network is to be configured.
type Network struct {
	// IP is "", "dhcp", "dhcp6", "source" (as the source machine had it), or
	// addresses in CIDR notation and gateways: "192.0.2.7/24,192.0.2.1".
	IP   string
	NIC  string   // MAC or name of the card; "" takes the first with a cable
	VLAN int      // 802.1Q id, 0 for none
	Bond string   // "MODE:CARD+CARD", the cards by MAC or name
	DNS  []string // name servers
}

// ParseCmdline reads mkcdrec.* words. Unknown ones are reported, all of them;
// the options are usable without it.
func ParseCmdline(cmdline string) (Options, error) {
	var o Options
	var errs []error
	bootif := "" // the card the firmware or a loader started from
	for _, w := range sysconf.ParseCmdline(cmdline).Words {
		if w.Name == "BOOTIF" {
			bootif = w.Value
		}
		if strings.HasPrefix(w.Name, "mkcdrec.") {
			errs = append(errs, o.set(w.Name, w.Value))
		}
	}
	// pxelinux writes 01-52-54-00-00-00-01, others 52:54:00:00:00:01.
	if mac := strings.ReplaceAll(bootif, "-", ":"); o.Net.NIC == "" && o.Net.Bond == "" && mac != "" {
		o.Net.NIC = strings.ToLower(mac[max(0, len(mac)-17):])
	}
	if (o.Fleet == "") != (o.FleetCert == "") {
		errs = append(errs, errors.New("mkcdrec.fleet and mkcdrec.fleetcert go together"))
		o.Fleet, o.FleetCert = "", ""
	}
	if o.Fleet != "" && o.Net.IP == "" {
		o.Net.IP = "dhcp"
	}
	// A set on a server needs a network.
	for _, s := range o.Source {
		if o.Net.IP == "" && (strings.Contains(s, "://") && !strings.HasPrefix(s, "file://") || strings.HasPrefix(s, "rclone:")) {
			o.Net.IP = "dhcp"
		}
	}
	return o, errors.Join(errs...)
}

// set takes one word of the command line.
func (o *Options) set(k, v string) error {
	texts := map[string]*string{"mkcdrec.host": &o.Host, "mkcdrec.answers": &o.Answers, "mkcdrec.medium": &o.Medium, "mkcdrec.ip": &o.Net.IP, "mkcdrec.nic": &o.Net.NIC, "mkcdrec.ntp": &o.NTP}
	lists := map[string]*[]string{"mkcdrec.source": &o.Source, "mkcdrec.confirm": &o.Confirm, "mkcdrec.map": &o.Map, "mkcdrec.dns": &o.Net.DNS}
	flags := map[string]*bool{"mkcdrec.again": &o.Again, "mkcdrec.check": &o.Check, "mkcdrec.shell": &o.Shell, "mkcdrec.debug": &o.Debug}
	if t := texts[k]; t != nil {
		*t = v
	} else if l := lists[k]; l != nil {
		*l = append(*l, strings.Split(v, ",")...)
	} else if f := flags[k]; f != nil {
		*f = true
	} else {
		return o.setChecked(k, v)
	}
	return nil
}

// setChecked takes a word whose value has rules.
func (o *Options) setChecked(k, v string) error {
	want := func(what string) error { return fmt.Errorf("%s: %q; want %s", k, v, what) }
	switch k {
	case "mkcdrec.auto":
		if v != "restore" {
			return fmt.Errorf("%s: %q is not known; want restore", k, v)
		}
		o.Auto = v
	case "mkcdrec.vlan":
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 4094 {
			return want("a number from 1 to 4094")
		}
		o.Net.VLAN = n
	case "mkcdrec.bond":
		if mode, cards, _ := strings.Cut(v, ":"); mode == "" || cards == "" {
			return want("MODE:CARD+CARD")
		}
		o.Net.Bond = v
	case "mkcdrec.sshkey":
		// A key has a blank, which the command line can't hold.
		o.SSHKeys = append(o.SSHKeys, strings.Replace(v, ",", " ", 1))
	case "mkcdrec.after":
		if !slices.Contains([]string{"poweroff", "reboot", "shell"}, v) {
			return fmt.Errorf("%s: %q is not known; want poweroff, reboot or shell", k, v)
		}
		o.After = v
	case "mkcdrec.fleet":
		if !strings.HasPrefix(v, "https://") {
			return want("https://ADDRESS:PORT")
		}
		o.Fleet = v
	case "mkcdrec.fleetcert":
		if b, err := hex.DecodeString(v); err != nil || len(b) != sha256.Size {
			return want("the SHA-256 of a certificate in hex")
		}
		o.FleetCert = v
	default:
		return fmt.Errorf("%s is not known", k)
	}
	return nil
}

// CarryOver gives the words of a source machine's command line that the
// rescue system's kernel is started with: all but those about its root file
// system, its loader and its start-up messages.
func CarryOver(cmdline string) string {
	var out []string
	for _, w := range sysconf.ParseCmdline(cmdline).Words {
		k := w.Name
		switch k {
		case "--": // what follows is for the machine's own init
			return strings.Join(out, " ")
		case "nomodule", "nomodules", "panic", "crashkernel", "reboot",
			"root", "rootfstype", "rootflags", "rootwait", "rootdelay", "ro", "rw", "init", "rdinit", "initrd", "BOOT_IMAGE", "quiet", "splash", "resume", "resume_offset", "single", "systemd.unit", "systemd.mask", "auto", "recovery", "3", "5", "s", "S":
			continue
		}
		if strings.HasPrefix(k, "mkcdrec.") || strings.HasPrefix(k, "rd.") || strings.HasPrefix(k, "systemd.") {
			continue
		}
		out = append(out, w.Raw())
	}
	return strings.Join(out, " ")
}
