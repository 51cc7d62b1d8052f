package reference

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

// commands are the directories of the commands that people type.
var commands = []string{"cmds/mkcdrec", "cmds/restore", "cmds/clonedsk", "cmds/cutstream", "cmds/pastestream", "internal/swarm/mkcdrec-swarm"}

// Definitions builds our commands in the module's root, and gives their definitions.
func Definitions(ctx context.Context, root string) ([]*usage.Command, error) {
	dir, err := os.MkdirTemp("", "mkcdrec-reference-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	run := tool.Exec{Inherit: true}
	build := []string{"go", "build", "-C", root, "-o", dir + "/"}
	for _, c := range commands {
		build = append(build, "./"+c)
	}
	if _, err := run.Run(ctx, tool.Cmd{Args: build}); err != nil {
		return nil, err
	}
	var all []*usage.Command
	for _, c := range commands {
		b, err := run.Run(ctx, tool.Cmd{Args: []string{filepath.Join(dir, path.Base(c)), usage.JSON}})
		if err != nil {
			return nil, err
		}
		d, err := usage.Read(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
		all = append(all, d)
	}
	return all, nil
}
