package sysconf

import (
	"slices"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "***"

// RedactFstab gives the text of an fstab(5) without passwords: values of options
// such as password=, what follows a % in the user of a share, and passwords in
// URLs. Names of users and of credential files stay. Comments are redacted too:
// lines are often kept there.
func RedactFstab(text string) string {
	lines := splitLines(text)
	for _, l := range lines {
		// Blanks end a field; a comment may hold a whole line of fstab.
		var b strings.Builder
		at := 0
		for at < len(l.body) {
			from := at
			for at < len(l.body) && l.body[at] != ' ' && l.body[at] != '\t' {
				at++
			}
			b.WriteString(redactField(l.body[from:at]))
			for from = at; at < len(l.body) && (l.body[at] == ' ' || l.body[at] == '\t'); {
				at++
			}
			b.WriteString(l.body[from:at])
		}
		l.body = b.String()
	}
	return joinLines(lines)
}

// redactField redacts a field of fstab, which may be options or a device.
func redactField(raw string) string {
	text, at := unescape(raw)
	var b strings.Builder
	done := 0
	for from := 0; from <= len(text); {
		to := optionEnd(text, from)
		o := text[from:to]
		r := redactOption(o)
		if r != o {
			b.WriteString(raw[done:at[from]] + Escape(r))
			done = at[to]
		}
		from = to + 1
	}
	return b.String() + raw[done:]
}

// optionEnd is where the option that begins at from ends: at a comma, but for those
// between double quotes, and two in a row, which is how cifs writes one in a password.
func optionEnd(s string, from int) int {
	secret := secretName(s[from : from+max(strings.IndexByte(s[from:], '='), 0)])
	quoted := false
	for i := from; i < len(s); i++ {
		switch {
		case s[i] == '"' && strings.Count(s[i:], `"`)+strings.Count(s[from:i], `"`) > 1:
			quoted = !quoted
		case s[i] != ',' || quoted:
		case secret && i+1 < len(s) && s[i+1] == ',':
			i++
		default:
			return i
		}
	}
	return len(s)
}

// redactOption redacts one mount option or the name of a share.
func redactOption(o string) string {
	k, v, ok := strings.Cut(o, "=")
	if !ok || strings.ContainsAny(k, "/:@") {
		return RedactURL(o)
	}
	lower := strings.ToLower(k)
	switch {
	case secretName(k):
		return k + "=" + Redacted
	case lower == "user" || lower == "username":
		if u, _, ok := strings.Cut(v, "%"); ok { // user%password
			return k + "=" + u + "%" + Redacted
		}
		if u, _, ok := strings.Cut(v, ":"); ok { // curlftpfs
			return k + "=" + u + ":" + Redacted
		}
	case strings.Contains(strings.ToLower(v), "sshpass"):
		return k + "=" + Redacted
	case secretName(v[:max(strings.LastIndexByte(v, '='), 0)]): // key=passphrase:passphrase_passwd=...
		return k + "=" + Redacted
	}
	return k + "=" + RedactURL(v)
}

// secretName reports the name of something whose value is a secret, by its last
// part. Names of files with secrets are not: passwd_file=, secretfile=.
func secretName(name string) bool {
	name = strings.TrimRight(strings.ToLower(name), "0123456789")
	name = strings.NewReplacer("-", "_", ".", "_", ":", "_", "?", "_").Replace(name)
	for _, end := range []string{"password", "passwd", "passphrase", "passcode", "secret", "token", "apikey", "api_key", "access_key", "private_key", "secret_key", "shared_key"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	last := name[strings.LastIndexByte(name, '_')+1:]
	return slices.Contains([]string{"pass", "pw", "pwd", "psk", "sig", "signature"}, last)
}

// RedactCmdline gives a kernel command line without secrets: passwords of iSCSI and
// of URLs, credentials for systemd, LUKS keys, and any word whose name shows that its
// value is one.
func RedactCmdline(text string) string {
	c := ParseCmdline(text)
	open := false // a single quote, which some programs of an initramfs know
	for _, w := range c.Words {
		if open {
			end := strings.HasSuffix(w.Name+w.Value, "'")
			w.blank()
			open = !end
			continue
		}
		if !w.Assigned {
			continue
		}
		v := redactWord(w)
		open = v != w.Value && strings.HasPrefix(w.Value, "'") && !(len(w.Value) > 1 && strings.HasSuffix(w.Value, "'"))
		w.Set(v)
	}
	return c.String()
}

// blank replaces a word as a whole; words that are held stay right.
func (w *Word) blank() {
	c := w.c
	c.text = c.text[:w.all.from] + Redacted + c.text[w.all.to:]
	old := c.Words
	c.parse()
	for i := range min(len(old), len(c.Words)) {
		*old[i] = *c.Words[i]
		c.Words[i] = old[i]
	}
}

// redactWord gives the value of a word without secrets.
func redactWord(w *Word) string {
	switch {
	case w.Value == "":
		return ""
	case w.Is("rd.luks.key", "luks.key") || secretName(w.Name):
		return Redacted
	case w.Is("systemd.set_credential", "systemd.set_credential_binary"):
		name, _, _ := strings.Cut(w.Value, ":")
		return name + ":" + Redacted
	}
	if k, _, ok := strings.Cut(w.Value, "="); ok && secretName(k) { // systemd.setenv=TOKEN=...
		return k + "=" + Redacted
	}
	if i := strings.Index(w.Value, "iscsi:"); i >= 0 && (i == 0 || w.Value[i-1] == ':') {
		if at := strings.LastIndexByte(w.Value, '@'); at > i {
			user, _, _ := strings.Cut(w.Value[i+len("iscsi:"):at], ":")
			return w.Value[:i] + "iscsi:" + user + ":" + Redacted + w.Value[at:]
		}
	}
	return RedactURL(w.Value)
}

// RedactURL gives a URL, or a host's name with a user before it, without its
// password and without secrets of its query, to be printed. What is not a URL stays.
func RedactURL(s string) string {
	head, rest := "", s
	if i := strings.Index(s, "://"); i >= 0 {
		head, rest = s[:i+3], s[i+3:]
	} else if i := strings.IndexByte(s, '#'); i >= 0 && strings.Contains(s[i:], "@") { // sshfs#user@host:
		head, rest = s[:i+1], s[i+1:]
	}
	tail := ""
	if i := strings.IndexByte(rest, '?'); i >= 0 && head != "" && !strings.Contains(rest[i:], "@") {
		rest, tail = rest[:i], redactQuery(rest[i:])
	}
	return head + redactPassword(rest, head == "") + tail
}

// redactPassword replaces what is between a colon and an at sign. plain is set where nothing
// before s shows that it is a URL.
func redactPassword(s string, plain bool) string {
	colon, at := strings.IndexByte(s, ':'), strings.LastIndexByte(s, '@')
	slash := strings.IndexByte(s, '/')
	switch {
	case colon < 0 || at < colon, slash >= 0 && slash < colon: // no password
	case slash >= 0 && slash < at && plain: // host:/path@x
	case slash >= 0 && slash < at && strings.Trim(s[colon+1:slash], "0123456789") == "" && !strings.Contains(s[:slash], "@"): // host:8080/path@x
	case strings.HasPrefix(s, "["): // an IPv6 address
	default:
		if slash >= 0 {
			if in := strings.LastIndexByte(s[:slash], '@'); in > colon { // of the host's part only
				at = in
			}
		}
		s = s[:colon+1] + Redacted + s[at:]
	}
	return s
}

// redactQuery redacts the query of a URL, "?a=b&token=x".
func redactQuery(q string) string {
	parts := strings.Split(q[1:], "&")
	for i, p := range parts {
		if k, _, ok := strings.Cut(p, "="); ok && secretName(k) {
			parts[i] = k + "=" + Redacted
		}
	}
	return q[:1] + strings.Join(parts, "&")
}

// DropSecrets gives a kernel command line without the words that RedactCmdline would
// change, and the names of those, each once.
func DropSecrets(text string) (without string, names []string) {
	old, red := ParseCmdline(text), ParseCmdline(RedactCmdline(text))
	var b strings.Builder
	from := 0
	for i, w := range old.Words {
		if i < len(red.Words) && red.Words[i].Name == w.Name && red.Words[i].Value == w.Value {
			continue
		}
		start := w.all.from
		for start > from && text[start-1] == ' ' {
			start--
		}
		b.WriteString(text[from:start])
		from = w.all.to
		if w.Assigned && !slices.Contains(names, w.Name) {
			names = append(names, w.Name)
		}
	}
	return b.String() + text[from:], names
}
