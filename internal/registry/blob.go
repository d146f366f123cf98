package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

const (
	// PartBytes bounds one upload. Larger files are sent in parts of it.
	PartBytes = 16 << 20
	// uploadTTL is how long bytes wait for the import they were sent for.
	uploadTTL = 24 * time.Hour
)

var emptyDigest = blobstore.Digest(sha256.Sum256(nil))

// MissingBlobs returns which of the blobs the owner has to send before they
// can be imported: all but those whose bytes the owner may read anyway, or has
// sent within the last day. Whether somebody else has them makes no difference
// to the answer, which would otherwise tell of other owners' files and, with
// an import, hand them over. What is not missing now will not be for a day.
func (r *Registry) MissingBlobs(ctx context.Context, owner string, blobs []metastore.Blob) ([]blobstore.Digest, error) {
	digests := make([]blobstore.Digest, len(blobs))
	for i, b := range blobs {
		digests[i] = b.Digest
	}
	sizes, err := r.claim(ctx, owner, digests)
	if err != nil {
		return nil, err
	}
	var missing []blobstore.Digest
	asked := make(map[blobstore.Digest]bool, len(blobs))
	for _, b := range blobs {
		size, ok := sizes[b.Digest]
		switch {
		case ok && size != b.Size:
			return nil, newError(Invalid, "blobs: %s has %d bytes, not %d", b.Digest, size, b.Size)
		case !ok && !asked[b.Digest]:
			missing = append(missing, b.Digest)
			asked[b.Digest] = true
		}
	}
	return missing, nil
}

// claim returns the sizes of those blobs that the owner may use, and keeps
// them for a day.
func (r *Registry) claim(ctx context.Context, owner string, digests []blobstore.Digest) (map[blobstore.Digest]int64, error) {
	now := r.now().UTC()
	sizes, err := r.meta.ClaimBlobs(ctx, owner, digests, now, now.Add(-uploadTTL))
	return sizes, classify(err)
}

// UploadBlob stores what body holds, size bytes with the given digest, for
// the owner to import within a day. It may be done again.
func (r *Registry) UploadBlob(ctx context.Context, owner string, d blobstore.Digest, size int64, body io.Reader) error {
	if size > PartBytes {
		return newError(Invalid, "body: %d bytes are more than %d; send larger files in parts", size, PartBytes)
	}
	src := &sender{r: io.LimitReader(body, size+1)}
	err := r.storeBlob(ctx, d, size, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	})
	switch {
	case src.err != nil:
		return &Error{Code: Unavailable, Message: "body: it broke off: " + src.err.Error(), Err: src.err}
	case err != nil:
		return err
	}
	return classify(r.meta.PutUpload(ctx, owner, metastore.Blob{Digest: d, Size: size}, r.now().UTC()))
}

// storeBlob stores what write writes, if it is what it should be. What is not
// has been hashed by the store already and is kept like anything that nothing
// refers to: until the next collection of garbage.
func (r *Registry) storeBlob(ctx context.Context, d blobstore.Digest, size int64, write func(io.Writer) error) error {
	w, err := r.blobs.Create(ctx)
	if err != nil {
		return classify(err)
	}
	defer w.Abort()
	n := &counter{w: w}
	if err := write(n); err != nil {
		return classify(err)
	}
	if n.n != size {
		return newError(Invalid, "body: it has not the %d bytes announced", size)
	}
	info, err := w.Commit(ctx)
	if err != nil {
		return classify(err)
	}
	if info.Digest != d {
		return newError(Invalid, "sha256: the bytes have digest %s, not %s", info.Digest, d)
	}
	return nil
}

// sender is a reader that remembers its failure, which is not the store's.
type sender struct {
	r   io.Reader
	err error
}

func (s *sender) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
