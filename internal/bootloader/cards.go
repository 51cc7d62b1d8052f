package bootloader

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// cardFiles name network cards by their hardware addresses: netplan, Red Hat's and
// SUSE's ifcfg, systemd-networkd, NetworkManager, udev's persistent names, ifupdown.
func cardFiles() []cmdlineFile {
	return []cmdlineFile{
		{dir: "/etc", pattern: "netplan/*.yaml"},
		{dir: "/etc", pattern: "sysconfig/network-scripts/ifcfg-*"},
		{dir: "/etc", pattern: "sysconfig/network/ifcfg-*"},
		{dir: "/etc", pattern: "systemd/network/*"},
		{dir: "/etc", pattern: "NetworkManager/system-connections/*"},
		{dir: "/etc", pattern: "udev/rules.d/*.rules"},
		{dir: "/etc", pattern: "network/interfaces"},
		{dir: "/etc", pattern: "network/interfaces.d/*"},
		{dir: "/etc", pattern: "iftab"},
	}
}

// cards lists the hardware addresses of this machine's network cards, in lower case.
func cards(sys string) []string {
	var out []string
	dir := filepath.Join(sys, "class/net")
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range all {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "device")); err != nil {
			continue // a bridge, a bond, the loopback
		}
		if b, err := os.ReadFile(filepath.Join(dir, e.Name(), "address")); err == nil {
			out = append(out, strings.ToLower(strings.TrimSpace(string(b))))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// oldCards lists the hardware addresses of the old machine's cards, in lower case.
func (s *System) oldCards() []string {
	var out []string
	for _, i := range s.Layout.Network {
		if m := cmp.Or(i.PermanentMAC, i.MAC); i.Driver != "" && i.VLAN == 0 && i.BondMode == "" && i.Kind == "" && m != "" {
			out = append(out, strings.ToLower(m))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// followCards changes hardware addresses in the configuration of the network where
// one card of the old machine is missing and one of this machine is new. Where it can
// be more than one, it reports the files.
func (s *System) followCards() error {
	now := cards(s.sysfs())
	old := s.oldCards()
	gone := slices.DeleteFunc(slices.Clone(old), func(m string) bool { return slices.Contains(now, m) })
	fresh := slices.DeleteFunc(slices.Clone(now), func(m string) bool { return slices.Contains(old, m) })
	if len(gone) == 0 || len(now) == 0 {
		return nil
	}
	for _, c := range cardFiles() {
		for _, f := range s.tree().Glob(c.dir, c.pattern) {
			if st, err := s.tree().Lstat(f); err != nil || !st.Mode().IsRegular() {
				continue
			}
			if err := s.edit(f, func(text string) (string, []string, []string) {
				return changeCards(text, gone, fresh)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeCards gives a text with the hardware address of a new card in the place of a
// missing one's, written as that was. Addresses that a card is given are not those
// that it is known by, and stay.
func changeCards(text string, gone, fresh []string) (out string, notes, wrong []string) {
	given := regexp.MustCompile(`(?i)cloned-mac-address|\bMACADDR\b|\bLLADDR\b|\bhwaddress\b`)
	address := regexp.MustCompile(`(?i)\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b`)
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if given.MatchString(line) || strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		lines[i] = address.ReplaceAllStringFunc(line, func(m string) string {
			if !slices.Contains(gone, strings.ToLower(strings.ReplaceAll(m, "-", ":"))) {
				return m
			}
			if len(gone) != 1 || len(fresh) != 1 {
				wrong = append(wrong, fmt.Sprintf("line %d: the network card %s is not in this machine, which has %s: change it by hand", i+1, m, strings.Join(fresh, ", ")))
				return m
			}
			n := fresh[0]
			if strings.Contains(m, "-") {
				n = strings.ReplaceAll(n, ":", "-")
			}
			if m == strings.ToUpper(m) && m != strings.ToLower(m) {
				n = strings.ToUpper(n)
			}
			notes = append(notes, fmt.Sprintf("line %d: the network card %s is replaced by %s", i+1, m, n))
			return n
		})
	}
	return strings.Join(lines, ""), notes, wrong
}
