package clone

import "fmt"

// identity gives the layout other identities, if that is wanted.
func (s *Source) identity(which string) error {
	switch which {
	case Keep:
		return nil
	case New:
		return fmt.Errorf("--identity new is not there yet")
	}
	return fmt.Errorf("--identity %q is neither keep nor new", which)
}
