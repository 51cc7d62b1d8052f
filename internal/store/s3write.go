package store

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	s3FirstPart = 8 << 20   // bytes of the first parts
	s3PartsEach = 800       // so many parts have the same size, then it doubles
	s3LastPart  = 1 << 30   // bytes of the last parts
	s3MaxParts  = 10_000    // of an object, by the protocol
	s3InFlight  = 128 << 20 // bytes of parts in memory at most, or one part

	s3Settle = 2 * time.Second // how long requests have to end by themselves when an upload ends
)

// s3Late are the times between the removals of an upload whose requests were cut. A server may store such a part after it has
// removed the upload: "it might be necessary to abort a given multipart upload multiple times" (Amazon S3 API,
// AbortMultipartUpload).
var s3Late = []time.Duration{500 * time.Millisecond, 2 * time.Second}

// partSize is the size of the part of a number, from 1. All parts together can have 5 TiB,
// the largest object; and objects up to 190 GiB need no more than 128 MiB of memory.
func partSize(number int) int64 {
	return min(int64(s3FirstPart)<<min((number-1)/s3PartsEach, 20), s3LastPart)
}

// sending is how many parts may be sent while the next one of a size is filled.
func sending(size int64) int { return int(max(0, min(4, s3InFlight/size-1))) }

// s3Upload is an object that is being written. Each part is kept until the server has it.
type s3Upload struct {
	home  *s3Home
	ctx   context.Context
	stop  context.CancelCauseFunc
	name  string
	id    string // of the upload in parts, "" before there is one
	part  []byte
	total int64
	count int // of the parts that were passed on
	ended bool

	wg    sync.WaitGroup
	slots *sync.Cond
	// Of several goroutines, under the lock of slots.
	busy  int
	err   error // the first one
	cut   bool  // a request was ended before its answer
	parts []minio.CompletePart
	spare [][]byte
}

// Create implements Home. Nothing is sent before there is a part.
func (h *s3Home) Create(ctx context.Context, name string) (Upload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	u := &s3Upload{home: h, name: name, slots: sync.NewCond(new(sync.Mutex))}
	u.ctx, u.stop = context.WithCancelCause(ctx)
	return u, nil
}

func (u *s3Upload) fail(err error) error { return u.home.fail("write", u.name, err) }

// Write implements Upload. An error of sending is returned by a later Write, or by Commit.
func (u *s3Upload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, errEnded
	}
	n := len(p)
	for len(p) > 0 {
		size := int(partSize(u.count + 1))
		if len(u.part) == size {
			if err := u.pass(); err != nil {
				return n - len(p), u.fail(err)
			}
			continue
		}
		k := min(len(p), size-len(u.part))
		u.part, p = append(u.part, p[:k]...), p[k:]
	}
	return n, nil
}

// begin begins the upload in parts.
func (u *s3Upload) begin() error {
	return u.home.limits.again(u.ctx, func() (bool, error) {
		return false, u.home.timed(u.ctx, func(ctx context.Context) (err error) {
			u.id, err = u.home.core.NewMultipartUpload(ctx, u.home.bucket, u.home.full(u.name), options())
			return err
		})
	})
}

func options() minio.PutObjectOptions {
	return minio.PutObjectOptions{ContentType: "application/octet-stream"}
}

// pass has the part sent, while the next one is filled if there is memory for it.
func (u *s3Upload) pass() error {
	if u.id == "" {
		if err := u.begin(); err != nil {
			return err
		}
	}
	if u.count == s3MaxParts {
		return fmt.Errorf("it has more than %d parts", s3MaxParts)
	}
	u.count++
	number, b := u.count, u.part
	u.total += int64(len(b))
	u.slots.L.Lock()
	// A goroutine that sends another part writes its ETag into these.
	u.parts = append(u.parts, minio.CompletePart{PartNumber: number})
	most := sending(partSize(number + 1))
	for u.busy >= max(most, 1) && u.err == nil {
		u.slots.Wait()
	}
	err := u.err
	u.busy++
	u.part = nil
	if k := len(u.spare); k > 0 && most > 0 {
		u.part, u.spare = u.spare[k-1][:0], u.spare[:k-1]
	}
	u.slots.L.Unlock()
	if err != nil {
		return err
	}
	if most == 0 {
		u.send(number, b)
		return u.first()
	}
	u.wg.Go(func() { u.send(number, b) })
	return nil
}

// first gives the first error of sending.
func (u *s3Upload) first() error {
	u.slots.L.Lock()
	defer u.slots.L.Unlock()
	return u.err
}

// send sends a part, again after failures.
func (u *s3Upload) send(number int, b []byte) {
	sum, secure := u.digests(b)
	var etag string
	ctx := withAnswer(u.ctx, u.home.limits.storing(int64(len(b))))
	err := u.home.limits.again(ctx, func() (bool, error) {
		p, err := u.home.core.PutObjectPart(ctx, u.home.bucket, u.home.full(u.name), u.id, number, bytes.NewReader(b), int64(len(b)), minio.PutObjectPartOptions{Md5Base64: sum, Sha256Hex: secure, DisableContentSha256: true})
		etag = p.ETag
		return false, u.home.cause(err)
	})
	u.slots.L.Lock()
	defer u.slots.L.Unlock()
	u.parts[number-1].ETag = etag
	if u.err == nil {
		u.err = err
	}
	u.cut = u.cut || u.ctx.Err() != nil
	if int64(cap(b)) <= s3InFlight/4 && len(u.spare) < 2 {
		u.spare = append(u.spare, b)
	}
	u.busy--
	u.slots.Broadcast()
}

// digests are what the server checks a part with: an MD5, which buckets with an object lock
// demand, and without TLS a SHA-256, which is signed.
func (u *s3Upload) digests(b []byte) (md5Base64, sha256Hex string) {
	sum := md5.Sum(b)
	if u.home.at.kind == KindS3Plain {
		sha := sha256.Sum256(b)
		sha256Hex = hex.EncodeToString(sha[:])
	}
	return base64.StdEncoding.EncodeToString(sum[:]), sha256Hex
}

// Commit implements Upload.
func (u *s3Upload) Commit() error {
	if u.ended {
		return errEnded
	}
	u.ended = true
	err := u.commit()
	if err != nil {
		return errors.Join(u.fail(err), u.remove())
	}
	u.stop(nil)
	return nil
}

func (u *s3Upload) commit() error {
	if u.id == "" { // small enough for one request
		sum, secure := u.digests(u.part)
		o := options()
		o.DisableContentSha256 = true
		ctx := withAnswer(u.ctx, u.home.limits.storing(int64(len(u.part))))
		return u.home.limits.again(ctx, func() (bool, error) {
			_, err := u.home.core.PutObject(ctx, u.home.bucket, u.home.full(u.name), bytes.NewReader(u.part), int64(len(u.part)), sum, secure, o)
			return false, u.home.cause(err)
		})
	}
	if len(u.part) > 0 {
		if err := u.pass(); err != nil {
			return err
		}
	}
	u.wg.Wait()
	if err := u.first(); err != nil {
		return err
	}
	asked := false
	ctx := withAnswer(u.ctx, s3Wait)
	return u.home.limits.again(u.ctx, func() (bool, error) {
		_, err := u.home.core.CompleteMultipartUpload(ctx, u.home.bucket, u.home.full(u.name), u.id, u.parts, options())
		if minio.ToErrorResponse(err).Code == "NoSuchUpload" && asked { // the answer to the last attempt was lost
			if info, e := u.home.stat(u.ctx, u.name); e == nil && info.Size == u.total && strings.Trim(info.ETag, `"`) == u.whole() {
				return true, nil
			}
		}
		asked = true
		return false, u.home.cause(err)
	})
}

// whole is the ETag that servers give to an object in parts.
func (u *s3Upload) whole() string {
	h := md5.New()
	for _, p := range u.parts {
		b, _ := hex.DecodeString(strings.Trim(p.ETag, `"`)) // another kind of ETag does not compare
		h.Write(b)
	}
	return fmt.Sprintf("%x-%d", h.Sum(nil), len(u.parts))
}

// Abort implements Upload.
func (u *s3Upload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	return u.remove()
}

// remove ends the upload in parts, also after the context has ended: servers keep and charge
// what was sent until then.
func (u *s3Upload) remove() error {
	u.settle()
	u.part, u.spare = nil, nil
	if u.id == "" {
		return nil
	}
	err := u.removeParts()
	if u.cut {
		for _, wait := range s3Late {
			time.Sleep(wait)
			err = u.removeParts()
		}
	}
	if err != nil {
		return u.home.fail("remove the unfinished", u.name, err)
	}
	return nil
}

// settle waits for the requests under way, which are cut when they take too long.
func (u *s3Upload) settle() {
	ended := make(chan struct{})
	go func() {
		u.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-u.ctx.Done():
	case <-time.After(s3Settle):
	}
	u.stop(errEnded)
	<-ended
}

// removeParts ends the upload in parts.
func (u *s3Upload) removeParts() error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.ctx), u.home.limits.stall)
	defer stop()
	return u.home.limits.again(ctx, func() (bool, error) {
		err := u.home.core.AbortMultipartUpload(ctx, u.home.bucket, u.home.full(u.name), u.id)
		if minio.ToErrorResponse(err).Code == "NoSuchUpload" {
			return false, nil
		}
		return false, u.home.cause(err)
	})
}
