package archive

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// The kernel's form of a POSIX ACL: version 2, then entries of tag, perm, id;
// linux/include/uapi/linux/posix_acl_xattr.h.
const (
	aclVersion  = 2
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = 0xffffffff
)

const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

var aclTags = []struct {
	tag  uint16
	name string
	id   bool
}{{aclUserObj, "user", false}, {aclUser, "user", true}, {aclGroupObj, "group", false}, {aclGroup, "group", true}, {aclMask, "mask", false}, {aclOther, "other", false}}

// aclText turns the attribute's value into "user::rw-,user:1000:r--,...",
// the short text form that GNU tar and bsdtar read.
func aclText(b []byte) (string, error) {
	le := binary.LittleEndian
	if len(b) < 4 || le.Uint32(b) != aclVersion || (len(b)-4)%8 != 0 {
		return "", fmt.Errorf("cannot read ACL: unknown form of %d bytes", len(b))
	}
	var out []string
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])
		found := false
		for _, t := range aclTags {
			if t.tag != tag {
				continue
			}
			found = true
			q := ""
			if t.id {
				q = strconv.FormatUint(uint64(id), 10)
			}
			p := []byte("---")
			for i, c := range []byte("rwx") {
				if perm&(4>>i) != 0 {
					p[i] = c
				}
			}
			out = append(out, t.name+":"+q+":"+string(p))
		}
		if !found || perm > 7 {
			return "", fmt.Errorf("cannot read ACL: unknown entry %#x", tag)
		}
	}
	return strings.Join(out, ","), nil
}

// aclBinary is the inverse of aclText.
func aclBinary(text string) ([]byte, error) {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, aclVersion)
	for _, e := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		f := strings.Split(e, ":")
		if len(f) != 3 || len(f[2]) != 3 {
			return nil, fmt.Errorf("cannot read ACL entry %q", e)
		}
		var perm uint16
		for i, c := range []byte("rwx") {
			switch f[2][i] {
			case c:
				perm |= 4 >> i
			case '-':
			default:
				return nil, fmt.Errorf("cannot read ACL entry %q: permissions", e)
			}
		}
		found := false
		for _, t := range aclTags {
			if t.name != f[0] || t.id != (f[1] != "") {
				continue
			}
			found = true
			id := uint64(aclNoID)
			if t.id {
				var err error
				if id, err = strconv.ParseUint(f[1], 10, 32); err != nil {
					return nil, fmt.Errorf("cannot read ACL entry %q: id", e)
				}
			}
			out = le.AppendUint16(out, t.tag)
			out = le.AppendUint16(out, perm)
			out = le.AppendUint32(out, uint32(id))
		}
		if !found {
			return nil, fmt.Errorf("cannot read ACL entry %q", e)
		}
	}
	return out, nil
}
