package main

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// TestDocuments: every link from one installed document to another, or to a picture, leads to
// something that is installed.
func TestDocuments(t *testing.T) {
	t.Chdir("../..")
	docs, err := documents()
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	n := 0
	for name, b := range docs {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, g := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(g[1], "://") {
				continue
			}
			if n++; docs[path.Join(path.Dir(name), g[1])] == nil {
				t.Errorf("%s has a link to %s, which is not installed", name, g[1])
			}
		}
	}
	if n < 50 || docs["copyright"] == nil || docs["changelog.gz"] == nil {
		t.Errorf("%d links in %d documents", n, len(docs))
	}
}
