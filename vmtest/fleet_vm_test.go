//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
)

// room is a running `mkcdrec serve`.
type room struct {
	t     *testing.T
	cmd   *exec.Cmd
	args  []string
	page  string
	token string
	err   *os.File // its messages and events
	read  chan struct{}
}

// start starts the server and waits until it serves.
func (r *room) start(ctx context.Context) {
	r.t.Helper()
	r.cmd = exec.CommandContext(ctx, r.args[0], r.args[1:]...)
	r.cmd.Stderr = r.err
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var e struct {
			Event string
			Data  struct{ Page string }
		}
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Event == "result" && e.Data.Page != "" {
			base, tok, _ := strings.Cut(e.Data.Page, "/login?token=")
			if r.token != "" && tok != r.token {
				r.t.Error("the server has another token after its restart")
			}
			r.page, r.token = base, tok
			r.read = make(chan struct{})
			go func() { _, _ = io.Copy(r.err, out); close(r.read) }() // its later events
			return
		}
	}
	_ = r.cmd.Wait() // it ended, or prints no more
	r.t.Fatalf("mkcdrec serve does not serve; see %s", r.err.Name())
}

// stop ends it as Ctrl-C does; it must end cleanly.
func (r *room) stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(unix.SIGINT); err != nil {
		r.t.Fatal(err)
	}
	<-r.read
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("mkcdrec serve after Ctrl-C: %v", err)
	}
}

// do asks with the token.
func (r *room) do(method, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	q, err := http.NewRequest(method, r.page+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	q.Header.Set("Authorization", "Bearer "+r.token)
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the test's own server
	defer c.CloseIdleConnections()
	a, err := c.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if b, err = io.ReadAll(a.Body); err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, a.Status, b)
	}
	return json.Unmarshal(b, out)
}

// until waits for a machine's state.
func (r *room) until(mac string, limit time.Duration, want ...fleet.State) fleet.View {
	r.t.Helper()
	var last string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Second) {
		var room struct{ Machines []fleet.View }
		if err := r.do("GET", "/v1/room", nil, &room); err != nil {
			last = err.Error()
			continue
		}
		for _, v := range room.Machines {
			if v.MAC != mac {
				continue
			}
			last = fmt.Sprintf("%+v", v)
			for _, s := range want {
				if v.State == s {
					return v
				}
			}
		}
	}
	r.t.Fatalf("%s is not %v after %v: %s", mac, want, limit, last)
	return fleet.View{}
}

// release ticks machines on the page, in Chromium, and confirms.
func (r *room) release(ctx context.Context, dir string, macs []string) {
	r.t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		r.t.Fatalf("%v (Debian: package chromium)", err)
	}
	ctx, stop := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(r.t.TempDir()),
		chromedp.WindowSize(1400, 900), chromedp.WSURLReadTimeout(4*time.Minute), chromedp.IgnoreCertErrors)...)
	defer stop()
	ctx, stop = chromedp.NewContext(ctx)
	defer stop()
	ctx, stop = context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	click := func(css string) chromedp.Action[chromedp.Void] { return chromedp.Click(chromedp.CSS(css)) }
	until := func(js string) chromedp.Action[chromedp.Void] {
		return func(ctx context.Context, tgt *chromedp.Target) (v chromedp.Void, err error) {
			for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				var ok bool
				if ok, err = chromedp.Evaluate[bool]("!!("+js+")")(ctx, tgt); err == nil && ok {
					return v, nil
				}
			}
			return v, fmt.Errorf("%s is not true: %v", js, err)
		}
	}
	steps := []chromedp.Action[chromedp.Void]{chromedp.Navigate(r.page + "/login?token=" + r.token), until(fmt.Sprintf(`document.body.dataset.live === 'yes' && document.querySelectorAll('article.machine[data-mac]').length === %d`, len(macs)))}
	for _, m := range macs {
		steps = append(steps, click(fmt.Sprintf(`[data-mac="%s"] input[type=checkbox]`, m)))
	}
	steps = append(steps, click("#release"), until(fmt.Sprintf(`document.querySelector('#ask').open && document.querySelectorAll('#what li').length === %d`, len(macs))), click("#yes"), until(`!document.querySelector('#ask').open`))
	err = chromedp.Do(ctx, steps...)
	if png, e := chromedp.Run(ctx, chromedp.CaptureScreenshot()); e == nil {
		_ = os.WriteFile(filepath.Join(dir, "page.png"), png, 0o644) // to look at
	}
	if err != nil {
		r.t.Fatalf("the page in Chromium: %v", err)
	}
}

// TestFleet: a server with a DHCP range of its own, and three blank machines: BIOS by PXE,
// UEFI by PXE, UEFI by HTTP Boot. They register, wait, and are released on the page in
// Chromium; the server is ended and started again while they work. They get the set from
// each other. Each is restored with a name and an identity of its own, boots, and is
// compared.
func TestFleet(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Minute)
	defer cancel()
	dir := workDir(t)
	n, err := StartNetwork(ctx, dir, false)
	if err != nil {
		t.Skipf("there is no test network: %v", err)
	}
	defer func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}()
	k, err := FetchKernel(ctx, "linux-image-cloud-amd64")
	if err != nil {
		t.Fatal(err)
	}
	exe, guest := programs(t)
	c := Circle{Kind: UEFIPlain, Work: dir, Say: t.Logf, Mkcdrec: exe, Guest: guest}.new()
	for _, step := range []func(context.Context) error{c.source, c.backup, c.destroy} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	set, err := c.setDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := command(ctx, "debugfs", "-R", "rdump /"+set+" "+dir, c.setDisk); err != nil {
		t.Fatal(err)
	}
	machines := []struct {
		name, serial, disk string
		uefi               bool
		rule               string
		nic, mac           string
		vm                 *VM
		m                  Machine
	}{
		{name: "bios-pxe", serial: "ROOM0001", disk: "ROOMDISK1", rule: "\n  answers: {firmware: bios}"},
		{name: "uefi-pxe", serial: "ROOM0002", disk: "ROOMDISK2", uefi: true},
		{name: "uefi-http", serial: "ROOM0003", disk: "ROOMDISK3", uefi: true, rule: "\n  pxe: http"},
	}
	rules := "rules:\n"
	for i := range machines {
		m := &machines[i]
		if m.nic, m.mac, err = n.NIC(ctx, 0x50); err != nil {
			t.Fatal(err)
		}
		rules += "- match: {mac: \"" + m.mac + "\"}\n  set: lab\n  disks: only\n  hostname: lab-{n:02}" + m.rule + "\n"
		file := filepath.Join(dir, m.name+".qcow2")
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", file, c.src.Size); err != nil {
			t.Fatal(err)
		}
		m.m = Machine{Name: "fleet-" + m.name, Memory: 768, NIC: []string{m.nic}, NetBoot: true, Disks: []Disk{{File: file, Serial: m.disk}}, Extra: []string{"-smbios", "type=1,serial=" + m.serial}, Log: filepath.Join(dir, m.name+".log")}
		if m.uefi {
			if m.m.UEFI, err = NVRAM(filepath.Join(dir, m.name+".vars")); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &room{t: t, args: []string{exe, "--json", "serve", "--listen", bridgeName, "--dhcp", "10.77.23.100-10.77.23.200", "--swarm", "--rules", file, "--state", filepath.Join(dir, "fleet.json"), "--http", ServerIP + ":8080",
		"--kernel", k.Image, "--modules", k.Modules, "--append", consoles, "lab=" + filepath.Join(dir, filepath.Base(set))}}
	if r.err, err = os.Create(filepath.Join(dir, "serve.log")); err != nil {
		t.Fatal(err)
	}
	defer r.err.Close()
	r.start(ctx)
	defer func() { _ = r.cmd.Process.Kill() }()
	for i := range machines {
		m := &machines[i]
		if m.vm, err = Start(ctx, m.m); err != nil {
			t.Fatal(err)
		}
		defer m.vm.Kill()
	}
	names := map[string]string{}
	var macs []string
	for _, m := range machines { // all, so that they work at the same time
		r.until(m.mac, 3*bootLimit, fleet.Registered)
	}
	for _, m := range machines {
		if v := r.until(m.mac, bootLimit, fleet.Registered); v.Serial != m.serial || v.Confirm != m.serial || len(v.Disks) != 1 || v.Disks[0].Word != m.disk || v.Problem != "" {
			t.Fatalf("%s: %+v", m.name, v)
		}
		names[m.mac] = r.until(m.mac, bootLimit, fleet.Registered).Hostname
		macs = append(macs, m.mac)
	}
	r.release(ctx, dir, macs)
	r.until(machines[0].mac, bootLimit, fleet.Working)
	r.stop()
	r.start(ctx)
	for _, m := range machines {
		if v := r.until(m.mac, 2*jobLimit, fleet.Done, fleet.Failed); v.State != fleet.Done {
			t.Errorf("%s: %s\n%v", m.name, v.Why, v.Log)
		}
		if err := m.vm.Wait(bootLimit); err != nil { // it restarts, which ends QEMU here
			t.Errorf("%s: %v", m.name, err)
		}
	}
	chained := 0
	for _, m := range machines {
		b, err := os.ReadFile(m.m.Log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "comes from the server") || !strings.Contains(string(b), "the set comes from 10.77.23.") {
			t.Errorf("%s did not take part in the swarm", m.name)
		}
		if regexp.MustCompile(`the set comes from 10\.77\.23\.(1\d\d|200)\b`).Match(b) {
			chained++
		}
	}
	if chained == 0 {
		t.Error("no machine got anything from another")
	}
	for _, m := range machines {
		again := m.m
		again.Name, again.NetBoot, again.NIC, again.Log = m.name+"-restored", false, nil, filepath.Join(dir, m.name+"-restored.log")
		again.Disks = append(again.Disks, Disk{File: c.setDisk, Serial: "SETDISK01"})
		if err := func() error {
			vm, err := Start(ctx, again)
			if err != nil {
				return err
			}
			defer vm.Kill()
			if err := c.login(vm); err != nil {
				return fmt.Errorf("it does not boot: %w", err)
			}
			if err := all(vm,
				"test $(hostname) = "+names[m.mac]+" && hostname | grep '^lab-0[123]$'",
				"test -z \"$(ls -d /.mkcdrec* /*/.mkcdrec*)\"",
				"mount LABEL=SETDISK /backup && /backup/bin/guest describe "+c.mounts()+" > /backup/after.json && sync && umount /backup",
				"test -z \"$(systemctl --failed --plain --no-legend)\"",
			); err != nil {
				return err
			}
			if err := errors.Join(vm.Send("poweroff\n"), vm.Wait(bootLimit)); err != nil {
				return err
			}
			one := *c
			one.Renewed, one.out = true, &Outcome{Kind: m.name, Named: map[string]int{}}
			if !m.uefi {
				one.Firmware = "bios"
			}
			if err := one.compare(ctx); err != nil {
				return err
			}
			for _, d := range one.out.Differences {
				t.Errorf("%s: %s: %s; was %s", m.name, d.Path, d.After, d.Before)
			}
			t.Logf("%s: %d paths compared", m.name, one.out.Paths)
			return nil
		}(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	r.stop()
	if b, err := os.ReadFile(r.err.Name()); err != nil || !strings.Contains(string(b), "were sent to the swarm") {
		t.Errorf("the server does not tell what it sent: %v", err)
	}
}
