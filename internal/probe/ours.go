package probe

import (
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
)

// Names of the snapshots that a backup reads from (package snapshot), by which those of
// other runs and of runs that were killed are kept out of layouts.
const (
	// SnapshotVolume begins the names of LVM snapshots.
	SnapshotVolume = "mkcdrec_snap_"
	// SnapshotDir begins the name of the directory, in the top level of a btrfs, that has a
	// run's snapshots of it.
	SnapshotDir = ".mkcdrec-snapshot-"
	// SnapshotMounts begins the name of the directory that a run mounts its snapshots in.
	SnapshotMounts = "/run/mkcdrec/snapshot-"
)

// ourVolume reports whether a row of lvs is a snapshot of a backup.
func ourVolume(v map[string]string) bool {
	return v["origin"] != "" && strings.HasPrefix(v["lv_name"], SnapshotVolume)
}

// withoutOurs removes the snapshots of backups from a list of subvolumes.
func withoutOurs(list []btrfs.Subvolume) []btrfs.Subvolume {
	return slices.DeleteFunc(list, func(s btrfs.Subvolume) bool { return strings.HasPrefix(s.Path, SnapshotDir) })
}
