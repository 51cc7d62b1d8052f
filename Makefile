# Everything that a fresh Debian 12 needs is installed by `make deps`, once.
GO ?= go
export CGO_ENABLED = 0
DEPS = qemu-system-x86 qemu-utils ovmf mmdebstrap xorriso isolinux syslinux-common gdisk fdisk xfsprogs dosfstools e2fsprogs libarchive-tools attr acl cpio zstd kmod cksfv genisoimage grub-efi-amd64-bin ca-certificates

.PHONY: build generate demo test test-all bench lint install clean help deps

help:            ## this text
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

build: generate  ## bin/mkcdrec, the one static executable
	$(GO) build -trimpath -ldflags "-s -w -buildid=" -o bin/mkcdrec ./internal/bbgen

generate:        ## internal/bbgen: u-root's commands and ours as packages
	$(GO) run ./internal/genbb
