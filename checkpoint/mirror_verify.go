package checkpoint

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/mirror"
)

// MirrorVerifyOptions configures VerifyMirror. The zero value works.
type MirrorVerifyOptions struct {
	// Jobs is how many files are read at once. If less than or equal to 0, 4.
	Jobs int
	// Repair puts damaged bytes aside, into quarantine/, so that the next
	// Mirror fetches them anew. It keeps other mirrors away meanwhile.
	Repair bool
	// Progress is called by one goroutine at a time, with the bytes read so
	// far.
	Progress func(bytes int64)
}

// MirrorVerification is what VerifyMirror found.
type MirrorVerification struct {
	Target      string // without secrets
	Checkpoints int    // with a readable record
	Blobs       int    // that were read
	Bytes       int64  // in them
	// Missing and Damaged are the files of checkpoints whose bytes are not
	// there, or are others.
	Missing, Damaged []MirrorFault
	// Records are those that cannot be made sense of.
	Records []Fault
	// Extra is what no record refers to. It does no harm; Mirror with Prune
	// removes bytes among it.
	Extra []string
	// PutAside is where Repair moved damaged bytes to.
	PutAside []string
}

// MirrorFault is what is wrong with a file of a checkpoint.
type MirrorFault struct {
	TinkerPath string `json:"tinker_path"`
	Name       string `json:"name"`
	SHA256     string `json:"sha256"`
	Reason     string `json:"reason"`
}

// Intact reports whether every checkpoint of the mirror is whole.
func (v MirrorVerification) Intact() bool {
	return len(v.Missing) == 0 && len(v.Damaged) == 0 && len(v.Records) == 0
}

// VerifyMirror reads every byte of a mirror again and compares it with the
// records. It returns an error only if it could not look; what it found is in
// the MirrorVerification. A mirror may run at the same time.
func VerifyMirror(ctx context.Context, target string, opts MirrorVerifyOptions) (MirrorVerification, error) {
	v := mirrorVerification{opts: opts, bad: map[blobstore.Digest]string{}, size: map[blobstore.Digest]int64{}}
	v.out.Target = blobstore.Redact(target)
	if err := v.do(ctx, target); err != nil {
		return v.out, fmt.Errorf("verify the mirror in %s: %w", v.out.Target, err)
	}
	return v.out, nil
}

type mirrorVerification struct {
	opts MirrorVerifyOptions
	in   *mirror.Mirror

	mu   sync.Mutex
	out  MirrorVerification
	bad  map[blobstore.Digest]string // why
	size map[blobstore.Digest]int64  // of the whole ones
}

func (v *mirrorVerification) do(ctx context.Context, target string) (err error) {
	open := mirror.Open
	if v.opts.Repair {
		open = mirror.OpenToChange
	}
	if v.in, err = open(ctx, target); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.in.Close()) }()
	if v.opts.Repair {
		held, release, err := v.in.Lock(ctx)
		if err != nil {
			return err
		}
		defer release()
		ctx = held
	}
	// Records first: what a mirror that runs adds has its bytes before.
	used := map[blobstore.Digest]struct{}{}
	var records []mirror.Record
	for f, err := range v.in.Records(ctx) {
		if err != nil {
			return err
		}
		if f.Err != nil {
			v.out.Records = append(v.out.Records, Fault{f.Key, f.Err.Error()})
			continue
		}
		v.out.Checkpoints++
		records = append(records, mirror.Record{TinkerPath: f.Record.TinkerPath, Files: f.Record.Files})
		for _, file := range f.Record.Files {
			used[file.Digest()] = struct{}{}
		}
	}
	if err := v.read(ctx, used); err != nil {
		return err
	}
	for _, r := range records {
		for _, f := range r.Files {
			fault := MirrorFault{TinkerPath: r.TinkerPath, Name: f.Name, SHA256: f.SHA256}
			d := f.Digest()
			size, whole := v.size[d]
			why, damaged := v.bad[d]
			switch {
			case damaged:
				fault.Reason = why
				v.out.Damaged = append(v.out.Damaged, fault)
			case !whole:
				fault.Reason = "its bytes are not there"
				v.out.Missing = append(v.out.Missing, fault)
			case size != f.Size:
				fault.Reason = fmt.Sprintf("it has %d bytes instead of %d", size, f.Size)
				v.out.Damaged = append(v.out.Damaged, fault)
			}
		}
	}
	return v.strays(ctx)
}

// read reads all blobs.
func (v *mirrorVerification) read(ctx context.Context, used map[blobstore.Digest]struct{}) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	if v.opts.Jobs > 0 {
		g.SetLimit(v.opts.Jobs)
	}
	for info, err := range v.in.Blobs().All(ctx) {
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if _, ok := used[info.Digest]; !ok {
			v.mu.Lock()
			v.out.Extra = append(v.out.Extra, "blob "+info.Digest.String())
			v.mu.Unlock()
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return v.blob(gctx, info) })
	}
	err := g.Wait()
	slices.Sort(v.out.Extra)
	slices.Sort(v.out.PutAside)
	return err
}

func (v *mirrorVerification) blob(ctx context.Context, info blobstore.Info) error {
	why, err := v.hash(ctx, info)
	if errors.Is(err, blobstore.ErrNotFound) {
		return nil // it was pruned meanwhile, or is missing
	}
	if err != nil {
		return err
	}
	aside := ""
	if why != "" && v.opts.Repair {
		if aside, err = v.in.Blobs().Quarantine(ctx, info); err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Blobs++
	if why == "" {
		v.size[info.Digest] = info.Size
	} else {
		v.bad[info.Digest] = why
	}
	if aside != "" {
		v.out.PutAside = append(v.out.PutAside, aside)
	}
	return nil
}

// hash reads a blob and says what is wrong with it, if anything is.
func (v *mirrorVerification) hash(ctx context.Context, info blobstore.Info) (why string, err error) {
	r, err := v.in.Blobs().OpenRange(ctx, info.Digest, 0, -1)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	err = hashFile(ctx, r, h, func(n int64) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.out.Bytes += n
		if v.opts.Progress != nil {
			v.opts.Progress(v.out.Bytes)
		}
	})
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if got := digest(h); got != info.Digest.String() {
		return "its bytes have the SHA-256 " + got, nil
	}
	return "", nil
}

// strays names what lies where blobs are kept and is none.
func (v *mirrorVerification) strays(ctx context.Context) error {
	in, ok := v.in.Blobs().(blobstore.Inspector)
	if !ok {
		return nil
	}
	for s, err := range in.Strays(ctx) {
		if err != nil {
			return err
		}
		v.out.Extra = append(v.out.Extra, s.Path)
	}
	return nil
}
