package store

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// The kinds of places, which are the schemes of their URLs.
const (
	KindDir     = "dir" // a path, or file://
	KindHTTP    = "http"
	KindHTTPS   = "https"
	KindSFTP    = "sftp"
	KindS3      = "s3"
	KindS3Plain = "s3+http" // without TLS
	KindRclone  = "rclone"
	KindNFS     = "nfs"
	KindSMB     = "smb"
)

// ports are the kinds that are servers, with their usual ports.
func ports() map[string]string {
	return map[string]string{KindHTTP: "80", KindHTTPS: "443", KindSFTP: "22", KindS3: "443", KindS3Plain: "80", KindNFS: "2049", KindSMB: "445"}
}

// Scheme returns the kind of a place. It is "" for a URL of a kind that stores do not have.
// rclone:REMOTE:PATH is the only one without "://"; a directory of that name is written
// ./rclone:NAME.
func Scheme(place string) string {
	if strings.HasPrefix(place, KindRclone+":") {
		return KindRclone
	}
	scheme, _, ok := strings.Cut(place, "://")
	switch {
	case !ok, scheme == "file", strings.ContainsRune(scheme, '/'):
		return KindDir
	case ports()[scheme] != "":
		return scheme
	}
	return ""
}

// Kinds are the beginnings of places that are not directories, for messages.
const Kinds = "sftp://, s3://, https://, nfs://, smb://, rclone:"

// CheckPlace reports a URL that names no place: its kind is unknown, or it has something that does not belong there.
func CheckPlace(place string) error {
	if Scheme(place) == "" {
		return fmt.Errorf("cannot use %s: unknown kind of place; use a directory, or one of %s", sysconf.RedactURL(place), Kinds)
	}
	_, err := parse(place)
	return err
}

// passwordInURL is why a URL is refused.
const passwordInURL = "a password in a URL can be seen by other users; put it into the file of credentials"

// CheckWritten is CheckPlace for a place that sets are written to: http:// and https:// may have no password there, either.
func CheckWritten(place string) error {
	a, err := parse(place)
	if err == nil && a.password != "" {
		err = errors.New(passwordInURL)
	}
	return err
}

// Canonical returns the form of a place in which two are compared: places with different forms are different
// ones, as far as their texts show. It has no secrets, and is for comparisons only: it may name no place.
//   - Servers: the host in lower case, no port where it is the usual one, a clean path without a slash at the end.
//     There is no user: it may be in the URL, in the credentials or the user of this program. There is no query. SMB
//     ignores case, and so does the form.
//   - rclone: a clean path without a slash at the beginning, which most remotes ignore.
//   - Directories: an absolute path, with symbolic links followed as far as it exists.
//
// Its error is that the place can't be parsed, or that the current directory is missing.
func Canonical(place string) (string, error) {
	a, err := parse(place)
	if err != nil {
		return "", err
	}
	switch a.kind {
	case KindDir:
		abs, err := filepath.Abs(a.path)
		if err != nil {
			return "", fmt.Errorf("cannot use %s: %w", a.text, err)
		}
		return followed(abs, 0), nil
	case KindRclone:
		return KindRclone + ":" + a.remote + strings.TrimPrefix(path.Clean("/"+a.path), "/"), nil
	case KindSMB:
		a.path = strings.ToLower(a.path)
	}
	a.host = strings.TrimSuffix(a.host, ".")
	if ip, err := netip.ParseAddr(a.host); err == nil {
		a.host = ip.String()
	}
	if n, err := strconv.Atoi(a.port); err == nil { // 022
		a.port = strconv.Itoa(n)
	}
	return a.kind + "://" + a.hostport() + strings.TrimSuffix(a.path, "/"), nil
}

// maxLinks is how many links that lead to missing directories are followed.
const maxLinks = 40

// followed is an absolute path with links followed as far as it exists. A link to a disk that is not mounted
// leads to the same path as when it is.
func followed(dir string, links int) string {
	for at, rest := dir, ""; at != "/"; at, rest = filepath.Dir(at), filepath.Join(filepath.Base(at), rest) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if to, err := os.Readlink(at); err == nil && links < maxLinks {
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(at), to)
			}
			return followed(filepath.Join(to, rest), links+1)
		}
	}
	return dir
}

// IsHome reports whether a place is the URL of a home or of a set in one: a place for
// OpenHome and OpenSet. It is false for directories, which these take, too.
func IsHome(place string) bool {
	s := Scheme(place)
	return s != KindDir && s != ""
}

// Join returns the place of a name in a home.
func Join(place, name string) string {
	if s := Scheme(place); s != KindDir && s != KindRclone {
		name = escaped(name)
	}
	if strings.HasSuffix(place, ":") && Scheme(place) == KindRclone { // the top directory of a remote
		return place + name
	}
	return strings.TrimSuffix(place, "/") + "/" + name
}

// escaped is a name as URLs have it. URL.JoinPath takes a % in a name for an escape.
func escaped(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// address is a place, taken apart.
type address struct {
	kind     string
	user     string
	password string // of http and https only
	host     string // of a server, without brackets
	port     string // of a server
	path     string // absolute and clean; of rclone as it was given
	remote   string // of rclone, with the colon
	text     string // the place without secrets and without a slash at the end, but "/" of rclone
}

// hostport is the server with the port where that is not the usual one.
func (a address) hostport() string {
	if a.port != ports()[a.kind] {
		return net.JoinHostPort(a.host, a.port)
	}
	if strings.Contains(a.host, ":") {
		return "[" + a.host + "]"
	}
	return a.host
}

// parse takes the URL of a home apart. Its errors have no secrets.
func parse(place string) (address, error) {
	a := address{kind: Scheme(place), text: sysconf.RedactURL(place)}
	bad := func(format string, args ...any) (address, error) {
		return address{}, fmt.Errorf("cannot use %q: %s", a.text, fmt.Sprintf(format, args...))
	}
	if a.kind != KindDir && (strings.ContainsFunc(place, unicode.IsControl) || !utf8.ValidString(place)) {
		return bad("it has characters that can't be printed")
	}
	switch a.kind {
	case "":
		return bad("expected a directory, or a URL of sftp://, s3://, s3+http://, https://, http://, nfs://, smb:// or rclone:REMOTE:PATH")
	case KindDir:
		if strings.HasPrefix(place, "file:") && !strings.HasPrefix(place, "file:///") {
			return bad("expected a directory, or file:///DIR")
		}
		a.path = strings.TrimPrefix(place, "file://")
		a.text = a.path
		if a.path == "" {
			return bad("it is empty")
		}
		return a, nil
	case KindRclone:
		return parseRclone(place)
	}
	u, err := url.Parse(place)
	if err != nil { // the error has the password
		return bad("it is not a URL")
	}
	a.host, a.port = strings.ToLower(u.Hostname()), cmp.Or(u.Port(), ports()[a.kind])
	a.user = u.User.Username()
	a.password, _ = u.User.Password()
	a.path = path.Clean("/" + u.Path)
	if text := cmp.Or(a.authorityFault(u), a.pathFault(u)); text != "" {
		return bad("%s", text)
	}
	if u.User = nil; a.user != "" {
		u.User = url.User(a.user)
	}
	a.text = strings.TrimSuffix(u.String(), "/")
	if u.RawQuery != "" {
		a.text = sysconf.RedactURL(a.text)
	}
	return a, nil
}

// authorityFault describes what is wrong with the server of a URL, or with its user.
func (a address) authorityFault(u *url.URL) string {
	_, password := u.User.Password()
	web := a.kind == KindHTTP || a.kind == KindHTTPS
	n, err := strconv.Atoi(a.port)
	switch {
	case a.host == "" || u.Opaque != "" || strings.ContainsAny(a.host, " \t/%\\"):
		return "it has no valid host"
	case err != nil || n < 1 || n > 65535:
		return u.Port() + " is not a port"
	case password && !web:
		return passwordInURL
	case a.user != "" && (a.kind == KindS3 || a.kind == KindS3Plain):
		return "an access key belongs into the file of credentials"
	case a.user != "" && a.kind == KindNFS:
		return "NFS has no user names in URLs"
	}
	return ""
}

// pathFault describes what is wrong with the path of a URL.
func (a address) pathFault(u *url.URL) string {
	web := a.kind == KindHTTP || a.kind == KindHTTPS
	first, _, _ := strings.Cut(strings.Trim(a.path, "/"), "/")
	switch {
	case !web && (u.RawQuery != "" || u.Fragment != "" || u.ForceQuery):
		return "it has a ? or #; write these characters of a name as %3F and %23"
	case slices.Contains(strings.Split(u.Path, "/"), ".."):
		return "its path has a \"..\""
	case (a.kind == KindS3 || a.kind == KindS3Plain) && !validBucket(first):
		return "expected s3://HOST[:PORT]/BUCKET[/PREFIX]; a bucket's name has 3 to 63 small letters, digits, dots and hyphens"
	case a.kind == KindSMB && first == "":
		return "expected smb://[USER@]HOST/SHARE[/DIR]"
	}
	return ""
}

// bucket is the bucket and the prefix of objects' names, which is "" or ends with a slash.
func (a address) bucket() (name, prefix string) {
	name, prefix, _ = strings.Cut(strings.Trim(a.path, "/"), "/")
	if prefix != "" {
		prefix += "/"
	}
	return name, prefix
}

func validBucket(s string) bool {
	return len(s) >= 3 && len(s) <= 63 && !strings.Contains(s, "..") && strings.Trim(s, ".-") == s &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// parseRclone takes rclone:REMOTE:PATH apart. Remotes that are described on the spot
// (":s3,access_key_id=x:") are refused, since other users can see command lines.
func parseRclone(place string) (address, error) {
	remote, dir, ok := strings.Cut(strings.TrimPrefix(place, KindRclone+":"), ":")
	valid := func(r rune) bool {
		return r == '_' || r == '-' || r == '.' || r == '+' || r == '@' || r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	if !ok || remote == "" || remote[0] == '-' || remote[0] == ' ' || strings.ContainsFunc(remote, func(r rune) bool { return !valid(r) }) {
		return address{}, errors.New("cannot use this rclone: place: expected rclone:REMOTE:PATH, with the name of a remote of rclone's configuration (rclone listremotes)")
	}
	if slices.Contains(strings.Split(dir, "/"), "..") {
		return address{}, fmt.Errorf("cannot use rclone:%s: its path has a \"..\"", remote)
	}
	if trimmed := strings.TrimRight(dir, "/"); trimmed != "" || dir == "" {
		dir = trimmed
	} else {
		dir = "/" // not the directory that the remote begins in
	}
	return address{kind: KindRclone, remote: remote + ":", path: dir, text: KindRclone + ":" + remote + ":" + dir}, nil
}

// partialPrefix begins the names of files that are being written; no list has them.
const partialPrefix = ".partial-"

// maxName is how long a name in a home may be: what most servers and file systems take.
const maxName = 900

// checkName refuses a name that does not lead to a file below a home on every kind of server.
func checkName(name string) error {
	bad := ""
	switch {
	case name == "" || name == "." || path.Clean(name) != name || !filepath.IsLocal(name):
		bad = "it is not a name below that place"
	case len(name) > maxName:
		bad = fmt.Sprintf("it has more than %d bytes", maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.ContainsRune(name, '\\'):
		bad = "it has characters that not every server takes"
	case hasPartial(name):
		bad = "names that begin with " + partialPrefix + " are those of unfinished files"
	default:
		return nil
	}
	return fmt.Errorf("cannot use the name %q: %s", name[:min(len(name), 200)], bad)
}

// checkDir is checkName for a directory; "" is the home itself.
func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	return checkName(dir)
}

// hasPartial reports whether a name is of an unfinished file, or below such a directory.
func hasPartial(name string) bool {
	return strings.HasPrefix(name, partialPrefix) || strings.Contains(name, "/"+partialPrefix)
}
