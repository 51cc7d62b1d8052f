package shares

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fake is a machine whose kernel fails with the errors, one for each call.
type fake struct {
	calls  []string
	probed []string
	asked  []string
	errs   []error
	probe  error
	answer string
	noName bool
	addrs  []string
}

func (f *fake) system() System {
	return System{
		Resolve: func(host string) ([]string, error) {
			if f.noName {
				return nil, &net.DNSError{IsNotFound: true}
			}
			return f.addrs, nil
		},
		Local: func(string) string { return "192.0.2.99" },
		Probe: func(addr string) error { f.probed = append(f.probed, addr); return f.probe },
		Ask: func(q string) (string, error) {
			f.asked = append(f.asked, q)
			if f.answer == "" {
				return "", errors.New("no terminal")
			}
			return f.answer, nil
		},
		Call: func(source, dir, typ string, flags uintptr, data string) error {
			f.calls = append(f.calls, fmt.Sprintf("%s %s %s %d %s", source, dir, typ, flags, data))
			if len(f.errs) == 0 {
				return nil
			}
			err := f.errs[0]
			f.errs = f.errs[1:]
			return err
		},
	}
}

// TestData: the calls of mount(2) that options become.
func TestData(t *testing.T) {
	file := t.TempDir() + "/cred"
	if err := os.WriteFile(file, []byte("username=CORP/me\r\npassword=a,b=c\ncomment\ndomain=OTHER\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PASSWD", "")
	os.Unsetenv("PASSWD")
	for _, c := range []struct {
		source, typ, options string
		errs                 []error
		want                 []string // calls
		probed               string
		asked                string
	}{
		{"srv:/data", "nfs", "", nil, []string{"srv:/data /mnt nfs 1 vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.99"}, "192.0.2.1:2049", ""},
		{"srv:/data", "nfs", "", []error{unix.EPROTONOSUPPORT, unix.EINVAL, unix.ENOENT}, []string{
			"srv:/data /mnt nfs 1 vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.99", "srv:/data /mnt nfs 1 vers=4.1,addr=192.0.2.1,clientaddr=192.0.2.99",
			"srv:/data /mnt nfs 1 vers=4.0,addr=192.0.2.1,clientaddr=192.0.2.99", "srv:/data /mnt nfs 1 vers=3,addr=192.0.2.1,nolock"}, "192.0.2.1:2049", ""},
		{"srv:/data", "nfs", "vers=3,soft,rsize=65536,_netdev,bg,retry=1", nil, []string{"srv:/data /mnt nfs 1 vers=3,addr=192.0.2.1,soft,rsize=65536,nolock"}, "192.0.2.1:111", ""},
		{"srv:/data", "nfs", "nfsvers=3,port=2050,local_lock=all", nil, []string{"srv:/data /mnt nfs 1 vers=3,addr=192.0.2.1,port=2050,local_lock=all"}, "192.0.2.1:2050", ""},
		{"srv:/", "nfs4", "", []error{unix.EPROTONOSUPPORT, unix.EPROTONOSUPPORT}, []string{"srv:/ /mnt nfs 1 vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.99", "srv:/ /mnt nfs 1 vers=4.1,addr=192.0.2.1,clientaddr=192.0.2.99", "srv:/ /mnt nfs 1 vers=4.0,addr=192.0.2.1,clientaddr=192.0.2.99"}, "192.0.2.1:2049", ""},
		{"srv:/d", "nfs", "vers=4,minorversion=1,clientaddr=10.0.0.1", nil, []string{"srv:/d /mnt nfs 1 vers=4.1,addr=192.0.2.1,clientaddr=10.0.0.1"}, "192.0.2.1:2049", ""},
		{"srv:/d", "nfs", "vers=4", nil, []string{"srv:/d /mnt nfs 1 vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.99"}, "192.0.2.1:2049", ""},
		{"[2001:db8::1]:/d", "nfs", "vers=3,addr=2001:db8::1", nil, []string{"[2001:db8::1]:/d /mnt nfs 1 vers=3,addr=2001:db8::1,nolock,proto=tcp6"}, "[2001:db8::1]:111", ""},
		{"//srv/share", "cifs", "user=me", nil, []string{`//srv/share /mnt cifs 1 ip=192.0.2.1,unc=\\srv\share,user=me,pass=typed`}, "192.0.2.1:445", "Password for me@//srv/share: "},
		{"//srv/share/sub/dir/", "cifs", "username=CORP\\me%x,vers=3.0,sec=ntlmssp,uid=5", nil, []string{`//srv/share/sub/dir /mnt cifs 1 ip=192.0.2.1,unc=\\srv\share,prefixpath=sub/dir,user=me,pass=x,domain=CORP,vers=3.0,sec=ntlmssp,uid=5`}, "192.0.2.1:445", ""},
		{"//srv/share", "cifs", "credentials=" + file + ",port=1445", nil, []string{`//srv/share /mnt cifs 1 ip=192.0.2.1,unc=\\srv\share,user=me,pass=a,,b=c,domain=OTHER,port=1445`}, "192.0.2.1:1445", ""},
		{"//srv/share", "cifs", "guest,_netdev", nil, []string{`//srv/share /mnt cifs 1 ip=192.0.2.1,unc=\\srv\share,user=,pass=`}, "192.0.2.1:445", ""},
		{`\\srv\share`, "smb3", "user=u,password=", nil, []string{`//srv/share /mnt smb3 1 ip=192.0.2.1,unc=\\srv\share,user=u,pass=`}, "192.0.2.1:445", ""},
		{"//srv/share", "cifs", "sec=krb5,user=u", nil, []string{`//srv/share /mnt cifs 1 ip=192.0.2.1,unc=\\srv\share,user=u,sec=krb5`}, "192.0.2.1:445", ""},
		{"//srv/a,b/c", "cifs", "guest,domain=W", nil, []string{`//srv/a,b/c /mnt cifs 1 ip=192.0.2.1,user=,pass=`}, "192.0.2.1:445", ""},
	} {
		f := &fake{errs: c.errs, answer: "typed", addrs: []string{"2001:db8::5", "192.0.2.1"}}
		options := strings.Split(c.options, ",")
		if c.options == "" {
			options = nil
		}
		err := f.system().Mount(c.source, "/mnt", c.typ, unix.MS_RDONLY, options)
		if err != nil || !slices.Equal(f.calls, c.want) || !slices.Equal(f.probed, []string{c.probed}) || strings.Join(f.asked, "") != c.asked {
			t.Errorf("Mount(%s, %s) = %v\n%q\nprobed %q, asked %q; want\n%q\n%s, %q", c.source, c.options, err, f.calls, f.probed, f.asked, c.want, c.probed, c.asked)
		}
	}
}

// TestReasons: an error names what is wrong, and never the password.
func TestReasons(t *testing.T) {
	for _, c := range []struct {
		source, typ, options string
		fake                 fake
		want                 string
	}{
		{"srv:/data", "nfs", "", fake{noName: true}, "cannot find the address of srv"},
		{"srv:/data", "nfs", "", fake{probe: unix.ECONNREFUSED}, "srv does not answer on port 2049: connection refused"},
		{"srv:/data", "nfs", "vers=3", fake{probe: unix.EHOSTUNREACH}, "srv does not answer on port 111: no route"},
		{"srv:/data", "nfs", "", fake{probe: os.ErrDeadlineExceeded}, "no answer within 10s"},
		{"srv:/data", "nfs", "", fake{errs: []error{unix.EACCES}}, "permission denied: the exports of srv do not give /data to this machine"},
		{"srv:/data", "nfs", "vers=4.2", fake{errs: []error{unix.ENOENT}}, "srv has no export /data"},
		{"srv:/data", "nfs", "", fake{errs: []error{unix.ENOENT, unix.ENOENT, unix.ENOENT, unix.ECONNREFUSED}}, "srv has no export /data"}, // it has version 4 only
		{"srv:/data", "nfs", "vers=4.2", fake{errs: []error{unix.EPROTONOSUPPORT}}, "srv does not speak version 4.2 of NFS"},
		{"srv:/data", "nfs", "vers=5", fake{}, "NFS has no version 5"},
		{"srv:/data", "nfs", "vers=3", fake{errs: []error{unix.ENODEV}}, "modprobe nfs"},
		{"srv:/data", "nfs", "vers=3,bad", fake{errs: []error{unix.EINVAL}}, "does not take the options"},
		{"srv:/data", "nfs", "vers=3", fake{errs: []error{unix.ETIMEDOUT}}, "no answer"},
		{"srv", "nfs", "", fake{}, "srv is not HOST:/PATH"},
		{"//srv", "cifs", "guest", fake{}, "//srv is not //HOST/SHARE"},
		{"//srv/s", "cifs", "user=me,pass=secret", fake{errs: []error{unix.EACCES}}, `permission denied: srv refuses user "me": wrong user name or password`},
		{"//srv/s", "cifs", "user=me,pass=secret", fake{errs: []error{unix.ENOENT}}, "srv has no share or directory s"},
		{"//srv/s", "cifs", "guest,vers=1.0", fake{errs: []error{unix.EHOSTDOWN}}, "srv does not speak version 1.0 of SMB"},
		{"//srv/s", "cifs", "user=me,pass=secret", fake{errs: []error{unix.EKEYEXPIRED}}, "has expired"},
		{"//srv/s", "cifs", "user=me,pass=secret", fake{errs: []error{unix.ENODEV}}, "modprobe cifs"},
		{"//srv/s", "cifs", "user=me", fake{}, "cannot ask for the password of me: no terminal"},
		{"//srv/s", "cifs", "credentials=/nosuch", fake{}, "cannot read the credentials in /nosuch: no such file"},
		{"//srv/s", "cifs", "user=me,pass=secret\nx", fake{}, "characters that the kernel can't take"},
		{"//srv/s", "cifs", "user=me,pass=secret", fake{errs: []error{unix.EBUSY}}, "busy"},
	} {
		f := c.fake
		f.addrs = []string{"192.0.2.1"}
		err := f.system().Mount(c.source, "/mnt", c.typ, 0, strings.Split(c.options, ","))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Mount(%s, %s) = %v; want %q", c.source, c.options, err, c.want)
		}
	}
}

func TestType(t *testing.T) {
	for source, want := range map[string]string{"srv:/data": "nfs", "[::1]:/x": "nfs", "//srv/share": "cifs", `\\srv\share`: "cifs", "/dev/sda1": "", "none": "", "a/b:/c": "", "http://x": "", ":/x": "", "LABEL=a:b": ""} {
		if got := Type(source); got != want {
			t.Errorf("Type(%q) = %q; want %q", source, got, want)
		}
	}
}

func FuzzShare(f *testing.F) {
	f.Add("srv:/data", "vers=4.2,soft")
	f.Add("//srv/share/sub", "user=D/u%p,credentials=/dev/null")
	f.Fuzz(func(t *testing.T, source, options string) {
		if strings.Contains(options, "cred") {
			return
		}
		x := &fake{addrs: []string{"192.0.2.1"}, answer: "typed"}
		for _, typ := range []string{"nfs", "cifs"} {
			if err := x.system().Mount(source, "/mnt", typ, 0, strings.Split(options, ",")); err != nil && strings.ContainsAny(err.Error(), "\x1b\x00") {
				t.Errorf("control characters in %q", err)
			}
		}
		for _, c := range x.calls {
			if strings.Contains(c, "pass=") && !strings.Contains(c, "ip=192.0.2.1") && !strings.Contains(c, "ip=") {
				t.Errorf("no address: %q", c)
			}
		}
	})
}
