package restore

// amounts shows how many bytes of the old disks the set does not have, and by which rules
// its archives leave files out. Sets of older versions have no report of that.
func (r *Restorer) amounts() {
	if r.set == nil {
		return
	}
	c, err := r.set.Coverage()
	if err != nil {
		r.Screen.Warn("the amounts that are not restored are not known: %v", err)
	}
	if c == nil {
		return
	}
	for _, l := range c.Lost() {
		r.Screen.Note("%s", l)
	}
}
