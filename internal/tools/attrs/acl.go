package attrs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Tags of entries of an access control list, linux/posix_acl.h.
const (
	userObj  = 0x01
	userTag  = 0x02
	groupObj = 0x04
	groupTag = 0x08
	maskTag  = 0x10
	otherTag = 0x20
)

// entry is one of an access control list.
type entry struct {
	tag, perm uint16
	id        uint32
}

const noID = 1<<32 - 1

// readACL gives the list of a file; without one, that of its mode.
func readACL(p string, def bool) ([]entry, error) {
	name := "system.posix_acl_access"
	if def {
		name = "system.posix_acl_default"
	}
	b, err := tools.Xattr(p, name, false)
	if err == nil && len(b) >= 4 {
		var out []entry
		for b = b[4:]; len(b) >= 8; b = b[8:] {
			le := binary.LittleEndian
			out = append(out, entry{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])})
		}
		return out, nil
	}
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	if def {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return nil, err
	}
	m := uint16(st.Mode)
	return []entry{{userObj, m >> 6 & 7, noID}, {groupObj, m >> 3 & 7, noID}, {otherTag, m & 7, noID}}, nil
}

// writeACL sets a list; one of the mode alone is a mode.
func writeACL(p string, def bool, list []entry) error {
	slices.SortStableFunc(list, func(a, b entry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	name := "system.posix_acl_access"
	if def {
		name = "system.posix_acl_default"
	}
	if len(list) == 0 {
		if err := unix.Removexattr(p, name); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		return nil
	}
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, x := range list {
		b = binary.LittleEndian.AppendUint16(b, x.tag)
		b = binary.LittleEndian.AppendUint16(b, x.perm)
		b = binary.LittleEndian.AppendUint32(b, x.id)
	}
	return unix.Setxattr(p, name, b, 0)
}

func permText(p uint16) string {
	b := []byte("rwx")
	for i := range b {
		if p>>(2-i)&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}

func (x entry) text(numeric bool) string {
	id := strconv.FormatUint(uint64(x.id), 10)
	switch x.tag {
	case userTag:
		if u, err := user.LookupId(id); err == nil && !numeric {
			id = u.Username
		}
		return "user:" + id + ":"
	case groupTag:
		if g, err := user.LookupGroupId(id); err == nil && !numeric {
			id = g.Name
		}
		return "group:" + id + ":"
	}
	return map[uint16]string{userObj: "user::", groupObj: "group::", maskTag: "mask::", otherTag: "other::"}[x.tag]
}

// heading prints what stands before the list of a file.
func heading(e *tools.Env, p string, st *unix.Stat_t) {
	owner, group := strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	if u, err := user.LookupId(owner); err == nil && !e.On("n") {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil && !e.On("n") {
		group = g.Name
	}
	e.Printf("# file: %s\n# owner: %s\n# group: %s\n", relative(e, p, "p"), owner, group)
	if st.Mode&0o7000 != 0 {
		flags := []byte("---")
		for i, bit := range []uint32{unix.S_ISUID, unix.S_ISGID, unix.S_ISVTX} {
			if st.Mode&bit != 0 {
				flags[i] = "sst"[i]
			}
		}
		e.Printf("# flags: %s\n", flags)
	}
}

func getfacl(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	tree(e, func(p string) error {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return err
		}
		access, err := readACL(p, false)
		if err != nil {
			return err
		}
		var def []entry
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if def, err = readACL(p, true); err != nil {
				return err
			}
		}
		if e.On("s") && len(access) == 3 && len(def) == 0 {
			return nil
		}
		if !e.On("c") {
			heading(e, p, &st)
		}
		if !e.On("d") {
			printACL(e, access, "")
		}
		if !e.On("a") {
			printACL(e, def, map[bool]string{false: "default:"}[e.On("d")])
		}
		e.Printf("\n")
		return nil
	})
	return nil
}

func printACL(e *tools.Env, list []entry, prefix string) {
	mask := uint16(7)
	for _, x := range list {
		if x.tag == maskTag {
			mask = x.perm
		}
	}
	for _, x := range list {
		line := prefix + x.text(e.On("n")) + permText(x.perm)
		if x.tag&(userTag|groupTag|groupObj) != 0 && x.perm&^mask != 0 && !e.On("E") {
			line = fmt.Sprintf("%s\t#effective:%s", line, permText(x.perm&mask))
		}
		e.Printf("%s\n", line)
	}
}

// parseACL reads entries such as "u:bob:rwx,g::r-x,d:o::-"; permissions are missing for -x.
func parseACL(s string, remove bool) (list []entry, def []bool, err error) {
	for _, w := range strings.Split(s, ",") {
		f := strings.Split(strings.TrimSpace(w), ":")
		d := false
		if len(f) > 1 && (f[0] == "d" || f[0] == "default") {
			d, f = true, f[1:]
		}
		x, err := parseEntry(f, remove)
		if err != nil {
			return nil, nil, err
		}
		list, def = append(list, x), append(def, d)
	}
	return list, def, nil
}

// parseEntry reads the fields of an entry: kind, name or "", permissions.
func parseEntry(f []string, remove bool) (x entry, err error) {
	if len(f) == 2 && !remove && f[0] != "" && strings.IndexByte("mo", f[0][0]) >= 0 {
		f = []string{f[0], "", f[1]}
	}
	bad := errors.New("option -m: invalid argument near character 1")
	if len(f) < 2 || len(f) > 3 || len(f) == 2 && !remove {
		return x, bad
	}
	x.id = noID
	kind := map[string][2]uint16{"u": {userObj, userTag}, "user": {userObj, userTag}, "g": {groupObj, groupTag}, "group": {groupObj, groupTag}, "m": {maskTag, maskTag}, "mask": {maskTag, maskTag}, "o": {otherTag, otherTag}, "other": {otherTag, otherTag}}[f[0]]
	if x.tag = kind[0]; x.tag == 0 {
		return x, bad
	}
	if f[1] != "" {
		x.tag = kind[1]
		if x.id, err = lookup(f[1], x.tag == userTag); err != nil {
			return x, err
		}
	}
	if len(f) == 3 {
		x.perm, err = parsePerm(f[2])
	}
	return x, err
}

func parsePerm(s string) (uint16, error) {
	if n, err := strconv.ParseUint(s, 8, 3); err == nil {
		return uint16(n), nil
	}
	p := uint16(0)
	for _, c := range s {
		i := strings.IndexRune("xwrX", c)
		if i < 0 && c != '-' {
			return 0, fmt.Errorf("invalid permissions '%s'", s)
		}
		if i >= 0 {
			p |= 1 << i
		}
	}
	return p, nil
}

func lookup(s string, isUser bool) (uint32, error) {
	id := s
	if isUser {
		if u, err := user.Lookup(s); err == nil {
			id = u.Uid
		}
	} else if g, err := user.LookupGroup(s); err == nil {
		id = g.Gid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("option -m: invalid argument near character 3: no such user or group '%s'", s)
	}
	return uint32(n), nil
}

func setfacl(e *tools.Env) error {
	if len(e.Args) == 0 || !e.On("m", "x", "b", "k", "set") {
		return tools.Usage("missing entries or file")
	}
	parsed := map[string]aclChange{}
	for _, o := range []string{"m", "x", "set"} {
		for _, v := range e.Vals(o) {
			l, d, err := parseACL(v, o == "x")
			if err != nil {
				e.Fault(2, "%v", err)
				return nil
			}
			c := parsed[o]
			parsed[o] = aclChange{append(c.list, l...), append(c.def, d...)}
		}
	}
	tree(e, func(p string) error {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		for _, def := range []bool{false, true} {
			if def && !st.IsDir() {
				continue
			}
			if err := changeACL(e, p, def, parsed); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

// aclChange are the entries of one option, and which of them are for default lists.
type aclChange struct {
	list []entry
	def  []bool
}

// of gives the entries for access lists or for default lists.
func (c aclChange) of(def, all bool) []entry {
	var out []entry
	for i, x := range c.list {
		if (c.def[i] || all) == def {
			out = append(out, x)
		}
	}
	return out
}

// decideX replaces X, which is x for directories and programs only.
func decideX(perm uint16, p string) uint16 {
	if perm&8 == 0 {
		return perm
	}
	if st, err := os.Stat(p); err == nil && (st.IsDir() || st.Mode()&0o111 != 0) {
		perm |= 1
	}
	return perm &^ 8
}

// changeACL changes the access list or the default list of a file.
func changeACL(e *tools.Env, p string, def bool, parsed map[string]aclChange) error {
	list, err := readACL(p, def)
	if err != nil {
		return err
	}
	before := slices.Clone(list)
	if e.On("b", "set") {
		list = slices.DeleteFunc(list, func(x entry) bool { return def || x.tag&(userTag|groupTag|maskTag) != 0 })
	}
	if e.On("k") && def {
		list = nil
	}
	explicit := false
	for _, x := range append(parsed["set"].of(def, e.On("d")), parsed["m"].of(def, e.On("d"))...) {
		x.perm = decideX(x.perm, p)
		list = put(list, x)
		explicit = explicit || x.tag == maskTag
	}
	for _, x := range parsed["x"].of(def, e.On("d")) {
		list = slices.DeleteFunc(list, func(y entry) bool { return y.tag == x.tag && y.id == x.id })
	}
	if slices.Equal(before, list) {
		return nil
	}
	if def && len(list) > 0 {
		list = complete(list, p)
	}
	if !e.On("n") && !explicit {
		list = withMask(list)
	}
	return writeACL(p, def, list)
}

func put(list []entry, x entry) []entry {
	for i, y := range list {
		if y.tag == x.tag && y.id == x.id {
			list[i].perm = x.perm
			return list
		}
	}
	return append(list, x)
}

// complete adds what a default list must have, from the access list.
func complete(list []entry, p string) []entry {
	access, err := readACL(p, false)
	if err != nil {
		return list
	}
	for _, a := range access {
		if a.tag&(userObj|groupObj|otherTag) != 0 && !slices.ContainsFunc(list, func(x entry) bool { return x.tag == a.tag }) {
			list = append(list, a)
		}
	}
	return list
}

// withMask gives a list with named entries the mask that leaves all of them in effect.
func withMask(list []entry) []entry {
	mask, named := uint16(0), false
	for _, x := range list {
		named = named || x.tag == maskTag
		if x.tag&(userTag|groupTag|groupObj) != 0 {
			mask |= x.perm
			named = named || x.tag != groupObj
		}
	}
	list = slices.DeleteFunc(list, func(x entry) bool { return x.tag == maskTag && !named })
	if !named {
		return list
	}
	return put(list, entry{maskTag, mask, noID})
}
