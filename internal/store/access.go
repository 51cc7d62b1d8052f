package store

import (
	"cmp"
	"context"
	"errors"
)

// Access is what is needed besides a URL to use a home. The zero value is for places that need
// neither secrets nor questions.
type Access struct {
	// Credentials are those of a file, see ReadCredentials.
	Credentials Credentials
	// Ask asks a person; nil means that there is no person to ask.
	Ask func(ctx context.Context, question string, secret bool) (string, error)
	// KnownHosts is the file of the keys of ssh servers, in OpenSSH's format. "" means the
	// user's ~/.ssh/known_hosts and the system's /etc/ssh/ssh_known_hosts.
	KnownHosts string
	// Mount mounts a share of NFS or SMB, as shares.System.Mount does; Unmount undoes it. nil
	// means that such places can't be used here.
	Mount   func(source, dir, typ string, flags uintptr, options []string) error
	Unmount func(dir string) error
	// MountDir is where directories for mounts are made; "" means /run/mkcdrec.
	MountDir string

	limits limits // zero: patient
}

// errNoPerson is the cause when a secret is missing and there is no person to ask.
var errNoPerson = errors.New("no credentials for it, and no terminal to ask")

// ask asks the person for something.
func (a Access) ask(ctx context.Context, question string, secret bool) (string, error) {
	if a.Ask == nil {
		return "", errNoPerson
	}
	return a.Ask(ctx, question, secret)
}

func (a Access) patience() limits {
	if a.limits == (limits{}) {
		return patient
	}
	return a.limits
}

// OpenHome opens the home at a directory or URL. Where it needs a connection this is made now,
// so that wrong credentials are reported before a backup begins. The directory of a home does
// not have to exist: Create makes it.
func OpenHome(ctx context.Context, place string, access Access) (Home, error) {
	at, err := parse(place)
	if err != nil {
		return nil, err
	}
	login := access.Credentials.find(at)
	login.user = cmp.Or(at.user, login.user)
	switch at.kind {
	case KindDir:
		return newDirHome(at.path, at.text, nil), nil
	case KindNFS, KindSMB:
		return newMounted(ctx, at, login, access)
	case KindSFTP:
		return newSFTP(ctx, at, login, access)
	case KindS3, KindS3Plain:
		return newS3(ctx, at, login, access)
	case KindRclone:
		return newRclone(ctx, at, login)
	}
	return newDAV(ctx, at, login, access, place)
}

// OpenSet opens the set at a URL or in a directory. close ends connections, and unmounts.
func OpenSet(ctx context.Context, place string, access Access) (st Store, closeHome func() error, err error) {
	home, err := OpenHome(ctx, place, access)
	if err != nil {
		return nil, nil, err
	}
	return home.At(ctx, ""), home.Close, nil
}

// noStore is the store of a directory whose name can't be used.
type noStore struct {
	text string
	err  error
}

func (n noStore) Open(string) (File, error)  { return nil, n.err }
func (n noStore) Size(string) (int64, error) { return 0, n.err }
func (n noStore) String() string             { return n.text }
