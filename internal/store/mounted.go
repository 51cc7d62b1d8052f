package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountRoot is where shares are mounted.
const mountRoot = "/run/mkcdrec"

// newMounted mounts a share of NFS or SMB below a directory of its own, where only this
// process's user comes in.
func newMounted(ctx context.Context, at address, l login, access Access) (Home, error) {
	if access.Mount == nil {
		return nil, fmt.Errorf("cannot use %s: this command mounts no shares; mount it, and name the directory", at.text)
	}
	tries, options, err := mountCalls(ctx, at, l, access)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	root := cmp.Or(access.MountDir, mountRoot)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	dir, err := os.MkdirTemp(root, "home-*")
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	typ := map[string]string{KindNFS: "nfs", KindSMB: "cifs"}[at.kind]
	var first error
	for _, t := range tries {
		err := access.Mount(t.source, dir, typ, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSYMFOLLOW, options)
		if err == nil {
			return newDirHome(filepath.Join(dir, t.rest), at.text, func() error { return unmount(at.text, dir, access.Unmount) }), nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ESTALE) {
			break
		}
	}
	if err := os.Remove(dir); err != nil {
		first = errors.Join(first, err)
	}
	return nil, fmt.Errorf("cannot mount %s: %w", at.text, first)
}

// mountCall is what is mounted, and where below it the home is.
type mountCall struct{ source, rest string }

// mountCalls are the shares to try. A URL of NFS does not tell where the export ends, and its
// last directories may have to be made.
func mountCalls(ctx context.Context, at address, l login, access Access) (tries []mountCall, options []string, err error) {
	for o := range strings.SplitSeq(l.Options, ",") {
		if o != "" {
			options = append(options, o)
		}
	}
	host := at.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port := []string{}
	if at.port != ports()[at.kind] {
		port = append(port, "port="+at.port)
	}
	if at.kind == KindNFS {
		for p, rest := at.path, ""; ; p, rest = path.Dir(p), path.Join(path.Base(p), rest) {
			if p == "/" && rest != "" {
				break
			}
			tries = append(tries, mountCall{host + ":" + p, rest})
			if p == "/" {
				break
			}
		}
		// A server that does not answer for minutes is an error, which a hard mount never reports.
		return tries, append(append([]string{"soft", "timeo=300", "retrans=6"}, port...), options...), nil
	}
	share, rest, _ := strings.Cut(strings.Trim(at.path, "/"), "/")
	tries = []mountCall{{"//" + host + "/" + share, rest}}
	options = append(append([]string{"vers=3", "sign", "file_mode=0600", "dir_mode=0700"}, port...), options...)
	if l.user == "" {
		return tries, append(options, "guest"), nil
	}
	password := string(l.Password)
	if password == "" {
		if password, err = access.ask(ctx, fmt.Sprintf("Password of %s for %s: ", l.user, at.text), true); err != nil {
			return nil, nil, err
		}
	}
	if options = append(options, "username="+l.user, "password="+password); l.Domain != "" {
		options = append(options, "domain="+l.Domain)
	}
	return tries, options, nil
}

// unmount unmounts a share, later if a file of it is still open.
func unmount(text, dir string, call func(string) error) error {
	if call == nil {
		call = func(dir string) error {
			err := unix.Unmount(dir, 0)
			if errors.Is(err, unix.EBUSY) {
				err = unix.Unmount(dir, unix.MNT_DETACH)
			}
			return err
		}
	}
	if err := call(dir); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", text, err)
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("cannot remove the directory of %s: %w", text, err)
	}
	return nil
}
