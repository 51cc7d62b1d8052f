package nightly

import (
	"context"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

const (
	timerUnit = "mkcdrec.timer"
	cronFile  = "/etc/cron.d/mkcdrec"
)

// Enabled reports whether a backup begins every day, by the timer of systemd or a file of
// cron; root is "" for this machine.
func Enabled(ctx context.Context, run tool.Runner, root string) bool {
	if out, err := run.Run(ctx, tool.New("systemctl", "is-enabled", timerUnit)); err == nil && strings.TrimSpace(string(out)) == "enabled" {
		return true
	}
	_, err := os.Stat(root + cronFile)
	return err == nil
}
