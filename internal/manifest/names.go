package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxMade is the longest name of a file of a set that is made of other names, in
// bytes: with suffixes it is less than volume.MaxName and what file systems take.
const maxMade = 160

// ArchiveName is the name of the archive of what was mounted at a path,
// "<device>.<path>.tar.zst" with "-" and "_" in the place of slashes. Different
// devices and paths have different names: every byte that is not a letter, digit
// or one of ".+,=@" (in a path "-", too) is "%" and two hex digits, and a name of
// more than 160 bytes ends with a digest. All names are safe for shells, sha256sum,
// cksfv, and vfat.
func ArchiveName(device, mount string) string {
	return fileName(escape(device, '-', "")+"."+escape(mount, '_', "-"), ".tar.zst")
}

// ImageSuffix ends the names of images.
const ImageSuffix = ".img.zst"

// ImageName is the name of a device's image, made as ArchiveName's.
func ImageName(device string) string { return fileName(escape(device, '-', ""), ImageSuffix) }

// HeaderName is the name of the file with a LUKS device's header, made as
// ArchiveName's.
func HeaderName(device string) string { return fileName(escape(device, '-', ""), ".luks.age") }

// escape writes a slash as the byte given, and what is not safe in hex.
func escape(s string, slash byte, safe string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '/':
			b.WriteByte(slash)
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(".+,=@", c) >= 0 || strings.IndexByte(safe, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// fileName puts a suffix to a name, and a digest in the place of what is too long.
func fileName(name, suffix string) string {
	if len(name)+len(suffix) > maxMade {
		sum := sha256.Sum256([]byte(name))
		name = name[:80] + "~" + hex.EncodeToString(sum[:16]) // "~" is in no other name
	}
	return name + suffix
}
