# Everything that a fresh Debian 12 needs is installed by `make deps`, once.
# Go is the installed one, if it can read go.mod, or else the toolchain that go.mod names, which `make deps` fetches as a
# module: it is verified by Go's checksum database.
TOOLCHAIN = golang.org/toolchain@v0.0.1-$(shell sed -n 's/^toolchain //p' go.mod).linux-$(shell dpkg --print-architecture 2>/dev/null || echo amd64)
FETCHED = $(or $(GOMODCACHE),$(or $(GOPATH),$(HOME)/go)/pkg/mod)/$(TOOLCHAIN)
ifndef GO
GO := $(shell PATH=$$PATH:/usr/local/go/bin; go list -m >/dev/null 2>&1 && command -v go || echo $(FETCHED)/bin/go)
endif
export PATH := $(dir $(GO)):$(PATH):/usr/sbin:/sbin
export CGO_ENABLED = 0
# For all, so that nothing is compiled twice.
export GOFLAGS := -trimpath $(GOFLAGS)
COMMIT = $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# 0.2.0 at the tag v0.2.0, 0.2.0-5 five commits later, empty without a tag.
TAG = $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-g[0-9a-f]*$$//')
VERSION = github.com/mkcdrec/mkcdrec/internal/version
LDFLAGS = -s -w -buildid= -X $(VERSION).commit=$(COMMIT) $(if $(TAG),-X $(VERSION).number=$(TAG))
BUILD = $(GO) build -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/mkcdrec ./internal/bbgen
# How many machines run side by side; each has one processor, and waits for its disks at times.
MACHINES = $(shell echo $$(($$(nproc) + 1)))
DEPS = qemu-system-x86 qemu-utils ovmf mmdebstrap xorriso isolinux syslinux-common extlinux gdisk fdisk xfsprogs dosfstools e2fsprogs libarchive-tools attr acl cpio zstd kmod cksfv genisoimage grub-efi-amd64-bin ca-certificates curl libcap2-bin isomd5sum dnsmasq-base iproute2 openssh-client systemd-boot-efi vim-tiny tgt qemu-block-extra lvm2 btrfs-progs cryptsetup-bin ntfs-3g exfatprogs f2fs-tools jfsutils nilfs-tools mtools partclone gddrescue aria2 transmission-cli python3-libtorrent chromium man-db groff mandoc zsh fish rpm lintian bc gawk lsof lz4 lzop psmisc squashfs-tools xxd efibootmgr file lsscsi openssl pciutils systemd-journal-remote usbutils zip openssh-server bind9-dnsutils netcat-openbsd wget nfs-ganesha nfs-ganesha-vfs samba rsync restic rclone borgbackup apache2-bin age

.PHONY: build swarm generate demo test test-all matrix bench docs packages packages-test screenshots shape check lint install clean help deps

help:            ## this text
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

build: generate swarm ## bin/mkcdrec, the one static executable, with its loader pack, and bin/mkcdrec-swarm
	$(BUILD)
	@$(GO) run ./internal/genloaders bin/mkcdrec

swarm:           ## bin/mkcdrec-swarm, one set to many machines by BitTorrent
	$(GO) build -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/mkcdrec-swarm ./internal/swarm/mkcdrec-swarm

generate:        ## internal/bbgen: u-root's commands and ours as packages
	$(GO) run ./internal/genbb

deps:            ## installs what building and testing need from Debian, once
	@dpkg -s $(DEPS) >/dev/null 2>&1 || { echo "installing Debian packages: $(DEPS)"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(DEPS) >/dev/null; }
	@$(GO) version >/dev/null 2>&1 || { echo "installing Debian's Go, and $(TOOLCHAIN) with it"; apt-get -qq update && apt-get -qq install -y --no-install-recommends golang-go ca-certificates >/dev/null && cd / && go mod download $(TOOLCHAIN) && chmod +x $(FETCHED)/bin/* $(FETCHED)/pkg/tool/*/*; }
	@$(GO) version

demo: deps build ## the main job in QEMU: back up, destroy, restore, boot, compare
	$(GO) run ./vmtest/demo

test: deps lint build ## the tests of all packages, then the shorter ones in machines in QEMU
	$(GO) test -count=1 -shuffle=on ./...
	$(GO) test -tags packages -count=1 -timeout 30m -v ./internal/packages
	$(GO) test -tags vmtest -count=1 -timeout 50m -parallel $(MACHINES) -v ./vmtest

test-all: test   ## all machines, the long matrix as well, and every fuzzer for a while
	MKCDREC_ALL=1 $(GO) test -tags vmtest -count=1 -timeout 180m -parallel $(MACHINES) -v ./vmtest
	$(GO) run ./internal/fuzzall 20s

matrix: deps build ## the recovery matrix; writes docs/MATRIX.md
	MKCDREC_ALL=1 MKCDREC_MATRIX=$(CURDIR)/docs/MATRIX.md $(GO) test -tags vmtest -count=1 -timeout 180m -parallel $(MACHINES) -v -run TestMatrix ./vmtest

bench: deps build ## measures against tar, gzip and zstd; docs/BENCHMARKS.md
	$(GO) run ./internal/bench

docs:            ## docs/COMMANDS.md and docs/CONFIG.md, from what they describe
	$(GO) run ./internal/packages docs

screenshots: deps build ## docs/*.png: the boot menus and the ready screen, in QEMU; the page of a room
	$(GO) run ./vmtest/screens
	MKCDREC_PICTURE=$(CURDIR)/docs/room.png $(GO) test -count=1 -run TestPicture ./internal/fleet/web

shape:           ## lengths, branches, duplicates and tests, counted beside their goals; V=-v lists what exceeds them
	@$(GO) run ./internal/shape $(V)

check:           ## what to run before each commit: lint, and the tests that need neither root nor minutes
check: generate lint
	$(GO) test -short ./...

lint:            ## gofmt, vet, staticcheck, the branches of each function
	@test -z "$$(gofmt -l cmds builder initramfs internal/[a-z]* kernelcfg templates vmtest | grep -v internal/bbgen)" || { gofmt -l cmds builder initramfs internal kernelcfg templates vmtest | grep -v internal/bbgen; exit 1; }
	$(GO) vet $$($(GO) list ./... | grep -v internal/bbgen)
	$(GO) tool staticcheck $$($(GO) list ./... | grep -v internal/bbgen)
	$(GO) run ./internal/shape -budget

install: build   ## programs, links, manual pages, completion, configuration and units into DESTDIR, / if not given
	$(GO) run ./internal/packages install $(or $(DESTDIR),/)

packages: build  ## out/*.deb and out/*.rpm
	$(GO) run ./internal/packages pack out

packages-test: deps build ## installs, upgrades, removes and purges the packages in clean Debian 12 and 13
	$(GO) test -tags packages -count=1 -timeout 30m -v ./internal/packages

clean:           ## everything that was made here; the cache in /var/cache/mkcdrec stays
	rm -rf bin out internal/bbgen
