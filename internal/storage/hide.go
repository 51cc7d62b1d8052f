package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// HiddenPrefix begins device-mapper's names of volumes that were hidden.
const HiddenPrefix = "mkcdrec-source-"

// HideGroup replaces the active volumes of a group by read-only devices of other names,
// /dev/mapper/HiddenPrefix..., which LVM does not know: a group of the same name and UUID
// can then be made beside it. Nothing may be mounted from them meanwhile. It gives the new
// names, by those of the volumes. ShowGroup removes them.
func HideGroup(ctx context.Context, run tool.Runner, name string) (hidden map[string]string, err error) {
	g := group{run, name}
	all, err := g.volumes()
	if err != nil {
		return nil, err
	}
	tables := map[string]string{} // by the kernel's name
	names := map[string]string{}
	numbers := map[string]string{} // "253:2" -> the kernel's name
	for _, v := range all {
		out, err := g.dmsetup(ctx, "table", v.name)
		if err != nil {
			return nil, fmt.Errorf("cannot read how the volume %s is made: %w", v.name, err)
		}
		n, err := os.ReadFile(g.path("/sys/block/" + v.kernel + "/dev"))
		if err != nil {
			return nil, fmt.Errorf("cannot read how the volume %s is made: %w", v.name, err)
		}
		tables[v.kernel], names[v.kernel] = strings.TrimSpace(string(out)), v.name
		numbers[strings.TrimSpace(string(n))] = v.kernel
	}
	order, err := byUse(tables, numbers)
	if err != nil {
		return nil, fmt.Errorf("cannot hide volume group %s: %w", name, err)
	}
	over, err := g.overlays()
	if err != nil {
		return nil, err
	}
	args := []string{"vgchange", "-an"}
	if len(over) > 0 {
		args = append(args, onlyOverlays(over)...)
	}
	if _, err := g.lvm(ctx, append(args, name)...); err != nil {
		return nil, fmt.Errorf("cannot hide volume group %s: %w", name, err)
	}
	hidden = map[string]string{}
	for _, k := range order {
		now := func(number string) string {
			if below, ok := numbers[number]; ok {
				return "/dev/mapper/" + HiddenPrefix + names[below]
			}
			return number
		}
		if _, err := g.dmsetup(ctx, "create", HiddenPrefix+names[k], "--readonly", "--table", replaceNumbers(tables[k], now)); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot hide the volume %s: %w", names[k], err), ShowGroup(ctx, run, name))
		}
		hidden[names[k]] = HiddenPrefix + names[k]
	}
	return hidden, nil
}

// ShowGroup removes what HideGroup has made, and the overlays of the group. The group is
// inactive then.
func ShowGroup(ctx context.Context, run tool.Runner, name string) error {
	g := group{run, name}
	for {
		dirs, err := filepath.Glob(g.path("/sys/block/dm-*/dm/name"))
		if err != nil {
			return err
		}
		var have []string
		prefix := HiddenPrefix + strings.ReplaceAll(name, "-", "--") + "-"
		for _, d := range dirs {
			b, err := os.ReadFile(d)
			if n := strings.TrimSpace(string(b)); err == nil && strings.HasPrefix(n, prefix) && !strings.HasPrefix(strings.TrimPrefix(n, prefix), "-") {
				have = append(have, n)
			}
		}
		if len(have) == 0 {
			break
		}
		var errs []error
		for _, n := range have {
			if _, err := g.dmsetup(ctx, "remove", n); err != nil { // another one may be on it
				errs = append(errs, err)
			}
		}
		if len(errs) == len(have) {
			return fmt.Errorf("cannot remove the hidden volumes of %s: %w", name, errors.Join(errs...))
		}
	}
	over, err := g.overlays()
	if err != nil {
		return err
	}
	return g.uncover(ctx, over)
}

// deviceNumber is a device in a table of device-mapper.
var deviceNumber = lazyregexp.New(`(^|\s)(\d+:\d+)(\s|$)`)

// replaceNumbers gives the table with the numbers of devices replaced.
func replaceNumbers(table string, now func(string) string) string {
	var lines []string
	for _, l := range strings.Split(table, "\n") {
		f := strings.Fields(l)
		for i := range f {
			if i > 2 && deviceNumber().MatchString(f[i]) {
				f[i] = now(f[i])
			}
		}
		lines = append(lines, strings.Join(f, " "))
	}
	return strings.Join(lines, "\n")
}

// byUse orders devices so that each comes after those that its table is on; numbers gives
// those that are among them.
func byUse(tables, numbers map[string]string) ([]string, error) {
	var out []string
	for len(out) < len(tables) {
		before := len(out)
		for k, t := range tables {
			ready := !slices.Contains(out, k)
			replaceNumbers(t, func(n string) string {
				if below, ok := numbers[n]; ok && !slices.Contains(out, below) {
					ready = false
				}
				return n
			})
			if ready {
				out = append(out, k)
			}
		}
		if len(out) == before {
			return nil, errors.New("its volumes are on each other")
		}
	}
	return out, nil
}
