package archive

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAttrs is how many bytes the extended attributes of one file may have, names
// and values. The kernel gives at most 64 KiB of names, with values of at most
// 64 KiB each.
const maxAttrs = 1 << 30

// important are the attributes that are asked for by name where the kernel
// can't list them: without these a file is not what it was.
var important = []string{xattrACLAccess, xattrACLDefault, "security.capability", "security.selinux", "security.ima", "security.evm"}

// grow calls get with a buffer that is large enough, and gives what it filled in.
// What is asked for may change its size between two calls.
func grow(buf *[]byte, get func([]byte) (int, error)) ([]byte, error) {
	if *buf == nil {
		*buf = make([]byte, 64<<10)
	}
	for tries := 0; ; tries++ {
		n, err := get(*buf)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			return (*buf)[:n], nil
		}
		if err != unix.ERANGE || tries == 8 {
			return nil, err
		}
		*buf = make([]byte, 4*len(*buf))
	}
}

// attributes reads extended attributes and ACLs of the open file fd, of the one
// that fd refers to (O_PATH) when path names it in /proc.
func (c *creator) attributes(m *Member, fd int, path string) {
	list := func(b []byte) (int, error) {
		if path != "" {
			return unix.Listxattr(path, b)
		}
		return unix.Flistxattr(fd, b)
	}
	raw, err := grow(&c.list, list)
	names := strings.FieldsFunc(string(raw), func(r rune) bool { return r == 0 })
	if err != nil {
		if err == unix.ENOTSUP || err == unix.ENOSYS || err == unix.ENODATA {
			return
		}
		detail := "cannot list extended attributes: " + err.Error()
		if err == unix.E2BIG {
			detail = "cannot list extended attributes: there are more names than the kernel returns (64 KiB)"
		}
		c.problem(m.Path, Unreadable, detail+"; only ACLs and those of security modules are saved")
		names = important
	}
	total := 0
	for _, a := range names {
		v, err := grow(&c.val, func(b []byte) (int, error) {
			if path != "" {
				return unix.Getxattr(path, a, b)
			}
			return unix.Fgetxattr(fd, a, b)
		})
		if err == unix.ENODATA || err == unix.ENOTSUP {
			continue
		}
		if total += len(a) + len(v); err == nil && total > maxAttrs {
			err = fmt.Errorf("the attributes of one file have more than %d bytes", maxAttrs)
		}
		if err != nil {
			c.problem(m.Path, Unreadable, "cannot read attribute "+a+": "+err.Error())
			continue
		}
		if err := m.setAttribute(a, v); err != nil {
			c.problem(m.Path, Unreadable, err.Error())
		}
	}
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
}

func (m *Member) setAttribute(name string, v []byte) (err error) {
	switch name {
	case xattrACLAccess:
		m.ACLAccess, err = aclText(v)
	case xattrACLDefault:
		m.ACLDefault, err = aclText(v)
	default:
		m.Xattrs = append(m.Xattrs, Xattr{name, string(v)})
	}
	return err
}
