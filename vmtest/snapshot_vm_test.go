//go:build vmtest

package vmtest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestSnapshot backs up a machine with file systems on thick and thin volumes and on a btrfs
// while a program writes to two files on each of them, one after the other: with snapshots the
// saved ones are never more than one step apart. Snapshots are gone after each run, also after
// one that was killed, and one that fills up has its file system read live.
func TestSnapshot(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Minute)
	defer cancel()
	r := Circle{Kind: BIOSLVM, Work: workDir(t), Say: t.Logf}.new()
	r.Mkcdrec, r.Guest = programs(t)
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	f := sourceWith(ctx, t, r, "snapshot-source", "1G", "", "THIN01", "TREE01")
	snapshotMachine(f)
	t.Run("consistent", func(t *testing.T) { f.t = t; snapshotConsistent(f) })
	t.Run("ended", func(t *testing.T) { f.t = t; snapshotEnded(f) })
	t.Run("full", func(t *testing.T) { f.t = t; snapshotFull(f) })
	f.t = t
}

// places are directories on file systems that can have a snapshot: thick with ext4 and XFS,
// thin, btrfs, and a subvolume in it.
const places = "/srv/pair /home/pair /srv/thin/pair /srv/tree/pair /srv/tree/inner/pair"

// snapshotMachine makes the file systems and starts the program that writes.
func snapshotMachine(f *faults) {
	f.want(0, "mkdir -p /backup && mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /usr/local/bin/")
	f.want(0, "A="+byID("THIN01")+" B="+byID("TREE01")+"; vgcreate -q vg1 $A && lvcreate -q -y --type thin-pool -L 700m -n pool vg1 && lvcreate -q -y -V 500m --thinpool pool -n thin vg1 && mkfs.ext4 -q /dev/vg1/thin && mkfs.btrfs -q $B")
	f.want(0, "mkdir -p /srv/thin /srv/tree && mount /dev/vg1/thin /srv/thin && mount $B /srv/tree && btrfs subvolume create /srv/tree/inner && btrfs subvolume snapshot -r /srv/tree/inner /srv/tree/theirs")
	f.want(0, `printf 'snapshot: auto\ninclude: [/srv, /home, /etc, /usr/bin, /boot/grub]\nexclude_devices: [/backup]\nrescue: {programs: none, modules: host}\ngenerations: {full_every: 7}\n' > /etc/mkcdrec.yaml`)
	f.want(0, `mkdir -p /etc/mkcdrec/hooks.d/before-snapshot /etc/mkcdrec/hooks.d/after-snapshot
printf '#!/bin/sh\necho before $(lvs --noheadings -o lv_name | grep -c mkcdrec_snap) >> /run/hooks\n' > /etc/mkcdrec/hooks.d/before-snapshot/10
printf '#!/bin/sh\necho after $(lvs --noheadings -o lv_name | grep -c mkcdrec_snap) "live:$MKCDREC_LIVE" >> /run/hooks\n' > /etc/mkcdrec/hooks.d/after-snapshot/10
chmod +x /etc/mkcdrec/hooks.d/*/10`)
	// What lies between the two in an archive takes time to be read.
	f.want(0, "for d in "+places+"; do mkdir -p $d && echo 0 > $d/a && echo 0 > $d/z && head -c 20000000 /dev/urandom > $d/m; done; sync")
	f.want(0, `cat > /root/writes <<'F'
#!/bin/bash
i=0
while [ ! -e /run/stopped ]; do
  i=$((i+1))
  for d in `+places+`; do echo $i > $d/.new && mv $d/.new $d/a && echo $i > $d/.new && mv $d/.new $d/z; done
done
F
chmod +x /root/writes; cp /bin/sleep /root/postgres; (setsid /root/writes > /dev/null 2>&1 &); (setsid /root/postgres 100000 < /home/pair/m > /dev/null 2>&1 &); sleep 5; test $(cat /srv/tree/pair/a) -gt 0`)
	// none checks that nothing of a run is left.
	f.want(0, `none() { lvs -a -o name,tags,attr; ! lvs --noheadings -a -o lv_name,tags | grep -i mkcdrec && ! ls -A /srv/tree | grep mkcdrec && ! grep /run/mkcdrec/snapshot /proc/mounts && test -z "$(ls /var/lib/mkcdrec/snapshots 2>/dev/null)" && test -z "$(ls -d /run/mkcdrec/snapshot* 2>/dev/null)" && dmsetup info -c --noheadings -o name,suspended && ! dmsetup info -c --noheadings -o suspended | grep -i '^ *suspended'; }
# apart prints how far the two files of each place are apart.
apart() { for d in `+places+`; do a=$(cat $1$d/a) z=$(cat $1$d/z); echo "$d: $a $z: $((z-a))"; done; }
newest() { ls -d /backup/*-*Z | tail -n 1; }
# same is how many archives of the newest set list files of an earlier one.
same() { grep -c '"archived".*"earlier":[1-9]' $(newest)/log/run.jsonl; }`)
}

// snapshotConsistent: what is saved is of one moment.
func snapshotConsistent(f *faults) {
	f.want(0, "mkcdrec -n path /backup > /tmp/n 2>&1; S=$?; grep snapshot /tmp/n; test $S = 0", "/ would be read from a snapshot", "/srv/thin would be", "/srv/tree would be", "read live, without a snapshot: /boot: it is neither on LVM nor a btrfs")
	f.want(0, "none > /tmp/none 2>&1 || { cat /tmp/none; false; }")
	f.want(0, "mkcdrec path /backup > /tmp/out 2>&1; S=$?; cat /tmp/out; test $S = 0", "PostgreSQL is running", "a snapshot has its files as after a power failure")
	f.want(0, "none > /tmp/none 2>&1 || { cat /tmp/none; false; }")
	f.want(0, "cat /run/hooks; rm /run/hooks", "before 0", "after 3 live:/boot")
	f.want(0, "grep -c '\"snapshot\":true' $(newest)/log/run.jsonl | grep -x 4; grep '\"archived\"' $(newest)/log/run.jsonl | cut -c 1-200; mkcdrec -q verify $(newest)")
	out := f.want(0, "rm -rf /run/x; mkcdrec -q extract -C /run/x $(newest) "+places+"; apart /run/x")
	for l := range strings.Lines(out) {
		if strings.Contains(l, "/pair: ") && !strings.HasSuffix(strings.TrimSpace(l), ": 0") && !strings.HasSuffix(strings.TrimSpace(l), ": -1") {
			f.wrong("apart", "the files are not of one moment", l)
		}
	}
	f.want(0, "test $(apart /run/x | grep -c pair) = 5; ls -la /run/x/srv/tree; ! test -e /run/x/srv/tree/theirs/pair; rm -rf /run/x")
	// Without snapshots they differ, or this test shows nothing.
	f.want(0, "sed 's/auto/off/' /etc/mkcdrec.yaml > /tmp/off.yaml; mkcdrec -c /tmp/off.yaml path /backup > /tmp/out 2>&1; grep -i 'hooks of\\|postgres' /tmp/out; rm -f /run/hooks", "the hooks of before-snapshot and after-snapshot do not run", "its files are read while they change")
	f.t.Logf("without snapshots:\n%s", f.want(0, "mkcdrec -q extract -C /run/x $(newest) "+places+"; apart /run/x; apart /run/x | grep -v ': 0$' | grep -v ': -1$'; rm -rf /run/x"))
	// Inodes and times are those of the snapshots: what has not changed is not saved again.
	f.want(0, "same; test $(same) = 5")
}

// snapshotEnded: a run that is stopped removes its snapshots, and the next one those of a run
// that was killed. Those of others stay.
func snapshotEnded(f *faults) {
	const wait = `for i in $(seq 1200); do ls /backup/.mkcdrec-partial-*/vg0-root* >/dev/null 2>&1 && break; sleep 0.1; done; ls /backup/.mkcdrec-partial-*/`
	f.want(0, "lvcreate -q -y -s -n theirs --addtag mkcdrec_snapshot -L 32m vg0/root")
	f.want(1, "mkcdrec -q path /backup & P=$!; "+wait+"; kill -TERM $P; wait $P")
	f.want(0, "lvs vg0/theirs && lvrename -q vg0 theirs other && lvchange -q --deltag mkcdrec_snapshot vg0/other; none > /tmp/none 2>&1 || { cat /tmp/none; false; }; lvrename -q vg0 other theirs; lvchange -q --addtag mkcdrec_snapshot vg0/theirs")
	f.want(137, "mkcdrec -q path /backup & P=$!; "+wait+"; kill -KILL $P; wait $P")
	f.want(0, "lvs --noheadings -o lv_name | grep -c mkcdrec_snap | grep -x 3; ls -A /srv/tree; ls -d /srv/tree/.mkcdrec-snapshot-*/0/inner; ls /var/lib/mkcdrec/snapshots")
	f.want(0, "mkcdrec --json layout show > /tmp/l 2>&1; ! grep -o 'mkcdrec-snapshot[^,]*' /tmp/l && mkcdrec -n path /backup > /tmp/n 2>&1; S=$?; grep snapshot /tmp/n; test $S = 0; ! grep 'can.t be saved\\|not covered' /tmp/n")
	f.want(0, "mkcdrec path /backup > /tmp/out 2>&1; S=$?; cat /tmp/out; test $S = 0", "removing the snapshots of the backup of", "which has ended without removing them")
	f.want(0, "lvs vg0/theirs && lvremove -q -y vg0/theirs && { none > /tmp/none 2>&1 || { cat /tmp/none; false; }; }; same; test $(same) = 5 && mkcdrec -q verify $(newest)")
}

// snapshotFull: a snapshot without room makes its file system be read live.
func snapshotFull(f *faults) {
	f.want(0, "F=$(vgs --noheadings --units m --nosuffix -o vg_free vg0 | cut -d. -f1); lvcreate -q -y -L $((F-132))m -n ballast vg0; vgs vg0")
	f.want(0, `mkdir -p /etc/full.d/after-snapshot; printf '#!/bin/sh\nlvs -a\nsetsid dd if=/dev/zero of=/var/big bs=1M count=160 oflag=direct > /dev/null 2>&1 < /dev/null &\n' > /etc/full.d/after-snapshot/10; chmod +x /etc/full.d/after-snapshot/10; (grep -v generations /etc/mkcdrec.yaml; printf 'hooks: {dir: /etc/full.d}\n') > /tmp/full.yaml`)
	f.want(0, "mkcdrec -c /tmp/full.yaml path /backup > /tmp/out 2>&1; S=$?; cat /tmp/out; test $S = 0", "/ is read live, without a snapshot: more was written to the volume than its snapshot of", "read live, without a snapshot: /home: its snapshot would need 32.0 MiB of the volume group vg0")
	f.want(0, "none > /tmp/none 2>&1 || { cat /tmp/none; false; }; mkcdrec -q verify $(newest) && mkcdrec -q extract -C /run/x $(newest) /etc/fstab && cmp /run/x/etc/fstab /etc/fstab; grep '\"no snapshot\"' $(newest)/log/run.jsonl")
}
