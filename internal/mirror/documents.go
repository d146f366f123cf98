package mirror

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tinkex/tinkex/internal/durable"
)

// documents keeps small files under keys with slashes. Absence is
// fs.ErrNotExist.
type documents interface {
	get(ctx context.Context, key string) ([]byte, error)
	// put writes or replaces a document in one step, for good.
	put(ctx context.Context, key string, b []byte) error
	// create writes one that is not there; else it is fs.ErrExist.
	create(ctx context.Context, key string, b []byte) error
	remove(ctx context.Context, key string) error
	// list yields the keys that start with a prefix, in their order.
	list(ctx context.Context, prefix string) iter.Seq2[string, error]
	close() error
}

// maxDocument bounds what is read of one.
const maxDocument = 16 << 20

func readDocument(key string, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s: it has more than %d bytes", key, maxDocument)
	}
	return b, err
}

// folderDocuments are files.
type folderDocuments struct {
	dir string
	// tidy removes what dead processes left behind, while listing.
	tidy bool
}

const tempPrefix = ".new-"

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

func (d folderDocuments) path(key string) string {
	return filepath.Join(d.dir, filepath.FromSlash(key))
}

func (d folderDocuments) get(_ context.Context, key string) ([]byte, error) {
	f, err := os.Open(d.path(key))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readDocument(key, f)
}

func (d folderDocuments) put(_ context.Context, key string, b []byte) error {
	return d.write(key, b, os.Rename)
}

func (d folderDocuments) create(_ context.Context, key string, b []byte) error {
	return d.write(key, b, func(from, to string) error {
		err := os.Link(from, to)
		if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// File systems without hard links (FAT, some network mounts) can still
		// make a file only if it is not there.
		f, exists := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if exists != nil {
			return errors.Join(exists, err)
		}
		return errors.Join(f.Close(), os.Rename(from, to))
	})
}

// write puts a file into place once it is flushed.
func (d folderDocuments) write(key string, b []byte, place func(from, to string) error) (err error) {
	target := d.path(key)
	dir := filepath.Dir(target)
	if err := d.makeDirs(dir); err != nil {
		return err
	}
	temp := filepath.Join(dir, tempPrefix+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if rerr := os.Remove(temp); err == nil && rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = rerr
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(temp, target); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// makeDirs makes what is missing down to dir, such that it stays.
func (d folderDocuments) makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := d.makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

func (d folderDocuments) remove(_ context.Context, key string) error { return os.Remove(d.path(key)) }

// abandonedAfter is when a file that never was put into place is nobody's.
const abandonedAfter = time.Hour

func (d folderDocuments) list(ctx context.Context, prefix string) iter.Seq2[string, error] {
	root := path.Dir(prefix + "x")
	return func(yield func(string, error) bool) {
		enough := errors.New("enough")
		err := filepath.WalkDir(d.path(root), func(p string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case e.IsDir():
				return nil
			}
			if isTemp(e.Name()) {
				if info, err := e.Info(); d.tidy && err == nil && time.Since(info.ModTime()) > abandonedAfter {
					_ = os.Remove(p) // if it stays, it takes a few bytes
				}
				return nil
			}
			key, err := filepath.Rel(d.dir, p)
			if err != nil {
				return err
			}
			if key = filepath.ToSlash(key); strings.HasPrefix(key, prefix) && !yield(key, nil) {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			yield("", err)
		}
	}
}

func (folderDocuments) close() error { return nil }

// bucketDocuments are objects.
type bucketDocuments struct{ b *blob.Bucket }

// answerTime is how long a store may take for one of them.
const answerTime = 30 * time.Second

// asFS makes the library's errors those of documents.
func asFS(ctx context.Context, key string, err error) error {
	switch gcerrors.Code(err) {
	case gcerrors.OK:
		return nil
	case gcerrors.NotFound:
		return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	case gcerrors.FailedPrecondition:
		return fmt.Errorf("%s: %w", key, fs.ErrExist)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%s: %w", key, err)
}

func (d bucketDocuments) get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	r, err := d.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, asFS(ctx, key, err)
	}
	defer r.Close()
	b, err := readDocument(key, r)
	return b, asFS(ctx, key, err)
}

func (d bucketDocuments) put(ctx context.Context, key string, b []byte) error {
	return d.write(ctx, key, b, false)
}

func (d bucketDocuments) create(ctx context.Context, key string, b []byte) error {
	return d.write(ctx, key, b, true)
}

func (d bucketDocuments) write(ctx context.Context, key string, b []byte, onlyNew bool) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := d.b.WriteAll(ctx, key, b, &blob.WriterOptions{ContentType: "application/json", IfNotExist: onlyNew})
	return asFS(ctx, key, err)
}

func (d bucketDocuments) remove(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return asFS(ctx, key, d.b.Delete(ctx, key))
}

func (d bucketDocuments) list(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for token := blob.FirstPageToken; len(token) > 0; {
			page, cancel := context.WithTimeout(ctx, answerTime)
			objects, next, err := d.b.ListPage(page, token, 1000, &blob.ListOptions{Prefix: prefix})
			err = asFS(page, "list "+prefix, err)
			cancel()
			if err != nil {
				yield("", err)
				return
			}
			for _, o := range objects {
				if !yield(o.Key, nil) {
					return
				}
			}
			token = next
		}
	}
}

func (d bucketDocuments) close() error { return d.b.Close() }
