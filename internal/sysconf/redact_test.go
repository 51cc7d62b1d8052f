package sysconf

import (
	"strings"
	"testing"
)

func TestRedactFstab(t *testing.T) {
	for in, want := range map[string]string{
		"//nas/x /mnt cifs username=u,password=geheim,uid=1 0 0\n":             "//nas/x /mnt cifs username=u,password=***,uid=1 0 0\n",
		"//nas/x /mnt cifs pass=a,,b\\040c,rw 0 0":                             "//nas/x /mnt cifs pass=***,rw 0 0",
		`//nas/x /mnt smb3 rw,password2="a,b",user=DOM/u%geheim`:               `//nas/x /mnt smb3 rw,password2=***,user=DOM/u%***`,
		"//nas/x /mnt cifs credentials=/root/.smb,passwd_file=/x,rw":           "//nas/x /mnt cifs credentials=/root/.smb,passwd_file=/x,rw",
		"# //nas/x\t/mnt cifs user=u,PASSWORD=geheim":                          "# //nas/x\t/mnt cifs user=u,PASSWORD=***",
		"https://u:geheim@h/dav /d davfs user 0 0\r\n":                         "https://u:***@h/dav /d davfs user 0 0\r\n",
		"curlftpfs#u:geheim@h/ /f fuse rw,user=u:geheim 0 0":                   "curlftpfs#u:***@h/ /f fuse rw,user=u:*** 0 0",
		"u@h:/srv /s fuse.sshfs ssh_command=sshpass\\040-p\\040x\\040ssh":      "u@h:/srv /s fuse.sshfs ssh_command=***",
		"1.2.3.4:6789:/ /c ceph name=admin,secret=AQ==,secretfile=/x":          "1.2.3.4:6789:/ /c ceph name=admin,secret=***,secretfile=/x",
		"/x /x ecryptfs key=passphrase:passphrase_passwd=geheim,rw":            "/x /x ecryptfs key=***,rw",
		"//nas/x /mnt cifs p\\141ssword=geheim":                                "//nas/x /mnt cifs password=***",
		odd:                                                                    odd,
		"host:/a@b:c /x nfs ro 0 0\nUUID=1 / ext4 compress=zstd:3,x-a=b 0 1\n": "host:/a@b:c /x nfs ro 0 0\nUUID=1 / ext4 compress=zstd:3,x-a=b 0 1\n",
	} {
		if got := RedactFstab(in); got != want {
			t.Errorf("RedactFstab(%q)\n = %q; want\n   %q", in, got, want)
		}
	}
}

func TestRedactCmdline(t *testing.T) {
	for in, want := range map[string]string{
		"root=UUID=1 ro quiet  splash\n": "root=UUID=1 ro quiet  splash\n",
		"rd.iscsi.username=u rd.iscsi.password=geheim rd.iscsi.in.password=geheim iscsi_password=g": "rd.iscsi.username=u rd.iscsi.password=*** rd.iscsi.in.password=*** iscsi_password=***",
		"netroot=iscsi:u:geheim:ru:rgeheim@10.0.0.1::::iqn.2009-06.x:y ip=ibft":                     "netroot=iscsi:u:***@10.0.0.1::::iqn.2009-06.x:y ip=ibft",
		"netroot=iscsi:10.0.0.1::::iqn.2009-06.x:y":                                                 "netroot=iscsi:10.0.0.1::::iqn.2009-06.x:y",
		`password="a b" "secret=c d" x=1`:                                                           `password="***" "secret=***" x=1`,
		"password='a b c' x=1":                                                                      "password=*** *** *** x=1",
		"systemd.set_credential=passwd.plaintext-password.root:geheim systemd.setenv=API_TOKEN=x":   "systemd.set_credential=passwd.plaintext-password.root:*** systemd.setenv=API_TOKEN=***",
		"rd.luks.key=/key:UUID=1 rd.luks.uuid=luks-1 iommu.passthrough=1 key=value":                 "rd.luks.key=*** rd.luks.uuid=luks-1 iommu.passthrough=1 key=value",
		"inst.ks=ftp://u:gehe/im@h/ks root=live:https://u:g@h/x?a=b&token=t":                        "inst.ks=ftp://u:***@h/ks root=live:https://u:***@h/x?a=b&token=***",
		"ip=10.0.0.2::10.0.0.1:255.255.255.0:host:eth0:off pass1=x":                                 "ip=10.0.0.2::10.0.0.1:255.255.255.0:host:eth0:off pass1=***",
		"key=https://u:geheim@h/k":                                                                  "key=https://u:***@h/k",
	} {
		if got := RedactCmdline(in); got != want {
			t.Errorf("RedactCmdline(%q)\n = %q; want\n   %q", in, got, want)
		}
	}
}

func TestDropSecrets(t *testing.T) {
	for in, want := range map[string][2]string{
		"root=UUID=1  ro\n": {"root=UUID=1  ro\n", ""},
		`root=UUID=1 password="a b" netroot=iscsi:u:p@h: quiet token=x`: {"root=UUID=1 quiet", "password netroot token"},
		"password='a b c' x=1 pass=y pass=z":                            {" x=1", "password pass"},
	} {
		got, names := DropSecrets(in)
		if got != want[0] || strings.Join(names, " ") != want[1] {
			t.Errorf("DropSecrets(%q) = %q, %q; want %q", in, got, names, want)
		}
	}
}

func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/x": "https://h/x", "https://u@h/x": "https://u@h/x", "https://u:p@h:8/x": "https://u:***@h:8/x", "https://u:p@w@h/x@y": "https://u:***@h/x@y",
		"https://h:8080/a@b": "https://h:8080/a@b", "ftp://u:p/q@h/": "ftp://u:***@h/", "https://[::1]:8/x@y": "https://[::1]:8/x@y", "https://h/x?sig=abc&n=1": "https://h/x?sig=***&n=1",
		"https://:p@h/": "https://:***@h/", "/srv/a:b@c": "/srv/a:b@c", "host:/x": "host:/x", "sftp://u:p@h?x": "sftp://u:***@h?x", "u:p@h": "u:***@h",
	} {
		if got := RedactURL(in); got != want {
			t.Errorf("RedactURL(%q) = %q; want %q", in, got, want)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("//nas/x /mnt cifs user=u,password=SEKRET 0 0\npassword='SEKRET b'", "SEKRET")
	f.Fuzz(func(t *testing.T, text, secret string) {
		if got := RedactFstab(RedactFstab(text)); got != RedactFstab(text) {
			t.Errorf("redacted again: %q", got)
		}
		if got := RedactCmdline(RedactCmdline(text)); got != RedactCmdline(text) {
			t.Errorf("redacted again: %q, %q", RedactCmdline(text), got)
		}
		RedactURL(text)
		if secret == "" || strings.ContainsAny(secret, "*,\" \t\r\n\\'\v\f/") || strings.Contains("//nas/x /mnt cifs user=u,password=,rw 0 0 ro x=1 root=UUID=1", secret) {
			return
		}
		if got := RedactFstab("//nas/x /mnt cifs user=u,password=" + secret + ",rw 0 0\n"); strings.Contains(got, secret) {
			t.Errorf("%q", got)
		}
		if got := RedactCmdline("root=UUID=1 password=" + secret + " x=1"); strings.Contains(got, secret) {
			t.Errorf("%q", got)
		}
	})
}
