package archive

import "time"

// Frozen has the next increment take a file for unchanged only if it was changed last some time
// before at, when the snapshot that is archived was made: what was written after that is not in
// the archive, however late it is read. It is called just before Create.
func (o *CreateOptions) Frozen(at time.Time) {
	if late := time.Since(at); late > 0 {
		o.ahead = -int64(late/time.Second) - 1
	}
}
