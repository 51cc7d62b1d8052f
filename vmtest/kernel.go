package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is one of Debian's kernels, unpacked into the cache.
type Kernel struct {
	Image   string
	Release string
	Modules string
}

// FetchKernel gets linux-image-amd64 or linux-image-cloud-amd64 from Debian,
// once, and unpacks it without installing it.
func FetchKernel(ctx context.Context, meta string) (*Kernel, error) {
	dir := filepath.Join(filepath.Dir(CacheDir()), "kernels", meta)
	find := func() *Kernel {
		m, err := filepath.Glob(dir + "/boot/vmlinuz-*")
		if err != nil || len(m) != 1 {
			return nil
		}
		rel := strings.TrimPrefix(filepath.Base(m[0]), "vmlinuz-")
		k := &Kernel{m[0], rel, dir + "/lib/modules/" + rel}
		if _, err := os.Stat(k.Modules + "/modules.dep"); err != nil {
			return nil
		}
		return k
	}
	if k := find(); k != nil {
		return k, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	pkg, err := kernelPackage(ctx, meta)
	if err != nil {
		return nil, err
	}
	get := exec.CommandContext(ctx, "apt-get", "-qq", "download", pkg)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w\n%s", pkg, err, out)
	}
	debs, err := filepath.Glob(dir + "/*.deb")
	if err != nil || len(debs) != 1 {
		return nil, fmt.Errorf("cannot fetch %s: %v", pkg, debs)
	}
	if err := command(ctx, "dpkg-deb", "-x", debs[0], dir); err != nil {
		return nil, err
	}
	os.Remove(debs[0])
	rel := strings.TrimPrefix(pkg, "linux-image-")
	if err := command(ctx, "depmod", "-b", dir, rel); err != nil {
		return nil, err
	}
	if k := find(); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("package %s holds no kernel where one is expected", pkg)
}

// kernelPackage asks Debian for the package that meta stands for.
func kernelPackage(ctx context.Context, meta string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", meta).Output()
	if err != nil || len(out) == 0 { // no package lists on this machine yet
		if err := command(ctx, "apt-get", "-qq", "update"); err != nil {
			return "", err
		}
		out, err = exec.CommandContext(ctx, "apt-cache", "depends", meta).Output()
	}
	if err != nil {
		return "", fmt.Errorf("cannot find kernel %s: %w", meta, err)
	}
	for l := range strings.Lines(string(out)) {
		if _, p, ok := strings.Cut(l, "Depends: linux-image-"); ok {
			return "linux-image-" + strings.TrimSpace(p), nil
		}
	}
	return "", fmt.Errorf("cannot find kernel %s: it depends on no image", meta)
}
