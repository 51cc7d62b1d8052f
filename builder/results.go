package builder

import (
	"time"

	"github.com/mkcdrec/mkcdrec/builder/retention"
)

// These are results of `mkcdrec` as programs get them with --json.

// VersionResult is the kind "version".
type VersionResult struct {
	Version string `json:"version"`
}

// ImageResult is the kind "image": a rescue medium.
type ImageResult struct {
	ISO   string `json:"iso"`
	Bytes int64  `json:"bytes"`
	// Unchanged is a medium that --if-changed has not made again.
	Unchanged bool `json:"unchanged,omitempty"`
}

// TreeResult is the kind "netboot": a tree for network boot.
type TreeResult struct {
	Dir string `json:"dir"`
}

// RoomResult is the kind "room": where a room of machines is served.
type RoomResult struct {
	Page        string `json:"page"`
	Boot        string `json:"boot"`
	Fingerprint string `json:"fingerprint"`
}

// EntryResult is the kind "entry": a file of a set, or one that would be saved, which has
// its path only.
type EntryResult struct {
	Path string    `json:"path"` // from /
	Type string    `json:"type,omitempty"`
	Mode int64     `json:"mode,omitempty"`
	UID  int       `json:"uid,omitempty"`
	GID  int       `json:"gid,omitempty"`
	Size int64     `json:"size,omitempty"`
	Time time.Time `json:"time,omitzero"`
	Link string    `json:"link,omitempty"`
}

// VerifiedResult is the kind "verified": a set in which everything that is there is good.
type VerifiedResult struct {
	Set     string   `json:"set"` // where it is
	ID      string   `json:"id"`
	Files   int      `json:"files"`
	Missing []string `json:"missing"` // files that a restore can do without
	Signer  string   `json:"signer"`  // fingerprint of the key that it is signed with, "" if it is not signed
}

// PruneResult is the kind "prune": what becomes of the sets in a directory.
type PruneResult struct {
	Dir     string              `json:"dir"`
	Sets    []retention.Verdict `json:"sets"`
	Removed []string            `json:"removed"` // names; none in a dry run
}
