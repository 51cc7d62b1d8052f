package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// Home is the server that a circle's backup goes to.
type Home struct {
	Servers *Servers
	// Kind is nfs, smb, sftp or s3.
	Kind string
	// Encrypt has the set encrypted.
	Encrypt bool
	// Snapshot has the file systems read from snapshots.
	Snapshot bool
}

// url is where the sets are, for the machines.
func (h *Home) url() string {
	return h.Servers.Fill(map[string]string{
		"nfs":  "nfs://HOST:PORT(nfs)/share/sets",
		"smb":  "smb://HOST:PORT(smb)/share/sets",
		"sftp": "sftp://root@HOST:PORT(ssh)" + h.Servers.Share + "/sets",
		"s3":   "s3://HOST:PORT(s3)/sets",
	}[h.Kind])
}

// credentials are those of the source machine, in the file that the configuration names.
func (h *Home) credentials() string {
	return h.Servers.Fill(map[string]string{
		"nfs":  "",
		"smb":  "- {url: \"smb://HOST:PORT(smb)\", user: root, password: geheim}\n",
		"sftp": "- {url: \"sftp://root@HOST:PORT(ssh)\", key: /root/backup.key, known_hosts: /root/backup.hosts}\n",
		"s3":   "- {url: \"s3://HOST:PORT(s3)\", access_key: mkcdrec, secret_key: geheimgeheim, ca: /root/backup.pem}\n",
	}[h.Kind])
}

// prepare puts configuration, credentials and keys on the disk that the source machine gets.
func (h *Home) prepare(r *circle, stage string) (err error) {
	config := "exclude_devices: [/backup]\ndestination: \"" + h.url() + "\"\ngenerations: {full_every: 7}\n"
	files := map[string]string{}
	if c := h.credentials(); c != "" {
		config += "credentials_file: /backup/credentials\nrescue: {credentials: include}\n"
		files["credentials"] = c
	}
	if h.Snapshot {
		config += "snapshot: auto\n"
	}
	if h.hooks() {
		config += "hooks: {dir: /root/hooks.d}\nrescue: {check_target: read}\n"
		files["hook"] = hookScript
	}
	if h.Encrypt {
		if r.identity, err = age.GenerateX25519Identity(); err != nil {
			return err
		}
		config += "encrypt: true\nrecipients: [" + r.identity.Recipient().String() + "]\n"
	}
	files["home.yaml"] = config
	// The server's key is that of nobody who signs sets.
	b, err := os.ReadFile(h.Servers.Dir + "/host.pub")
	if err != nil {
		return err
	}
	r.stranger = strings.TrimSpace(string(b))
	for _, k := range []struct{ from, to, prefix string }{{h.Servers.Share + "/key", "backup.key", ""}, {h.Servers.Dir + "/host.pub", "backup.hosts", h.Servers.Fill("[HOST]:PORT(ssh) ")}, {h.Servers.Share + "/ca.pem", "backup.pem", ""}} {
		b, err := os.ReadFile(k.from)
		if err != nil {
			return err
		}
		files[k.to] = k.prefix + string(b)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(stage, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// hooks reports whether the medium has hooks, and checks the disks for bad sectors.
func (h *Home) hooks() bool { return h.Kind == "nfs" }

// hookScript reports when it runs, and leaves a note in what was restored.
const hookScript = `#!/bin/sh -e
echo "hook $MKCDREC_HOOK, $MKCDREC_HOST, status $MKCDREC_STATUS"
test "$MKCDREC_HOOK" != after-restore || mkdir -p "$MKCDREC_TARGET/var/log/mkcdrec"
test "$MKCDREC_HOOK" != after-restore || echo restored > "$MKCDREC_TARGET/var/log/mkcdrec/hook"
`

// homeCommand writes a first set, changes and removes files, describes the machine again, and
// backs it up once more; the medium is made by itself.
func (r *circle) homeCommand(vm *VM) (backupRun, error) {
	mkcdrec := "/backup/bin/mkcdrec -c /backup/home.yaml "
	run := "cd /root; " + mkcdrec + "path --append '" + KernelWords + "'"
	if r.Home.Snapshot {
		run = "cd /root; " + mkcdrec + "path --append '" + KernelWords + "' > /tmp/run 2>&1; S=$?; cat /tmp/run; " +
			"grep 'making snapshots' /tmp/run && ! grep 'read live.*/home' /tmp/run && ! lvs --noheadings -a -o lv_name | grep mkcdrec && test $S = 0"
	}
	c := backupRun{run, []string{
		mkcdrec + "-q rescue -o /backup/rescue.iso --append '" + KernelWords + "'",
		mkcdrec + "prune -n --keep-last 1 '" + r.Home.url() + "'",
		mkcdrec + "status; test $? -le 1",
		"sync; umount /backup",
	}}
	if r.Home.Encrypt {
		c.after = append([]string{mkcdrec + "list '" + r.Home.url() + "' < /dev/null > /tmp/l 2>&1; test $? = 4 && grep 'no identity given' /tmp/l"}, c.after...)
	} else {
		c.after = append([]string{mkcdrec + "-q verify '" + r.Home.url() + "'"}, c.after...)
	}
	return c, all(vm,
		"for n in /sys/class/net/e*; do ip link set ${n##*/} up; ip addr add 10.0.2.15/24 dev ${n##*/}; done; ip addr",
		"cp /backup/backup.key /backup/backup.hosts /backup/backup.pem /root/; chmod 600 /root/backup.* /backup/credentials 2>/dev/null; true",
		"test ! -f /backup/hook || for d in before-backup after-backup before-restore after-restore; do mkdir -p /root/hooks.d/$d; cp /backup/hook /root/hooks.d/$d/10-note; chmod 700 /root/hooks.d/$d/10-note; done",
		run,
		"rm -rf /usr/share/doc/a*; mv /usr/share/doc/b* /srv/; echo changed >> /etc/motd; head -c 300000 /dev/urandom > /srv/new; ln /srv/new /srv/linked; chmod 700 /srv/difficult; sleep 2",
		"! w=$(blkid -L windows) || ntfscp -f $w /etc/motd motd.txt", // of an image, one piece changes
		r.storage(r.src.Serial, "before"),
		"/backup/bin/guest describe "+r.mounts()+" > /backup/before.json && sync",
	)
}

// restoreHome starts the medium with blank disks and no other: the set is on the server, the
// network is configured on demand, and the medium knows whose sets it may restore.
func (r *circle) restoreHome(ctx context.Context) error {
	iso := filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/rescue.iso", iso); err != nil {
		return err
	}
	vm, err := r.rescue(ctx, Machine{Name: r.Kind + "-home", Log: r.log("home"), CDROM: iso, Net: true, Disks: r.targets()})
	if err != nil {
		return err
	}
	defer vm.Kill()
	for _, s := range []string{`backup set: ` + r.Home.Kind, `mkcdrec: rescue system ready`, `# `} {
		if _, err := vm.Expect(s, bootLimit); err != nil {
			return err
		}
	}
	if w := "this backup is an increment of "; !strings.Contains(r.out.Backup, w) {
		return fmt.Errorf("the second backup did not print %q:\n%s", w, r.out.Backup)
	}
	start := "restore --yes --confirm " + r.confirmed()
	if r.Home.Encrypt {
		if err := all(vm, "echo "+r.identity.String()+" > /tmp/id",
			start+" < /dev/null > /tmp/r 2>&1; test $? = 4 && grep 'no identity given' /tmp/r",
			"echo '"+r.stranger+"' > /tmp/stranger; "+start+" --identity /tmp/id --signer /tmp/stranger > /tmp/r 2>&1; test $? = 4 && grep 'a key that is not known here' /tmp/r",
		); err != nil {
			return err
		}
		start += " --identity /tmp/id"
	}
	out, err := must(vm, start+" 2>&1", jobLimit)
	if err != nil {
		return err
	}
	want := []string{"signed with the key of its host"}
	if r.Home.hooks() {
		want = append(want, "hook before-restore, "+r.Kind+", status", "hook after-restore, "+r.Kind+", status 0", "reading all of the disks")
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			return fmt.Errorf("the restore did not print %q:\n%s", w, out)
		}
	}
	r.out.Restore = out
	return powerOff(vm)
}
