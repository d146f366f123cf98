package blobstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tinkex/tinkex/internal/outage"
)

// The layout of a bucket store, below the prefix that its URL names:
//
//	sha256/<first two digits>/<digest>/<commit>   the blobs; see bucket
//	check/<opener>                                what Check writes and removes
//	quarantine/<digest>/<commit>                  what was found damaged, for people to look at
const (
	checkPrefix = "check/"
	asidePrefix = asideName + "/"
	digestsRoot = hashName + "/"
)

// answerTime is how long a store may take for anything that moves no bytes,
// and stallTime for the next of the bytes of something that does. The clients
// underneath repeat what failed for a transient reason meanwhile, a few times.
const (
	answerTime = outage.AnswerTime
	stallTime  = 45 * time.Second
	// copyRate is what the store's own copying reaches at least, in bytes per
	// second.
	copyRate = 30 << 20
)

// supersededAfter is how long a commit must have been over before what it
// superseded is taken for left behind by a process that died.
const supersededAfter = time.Hour

// bucket keeps blobs in an object store.
//
// Object stores replace an object whole or not at all, and list what they have
// acknowledged. What they do not have, or not everywhere, is a deletion that is
// conditional on an object's age: between looking at the time and deleting, a
// Commit could renew the very object that then goes. Hence no object is ever
// written twice. Every Commit makes an object of its own, under a name that
// nobody used before, by uploading the bytes or by having the store copy those
// of an earlier commit; a blob is there as long as one of its objects is, and
// the time of the youngest is its ModTime. So
//
//   - Delete removes the objects that it saw and found old, by name. The
//     object of a concurrent Commit has another name and stays.
//   - A Commit, once its object is listed, removes all but the youngest (of
//     equally young ones, all but the last by name). As the youngest is removed
//     only in favour of a younger one, a blob survives any number of Commits
//     that tidy up at the same time, and its ModTime never goes back.
//   - Whoever reads an object that was tidied away meanwhile goes on in the one
//     that superseded it: they hold the same bytes.
//
// All times are the store's. They are compared rounded down to its resolution,
// a second in the worst case, which errs on the side of keeping. A store may
// date an object to when its upload began (S3 does, if it came in parts), so
// the promise about Delete holds for Commits called, not only returned, after
// that time; and the caller's clock may not be that of the store. Both are what
// the collector's grace period is for: it must be longer than a save takes, and
// than clocks differ. (S3 refuses clients that are off by a quarter of an hour.)
//
// Nothing is staged in the bucket. What is being written waits in a local
// temporary file, which has no name where the system permits it; parts of
// uploads that died with their process are removed by the next OpenBucket (S3)
// or by the store itself after a week (GCS, Azure).
type bucket struct {
	where  string // without secrets, for messages
	b      *blob.Bucket
	opener string
	copies bool          // a copy is dated to when it was made
	answer time.Duration // answerTime, except in tests
	stall  time.Duration // stallTime, except in tests
	closed atomic.Bool
	known  objectCache
}

// An object is what one Commit made.
type object struct {
	key     string
	size    int64
	modTime time.Time
}

// younger orders a blob's objects.
func (o object) younger(than object) bool {
	if !o.modTime.Equal(than.modTime) {
		return o.modTime.After(than.modTime)
	}
	return o.key > than.key
}

func youngest(objects []object) object {
	y := objects[0]
	for _, o := range objects[1:] {
		if o.younger(y) {
			y = o
		}
	}
	return y
}

func (o object) info(d Digest) Info { return Info{Digest: d, Size: o.size, ModTime: o.modTime} }

func newBucket(where string, b *blob.Bucket, copies bool) *bucket {
	return &bucket{where: where, b: b, opener: opener(), copies: copies, answer: answerTime, stall: stallTime}
}

func blobPrefix(d Digest) string {
	return digestsRoot + shardName(d[0]) + "/" + d.String() + "/"
}

// newKey names an object that nobody has written before.
func newKey(d Digest) string {
	var b [16]byte
	rand.Read(b[:])
	return blobPrefix(d) + hex.EncodeToString(b[:])
}

// digestOf is the reverse of newKey.
func digestOf(key string) (Digest, bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return Digest{}, false
	}
	d, err := ParseDigest(parts[2])
	return d, err == nil && strings.HasPrefix(key, blobPrefix(d))
}

// usable reports why nothing can be asked of the store, if so.
func (s *bucket) usable(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("blob store in %s: %w", s.where, fs.ErrClosed)
	}
	return ctx.Err()
}

// within bounds a call.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, &outage.Slow{After: d})
}

// explain says what was being done where when err happened under ctx. Whatever
// it is that a store cannot do, short of not having something, it may be able to
// later.
func (s *bucket) explain(ctx context.Context, err error, format string, args ...any) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	reason := unavailable(err)
	err = fmt.Errorf("%s in %s: %w", fmt.Sprintf(format, args...), s.where, err)
	if reason != "" {
		return &outage.Error{Store: storeName, Reason: reason, Err: err}
	}
	return err
}

// storeName is what blob stores are called where their place is nobody's
// business.
const storeName = "blob store"

// unavailable says why a bucket does not do what it was asked to, or returns ""
// if that is not for its own sake.
func unavailable(err error) string {
	var (
		slow   *outage.Slow
		status interface{ HTTPStatusCode() int }
	)
	switch {
	case errors.As(err, &slow):
		return fmt.Sprintf("did not answer within %v", slow.After)
	case absent(err), conflict(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ""
	case errors.As(err, &status) && status.HTTPStatusCode() >= http.StatusInternalServerError,
		errors.As(err, &status) && status.HTTPStatusCode() == http.StatusTooManyRequests:
		return fmt.Sprintf("answers %d", status.HTTPStatusCode())
	case gcerrors.Code(err) == gcerrors.PermissionDenied:
		return "refuses the server's credentials"
	}
	return "cannot be reached"
}

func absent(err error) bool { return gcerrors.Code(err) == gcerrors.NotFound }

// Clients keep the parts of an upload that are under way in memory.
const (
	partSize    = 8 << 20
	partsAtOnce = 3
)

// page is how many objects one request lists.
const page = 1000

// list calls f for every object under a prefix, in the order of their names,
// until f says that it has enough.
func (s *bucket) list(ctx context.Context, prefix string, f func(object) (more bool)) error {
	for token := blob.FirstPageToken; len(token) > 0; {
		objects, next, err := s.listPage(ctx, prefix, token)
		if err != nil {
			return err
		}
		for _, o := range objects {
			if !f(object{o.Key, o.Size, o.ModTime}) {
				return nil
			}
		}
		token = next
	}
	return nil
}

func (s *bucket) listPage(ctx context.Context, prefix string, token []byte) (_ []*blob.ListObject, next []byte, err error) {
	ctx, cancel := within(ctx, s.answer)
	defer cancel()
	objects, next, err := s.b.ListPage(ctx, token, page, &blob.ListOptions{Prefix: prefix})
	if err != nil {
		return nil, nil, s.explain(ctx, err, "list")
	}
	return objects, next, nil
}

// objects returns what there is of a blob.
func (s *bucket) objects(ctx context.Context, d Digest) (all []object, err error) {
	err = s.list(ctx, blobPrefix(d), func(o object) bool {
		if of, ok := digestOf(o.key); ok && of == d {
			all = append(all, o)
		}
		return true
	})
	return all, err
}

// find returns the youngest object of a blob.
func (s *bucket) find(ctx context.Context, op string, d Digest) (object, error) {
	all, err := s.objects(ctx, d)
	if err != nil {
		return object{}, fmt.Errorf("%s blob %s: %w", op, d, err)
	}
	if len(all) == 0 {
		s.known.drop(d)
		return object{}, fmt.Errorf("%s blob %s: %w", op, d, ErrNotFound)
	}
	y := youngest(all)
	s.known.put(d, y)
	return y, nil
}

// remove deletes an object. One that is not there is not an error.
func (s *bucket) remove(ctx context.Context, key string) error {
	ctx, cancel := within(ctx, s.answer)
	defer cancel()
	if err := s.b.Delete(ctx, key); err != nil && !absent(err) {
		return s.explain(ctx, err, "delete an object")
	}
	return nil
}

func (s *bucket) Create(ctx context.Context) (Writer, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "tinkex-blob-*")
	if err != nil {
		return nil, staging(err)
	}
	// Where a file in use can lose its name, the system takes care of what a
	// dead process leaves. Elsewhere it loses it when we are done.
	named := os.Remove(f.Name()) != nil
	return &bucketWriter{store: s, f: f, named: named, hash: sha256.New()}, nil
}

type bucketWriter struct {
	store *bucket
	f     *os.File // nil once committed or aborted
	named bool
	hash  hash.Hash
	size  int64
	err   error // what a Write met; such a blob must not be committed
}

func (w *bucketWriter) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, fmt.Errorf("stage blob: %w", fs.ErrClosed)
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		w.err = staging(err)
	}
	return n, w.err
}

func (w *bucketWriter) Abort() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	err := f.Close()
	if w.named {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	if err != nil {
		return fmt.Errorf("drop staged blob: %w", err)
	}
	return nil
}

// Commit also drops the staged bytes when it fails.
func (w *bucketWriter) Commit(ctx context.Context) (Info, error) {
	if w.f == nil {
		return Info{}, fmt.Errorf("commit blob: %w", fs.ErrClosed)
	}
	defer func() { _ = w.Abort() }()
	if w.err != nil {
		return Info{}, w.err
	}
	if err := w.store.usable(ctx); err != nil {
		return Info{}, err
	}
	d := Digest(w.hash.Sum(nil))
	info, err := w.commit(ctx, d)
	if err != nil {
		return Info{}, fmt.Errorf("commit blob %s: %w", d, err)
	}
	return info, nil
}

// AdoptFile implements FileAdopter by uploading from the file itself.
func (s *bucket) AdoptFile(ctx context.Context, path string, d Digest, size int64) (Info, error) {
	if err := s.usable(ctx); err != nil {
		return Info{}, err
	}
	info, err := s.adoptFile(ctx, path, d, size)
	if err != nil {
		return Info{}, fmt.Errorf("adopt blob %s: %w", d, err)
	}
	return info, nil
}

func (s *bucket) adoptFile(ctx context.Context, path string, d Digest, size int64) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !fi.Mode().IsRegular() || fi.Size() != size {
		return Info{}, fmt.Errorf("%q is no file of %d bytes", path, size)
	}
	return (&bucketWriter{store: s, f: f, size: size}).commit(ctx, d)
}

// commitAttempts is how often an object may be gone again when it is to be
// seen: somebody deletes what has only been committed.
const commitAttempts = 3

func (w *bucketWriter) commit(ctx context.Context, d Digest) (Info, error) {
	s := w.store
	failed := fmt.Errorf("what was written to %s is not there", s.where)
	for range commitAttempts {
		copied, err := s.recommit(ctx, d, w.size)
		if err == nil && !copied {
			err = s.upload(ctx, newKey(d), w.f, w.size)
		}
		if conflict(err) {
			failed = err
			continue
		}
		if err != nil {
			return Info{}, err
		}
		if info, ok, err := s.settle(ctx, d, w.size); ok || err != nil {
			return info, err
		}
	}
	return Info{}, failed
}

// conflict: the store could not because of something that happened at the same
// time. Stores over a file system do so when the directory of a new object is
// removed as an empty one.
func conflict(err error) bool {
	var status interface{ HTTPStatusCode() int }
	return errors.As(err, &status) && status.HTTPStatusCode() == http.StatusConflict
}

// recommit has the store make an object from an earlier one of the blob, if it
// has one of the right size and can: large ones it may not copy.
func (s *bucket) recommit(ctx context.Context, d Digest, size int64) (done bool, err error) {
	all, err := s.objects(ctx, d)
	if err != nil || !s.copies {
		return false, err
	}
	for _, o := range all {
		if o.size != size {
			continue // damaged
		}
		if err := s.copy(ctx, newKey(d), o); err == nil {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (s *bucket) copy(ctx context.Context, to string, from object) error {
	ctx, cancel := within(ctx, s.answer+time.Duration(from.size/copyRate)*time.Second)
	defer cancel()
	return s.b.Copy(ctx, to, from.key, nil)
}

func (s *bucket) upload(ctx context.Context, key string, f *os.File, size int64) error {
	ctx, guard := guarded(ctx, s.stall)
	defer guard.stop()
	src := &guardedReader{io.NewSectionReader(f, 0, size), guard}
	err := s.b.Upload(ctx, key, src, &blob.WriterOptions{
		ContentType: "application/octet-stream", DisableContentTypeDetection: true,
		BufferSize: partSize, MaxConcurrency: partsAtOnce,
	})
	if err != nil {
		return s.explain(ctx, err, "upload %d bytes", size)
	}
	return nil
}

// settle describes the blob as it is listed after a Commit's object was made,
// and removes those that are superseded. It is not ok if there is none.
func (s *bucket) settle(ctx context.Context, d Digest, size int64) (_ Info, ok bool, err error) {
	all, err := s.objects(ctx, d)
	if err != nil {
		return Info{}, false, err
	}
	// One digest has one size: all others are damaged, and here is the cure.
	whole := slices.DeleteFunc(slices.Clone(all), func(o object) bool { return o.size != size })
	if len(whole) == 0 {
		return Info{}, false, nil
	}
	// Ours may be gone already, in favour of a younger one.
	y := youngest(whole)
	s.known.put(d, y)
	s.supersede(ctx, all, y)
	return y.info(d), true, nil
}

// supersede removes all objects but one. What it cannot remove costs space
// and nothing else, so that is not an error.
func (s *bucket) supersede(ctx context.Context, all []object, by object) {
	for _, o := range all {
		if o.key != by.key && s.remove(ctx, o.key) != nil {
			return
		}
	}
}

func (s *bucket) Stat(ctx context.Context, d Digest) (Info, error) {
	if err := s.usable(ctx); err != nil {
		return Info{}, err
	}
	o, err := s.find(ctx, "stat", d)
	if err != nil {
		return Info{}, err
	}
	return o.info(d), nil
}

// All also removes superseded objects of processes that died before they did.
func (s *bucket) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(Info{}, err)
			return
		}
		var (
			of  Digest
			all []object // of that digest: they are listed in a row
		)
		more := true
		flush := func() {
			if len(all) == 0 {
				return
			}
			y := youngest(all)
			if len(all) > 1 && time.Since(y.modTime) > supersededAfter {
				s.supersede(ctx, all, y)
			}
			all = all[:0]
			more = yield(y.info(of), nil)
		}
		err := s.list(ctx, digestsRoot, func(o object) bool {
			d, ok := digestOf(o.key)
			if !ok {
				return true // not ours
			}
			if d != of {
				flush()
				of = d
			}
			all = append(all, o)
			return more
		})
		switch {
		case !more:
		case err != nil:
			yield(Info{}, fmt.Errorf("list blobs: %w", err))
		default:
			flush()
		}
	}
}

func (s *bucket) Delete(ctx context.Context, d Digest, before time.Time) (bool, error) {
	if err := s.usable(ctx); err != nil {
		return false, err
	}
	deleted, err := s.delete(ctx, d, before)
	if err != nil {
		return false, fmt.Errorf("delete blob %s: %w", d, err)
	}
	return deleted, nil
}

func (s *bucket) delete(ctx context.Context, d Digest, before time.Time) (bool, error) {
	all, err := s.objects(ctx, d)
	if err != nil || len(all) == 0 {
		return false, err
	}
	y := youngest(all)
	if !y.modTime.Before(before.Truncate(resolution(y.modTime))) {
		return false, nil
	}
	s.known.drop(d)
	// The youngest last: on a failure half-way, the blob keeps its time.
	slices.SortFunc(all, func(a, b object) int {
		if b.younger(a) {
			return -1
		}
		return 1
	})
	for _, o := range all {
		if err := s.remove(ctx, o.key); err != nil {
			return false, err
		}
	}
	return true, nil
}

// Quarantine moves all objects of the blob: the youngest may be a copy of the
// others. Those of Commits that come meanwhile have other names and stay.
func (s *bucket) Quarantine(ctx context.Context, seen Info) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	where, err := s.quarantine(ctx, seen)
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", seen.Digest, err)
	}
	return where, nil
}

func (s *bucket) quarantine(ctx context.Context, seen Info) (string, error) {
	d := seen.Digest
	all, err := s.objects(ctx, d)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", ErrNotFound
	}
	y := youngest(all)
	if y.size != seen.Size || !y.modTime.Equal(seen.ModTime) {
		return "", nil
	}
	aside := func(o object) string {
		return asidePrefix + d.String() + "/" + strings.TrimPrefix(o.key, blobPrefix(d))
	}
	for _, o := range all {
		if err := s.copy(ctx, aside(o), o); err != nil {
			return "", s.explain(ctx, err, "copy")
		}
	}
	s.known.drop(d)
	for _, o := range all {
		if err := s.remove(ctx, o.key); err != nil {
			return "", err
		}
	}
	return s.where + ", object " + aside(y), nil
}

// resolution is that of the store which put this time on an object. One in a
// thousand times that are finer is taken for coarse, which does no harm.
func resolution(t time.Time) time.Duration {
	switch ns := t.Nanosecond(); {
	case ns == 0:
		return time.Second
	case ns%int(time.Millisecond) == 0:
		return time.Millisecond
	case ns%int(time.Microsecond) == 0:
		return time.Microsecond
	}
	return time.Nanosecond
}

// Check writes, lists and removes a byte.
func (s *bucket) Check(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	ctx, cancel := within(ctx, s.answer)
	defer cancel()
	key := checkPrefix + s.opener
	if err := s.b.WriteAll(ctx, key, []byte{0}, nil); err != nil {
		return s.explain(ctx, err, "write")
	}
	if _, _, err := s.listPage(ctx, checkPrefix, blob.FirstPageToken); err != nil {
		return err
	}
	// Another Check of this store may have been faster.
	if err := s.b.Delete(ctx, key); err != nil && !absent(err) {
		return s.explain(ctx, err, "delete")
	}
	return nil
}

// sweep removes what died with other processes. What it cannot remove costs
// space and nothing else, so that is not an error.
func (s *bucket) sweep(ctx context.Context) {
	limit := time.Now().Add(-abandonedAfter)
	_ = s.list(ctx, checkPrefix, func(o object) bool {
		return !o.modTime.Before(limit) || s.remove(ctx, o.key) == nil
	})
}

// Close leaves readers that are open usable.
func (s *bucket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if err := s.b.Close(); err != nil {
		return fmt.Errorf("close blob store in %s: %w", s.where, err)
	}
	return nil
}

// objectCache remembers which object a blob was last seen in, so that a
// reader of many ranges asks once. It may be wrong: objects are superseded.
type objectCache struct {
	mu sync.Mutex
	m  map[Digest]object
}

const cachedObjects = 4096

func (c *objectCache) get(d Digest) (object, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.m[d]
	return o, ok
}

func (c *objectCache) put(d Digest, o object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[Digest]object)
	}
	for other := range c.m {
		if len(c.m) < cachedObjects {
			break
		}
		delete(c.m, other)
	}
	c.m[d] = o
}

func (c *objectCache) drop(d Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, d)
}
