package fstype

import (
	"encoding/binary"
	"io"
	"strings"
)

// XFS is the geometry of an XFS; names as in mkfs.xfs(8).
type XFS struct {
	BlockSize  int64 `json:"blockSize"`
	SectorSize int64 `json:"sectorSize"`
	InodeSize  int64 `json:"inodeSize"`
	DirBlock   int64 `json:"dirBlockSize"`
	AGCount    int64 `json:"agCount"`
	LogBlocks  int64 `json:"logBlocks"`
	Unit       int64 `json:"stripeUnit"`  // blocks
	Width      int64 `json:"stripeWidth"` // blocks
	CRC        bool  `json:"crc"`
	FType      bool  `json:"ftype"`
	FinoBT     bool  `json:"finobt"`
	RMapBT     bool  `json:"rmapbt"`
	Reflink    bool  `json:"reflink"`
	InoBTCount bool  `json:"inobtcount"`
	BigTime    bool  `json:"bigtime"`
	SparseIno  bool  `json:"sparse"`
	NRExt64    bool  `json:"nrext64"`
	Exchange   bool  `json:"exchange"`
	Parent     bool  `json:"parent"`
}

var xfs = Type{
	Name: TypeXFS, Family: "XFS",
	Probe: probeXFS, Describe: describeXFS, Mkfs: mkfsXFS, DryRun: "-N", // mkfs.xfs(8)
	// It makes what it made before version 5.19, file systems of less than 300 MiB among it:
	// the way that its own tests go, validate_supported in mkfs/xfs_mkfs.c. Its option
	// --unsupported is not known to older ones.
	Env: []string{"TEST_DIR=mkcdrec", "TEST_DEV=mkcdrec", "QA_CHECK_FS=mkcdrec"},
	New: func(int64) Geometry { // without what kernels before 5.15 can't mount
		return Geometry{XFS: &XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, CRC: true, FType: true, FinoBT: true, SparseIno: true, Reflink: true}}
	},
	Legacy: func(int64) Geometry {
		return Geometry{XFS: &XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 256, DirBlock: 4096}}
	},
	Plain: func(label, uuid, dev string) []string {
		return []string{"mkfs.xfs", "-q", "-f", "-L", label, "-m", "uuid=" + uuid, dev}
	},
	Renumber: func(uuid, dev string) [][]string {
		return [][]string{{"xfs_db", "-x", "-p", "xfs_admin", "-c", "uuid " + uuid, dev}}
	},
	LabelMax: 12, Unique: true,
	Least: func(f *FS) int64 { // with its log and reserves
		n := f.Used + f.Used/8
		return max(n+n/32+96<<20, 320<<20) // mkfs.xfs refuses less than 300 MiB
	},
	// One that was made before mkfs.xfs wanted 300 MiB may be smaller; one that is new may not.
	LeastMade: func(f *FS) int64 {
		if f.XFS.LogBlocks == 0 {
			return 300 << 20
		}
		return 0
	},
	Block:    func(g *Geometry) (int64, string) { return g.XFS.BlockSize, "blocks" },
	Unit:     func(g *Geometry) int64 { return g.XFS.SectorSize },
	ToSector: func(g *Geometry, sector, _ int64) { g.XFS.SectorSize = max(g.XFS.SectorSize, sector) },
	Config:   []Option{{"CONFIG_XFS_FS", "can't be mounted"}},
	Programs: []Program{{Name: "mkfs.xfs", Check: "-V"}, {Name: "xfs_repair", Check: "-V"}, {Name: "xfs_db", Check: "-V", Optional: true}},
	Common:   true,
	Mount:    "nouuid", ReadOnly: []string{"norecovery,nouuid"}, HoldsSets: true, NoCheck: true, Freezes: true, Fiemap: true,
	Grow: growXFS,
}

func probeXFS(_ io.ReaderAt, b []byte) *Info {
	be := binary.BigEndian
	if string(b[:4]) != "XFSB" {
		return nil
	}
	ver, f2, ro, inc := be.Uint16(b[100:]), be.Uint32(b[200:]), be.Uint32(b[212:]), be.Uint32(b[216:])
	x := &XFS{BlockSize: int64(be.Uint32(b[4:])), SectorSize: int64(be.Uint16(b[102:])), InodeSize: int64(be.Uint16(b[104:])), AGCount: int64(be.Uint32(b[88:])),
		LogBlocks: int64(be.Uint32(b[96:])), Unit: int64(be.Uint32(b[184:])), Width: int64(be.Uint32(b[188:])), CRC: ver&0xf == 5}
	if x.BlockSize < 512 || x.BlockSize > 65536 || b[192] > 8 || x.SectorSize < 512 {
		return nil
	}
	x.DirBlock = x.BlockSize << b[192]
	x.FType = f2&0x200 != 0
	if x.CRC {
		x.FType = inc&0x1 != 0
		x.FinoBT, x.RMapBT, x.Reflink, x.InoBTCount = ro&1 != 0, ro&2 != 0, ro&4 != 0, ro&8 != 0
		x.SparseIno, x.BigTime, x.NRExt64, x.Exchange, x.Parent = inc&2 != 0, inc&8 != 0, inc&0x20 != 0, inc&0x40 != 0, inc&0x80 != 0
	}
	blocks := be.Uint64(b[8:])
	if blocks > 1<<48 {
		return nil
	}
	i := &Info{Type: TypeXFS, UUID: UUID(b[32:48]), Label: Text(b[108:120]), Size: int64(blocks) * x.BlockSize, Geometry: Geometry{XFS: x}}
	if i.OutsideLog = be.Uint64(b[48:]) == 0; i.OutsideLog { // sb_logstart
		x.LogBlocks = 0
	}
	return i
}

func onOff(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func mkfsXFS(f *FS, dev string, size int64) [][]string {
	x := f.XFS
	m := []string{"crc=" + onOff(x.CRC)}
	i := []string{"size=" + num(x.InodeSize)}
	if x.CRC {
		m = append(m, "finobt="+onOff(x.FinoBT), "rmapbt="+onOff(x.RMapBT), "reflink="+onOff(x.Reflink), "inobtcount="+onOff(x.InoBTCount), "bigtime="+onOff(x.BigTime))
		i = append(i, "sparse="+onOff(x.SparseIno))
	}
	// Words that only newer programs know are said only when needed.
	if x.NRExt64 {
		i = append(i, "nrext64=1")
	}
	if x.Exchange {
		i = append(i, "exchange=1")
	}
	if x.Parent {
		i = append(i, "parent=1")
	}
	if f.UUID != "" {
		m = append(m, "uuid="+f.UUID)
	}
	a := []string{"mkfs.xfs", "-q", "-f", "-K", "-m", strings.Join(m, ","), "-i", strings.Join(i, ","), "-b", "size=" + num(x.BlockSize), "-s", "size=" + num(x.SectorSize)}
	n := "size=" + num(x.DirBlock)
	if !x.CRC {
		n += ",ftype=" + onOff(x.FType)
	}
	a = append(a, "-n", n)
	d := []string{}
	if size == f.Size && x.AGCount > 0 && x.LogBlocks > 0 {
		d = append(d, "agcount="+num(x.AGCount))
		a = append(a, "-l", "size="+num(x.LogBlocks)+"b")
	}
	if x.Unit > 0 && x.Width > 0 {
		d = append(d, "sunit="+num(x.Unit*x.BlockSize/512), "swidth="+num(x.Width*x.BlockSize/512))
	}
	return [][]string{append(option(option(a, "-d", strings.Join(d, ",")), "-L", f.Label), dev)}
}

// growXFS is XFS_IOC_FSGROWFSDATA of fs/xfs/libxfs/xfs_fs.h, with struct
// xfs_growfs_data: blocks, and the share of inodes as it is (sb_imax_pct).
func growXFS(head []byte, size int64) (uintptr, []byte) {
	to := make([]byte, 16)
	binary.NativeEndian.PutUint64(to, uint64(size)/uint64(max(binary.BigEndian.Uint32(head[4:]), 512)))
	binary.NativeEndian.PutUint32(to[8:], uint32(head[127]))
	return 1<<30 | 16<<16 | 'X'<<8 | 110, to
}
