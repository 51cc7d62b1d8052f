package nightly

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// timerOf gives the timer of a fake machine.
func timerOf(t *testing.T, systemd bool) (*machinetest.Machine, Timer) {
	m := machinetest.New(t)
	if systemd {
		if err := os.MkdirAll(m.Path("/run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
		state := "disabled"
		m.Programs["systemctl"] = func(c tool.Cmd) (string, error) {
			switch c.Args[1] {
			case "enable", "disable":
				state = c.Args[1] + "d"
			case "is-enabled":
				return state + "\n", nil
			}
			return "", nil
		}
	}
	return m, Timer{Run: m, Root: m.Root, Program: "/usr/sbin/mkcdrec"}
}

// TestTimerSystemd: a time is a drop-in that the timer is started again with; without one the
// package's time counts; disable leaves nothing.
func TestTimerSystemd(t *testing.T) {
	m, timer := timerOf(t, true)
	m.Write(cronFile, "# of another init\n")
	if did, err := timer.Enable(t.Context(), "02:30"); err != nil || !strings.Contains(strings.Join(did, ";"), "02:30;removed: "+cronFile) {
		t.Errorf("Enable(02:30) = %q, %v", did, err)
	}
	if got, want := m.Log(), []string{"run systemctl daemon-reload", "run systemctl enable mkcdrec.timer", "run systemctl restart mkcdrec.timer"}; !slices.Equal(got, want) {
		t.Errorf("Enable(02:30) calls %q; want %q", got, want)
	}
	text := m.Read(dropIn)
	if !strings.Contains(text, "[Timer]\nOnCalendar=\nOnCalendar=*-*-* 02:30:00\nRandomizedDelaySec=0\n") {
		t.Errorf("drop-in:\n%s", text)
	}
	if !timer.Enabled(t.Context()) {
		t.Error("Enabled() = false")
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil {
		if out, err := exec.Command("systemd-analyze", "calendar", "*-*-* 02:30:00").CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze: %v\n%s", err, out)
		}
	}
	if did, err := timer.Enable(t.Context(), ""); err != nil || !slices.Contains(did, "removed: "+dropIn) {
		t.Errorf("Enable() = %q, %v; want the drop-in removed", did, err)
	}
	if _, err := timer.Enable(t.Context(), "23:59"); err != nil {
		t.Fatal(err)
	}
	if did, err := timer.Disable(t.Context()); err != nil || len(did) != 2 || timer.Enabled(t.Context()) {
		t.Errorf("Disable() = %q, %v; enabled after it: %v", did, err, timer.Enabled(t.Context()))
	}
	if _, err := os.Stat(m.Path(dropIn)); err == nil {
		t.Error("the drop-in is still there")
	}
	m.Fail["run systemctl enable"] = os.ErrPermission
	if _, err := timer.Enable(t.Context(), "02:30"); err == nil || !strings.HasPrefix(err.Error(), "cannot enable the nightly backup: ") {
		t.Errorf("Enable() when systemctl fails = %v", err)
	}
}

// TestDisableFailure: what systemctl can't do does not keep the files from being removed, and
// both are reported.
func TestDisableFailure(t *testing.T) {
	m, timer := timerOf(t, true)
	m.Write(cronFile, "# of another init\n")
	m.Write(dropIn, "[Timer]\n")
	m.Fail["run systemctl disable"] = os.ErrPermission
	did, err := timer.Disable(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "cannot disable the nightly backup: ") || !slices.Equal(did, []string{"removed: " + dropIn, "removed: " + cronFile}) {
		t.Errorf("Disable() when systemctl fails = %q, %v; want both files removed and the error", did, err)
	}
}

// TestTimerCron: without systemd there is a file of cron, and no program runs.
func TestTimerCron(t *testing.T) {
	m, timer := timerOf(t, false)
	if timer.Enabled(t.Context()) {
		t.Error("Enabled() before Enable = true")
	}
	for at, want := range map[string]string{"02:05": "\n5 2 * * * root /usr/sbin/mkcdrec -q path\n", "": "\n0 1 * * * root "} {
		if _, err := timer.Enable(t.Context(), at); err != nil || !strings.Contains(m.Read(cronFile), want) {
			t.Errorf("Enable(%q): %v\n%s\nwant %q", at, err, m.Read(cronFile), want)
		}
	}
	// cron takes no file that others may write, and none with a dot in its name.
	if st, err := os.Stat(m.Path(cronFile)); err != nil || st.Mode() != 0o644 || strings.Contains(filepath.Base(cronFile), ".") {
		t.Errorf("%s: %v, %v", cronFile, st.Mode(), err)
	}
	if !timer.Enabled(t.Context()) {
		t.Error("Enabled() = false")
	}
	if did, err := timer.Disable(t.Context()); err != nil || !slices.Equal(did, []string{"removed: " + cronFile}) {
		t.Errorf("Disable() = %q, %v", did, err)
	}
	if did, err := timer.Disable(t.Context()); err != nil || len(did) != 1 {
		t.Errorf("Disable() again = %q, %v", did, err)
	}
	if len(m.Log()) > 0 {
		t.Errorf("programs were run: %q", m.Log())
	}
}

func TestParseAt(t *testing.T) {
	for s, ok := range map[string]bool{"02:30": true, "00:00": true, "23:59": true, "24:00": false, "2:30": false, "02:60": false, "": false, "02:30:00": false, "02:3\n": false, "02:30 ": false} {
		if _, err := ParseAt(s); (err == nil) != ok {
			t.Errorf("ParseAt(%q) = %v; want ok: %v", s, err, ok)
		}
	}
}
