package vmtest

import (
	"fmt"
	"regexp"
	"strings"
)

// restoreFailing restores onto a disk of which a write fails: the step is named,
// the journal has what was done before it and no more, and resuming does the
// rest.
func (r *circle) restoreFailing(vm *VM) error {
	out, code, err := vm.Run("restore --yes --confirm "+r.confirmed()+" 2>&1; S=$?; cat /run/mkcdrec/journal.jsonl; (exit $S)", jobLimit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`step (\d+) failed`).FindStringSubmatch(out)
	if code != 1 || g == nil || strings.Contains(out, `"step":`+g[1]+`,`) || !strings.Contains(out, "restore --resume") {
		return fmt.Errorf("a disk that fails, exit status %d:\n%s", code, out)
	}
	r.Say("%s: step %s failed, as it should", r.Kind, g[1])
	if out, err = must(vm, "restore --resume --yes --confirm "+r.confirmed(), jobLimit); err != nil {
		return err
	}
	if !strings.Contains(out, "was done before") {
		return fmt.Errorf("nothing was resumed:\n%s", out)
	}
	r.out.Restore = out
	r.FailAt = 0 // it failed
	return powerOff(vm)
}

// restoreVanishing has the disk go away while files are written to it: the step is
// named and not in the journal. When it is connected again, under any name,
// the restore is resumed, and does the rest.
func (r *circle) restoreVanishing(vm *VM) error {
	start := "restore --yes --confirm " + r.confirmed()
	out, err := must(vm, start+" > /tmp/log 2>&1 & P=$!; for i in $(seq 1200); do grep -q 'restoring / ' /tmp/log && break; sleep 0.1; done; sleep 2; echo 1 > /sys/block/sda/device/delete; wait $P; S=$?; cat /tmp/log /run/mkcdrec/journal.jsonl; test $S = 1", jobLimit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`step (\d+) failed`).FindStringSubmatch(out)
	if g == nil || strings.Contains(out, `"step":`+g[1]+`,`) {
		return fmt.Errorf("a disk that vanishes:\n%s", out)
	}
	r.Say("%s: step %s failed, as it should", r.Kind, g[1])
	if err := all(vm,
		start+" > /tmp/log 2>&1; S=$?; cat /tmp/log; test $S = 4", // it is not there
		"for h in /sys/class/scsi_host/host*; do echo '- - -' > $h/scan; done; for i in $(seq 100); do lsblk | grep -q "+r.targetSerial()+" && break; sleep 0.1; done; lsblk | grep "+r.targetSerial(),
	); err != nil {
		return err
	}
	if r.out.Restore, err = must(vm, start+" --resume 2>&1", jobLimit); err != nil {
		return err
	}
	if !strings.Contains(r.out.Restore, "was done before") {
		return fmt.Errorf("nothing was resumed:\n%s", r.out.Restore)
	}
	return powerOff(vm)
}

// restoreLUKS restores at the prompt, where identity and passphrase are asked
// for; without them nothing is touched.
func (r *circle) restoreLUKS(vm *VM) error {
	start := "restore --yes --confirm " + r.confirmed()
	if r.From == "" {
		_, err := must(vm, start+" < /dev/null > /tmp/r 2>&1; test $? = 4 && grep 'no identity given' /tmp/r && dd if=/dev/vdb of=/tmp/z bs=1M count=16 && dd if=/dev/zero of=/tmp/zz bs=1M count=16 && cmp /tmp/z /tmp/zz && rm /tmp/z /tmp/zz", jobLimit)
		if err != nil {
			return err
		}
	}
	if err := r.walk(vm); err != nil {
		return err
	}
	if err := vm.Send(start + "\n"); err != nil {
		return err
	}
	if err := play(vm,
		step{wait: `age identity \(AGE-SECRET-KEY-1...\): `, send: r.identity.String() + "\n"},
		step{wait: `Passphrase of (secret|data) \(was on vda[34]\): `, send: "wrong\n"},
		step{wait: `that does not open (secret|data)(?s:.*)Passphrase of (secret|data) \(was on vda[34]\): `, send: Password + "\n"},
	); err != nil {
		return err
	}
	g, err := vm.Expect(`(?s)(RESTORED .*?)\r?\n[^\n]*the machine is restored|(restore: [^\n]*\n[^\n]*\n)`, jobLimit)
	if err != nil {
		return err
	}
	if g[1] == "" {
		return vm.failed("the restore failed")
	}
	r.out.Restore = strings.ReplaceAll(g[1], "\r", "")
	checks := []string{
		"printf " + Password + " > /tmp/k && restore mount --ro --key-file /tmp/k && restore verify > /tmp/v 2>&1; cat /tmp/v; grep 'nothing else differs' /tmp/v",
		"test -z \"$(grep -r AGE-SECRET /var/log /mnt/target/var/log/mkcdrec)\"",
		"restore umount && test ! -e /dev/mapper/secret",
		writes,
		"writes > /tmp/w1",
		"restore mount --ro --key-file /tmp/k --disks && grep 'opened by a key file' /mnt/target/data/file && test -d /mnt/target/srv/difficult && test -d /mnt/target/home/difficult && test -d /mnt/target/boot/grub",
		"restore umount && test -z \"$(ls /dev/mapper | grep -v control)\"",
		"writes > /tmp/w2; diff /tmp/w1 /tmp/w2", // read-only means not one bit
	}
	if r.From != "" {
		checks = nil // seen by circles of their own
	}
	if err := all(vm, checks...); err != nil {
		return err
	}
	return powerOff(vm)
}

// restoreWished restores at the prompt.
func (r *circle) restoreWished(vm *VM) error {
	if err := r.walk(vm); err != nil {
		return err
	}
	mount := "restore mount"
	if machines[r.Kind].passphrase {
		mount += " --key-file /tmp/k"
		if _, err := must(vm, "printf "+Password+" > /tmp/k", bootLimit); err != nil {
			return err
		}
	}
	out, err := must(vm, "restore --yes --confirm "+r.confirmed()+" "+r.Wishes, jobLimit)
	if err != nil {
		return err
	}
	if i := strings.Index(out, "RESTORED"); i > 0 {
		r.out.Restore = out[i:]
	}
	if err := play(vm, r.repairs(mount)...); err != nil {
		return err
	}
	return powerOff(vm)
}

// repairs compares the restored system with its set, then with a file changed; mount is the
// command that mounts it.
func (r *circle) repairs(mount string) []step {
	steps := []step{{run: mount + " && restore verify", want: "nothing else differs"}}
	if r.Kind == BIOSLVM && !r.Mate {
		// One file system alone, by an answer file; and what can't be found.
		steps = append(steps, []step{
			{run: "restore umount"},
			{run: "printf 'yes: true\\nconfirm: [" + r.targetSerial() + "]\\nonly: /boot\\n' > /tmp/a.yaml; restore --answers /tmp/a.yaml 2>&1", want: "/boot is restored"},
			{run: "restore --yes --confirm " + r.targetSerial() + " --only /home 2>&1; test $? = 4", want: "no device has the UUID"},
			{run: "restore extract $(cat /run/mkcdrec/set) /etc/hostname /boot/grub/grub.cfg --to /tmp/x 2>&1 && cat /tmp/x/etc/hostname && test -s /tmp/x/boot/grub/grub.cfg", want: r.Kind},
			{run: mount + " && restore verify", want: "nothing else differs"},
		}...)
	}
	return append(steps, []step{
		{run: writes},
		{run: "cat /mnt/target/etc/hostname > /tmp/h; echo x >> /mnt/target/etc/hostname; restore verify; test $? = 1", want: "/etc/hostname: has"},
		{run: "cat /tmp/h > /mnt/target/etc/hostname; restore verify; test $? = 1", want: "/etc/hostname: time is"},
		{run: "restore umount"},
		// The same, found without its layout.
		{run: "writes > /tmp/w1"},
		{run: mount + " --ro --disks && for d in " + r.mounts() + "; do [ -n \"$(ls /mnt/target$d)\" ] || echo nothing in $d; done > /tmp/e; cat /tmp/e /mnt/target/etc/hostname; test ! -s /tmp/e", want: r.Kind},
		{run: "restore umount && ! grep -q /mnt/target /proc/mounts && echo closed", want: "closed"},
		{run: "writes > /tmp/w2; diff /tmp/w1 /tmp/w2 && echo not one bit was written", want: "not one bit"},
	}...)
}

// walk does dry runs that are killed after each of their steps, and resumed. No
// disk is touched by it.
func (r *circle) walk(vm *VM) error {
	if r.Walk == "" {
		return nil
	}
	limit := 2 * jobLimit
	dry := "restore --dry-run --no-verify "
	for _, d := range r.targets() {
		dry += "--confirm " + d.Serial + " "
	}
	whole, err := must(vm, dry+"> /tmp/w 2>&1; S=$?; cat /tmp/w; test $S = 0 && grep 'all as planned' /tmp/w && test -z \"$(ls /run/mkcdrec/dry-run/disks)\"", limit)
	if err != nil {
		return err
	}
	last := "0"
	for _, g := range regexp.MustCompile(`(?m)^ *(\d+)\. [a-z]`).FindAllStringSubmatch(whole, -1) {
		last = g[1]
	}
	steps := r.Walk
	if steps == "all" {
		steps = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30"
	}
	// After a step that the plan has not nothing is killed: that was the last.
	out, err := must(vm, "k=0; for n in "+steps+"; do "+dry+"--kill-after $n > /tmp/w 2>&1; S=$?; [ $S = 0 ] && break; [ $S = 137 ] && "+dry+"--resume > /tmp/w 2>&1 && grep -q 'all as planned' /tmp/w || { cat /tmp/w; echo FAILED $n; break; }; k=$((k+1)); done; echo killed after $k steps", limit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`killed after (\d+) steps`).FindStringSubmatch(out)
	if g == nil || strings.Contains(out, "FAILED") || g[1] == "0" || r.Walk == "all" && g[1] != last {
		return fmt.Errorf("a dry run that was killed does not end as it should:\n%s", out)
	}
	r.Say("%s: killed and resumed after each of %s steps", r.Kind, g[1])
	if _, err = must(vm, "test -z \"$(ls /dev/mapper | grep -v control)\"", bootLimit); err != nil {
		return err
	}
	// One more is left as it is: the restore that follows cleans up after it.
	_, err = must(vm, dry+"--kill-after 5 > /tmp/w 2>&1; test $? = 137", limit)
	return err
}
