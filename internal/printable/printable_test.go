package printable

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"Samsung SSD 870":           "Samsung SSD 870",
		"Größe 日本語":                 "Größe 日本語",
		`dev-disk-by\x2duuid`:       `dev-disk-by\x2duuid`,
		"\x1b[2J\x1b[1;1HERASED":    `\x1b[2J\x1b[1;1HERASED`,
		"a\rb\nc\td":                `a\rb\nc\td`,
		"\x9b31m":                   `\x9b31m`,
		"\u009b31m":                 `\u009b31m`,
		"a\u202egnp.exe":            `a\u202egnp.exe`,
		"\u2066x\u2069\u200bz":      `\u2066x\u2069\u200bz`,
		"\x7f\x00":                  `\x7f\x00`,
		"\xff\xfe":                  `\xff\xfe`,
		"\ufffd":                    "\ufffd",
		"\U000e0001tag":             `\U000e0001tag`,
		"line\u2028separator":       `line\u2028separator`,
		"\x1b]0;title\a\x1b]52;c;!": `\x1b]0;title\a\x1b]52;c;!`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q; want %q", in, got, want)
		}
	}
	if got, want := CleanLines("a\r\n\tb\x1b[31m\n"), "a\n\tb\\x1b[31m\n"; got != want {
		t.Errorf("CleanLines = %q; want %q", got, want)
	}
	if got, want := Short("\x1bäöü", 4), `\x1bä...`; got != want {
		t.Errorf("Short = %q; want %q", got, want)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("x\x1b[31m\u202e\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		c := Clean(s)
		if i := strings.IndexFunc(c, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(c) {
			t.Errorf("Clean(%q) = %q: byte %d can't be shown", s, c, i)
		}
		if again := Clean(c); again != c {
			t.Errorf("Clean(Clean(%q)) = %q; want %q", s, again, c)
		}
		Short(s, 3)
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		j := JSON(b)
		if json.Unmarshal(b, &want) != nil || json.Unmarshal(j, &got) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("JSON(%q) = %q: another value", b, j)
		}
		if CleanLines(string(j)) != string(j) {
			t.Errorf("JSON(%q) = %q: can't be shown", b, j)
		}
	})
}

// TestKeys: no private key of age is shown, whatever is around it.
func TestKeys(t *testing.T) {
	const key = "AGE-SECRET-KEY-1QQPQY9GEHEIMGEHEIM0QQQ"
	for _, c := range []struct{ in, want string }{
		{key, "AGE-SECRET-KEY-..."},
		{"cannot open /x/" + key + ": no such file", "cannot open /x/AGE-SECRET-KEY-...: no such file"},
		{"a-b " + strings.ToLower(key) + ", " + key + "@h", "a-b age-secret-key-..., AGE-SECRET-KEY-...@h"},
		{"AGE-SECRET-KEY-PQ-1QQPQY9GEHEIM\x1b", `AGE-SECRET-KEY-...\x1b`},
		{"ı-ß AGE-SECRET-KEY-", "ı-ß AGE-SECRET-KEY-"},
		{"begins with AGE-SECRET-KEY-1", "begins with AGE-SECRET-KEY-1"},
		{"-", "-"},
	} {
		if got := Clean(c.in); got != c.want || Clean(got) != got {
			t.Errorf("Clean(%q) = %q; want %q", c.in, got, c.want)
		}
	}
}
