package rescue

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// rcloneConfig is where rclone looks for its configuration in the rescue system, whose home directory is /root.
const rcloneConfig = "/root/.config/rclone/rclone.conf"

// forRclone adds the program rclone to those that are carried, if the source is a place of rclone.
func (b *Maker) forRclone(progs []initramfs.Program, source string) []initramfs.Program {
	if store.Scheme(source) != store.KindRclone || b.Config.Programs == "none" {
		return progs
	}
	for _, p := range progs {
		if p.Name == "rclone" {
			return progs
		}
	}
	return append(progs, initramfs.Program{Name: "rclone", Check: []string{"version"}, Optional: true, For: source})
}

// addRclone adds the configuration of rclone, if the source is a place of rclone and the configuration wants secrets on
// the medium. It reports what has to be brought to a restore.
func (b *Maker) addRclone(ctx context.Context, t *initramfs.Files, info *rescue.Info) error {
	if store.Scheme(info.Source) != store.KindRclone {
		return nil
	}
	if !t.Has("usr/bin/rclone") && !t.Has("usr/sbin/rclone") {
		b.Report.Warn("the medium lacks the program rclone, without which it can't read %s: install rclone on this machine and make the medium again", info.Source)
	}
	if b.Config.Credentials != "include" {
		b.Report.Note("the medium lacks the configuration of rclone, which has secrets: bring it to a restore from %s as %s, or use rescue.credentials: include", info.Source, rcloneConfig)
		return nil
	}
	file, err := b.rcloneFile(ctx)
	var text []byte
	if err == nil {
		text, err = regular.ReadFile(file, maxCredentials)
	}
	if err != nil {
		info.Credentials = b.Credentials != ""
		b.Report.Warn("the medium lacks the configuration of rclone, without which it can't read %s: %v", info.Source, err)
		return nil
	}
	b.warnSecrets(file)
	return t.AddContent(rcloneConfig, text, 0o600)
}

// rcloneFile asks rclone for the file of its configuration, which may not exist.
func (b *Maker) rcloneFile(ctx context.Context) (string, error) {
	env := []string{"RCLONE_ASK_PASSWORD=false"}
	for _, name := range []string{"RCLONE_CONFIG", "XDG_CONFIG_HOME"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	out, err := b.Run.Run(ctx, tool.Cmd{Args: []string{"rclone", "config", "file"}, Env: env})
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n") // a sentence, and the path
	file := lines[len(lines)-1]
	if !strings.HasPrefix(file, "/") {
		return "", fmt.Errorf("rclone keeps its configuration in no file (%.100q)", file)
	}
	return file, nil
}
