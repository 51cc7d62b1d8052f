package probe

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// awayError is the reason why a disk is not this machine's own. It isn't opened: a path that
// is not the active one may answer with errors, or make a SAN switch over.
type awayError string

func (e awayError) Error() string { return "it is left alone: " + string(e) }

// iscsi is in the sysfs path of a SCSI disk that an iSCSI session brings, of
// software and of adapters: .../host3/session1/target3:0:0/...
var iscsi = lazyregexp.New(`/session\d+/`)

// away returns what is not the machine's own about a disk: that it is on another
// machine, or is one of several paths to a disk. "" means that nothing is.
func (m Machine) away(disk string) string {
	sys := "/sys/block/" + sysName(disk) + "/"
	if held, err := filepath.Glob(m.path(sys + "holders/dm-*")); err == nil {
		for _, h := range held {
			dm := "/sys/block/" + filepath.Base(h) + "/dm/"
			if strings.HasPrefix(m.read(dm+"uuid"), "mpath-") {
				return "it is a path to the multipath device " + m.read(dm+"name")
			}
		}
	}
	real, err := filepath.EvalSymlinks(m.path(sys + "device"))
	if err == nil && iscsi().MatchString(real) {
		return "it is an iSCSI disk"
	}
	if !strings.HasPrefix(disk, "nvme") {
		return ""
	}
	// Of the controller, or of those below a subsystem; Linux names them tcp, rdma,
	// fc and loop, nvme-fabrics(8).
	all, err := filepath.Glob(m.path(sys + "device/nvme*/transport"))
	if err != nil {
		return ""
	}
	for _, f := range append(all, m.path(sys+"device/transport")) {
		if t := m.read(strings.TrimPrefix(f, m.path("/"))); slices.Contains([]string{"tcp", "rdma", "fc", "loop"}, t) {
			return "it is an NVMe disk over " + t
		}
	}
	return ""
}

// awayUnder gives the first of the disks under a device that is not the
// machine's own, and why; "" when all are.
func (m Machine) awayUnder(dev string) (disk, why string) {
	for _, d := range m.DisksOf(dev) {
		if why := m.away(d); why != "" {
			return d, why
		}
	}
	return "", ""
}
