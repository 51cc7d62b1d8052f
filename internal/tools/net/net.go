// Package nettools has the commands that talk to other machines: ssh, scp and sftp, curl and
// wget, dig and nslookup, nc.
package nettools

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	const login = " 4 6 A C c: F: i: J: o: q v"
	return []tools.Command{
		{Name: "ssh", Opts: "+a e: k l: L: N n p: R: s S: t T V W: x y" + login, Synopsis: "[USER@]HOST [COMMAND...]", Bad: sshFailed, Run: secureShell},
		{Name: "scp", Opts: "3 l: O p P: r T" + login, Synopsis: "[[USER@]HOST:]FILE... [[USER@]HOST:]FILE", Run: secureCopy},
		{Name: "sftp", Opts: "+a b: l: N p P: r R: S:" + login, Synopsis: "[USER@]HOST[:FILE [FILE]]", Run: secureFiles},
		{Name: "curl", Opts: "# 0 4 6 A/user-agent: b/cookie: C/continue-at: D/dump-header: E/cert: F/form: G/get H/header: I/head J/remote-header-name L/location N/no-buffer O/remote-name R/remote-time S/show-error T/upload-file: V/version X/request: cacert: compressed connect-timeout: create-dirs d/data/data-ascii: data-binary: data-raw: data-urlencode: e/referer: f/fail fail-with-body fail-early g/globoff http1.1 http2 i/include k/insecure key: limit-rate: location-trusted m/max-time: max-redirs: no-progress-meter noproxy: o/output: output-dir: progress-bar q/disable r/range: remote-name-all resolve: retry: retry-all-errors retry-connrefused retry-delay: s/silent ssl-no-revoke tlsv1.2 u/user: url: v/verbose w/write-out: x/proxy:", Synopsis: "URL...", Bad: 2, Run: curl},
		{Name: "wget", Opts: "4/inet4-only 6/inet6-only N/timestamping O/output-document: P/directory-prefix: S/server-response T/timeout: U/user-agent: a/append-output: ask-password body-data: body-file: c/continue ca-certificate: certificate: content-disposition header: http-password: http-user: i/input-file: limit-rate: max-redirect: method: n: no-check-certificate no-clobber no-proxy no-use-server-timestamps no-verbose o/output-file: password: post-data: post-file: private-key: progress: q/quiet referer: retry-connrefused show-progress spider t/tries: user: v/verbose", Synopsis: "URL...", Bad: 2, Run: wget},
		{Name: "dig", Opts: "-", Synopsis: "[@SERVER] [-p PORT] [-t TYPE] [-x ADDRESS] [-4|-6] [+short] [+tcp] [+time=N] [+tries=N] [NAME [TYPE]]...", Run: dig},
		{Name: "nslookup", Opts: "-", Synopsis: "[-type=TYPE] [-port=N] [-timeout=N] [-retry=N] [-vc] [NAME|- [SERVER]]", Run: nslookup},
		{Name: "host", Opts: "p: T t: W:", Synopsis: "NAME [SERVER]", Run: host},
		{Name: "nc", Opts: netcatOptions, Synopsis: "[HOST] PORT[-PORT]", Run: netcat},
		{Name: "netcat", Opts: netcatOptions, Synopsis: "[HOST] PORT[-PORT]", Run: netcat},
		{Name: "rsync", Opts: "-", Synopsis: "[OPTION]... SOURCE... TARGET", Run: rsync},
	}
}

// said is an error in the words of another project's program, capitals and full stops included.
func said(format string, a ...any) error { return saying(fmt.Sprintf(format, a...)) }

type saying string

func (s saying) Error() string { return string(s) }

// cause words an error of the network as the C library does.
func cause(err error) string {
	var name *net.DNSError
	var no syscall.Errno
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return "Name or service not known"
	case errors.As(err, &name):
		return "Temporary failure in name resolution"
	case os.IsTimeout(err):
		return "Connection timed out"
	case errors.As(err, &no):
		return tools.Cause(no)
	}
	return strings.TrimPrefix(tools.Cause(err), "ssh: ")
}
