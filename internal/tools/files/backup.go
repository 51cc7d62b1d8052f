package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// backupMode is what -b, -S and --backup demand: "none", "simple", "existing" or "numbered".
func backupMode(e *tools.Env) (string, error) {
	if !e.On("b", "S", "backup") {
		return "none", nil
	}
	v := e.Val("backup")
	if v == "" {
		v = os.Getenv("VERSION_CONTROL")
	}
	if v == "" {
		return "existing", nil
	}
	mode, ok := map[string]string{"none": "none", "off": "none", "simple": "simple", "never": "simple", "existing": "existing", "nil": "existing", "numbered": "numbered", "t": "numbered"}[v]
	if !ok {
		return "", tools.Usage("invalid argument '%s' for 'backup type': use none, simple, existing or numbered", v)
	}
	return mode, nil
}

// backs reports whether a file that is replaced is kept under another name.
func backs(e *tools.Env) bool {
	mode, err := backupMode(e)
	return err == nil && mode != "none"
}

// backUp renames a file that is replaced, and gives its new name.
func backUp(e *tools.Env, p string) (string, error) {
	mode, err := backupMode(e)
	if err != nil {
		return "", err
	}
	to := p + e.Or("S", "~")
	if last := lastBackup(p); mode == "numbered" || mode == "existing" && last > 0 {
		to = fmt.Sprintf("%s.~%d~", p, last+1)
	}
	return to, os.Rename(p, to)
}

// lastBackup is the highest number of a file's numbered backups; 0 without one.
func lastBackup(p string) int {
	es, err := os.ReadDir(filepath.Dir(p))
	if err != nil {
		return 0
	}
	last := 0
	for _, x := range es {
		num, ok := strings.CutPrefix(x.Name(), filepath.Base(p)+".~")
		if n, err := strconv.Atoi(strings.TrimSuffix(num, "~")); ok && strings.HasSuffix(num, "~") && err == nil {
			last = max(last, n)
		}
	}
	return last
}

// backupNote is what -v prints of a backup.
func backupNote(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" (backup: '%s')", name)
}
