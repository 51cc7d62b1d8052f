package web

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// browser opens a page in Chromium, or skips the test. It fails for every error of a
// script and of the page's own policy.
func browser(t *testing.T) (context.Context, *[]string) {
	t.Helper()
	path := ""
	for _, n := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(n); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("there is no chromium (Debian: package chromium)")
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1400, 980), chromedp.WSURLReadTimeout(2*time.Minute), chromedp.IgnoreCertErrors)...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(stop)
	errs := &[]string{}
	var mu sync.Mutex
	if err := chromedp.Listen(ctx, func(e any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			*errs = append(*errs, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" {
				*errs = append(*errs, fmt.Sprintf("%+v", e.Args))
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return ctx, errs
}

// alone runs a test again in a network of its own, and tells whether it did: Chromium
// gives up what it is doing when an interface comes or goes, as they do in other tests.
func alone(t *testing.T) bool {
	t.Helper()
	const inside = "MKCDREC_ALONE"
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		return false
	}
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return false
	}
	c := exec.Command(unshare, "-n", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	c.Env = append(os.Environ(), inside+"=1")
	out, err := c.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("it did not run:\n%s", out)
	}
	return true
}

// TestPage: a person enters the token, releases three machines, watches them, one fails
// and is tried again; a machine with a hostile name is text.
func TestPage(t *testing.T) {
	if alone(t) {
		return
	}
	ctx, errs := browser(t)
	b := newBench(t, "rules:\n- match: {any: true}\n  hostname: lab-{n:02}\n")
	var macs, toks []string
	for i := range 4 {
		mac, tok := b.machine(i+1, func(g *fleet.Registration) {
			if i == 3 {
				g.Vendor, g.Model, g.Disks[0].Model = hostile, hostile, hostile
			}
		})
		macs, toks = append(macs, mac), append(toks, tok)
	}
	type step = chromedp.Action[chromedp.Void]
	run := func(what string, a ...step) {
		t.Helper()
		if err := chromedp.Do(ctx, a...); err != nil {
			if out := os.Getenv("MKCDREC_KEEP"); out != "" {
				if png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot()); err == nil {
					_ = os.WriteFile(filepath.Join(out, "page-failed.png"), png, 0o644) // to look at
				}
			}
			t.Fatalf("%s: %v\n%v", what, err, *errs)
		}
	}
	// until waits until an expression is true, over the loading of another page, too.
	until := func(js string) step {
		return func(ctx context.Context, tgt *chromedp.Target) (v chromedp.Void, err error) {
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				var ok bool
				if ok, err = chromedp.Evaluate[bool]("!!("+js+")")(ctx, tgt); err == nil && ok {
					return v, nil
				}
			}
			return v, fmt.Errorf("%s is not true after a minute: %v", js, err)
		}
	}
	filter := func(state string) step {
		return until(fmt.Sprintf(`(e => { e.value = %q; e.onchange(); return true })(document.querySelector('#filter'))`, state))
	}
	click := func(css string) step { return chromedp.Click(chromedp.CSS(css)) }
	card := func(i int) string { return fmt.Sprintf(`[data-mac="%s"]`, macs[i]) }
	text := func(i int, part, want string) step {
		return until(fmt.Sprintf(`document.querySelector(%q)?.textContent.includes(%q)`, card(i)+" "+part, want))
	}
	run("wrong token", chromedp.Navigate(b.srv.URL+"/login?token=nonsense"), until(`document.body.textContent.includes('That token is wrong')`))
	run("token", chromedp.Navigate(b.srv.URL+"/login?token="+token), until(`document.body.dataset.live === 'yes'`), until(`location.pathname === '/' && location.search === ''`))
	run("four machines", until(`document.querySelectorAll('article.machine').length === 4`), text(0, "h2", "lab-01"), text(3, ".id", "document.title"))
	run("hostile names", until(`document.title === 'Room 7 & <b>'`), until(`document.querySelectorAll('#room script, #room img').length === 0`))
	// Three are ticked; the question names their disks.
	for i := range 3 {
		run("tick", click(card(i)+` input[type=checkbox]`))
	}
	run("ask", until(`document.querySelector('#counts').textContent.includes('3 ticked')`), click("#release"), until(`document.querySelector('#ask').open && document.querySelectorAll('#what li').length === 3`),
		until(`document.querySelector('#what').textContent.includes('serial DISK2 gets vda of lab')`))
	for _, m := range macs {
		if v, _ := b.room.View(m); v.State != fleet.Registered {
			t.Fatalf("%s is %s before it was confirmed", m, v.State)
		}
	}
	run("confirm", click("#yes"), until(`!document.querySelector('#ask').open`))
	for i := range 3 {
		run("released", text(i, ".state", "released"))
	}
	run("the fourth waits", text(3, ".state", "registered"))
	// They work; one fails.
	for i := range 3 {
		for _, r := range []fleet.Report{{Begin: true}, {Phase: "restoring /", Bytes: 300, Total: 600, Work: 300, Lines: []fleet.Line{{Level: "note", Text: "restoring / " + hostile}}}} {
			if c := b.do("POST", "/v1/report", toks[i], r, nil); c != 204 {
				t.Fatal(c)
			}
		}
		run("working", text(i, ".state", "working 30 %"), text(i, ".step", "restoring /"), text(i, "pre", "document.title"), until(fmt.Sprintf(`document.querySelector('%s rect.written') !== null`, card(i))))
	}
	if c := b.do("POST", "/v1/report", toks[0], fleet.Report{End: &fleet.End{}}, nil); c != 204 {
		t.Fatal(c)
	}
	if c := b.do("POST", "/v1/report", toks[1], fleet.Report{End: &fleet.End{Code: 1, Error: "cannot write: EIO"}}, nil); c != 204 {
		t.Fatal(c)
	}
	run("done and failed", text(0, ".state", "done"), text(1, ".state", "failed"), text(1, ".why", "cannot write: EIO"), text(1, ".go", "Retry"))
	if out := os.Getenv("MKCDREC_KEEP"); out != "" {
		for _, name := range []string{"page-table.png", "page-tiles.png"} {
			png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
			if err == nil {
				err = os.WriteFile(filepath.Join(out, name), png, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			run("the other view", click("#view"))
		}
	}
	run("retry", click(card(1)+" .go"), until(`document.querySelector('#ask').open`), click("#yes"), text(1, ".state", "released"))
	// Hold, from the card, and the filter.
	run("hold", click(card(3)+" .hold"), text(3, ".state", "held"))
	run("filter", filter("held"), until(`[...document.querySelectorAll('article.machine')].filter(e => e.offsetParent).length === 1`))
	// A machine that changes while the question is open is not released.
	run("all again", filter(""), click(card(3)+" .go"), until(`document.querySelector('#ask').open`))
	b.machine(4, func(g *fleet.Registration) { g.Disks[0].Serial = "OTHER" })
	run("changed", click("#yes"), until(`document.querySelector('#refused').textContent.includes('changed since it was shown')`))
	if v, _ := b.room.View(macs[3]); v.State != fleet.Held {
		t.Errorf("the changed machine is %s", v.State)
	}
	var bad []string
	for _, e := range *errs {
		if !strings.Contains(e, "ERR_") {
			bad = append(bad, e)
		}
	}
	if len(bad) > 0 {
		t.Errorf("errors in the browser: %q", bad)
	}
}

// TestPicture makes docs/room.png where MKCDREC_PICTURE names it: a room in the middle of
// its work, as a person sees it.
func TestPicture(t *testing.T) {
	out := os.Getenv("MKCDREC_PICTURE")
	if out == "" {
		t.Skip("MKCDREC_PICTURE names no file")
	}
	ctx, errs := browser(t)
	b := newBenchOf(t, "rules:\n- match: {any: true}\n  hostname: lab-{n:02}\n", 10000<<20)
	b.web.cfg.Title = "mkcdrec on deploy"
	const all = 12
	toks := make([]string, all)
	report := func(i int, r fleet.Report) {
		t.Helper()
		if c := b.do("POST", "/v1/report", toks[i], r, nil); c != 204 {
			t.Fatal(c)
		}
	}
	began := time.Now().Add(-90 * time.Second)
	b.room.SetClock(func() time.Time { return began })
	for i := range all {
		size := quantity.Size(256e9)
		if i%4 == 3 {
			size = 512e9
		}
		serial := fmt.Sprintf("4KQ%dX53", 31+i)
		mac, tok := b.machine(i+1, func(g *fleet.Registration) {
			g.Vendor, g.Model, g.Serial, g.Memory, g.Boot = "Dell Inc.", "OptiPlex 7010", serial, 16<<30, fmt.Sprint(i)
			g.Disks[0] = fleet.Disk{Disk: layout.Disk{Name: "nvme0n1", Model: "Samsung PM9B1", Serial: fmt.Sprintf("S6GNNX0W%d", 412300+7*i), Size: size}, Parts: []fleet.Part{{Start: 1 << 20, Size: 1 << 28, What: "vfat"}, {Start: 1<<20 + 1<<28, Size: int64(size) - 1<<30, What: "ntfs"}}}
		})
		toks[i] = tok
		if i >= 9 {
			continue
		}
		if c, o := b.release(mac, serial); c != 200 {
			t.Fatalf("%d %v", c, o)
		}
		if i < 8 {
			report(i, fleet.Report{Begin: true})
			report(i, fleet.Report{Phase: "restoring /", Total: 6000 << 20})
		} else if c := b.do("POST", "/v1/hold", token, []fleet.Wish{{MAC: mac}}, nil); c != 200 {
			t.Fatal(c)
		}
	}
	b.room.SetClock(time.Now)
	for i := range all {
		if i >= 8 {
			b.do("GET", "/v1/order?known=x", toks[i], nil, nil)
			continue
		}
		done := int64(600-70*i) * 10 << 20
		report(i, fleet.Report{Phase: "restoring /", Bytes: done, Total: 6000 << 20, Work: done})
		switch i {
		case 0, 1:
			report(i, fleet.Report{End: &fleet.End{}})
		case 5:
			report(i, fleet.Report{End: &fleet.End{Code: 1, Error: "cannot write /dev/nvme0n1p2: input/output error"}})
		}
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(b.srv.URL+"/login?token="+token)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if n, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.body.dataset.live === 'yes' ? document.querySelectorAll('article.machine[data-mac]').length : 0`)); err == nil && n == all {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("there is no room: %v", *errs)
		}
	}
	if err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS("#view"))); err != nil { // the tiles
		t.Fatal(err)
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(out, png, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
