package set

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// MachineFile is the file of a set with the id of the machine that it is of. Manifests are
// compared by its digest, so that no file but the manifest is read.
const MachineFile = manifest.MachineFile

// appID makes our ids of machines differ from those of other programs: machine-id(5) asks
// programs to keep the id itself to themselves.
const appID = "3f0a9c5e67b94d0ea2f1c84d5be07a96"

// Machine identifies a machine, also among those of one name.
type Machine struct {
	Host string
	ID   string // made of machine-id(5), a UUID; "" if the machine has none

	raw string // what ID is made of
}

// This is this machine, whose name is host.
func This(host string) Machine {
	for _, name := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		raw := strings.TrimSpace(string(b))
		if id := specific(raw, appID); id != "" {
			return Machine{host, id, raw}
		}
	}
	return Machine{Host: host}
}

// specific computes what sd_id128_get_machine_app_specific(3) does, as a UUID; "" if one of the
// two is not 128 bits in hex.
func specific(id, app string) string {
	key, err := hex.DecodeString(id)
	text, err2 := hex.DecodeString(app)
	if err != nil || err2 != nil || len(key) != 16 || len(text) != 16 {
		return ""
	}
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return uuid.Random([16]byte(h.Sum(nil)[:16]))
}

// Write writes the machine's file into the directory of a set. It returns what the set's
// manifest has of it: nothing for a machine without an id, which gets no file.
func (m Machine) Write(dir string) ([]manifest.FileSum, error) {
	sum := m.sums()
	if sum == nil {
		return nil, nil
	}
	if err := regular.WriteFile(filepath.Join(dir, MachineFile), []byte(m.ID+"\n")); err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	return sum, nil
}

// sums is what the manifests of the machine's sets have of its file.
func (m Machine) sums() []manifest.FileSum {
	if m.ID == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(m.ID + "\n"))
	return []manifest.FileSum{{Name: MachineFile, Size: quantity.Size(len(m.ID) + 1), SHA256: hex.EncodeToString(sum[:])}}
}

// Digest is the SHA-256 of the file that the machine's sets have, in hex, as
// manifest.Manifest.Machine returns it; "" for a machine without an id.
func (m Machine) Digest() string {
	for _, s := range m.sums() {
		return s.SHA256
	}
	return ""
}

// owns reports whether a set is certainly m's. doubt is why it is not, if its host has m's name.
func (m Machine) owns(s *manifest.Manifest) (mine bool, doubt string) {
	is, want := s.Sum(MachineFile), manifest.FileSum{}
	for _, w := range m.sums() {
		want = w
	}
	switch {
	case s.Host != m.Host:
		return false, ""
	case is == want:
		return true, ""
	case is.Name == "":
		return false, "it has no machine's id: if it is of this machine, remove it by hand"
	}
	return false, "of another machine with this one's name"
}
