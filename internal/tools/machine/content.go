package machine

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

type unixStat = syscall.Stat_t

// machines are the names of processors in ELF files.
var machines = map[elf.Machine]string{elf.EM_X86_64: "x86-64", elf.EM_386: "Intel 80386", elf.EM_AARCH64: "ARM aarch64", elf.EM_ARM: "ARM", elf.EM_PPC64: "64-bit PowerPC or cisco 7500", elf.EM_PPC: "PowerPC or cisco 4500", elf.EM_S390: "IBM S/390", elf.EM_RISCV: "UCB RISC-V", elf.EM_MIPS: "MIPS", elf.EM_LOONGARCH: "LoongArch", elf.EM_SPARCV9: "SPARC V9", elf.EM_BPF: "eBPF"}

// executable describes ELF and PE files.
func executable(r io.ReaderAt, b []byte) kind {
	if has(b, 0, "MZ") {
		if at := int(field(b, 60, 4)); has(b, at, "PE\x00\x00") {
			arch := map[uint64]string{0x8664: "x86-64", 0x14c: "Intel 80386", 0xaa64: "Aarch64"}[field(b, at+4, 2)]
			bits := map[uint64]string{0x20b: "PE32+", 0x10b: "PE32"}[field(b, at+24, 2)]
			system := map[uint64]string{2: "(GUI)", 3: "(console)", 10: "(EFI application)", 11: "(EFI boot service driver)", 12: "(EFI runtime driver)"}[field(b, at+92, 2)]
			return kind{fmt.Sprintf("%s executable %s %s", bits, system, arch), "application/vnd.microsoft.portable-executable", ""}
		}
		return kind{"MS-DOS executable", "application/x-dosexec", ""}
	}
	if !has(b, 0, elf.ELFMAG) {
		return kind{}
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return kind{"ELF", "application/octet-stream", ""}
	}
	arch, ok := machines[f.Machine]
	if !ok {
		arch = strings.TrimPrefix(f.Machine.String(), "EM_")
	}
	what, mime := elfType(f)
	order := map[elf.Data]string{elf.ELFDATA2LSB: "LSB", elf.ELFDATA2MSB: "MSB"}[f.Data]
	abi := map[elf.OSABI]string{elf.ELFOSABI_NONE: "SYSV", elf.ELFOSABI_LINUX: "GNU/Linux", elf.ELFOSABI_FREEBSD: "FreeBSD"}[f.OSABI]
	s := fmt.Sprintf("ELF %d-bit %s %s, %s, version %d (%s)", map[elf.Class]int{elf.ELFCLASS32: 32, elf.ELFCLASS64: 64}[f.Class], order, what, arch, f.Version, abi)
	return kind{s + elfLinks(f) + elfNotes(f) + elfSymbols(f), mime, ""}
}

func elfType(f *elf.File) (text, mime string) {
	switch f.Type {
	case elf.ET_REL:
		return "relocatable", "application/x-object"
	case elf.ET_EXEC:
		return "executable", "application/x-executable"
	case elf.ET_CORE:
		return "core file", "application/x-coredump"
	case elf.ET_DYN:
		const pie = 0x08000000 // DF_1_PIE
		if v, err := f.DynValue(elf.DT_FLAGS_1); err == nil && len(v) > 0 && v[0]&pie != 0 {
			return "pie executable", "application/x-pie-executable"
		}
		return "shared object", "application/x-sharedlib"
	}
	return "no file type", "application/octet-stream"
}

// elfLinks describes how a program is linked.
func elfLinks(f *elf.File) string {
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return ""
	}
	linked, interpreter := ", statically linked", ""
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_DYNAMIC:
			linked = ", dynamically linked"
		case elf.PT_INTERP:
			b := make([]byte, min(p.Filesz, 256))
			if _, err := p.ReadAt(b, 0); err == nil || errors.Is(err, io.EOF) {
				interpreter = ", interpreter " + fstype.Text(b)
			}
		}
	}
	if interpreter == "" && linked == ", dynamically linked" {
		if what, _ := elfType(f); what == "pie executable" {
			linked = ", static-pie linked"
		}
	}
	return linked + interpreter
}

// elfNotes gives the identity and the least kernel of a program.
func elfNotes(f *elf.File) string {
	id, least := "", ""
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE || s.FileSize > 4096 {
			continue
		}
		b, err := s.Data()
		if err != nil || len(b) < 16 {
			continue
		}
		n := func(off int) uint32 { return f.ByteOrder.Uint32(b[off:]) }
		desc := b[16:min(uint64(len(b)), 16+uint64(n(4)))]
		switch {
		case string(b[12:16]) != "GNU\x00":
		case n(8) == 3:
			id = fmt.Sprintf(", BuildID[%s]=%x", map[int]string{20: "sha1", 16: "md5/uuid", 8: "xxHash"}[len(desc)], desc)
		case n(8) == 1 && len(desc) >= 16 && n(16) == 0:
			least = fmt.Sprintf(", for GNU/Linux %d.%d.%d", n(20), n(24), n(28))
		}
	}
	return id + least
}

func elfSymbols(f *elf.File) string {
	if f.Type == elf.ET_CORE {
		return ""
	}
	s := ", stripped"
	if f.SectionByType(elf.SHT_SYMTAB) != nil {
		s = ", not stripped"
	}
	if f.Section(".debug_info") != nil {
		s = ", with debug_info" + s
	}
	return s
}

// volume describes disks and what is on them: file systems, containers, partition tables.
func volume(r io.ReaderAt, b []byte, size int64) kind {
	const image = "application/octet-stream"
	i, err := superblock.Probe(r, size)
	if err == nil && i != nil {
		return filesystem(i, b)
	}
	if !has(b, 510, "\x55\xaa") {
		return kind{}
	}
	s := "DOS/MBR boot sector"
	if t, err := gpt.Read(r, 512, size); err == nil {
		s += fmt.Sprintf("; GPT partition table, GUID: %s, %d partitions", strings.ToLower(t.GUID), len(t.Partitions))
	} else if t, err := mbr.Read(r, 512); err == nil {
		for _, p := range t.Partitions {
			s += fmt.Sprintf("; partition %d : ID=%#x", p.Number, p.Type)
			if p.Active {
				s += ", active"
			}
			s += fmt.Sprintf(", startsector %d, %d sectors", p.Start, p.Count)
		}
	}
	return kind{s, image, ""}
}

// filesystem describes one by its superblock, or a container.
func filesystem(i *superblock.Info, b []byte) kind {
	mime := "application/octet-stream"
	switch i.Type {
	case superblock.TypeLVM:
		return kind{"LVM2 PV (Linux Logical Volume Manager), UUID: " + i.UUID, mime, ""}
	case superblock.TypeLUKS:
		return kind{fmt.Sprintf("LUKS encrypted file, ver %d [%s, %s] UUID: %s", i.LUKS.Version, strings.Replace(i.LUKS.Cipher, "-", ", ", 1), i.LUKS.Hash, i.UUID), mime, ""}
	case superblock.TypeMD:
		return kind{fmt.Sprintf("Linux Software RAID version %s UUID=%s name=%s level=%d disks=%d", i.MD.Metadata, i.MD.UUID, i.MD.Name, i.MD.Level, i.MD.Devices), mime, ""}
	}
	if fstype.Of(i.Type).HoldsSets && fstype.Of(i.Type).Medium {
		mime = "application/x-iso9660-image"
	}
	return kind{fstype.Of(i.Type).Description(&i.Info, b), mime, ""}
}
