// Package mirror is the form of a mirror: a place, a directory or a part of a
// bucket, that keeps checkpoints of a server with all that is known of them.
// docs/guides/mirror.md describes it for others to read. Below the place:
//
//	tinkex-mirror.json                          format, and whose checkpoints these are
//	checkpoints/<run>/<kind>_<name>.json        one record per checkpoint
//	blobs/sha256/<first two digits>/<digest>    the files' bytes, as package blobstore keeps them
//	mirror.lock, mirror.lock.json, lock/        who mirrors to it now
//	partial/, staging/, locks/, quarantine/     what is under way, and what was damaged
//
// A record is written after all of its blobs are there, and replaced in one
// step. So whenever a mirror is cut short, every record in it is complete.
package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/blobstore"
)

// Format is the version of the form. A mirror of another one is refused.
const Format = 1

// HeaderFile is what makes a place a mirror.
const HeaderFile = "tinkex-mirror.json"

const (
	recordsPrefix = "checkpoints/"
	recordSuffix  = ".json"
	blobsPrefix   = "blobs/"
	partialName   = "partial"
)

var (
	// ErrNoMirror: there is no mirror in that place.
	ErrNoMirror = errors.New("no mirror")
	// ErrNotFound: the mirror has no record of that checkpoint.
	ErrNotFound = errors.New("not in the mirror")
	// ErrDamaged: a record cannot be read.
	ErrDamaged = errors.New("damaged record")
)

// Source is an account on a server, by what is no secret of it.
type Source struct {
	BaseURL string `json:"base_url"`
	Owner   string `json:"owner"`
}

// Header says what a mirror is, in HeaderFile.
type Header struct {
	Format    int       `json:"format"`
	Source    Source    `json:"source"`
	CreatedAt time.Time `json:"created_at"`
}

// Record is all that is known of a checkpoint.
type Record struct {
	Format     int       `json:"format"`
	TinkerPath string    `json:"tinker_path"`
	MirroredAt time.Time `json:"mirrored_at"`
	Source     Source    `json:"source"`
	// Checkpoint, Run and Weights are what the server said.
	Checkpoint tinkex.Checkpoint  `json:"checkpoint"`
	Run        tinkex.TrainingRun `json:"run"`
	Weights    tinkex.WeightsInfo `json:"weights"`
	// DigestsFromServer: the server gave the digests. Otherwise they are of
	// what arrived.
	DigestsFromServer bool   `json:"digests_from_server"`
	Files             []File `json:"files"`
}

// File is a file of a checkpoint.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size_bytes"`
	SHA256 string `json:"sha256"`
}

// Digest is the file's. Records that were read have valid ones.
func (f File) Digest() blobstore.Digest {
	d, _ := blobstore.ParseDigest(f.SHA256)
	return d
}

// Path is the checkpoint's. Records that were read have a valid one.
func (r Record) Path() tinkex.TinkerPath {
	p, _ := tinkex.ParseTinkerPath(r.TinkerPath)
	return p
}

// SizeBytes is the sum of the files' sizes.
func (r Record) SizeBytes() (sum int64) {
	for _, f := range r.Files {
		sum += f.Size
	}
	return sum
}

// check reports what makes a record unusable.
func (r Record) check() error {
	if r.Format != Format {
		return fmt.Errorf("it has format %d, this version knows %d", r.Format, Format)
	}
	if _, err := tinkex.ParseTinkerPath(r.TinkerPath); err != nil {
		return err
	}
	if len(r.Files) == 0 {
		return errors.New("it names no files")
	}
	names := make([]string, len(r.Files))
	for i, f := range r.Files {
		if _, err := blobstore.ParseDigest(f.SHA256); err != nil || f.Size < 0 {
			return fmt.Errorf("file %q has %d bytes and digest %q", f.Name, f.Size, f.SHA256)
		}
		names[i] = f.Name
	}
	return archive.CheckNames(names)
}

// Mirror is an open mirror, or a place for one.
type Mirror struct {
	where  string // without secrets
	dir    string // empty for a bucket
	bucket string // its URL
	docs   documents
	blobs  blobstore.Store
	header *Header // nil: there is none yet
}

// Open opens the mirror at a target to read it: a directory, in which nothing
// is written, or a URL as blobstore.Open takes it. Where there is none, it is
// ErrNoMirror.
func Open(ctx context.Context, target string) (*Mirror, error) { return openThere(ctx, target, true) }

// OpenToChange is Open for a mirror that is to be changed.
func OpenToChange(ctx context.Context, target string) (*Mirror, error) {
	return openThere(ctx, target, false)
}

func openThere(ctx context.Context, target string, reading bool) (*Mirror, error) {
	m, err := open(ctx, target)
	if err == nil && m.header == nil {
		err = errors.Join(fmt.Errorf("%s: %w there: it lacks %s", m.where, ErrNoMirror, HeaderFile), m.Close())
	}
	if err != nil {
		return nil, err
	}
	if m.dir != "" && reading {
		m.blobs, err = blobstore.ReadFolder(m.dir)
	} else {
		err = m.openBlobs(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Create opens the mirror at a target, or prepares the place for one, which
// must be empty: a mirror does not mix with other things.
func Create(ctx context.Context, target string) (*Mirror, error) {
	m, err := open(ctx, target)
	if err != nil {
		return nil, err
	}
	if m.header == nil {
		err = m.onlyOurs(ctx)
	}
	if m.dir != "" {
		m.docs = folderDocuments{dir: m.dir, tidy: true}
	}
	if err == nil {
		err = m.openBlobs(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Peek opens what is there for reading records, and writes nothing. Where
// there is no mirror, it has none.
func Peek(ctx context.Context, target string) (*Mirror, error) {
	m, err := open(ctx, target)
	if err == nil && m.header == nil {
		if err = m.onlyOurs(ctx); err != nil {
			err = errors.Join(err, m.Close())
		}
	}
	return m, err
}

func open(ctx context.Context, target string) (*Mirror, error) {
	if target == "" {
		return nil, errors.New("no target given: expected a directory or a bucket's URL")
	}
	dir, isDir, err := blobstore.Directory(target)
	if err != nil {
		return nil, err
	}
	m := &Mirror{where: dir, dir: dir}
	if isDir {
		m.docs = folderDocuments{dir: dir}
	} else {
		if m.bucket, err = withSlash(target); err != nil {
			return nil, err
		}
		m.where = blobstore.Redact(m.bucket)
		b, err := blobstore.OpenBucket(ctx, m.bucket)
		if err != nil {
			return nil, err
		}
		m.docs = bucketDocuments{b}
	}
	if err := m.readHeader(ctx); err != nil {
		return nil, errors.Join(err, m.docs.close())
	}
	return m, nil
}

func (m *Mirror) readHeader(ctx context.Context) error {
	b, err := m.docs.get(ctx, HeaderFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror in %s: %w", m.where, err)
	}
	var h Header
	if err := json.Unmarshal(b, &h); err != nil {
		return fmt.Errorf("mirror in %s: %s is damaged: %w", m.where, HeaderFile, err)
	}
	if h.Format != Format {
		return fmt.Errorf("mirror in %s: it has format %d, this version knows %d", m.where, h.Format, Format)
	}
	m.header = &h
	return nil
}

// onlyOurs refuses a place where other things are.
func (m *Mirror) onlyOurs(ctx context.Context) error {
	for key, err := range m.docs.list(ctx, "") {
		if err != nil {
			return fmt.Errorf("mirror in %s: %w", m.where, err)
		}
		// An earlier mirror may have been cut short this early.
		first, _, _ := strings.Cut(key, "/")
		if !slices.Contains([]string{lockFile, lockInfo, leaseName, "blobs", "staging", "locks", partialName}, first) {
			return fmt.Errorf("%s is not empty and no mirror (it has %q): choose another target", m.where, key)
		}
	}
	return nil
}

func (m *Mirror) openBlobs(ctx context.Context) error {
	target := m.dir // the store's own blobs/ is ours
	if m.dir == "" {
		var err error
		if target, err = withPrefix(m.bucket, func(prefix string) string { return prefix + blobsPrefix }); err != nil {
			return err
		}
	}
	var err error
	m.blobs, err = blobstore.Open(ctx, target)
	return err
}

// withSlash is a bucket's URL whose prefix, if it has one, ends like a
// directory: nobody means the beginning of a name.
func withSlash(bucketURL string) (string, error) {
	return withPrefix(bucketURL, func(prefix string) string {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			prefix += "/"
		}
		return prefix
	})
}

// withPrefix is a bucket's URL with another prefix.
func withPrefix(bucketURL string, change func(string) string) (string, error) {
	u, err := url.Parse(bucketURL)
	if err != nil {
		// The error would repeat the URL, which may carry what is secret.
		return "", errors.New("not a URL: expected for example s3://BUCKET?region=REGION&prefix=PATH/")
	}
	q := u.Query()
	if prefix := change(q.Get("prefix")); prefix != "" {
		q.Set("prefix", prefix)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// String says where it is, without secrets.
func (m *Mirror) String() string { return m.where }

// Blobs is where the bytes are. A mirror from Peek has none.
func (m *Mirror) Blobs() blobstore.Store { return m.blobs }

// Source is whose checkpoints these are; ok is false if none were mirrored.
func (m *Mirror) Source() (s Source, ok bool) {
	if m.header == nil {
		return s, false
	}
	return m.header.Source, true
}

// SetSource says whose checkpoints these are, and makes the place a mirror.
func (m *Mirror) SetSource(ctx context.Context, s Source, now time.Time) error {
	h := Header{Format: Format, Source: s, CreatedAt: now.UTC().Truncate(time.Second)}
	if m.header != nil {
		h.CreatedAt = m.header.CreatedAt
	}
	if err := m.putJSON(ctx, HeaderFile, h); err != nil {
		return err
	}
	m.header = &h
	return nil
}

func (m *Mirror) putJSON(ctx context.Context, key string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = m.docs.put(ctx, key, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("mirror in %s: write %s: %w", m.where, key, err)
	}
	return nil
}

// PartialDir is the directory where downloads grow: within the mirror, so that
// what is complete only has to be renamed, or for a bucket below workDir.
func (m *Mirror) PartialDir(workDir string) string {
	if m.dir != "" {
		return filepath.Join(m.dir, partialName)
	}
	sum := sha256.Sum256([]byte(m.where))
	return filepath.Join(workDir, hex.EncodeToString(sum[:8]))
}

// MakeDir makes the directory of a mirror that is one.
func (m *Mirror) MakeDir() error {
	if m.dir == "" {
		return nil
	}
	return os.MkdirAll(m.dir, 0o755)
}

// recordKey is where a checkpoint's record is. What would not do in a file's
// name is replaced; the digests keep apart what then looks the same, also
// where upper and lower case do.
func recordKey(p tinkex.TinkerPath) string {
	return recordsPrefix + FileName(p.RunID) + "/" + p.Type.Segment() + "_" + FileName(p.Name) + recordSuffix
}

// FileName makes of any string a name that every file system and object store
// takes, and of different strings different ones.
func FileName(s string) string {
	sum := sha256.Sum256([]byte(s))
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_' {
			return r
		}
		return '_'
	}, s)
	return strings.TrimLeft(plain[:min(len(plain), 100)], ".") + "-" + hex.EncodeToString(sum[:6])
}

// Record reads what is known of a checkpoint.
func (m *Mirror) Record(ctx context.Context, p tinkex.TinkerPath) (Record, error) {
	r, err := m.record(ctx, recordKey(p))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s: %w", p, ErrNotFound)
	}
	return r, err
}

// record reads a record. One that cannot be made sense of is ErrDamaged.
func (m *Mirror) record(ctx context.Context, key string) (Record, error) {
	var r Record
	b, err := m.docs.get(ctx, key)
	if err != nil {
		return r, fmt.Errorf("mirror in %s: %w", m.where, err)
	}
	err = json.Unmarshal(b, &r)
	if err == nil {
		err = r.check()
	}
	if err == nil && recordKey(r.Path()) != key {
		err = fmt.Errorf("it is the record of %s", r.TinkerPath)
	}
	if err != nil {
		return Record{}, fmt.Errorf("mirror in %s: %s: %w: %w", m.where, key, ErrDamaged, err)
	}
	return r, nil
}

// Has tells which checkpoints have a record.
type Has map[string]struct{}

// Known lists the checkpoints that have a record.
func (m *Mirror) Known(ctx context.Context) (Has, error) {
	out := Has{}
	for key, err := range m.recordKeys(ctx) {
		if err != nil {
			return nil, err
		}
		out[key] = struct{}{}
	}
	return out, nil
}

// Of reports whether a checkpoint has a record.
func (h Has) Of(p tinkex.TinkerPath) bool {
	_, ok := h[recordKey(p)]
	return ok
}

func (m *Mirror) recordKeys(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for key, err := range m.docs.list(ctx, recordsPrefix) {
			if err != nil {
				yield("", fmt.Errorf("mirror in %s: %w", m.where, err))
				return
			}
			if strings.HasSuffix(key, recordSuffix) && !yield(key, nil) {
				return
			}
		}
	}
}

// Found is a record that is there.
type Found struct {
	Key    string
	Record Record
	Err    error // wraps ErrDamaged
}

// Records yields all records, in the order of their keys. Those that are
// damaged are yielded as such. A non-nil error ends the walk.
func (m *Mirror) Records(ctx context.Context) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		for key, err := range m.recordKeys(ctx) {
			if err != nil {
				yield(Found{}, err)
				return
			}
			r, err := m.record(ctx, key)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue // it was removed meanwhile
			case err != nil && !errors.Is(err, ErrDamaged):
				yield(Found{}, err)
				return
			}
			if !yield(Found{key, r, err}, nil) {
				return
			}
		}
	}
}

// Put makes a record, or replaces the checkpoint's former one. All of its
// blobs must be there.
func (m *Mirror) Put(ctx context.Context, r Record) error {
	r.Format = Format
	if err := r.check(); err != nil {
		return fmt.Errorf("mirror in %s: record of %s: %w", m.where, r.TinkerPath, err)
	}
	return m.putJSON(ctx, recordKey(r.Path()), r)
}

// Remove removes a record by its key. One that is not there is not an error.
func (m *Mirror) Remove(ctx context.Context, key string) error {
	if err := m.docs.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mirror in %s: remove %s: %w", m.where, key, err)
	}
	return nil
}

// Close gives up what Open holds; not a lock.
func (m *Mirror) Close() error {
	err := m.docs.close()
	if m.blobs != nil {
		err = errors.Join(err, m.blobs.Close())
	}
	return err
}
