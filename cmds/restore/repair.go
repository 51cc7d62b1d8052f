package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/repair"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/rescueinit"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/screen"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// verify compares the system below /mnt/target with a set.
func verify(ctx context.Context, p *ui.Printer, k *keyring.Ring, args []string) error {
	var opt restore.Options
	if err := setArgument(&opt, args); err != nil {
		return err
	}
	set, err := openSet(ctx, p, k, opt.Wanted, opt.Set, false)
	if err != nil {
		return err
	}
	defer set.Close()
	r := &repair.Opener{Report: p, Target: rescue.TargetDir}
	v, err := r.Verify(ctx, set)
	if err != nil {
		return err
	}
	p.End()
	p.Result("comparison", v)
	for _, d := range v.Differences {
		p.Note("%v", d)
	}
	for name, n := range v.Expected {
		p.Note("%d differences that a restore makes: %s", n, name)
	}
	if n := len(v.Differences); n > 0 {
		return fmt.Errorf("%d differences between %s and the set", n, rescue.TargetDir)
	}
	p.Note("%d members compared: nothing else differs", v.Members)
	return nil
}

// openSet opens a set with the keys that there are.
func openSet(ctx context.Context, p *ui.Printer, k *keyring.Ring, want manifest.Wanted, place string, salvage bool) (*manifest.Set, error) {
	d, err := k.Door(ctx, want.OfHost(), p.Note)
	if err != nil {
		return nil, err
	}
	if err := online(ctx, p, place); err != nil {
		return nil, err
	}
	d.Salvage = salvage
	s, err := d.Open(ctx, place)
	if err == nil && want.OtherMachine(s.Manifest.Machine(), s.Manifest.Host) && s.Manifest.ID != want.ID {
		p.Warn("the backup set %s is of another machine with the name %s than the one that this rescue system was made for", s, s.Manifest.Host)
	}
	return s, err
}

// keyFlags adds the options of what opens a set.
func keyFlags(f *flag.FlagSet, k *keyring.Ring) *flag.FlagSet {
	f.StringVar(&k.Passphrase, "passphrase-file", "", "`FILE` with the passphrase of a set that is encrypted with one; asked for without")
	f.StringVar(&k.Identity, "identity", "", "`FILE` with the age identity or SSH key that decrypts the set; asked for without")
	f.StringVar(&k.Credentials, "credentials", "", "`FILE` with the secrets of the server that has the set; without, those of the rescue system")
	return f
}

// opening are the options of mount, umount and boot.
type opening struct {
	ro, degraded, disks bool
	keyFile, root       string
	keys                *keyring.Ring
}

func (o *opening) flags() *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.BoolVar(&o.ro, "ro", false, "mount read-only, and change nothing on any disk: no log is replayed, no array resynchronized, and what LVM writes goes into memory")
	f.BoolVar(&o.degraded, "degraded", false, "start RAID arrays for writing also where members are missing that they had (--ro does so without writing)")
	f.StringVar(&o.keyFile, "key-file", "", "`FILE` with the passphrase of LUKS devices")
	f.BoolVar(&o.disks, "disks", false, "find the system on the disks that are there, whichever machine it is")
	f.StringVar(&o.root, "root", "", "`DEV` of its root file system, where there are several systems")
	return keyFlags(f, o.keys)
}

// open opens, closes or boots the installed system.
func open(ctx context.Context, p *ui.Printer, sc screen.Screen, o *opening, what string, words []string) error {
	if !rescue.Inside() {
		return &exit.Refusal{Reason: "this is not a rescue system"}
	}
	release, err := restore.Lock(rescue.StateDir)
	if err != nil {
		return err
	}
	defer release()
	if _, err := restore.Sweep(os.TempDir()); err != nil {
		p.Warn("%v", err)
	}
	var on []string
	for _, a := range words {
		if d, ok := strings.CutPrefix(a, "/dev/"); ok {
			on = append(on, d)
		}
	}
	if len(words) > 1 && len(on) < len(words) || o.disks && len(words) > 0 {
		return exit.Usage(fmt.Errorf("%s wants one set, or disks", what))
	}
	r := &repair.Opener{Run: tool.Exec{Log: func(s string) { p.Detail("+ %s", s) }}, Report: p, Target: rescue.TargetDir}
	r.KeyFile, r.Secret = o.keyFile, sc.Secret
	switch {
	case o.ro:
		r.Access = storage.ReadOnly
	case o.degraded:
		r.Access = storage.Degraded
	}
	if what == "umount" {
		return umount(ctx, p, o, r, words)
	}
	var l *layout.Layout
	fromDisks := o.disks || len(on) > 0
	if fromDisks {
		l, err = r.FromDisks(ctx, on, o.root)
		if err != nil && l != nil {
			err = errors.Join(err, r.Unmount(ctx, l))
		}
	} else if o.root != "" {
		err = exit.Usage(errors.New("--root is for disks: without them, the layout has its place"))
	} else {
		l, err = layoutOf(ctx, p, o.keys, words)
	}
	if err != nil {
		return err
	}
	return start(ctx, p, r, l, what, fromDisks)
}

func umount(ctx context.Context, p *ui.Printer, o *opening, r *repair.Opener, args []string) error {
	l, err := opened(ctx, p, o.keys, args)
	if err != nil {
		return err
	}
	if err := r.Unmount(ctx, l); err != nil {
		return err
	}
	if err := os.Remove(openedFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// start boots or mounts the system of a layout.
func start(ctx context.Context, p *ui.Printer, r *repair.Opener, l *layout.Layout, what string, fromDisks bool) error {
	if what == "boot" {
		e, err := r.Boot(ctx, l, repair.KexecLoad)
		if err != nil {
			return err
		}
		p.Note("starting %s of the installed system", ui.Clean(e.Linux))
		return rescueinit.Power("kexec", false)
	}
	if _, err := r.Mount(ctx, l); err != nil {
		if !fromDisks {
			err = fmt.Errorf("%w (restore mount --disks finds a system without knowing its layout)", err)
		}
		return err
	}
	if err := remember(l); err != nil {
		return err
	}
	p.Note("the system is open: chroot %s /bin/bash; afterwards: restore umount", rescue.TargetDir)
	return nil
}

// openedFile has the layout of the system that is open.
const openedFile = rescue.StateDir + "/opened.json"

func remember(l *layout.Layout) error {
	f, err := os.OpenFile(openedFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot note what is open: %w", err)
	}
	return errors.Join(json.NewEncoder(f).Encode(l), f.Close())
}

// opened gives the layout of what is open, or else that of the words given.
func opened(ctx context.Context, p *ui.Printer, k *keyring.Ring, args []string) (*layout.Layout, error) {
	b, err := os.ReadFile(openedFile)
	if errors.Is(err, os.ErrNotExist) {
		return layoutOf(ctx, p, k, args)
	}
	var l layout.Layout
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what is open: %w", err)
	}
	return &l, nil
}

// layoutOf gives a set's layout, or the one that the medium carries.
func layoutOf(ctx context.Context, p *ui.Printer, k *keyring.Ring, args []string) (*layout.Layout, error) {
	if len(args) > 0 {
		w, err := wanted()
		if err != nil {
			return nil, err
		}
		s, err := openSet(ctx, p, k, w, args[0], false)
		if err != nil {
			return nil, err
		}
		return s.Layout, s.Close()
	}
	file, err := os.Open(rescue.LayoutFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the layout: %w", err)
	}
	defer file.Close()
	return layout.Read(file)
}
