package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// ownState keeps the runs of a test out of this machine's record.
func ownState(t *testing.T) {
	t.Helper()
	if stateDir == nightly.Dir {
		stateDir = t.TempDir() + "/state"
		t.Cleanup(func() { stateDir = nightly.Dir })
	}
}

// setsHere makes sets of this machine in a directory, named by their ages in days.
func setsHere(t *testing.T, ages map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, days := range ages {
		from := aSet(t, time.Now().AddDate(0, 0, -days))
		b, err := os.ReadFile(filepath.Join(from, manifest.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		m.Host = host
		sums, err := set.This(host).Write(from)
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(sums, m.Files...)
		if err := m.Write(from); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPrune: the configuration's rules, options in their place, and a dry run that tells why.
func TestPrune(t *testing.T) {
	dir := setsHere(t, map[string]int{"a": 0, "b": 10, "c": 20})
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("destination: "+dir+"\nkeep: {last: 2, weekly: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	prune := func(args ...string) builder.PruneResult {
		t.Helper()
		status, out, errs := mkcdrec(t, "", append([]string{"-c", config, "--json", "prune"}, args...)...)
		var e struct{ Data builder.PruneResult }
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil || status != 0 {
			t.Fatalf("prune %q: exit status %d, %v\n%s%s", args, status, err, out, errs)
		}
		return e.Data
	}
	r := prune("-n")
	if len(r.Sets) != 3 || len(r.Removed) > 0 || r.Sets[0].Remove || r.Sets[1].Remove || !r.Sets[2].Remove || strings.Join(r.Sets[0].Reasons, ",") != "last 1,weekly 1,last good set" {
		t.Errorf("prune -n = %+v", r)
	}
	if r := prune("--keep-last", "3"); len(r.Removed) > 0 {
		t.Errorf("prune --keep-last 3 removes %q", r.Removed)
	}
	if r := prune(); strings.Join(r.Removed, ",") != "c" {
		t.Errorf("prune removes %q; want c", r.Removed)
	}
	if _, err := os.Stat(filepath.Join(dir, "c")); err == nil {
		t.Error("c is still there")
	}
	if status, _, errs := mkcdrec(t, "", "prune", "--keep-daily", "-3", dir); status != 2 || !strings.Contains(errs, "keep.daily: -3") {
		t.Errorf("prune --keep-daily -3: exit status %d\n%s", status, errs)
	}
}

// TestPruneAlone: while a backup writes to the directory nothing is removed, and a dry run is
// possible. The lock does not stay.
func TestPruneAlone(t *testing.T) {
	dir := setsHere(t, map[string]int{"a": 0, "b": 10})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	release, err := set.Lock(dir, host, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	prune := func(want int, args ...string) {
		t.Helper()
		if status, out, errs := mkcdrec(t, "", append([]string{"prune", "--keep-last", "1", dir}, args...)...); status != want || want == 4 && !strings.Contains(errs, "is running already") {
			t.Errorf("prune %q: exit status %d; want %d\n%s%s", args, status, want, out, errs)
		}
	}
	prune(4)
	prune(0, "-n")
	if _, err := os.Stat(filepath.Join(dir, "b")); err != nil {
		t.Errorf("prune has removed a set while a backup ran: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	prune(0)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v; want the newest set only", left, err)
	}
}

// TestStatusCommand: the exit statuses of Nagios, and the text file after good and failed runs.
func TestStatusCommand(t *testing.T) {
	ownState(t)
	is := func(want int, text string, args ...string) {
		t.Helper()
		if status, out, errs := mkcdrec(t, "", append([]string{"status"}, args...)...); status != want || !strings.Contains(out, text) || errs != "" {
			t.Errorf("status %q: exit status %d; want %d with %q\n%s%s", args, status, want, text, out, errs)
		}
	}
	is(3, "MKCDREC UNKNOWN - no backup")
	file := t.TempDir() + "/m.prom"
	c := &builder.Config{Status: nightly.Config{Warn: "36h", Critical: "72h", Textfile: file}}
	a := &app{ui: ui.New(ui.Quiet), cfg: c}
	b := &builder.Builder{Run: tool.Exec{}, Report: a.ui, Config: c}
	l := &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}
	a.record(t.Context(), b, nightly.Run{Set: "/s", Size: 1234}, l, exit.NotCovered([]string{"x"}))
	a.record(t.Context(), b, nightly.Run{}, nil, errors.New("the disk is full"))
	m, err := os.ReadFile(file)
	for _, want := range []string{"mkcdrec_last_run_exit_status 1\n", "mkcdrec_last_good_size_bytes 1234\n", "mkcdrec_last_good_timestamp_seconds "} {
		if err != nil || !strings.Contains(string(m), want) {
			t.Errorf("text file: %v\n%s\nwant %q", err, m, want)
		}
	}
	is(1, "ended with status 1: the disk is full")
	is(1, `"state":"warning"`, "--json")
	r, err := nightly.Read(stateDir)
	if err != nil {
		t.Fatal(err)
	}
	r.Good.Ended = time.Now().Add(-100 * time.Hour)
	if err := r.Good.Save(stateDir, l); err != nil {
		t.Fatal(err)
	}
	is(2, "MKCDREC CRITICAL - the last backup is 100h old")
}

// TestRecordInterrupted: a run that a signal has ended is recorded, too, and the text file has
// the layout as the run has read it: this machine is not looked at again.
func TestRecordInterrupted(t *testing.T) {
	ownState(t)
	file := t.TempDir() + "/m.prom"
	c := &builder.Config{Status: nightly.Config{Warn: "36h", Critical: "72h", Textfile: file}}
	a := &app{ui: ui.New(ui.Quiet), cfg: c}
	b := &builder.Builder{Run: tool.Exec{}, Report: a.ui, Config: c}
	l := &layout.Layout{Version: layout.Version, Hostname: "as it was", Boot: layout.Boot{Firmware: layout.BIOS}}
	ctx, cancel := context.WithCancelCause(t.Context())
	a.record(ctx, b, nightly.Run{Set: "/s"}, l, nil)
	cancel(errors.New("interrupted by a test"))
	for _, c := range []struct {
		l    *layout.Layout
		want string
	}{{l, "mkcdrec_layout_changes 0\n"}, {nil, "mkcdrec_last_run_exit_status 1\n"}} {
		a.record(ctx, b, nightly.Run{}, c.l, errors.New("cannot run x: killed"))
		m, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(m), c.want) || strings.Contains(string(m), "layout_changes") != (c.l != nil) {
			t.Errorf("text file: %v\n%s\nwant %q", err, m, c.want)
		}
	}
	if r, err := nightly.Read(stateDir); err != nil || r.Last.Status != 1 || r.Good == nil || !strings.Contains(r.Last.Error, "interrupted") {
		t.Errorf("record: %+v, %v; want the interrupted run and the good one", r, err)
	}
}

// TestEnableConfig: the timer's backups use the default configuration; another is refused.
func TestEnableConfig(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("destination: /mnt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := mkcdrec(t, "", "-n", "-c", config, "enable"); status != exit.BadUsage || !strings.Contains(errs, "cannot use -c "+config) {
		t.Errorf("enable -c %s: exit status %d; want 2 and the reason\n%s%s", config, status, out, errs)
	}
	link := config + ".link"
	if err := os.Symlink(config, link); err != nil {
		t.Fatal(err)
	}
	for other, want := range map[string]bool{config: true, link: true, config + ".missing": false, t.TempDir(): false} {
		if got := sameFile(other, config); got != want {
			t.Errorf("sameFile(%s) = %v; want %v", other, got, want)
		}
	}
}

// TestTestNotify: an administrator can try the messages; a run whose message can't be sent ends as
// without one, with a warning.
func TestTestNotify(t *testing.T) {
	ownState(t)
	dir := t.TempDir()
	script, out := dir+"/alert", dir+"/out"
	if err := os.WriteFile(script, []byte("#!/bin/sh\ncat >> "+out+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := dir + "/c.yaml"
	status := func(want int, yaml string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		is, stdout, errs := mkcdrec(t, "", "-c", config, "status", "--test-notify")
		if is != want {
			t.Errorf("status --test-notify with %q: exit status %d; want %d\n%s%s", yaml, is, want, stdout, errs)
		}
	}
	status(exit.BadUsage, "")
	status(exit.OK, "status: {command: ["+script+"]}")
	if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), `"event":"test"`) {
		t.Errorf("the program got %q, %v", b, err)
	}
	status(exit.Failed, "status: {command: ["+script+"], webhook: 'http://127.0.0.1:1/SECRET', notify_timeout: 5s}")
	c := &builder.Config{Status: nightly.Config{Warn: "36h", Critical: "72h", Command: []string{script}, NotifyTimeout: "20s"}}
	a := &app{ui: ui.New(ui.Quiet), cfg: c}
	b := &builder.Builder{Run: tool.Exec{}, Report: a.ui, Config: c}
	for _, err := range []error{errors.New("the disk is full"), nil, nil} {
		a.record(t.Context(), b, nightly.Run{Destination: "/mnt"}, nil, err)
	}
	sent, err := os.ReadFile(out)
	if err != nil || strings.Count(string(sent), "\n") != 4 || strings.Count(string(sent), `"event":"failed"`) != 1 || strings.Count(string(sent), `"event":"recovered"`) != 1 {
		t.Errorf("the program got %s, %v; want two tests, the failure and that it is over", sent, err)
	}
}
