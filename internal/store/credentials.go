package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/strictyaml"
)

// CredentialsFile is where the credentials of servers are, unless another file is named.
const CredentialsFile = "/etc/mkcdrec.credentials"

// maxCredentials is how many bytes a file of credentials may have.
const maxCredentials = 1 << 20

// Secret is a text that no message shows: formatting it gives "(hidden)".
type Secret string

// String returns what messages may show.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString is String for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Credential is what a server or a part of it needs.
type Credential struct {
	// URL is the beginning of the places that it is for. It ends at a slash or at the end of
	// a place.
	URL          string `yaml:"url"`
	User         string `yaml:"user"`
	Password     Secret `yaml:"password"`
	Domain       string `yaml:"domain"` // of SMB
	AccessKey    string `yaml:"access_key"`
	SecretKey    Secret `yaml:"secret_key"`
	SessionToken Secret `yaml:"session_token"`
	Region       string `yaml:"region"`
	Key          string `yaml:"key"` // path of a private key of ssh
	Passphrase   Secret `yaml:"passphrase"`
	KnownHosts   string `yaml:"known_hosts"` // path
	CA           string `yaml:"ca"`          // path of a PEM file with the certificates that are trusted
	Options      string `yaml:"options"`     // of a mount, with commas between them

	at address
}

// Credentials are those of a file, in its order.
type Credentials []Credential

// ReadCredentials reads a file of credentials. One that others can read is refused. Errors
// have no text of the file.
func ReadCredentials(file string) (Credentials, error) {
	b, err := regular.ReadSecret(file, maxCredentials)
	if err != nil {
		return nil, fmt.Errorf("cannot read the credentials: %w", err)
	}
	c, err := ParseCredentials(b)
	if err != nil {
		return nil, fmt.Errorf("cannot read the credentials in %s: %w", file, err)
	}
	return c, nil
}

// ParseCredentials reads the text of a file of credentials: a list in YAML.
func ParseCredentials(b []byte) (Credentials, error) {
	if len(b) > maxCredentials {
		return nil, fmt.Errorf("it has more than %d bytes", maxCredentials)
	}
	c, err := decodeCredentials(b)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i := range c {
		e := &c[i]
		at, err := parse(e.URL)
		if err != nil {
			at, err = parsePrefix(e.URL)
		}
		switch {
		case err != nil || at.kind == KindDir || at.password != "":
			return nil, fmt.Errorf("entry %d: its url is not the beginning of a place: expected for example sftp://HOST/ or s3://HOST/BUCKET", i+1)
		case (e.AccessKey == "") != (e.SecretKey == ""):
			return nil, fmt.Errorf("entry %d: access_key and secret_key belong together", i+1)
		case agekey.HasPrivate(e.Key) || agekey.HasPrivate(e.KnownHosts) || agekey.HasPrivate(e.CA):
			return nil, fmt.Errorf("entry %d: it has a private key where the name of a file is wanted: write the key to a file of mode 0600, and name that with key", i+1)
		}
		id := at.kind + " " + at.user + " " + at.host + " " + at.port + " " + at.remote + at.path
		if seen[id] {
			return nil, fmt.Errorf("entry %d: another entry has the same url", i+1)
		}
		seen[id] = true
		e.at = at
	}
	return c, nil
}

// decodeCredentials reads the YAML.
func decodeCredentials(b []byte) (c Credentials, err error) {
	switch err := strictyaml.Decode(b, &c); {
	case errors.Is(err, strictyaml.ErrInvalid):
		return nil, errors.New("the file: not a list in YAML")
	case errors.Is(err, strictyaml.ErrSecond):
		return nil, fmt.Errorf("the file: %w", err)
	case err != nil:
		return nil, errors.New(yamlFault(err))
	}
	return c, nil
}

// parsePrefix takes a URL without a bucket or share apart: the beginning of places.
func parsePrefix(url string) (address, error) {
	switch kind := Scheme(url); kind {
	case KindS3, KindS3Plain, KindSMB:
		at, err := parse(strings.TrimRight(url, "/") + "/any-name")
		at.path = "/"
		if err == nil && strings.Trim(strings.TrimPrefix(url, kind+"://"), "/") != at.hostport() && at.user == "" {
			err = errors.New("not a host")
		}
		return at, err
	}
	return address{}, errors.New("not a prefix")
}

// yamlFault describes an error of the YAML decoder by its place alone: its text may have a
// part of a password.
func yamlFault(err error) string {
	text := yaml.FormatError(err, false, false) // [LINE:COLUMN] MESSAGE
	place, _, _ := strings.Cut(strings.TrimPrefix(text, "["), "]")
	line, column, ok := strings.Cut(place, ":")
	where := "the file"
	if digits := "0123456789"; ok && line != "" && strings.Trim(line, digits) == "" && strings.Trim(column, digits) == "" {
		where = "line " + line + ", column " + column
	}
	what := "not valid YAML, or a repeated key; expected a list of entries with url, user, password, ..."
	switch {
	case errors.As(err, new(*yaml.UnknownFieldError)):
		what = "unknown key"
	case errors.As(err, new(*yaml.TypeError)):
		what = "not a value of the right kind; expected a list of entries with url, user, password, ..."
	}
	return where + ": " + what
}

// login is what is known to log in to one place.
type login struct {
	Credential
	user  string // of the URL or of the credential
	found bool
}

// find returns the credential with the longest URL that a place begins with.
func (c Credentials) find(at address) login {
	best := login{}
	for _, e := range c {
		switch {
		case e.at.kind != at.kind, e.at.host != at.host, e.at.port != at.port, e.at.remote != at.remote:
		case e.at.user != "" && e.at.user != at.user:
		case !below(at.path, e.at.path):
		case best.found && (len(e.at.path) < len(best.at.path) || len(e.at.path) == len(best.at.path) && e.at.user == ""):
		default:
			best = login{e, e.User, true}
		}
	}
	if best.user == "" {
		best.user = best.at.user
	}
	return best
}

// For returns the credential that is used for a place, and false if there is none.
func (c Credentials) For(place string) (Credential, bool) {
	at, err := parse(place)
	if err != nil {
		return Credential{}, false
	}
	l := c.find(at)
	return l.Credential, l.found
}

// below reports whether a path is dir or in it.
func below(path, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return dir == "" || path == dir || strings.HasPrefix(path, dir+"/")
}
