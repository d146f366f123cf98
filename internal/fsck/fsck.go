package fsck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/registry"
)

// Options configures Run. Meta and Blobs are required.
type Options struct {
	Meta  metastore.Store
	Blobs blobstore.Store
	// Quick looks at the blobs' sizes and reads only what these make suspect.
	Quick bool
	// Repair puts aside what is damaged and corrects what can be proven.
	Repair bool
	// Jobs is how many blobs are read at a time. Zero is as many as there are
	// processors, and no less than two.
	Jobs int
	// Progress, if it is given, is told how many bytes of how many have been
	// looked at. Its calls do not overlap.
	Progress func(done, total int64)
}

// How many rows are read at a time: manifests, and checkpoints without theirs.
const (
	page           = 500
	referencesPage = 5000
)

// looks is how often something that changes while it is looked at is looked at.
const looks = 4

// Run looks at everything. Its error is that it could not.
func Run(ctx context.Context, opts Options) (Report, error) {
	if opts.Jobs <= 0 {
		opts.Jobs = max(runtime.GOMAXPROCS(0), 2)
	}
	c := &check{
		Options: opts, start: time.Now(), blobs: map[blobstore.Digest]claim{},
		report: Report{Quick: opts.Quick, Faults: []Fault{}, Released: []string{}, Quarantined: []Quarantined{}},
	}
	for _, step := range []func(context.Context) error{
		// The counters first: with wrong ones, moving checkpoints is not safe.
		c.counters, c.manifests, c.examineAll, c.confirm, c.sizes, c.orphans, c.strays, c.unreferenced, c.quarantine,
	} {
		if err := step(ctx); err != nil {
			return c.report, err
		}
	}
	return c.report, nil
}

// claim is what is said of a blob.
type claim struct {
	size  int64
	mixed bool // not everybody says the same
	live  bool // somebody outside of the quarantine needs it
}

type check struct {
	Options
	start  time.Time
	report Report
	blobs  map[blobstore.Digest]claim
	// suspects are blobs that are to be looked at again.
	suspects []blobstore.Digest
	// missized are checkpoints whose sizes do not add up.
	missized []int64
}

func (c *check) fault(f Fault) { c.report.Faults = append(c.report.Faults, f) }

func (c *check) counters(ctx context.Context) error {
	wrong, err := c.Meta.Counters(ctx)
	if err != nil {
		return err
	}
	for _, w := range wrong {
		f := Fault{Kind: WrongCounter, What: fmt.Sprintf("%s are counted as %d, but there are %d", w.Of, w.Stored, w.Counted)}
		if w.Stored == w.Counted {
			f.What = w.Of + " are counted in the wrong places"
		}
		if c.Repair {
			if err := c.Meta.Recount(ctx, w); err != nil {
				return err
			}
			f.Repair = "counted anew"
		}
		c.fault(f)
	}
	return nil
}

// manifests collects what is referred to, and finds what is wrong with the
// rows alone: a manifest is read in one moment, so this needs no second look.
func (c *check) manifests(ctx context.Context) error {
	for last := int64(0); ; {
		all, err := c.Meta.Manifests(ctx, last, page)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			break
		}
		for _, m := range all {
			c.report.Checkpoints++
			if err := c.manifest(ctx, m); err != nil {
				return err
			}
		}
		last = all[len(all)-1].ID
	}
	uploads, err := c.Meta.Uploads(ctx)
	if err != nil {
		return err
	}
	for _, u := range uploads {
		c.refer(u.Digest, u.Size, true)
	}
	aside, err := c.Meta.Quarantined(ctx)
	if err != nil {
		return err
	}
	for _, z := range aside {
		for _, f := range z.Files {
			c.refer(f.Digest, f.Size, false)
		}
	}
	return nil
}

func (c *check) refer(d blobstore.Digest, size int64, live bool) {
	b, known := c.blobs[d]
	switch {
	case !known || live && !b.live:
		c.blobs[d] = claim{size: size, live: live}
	case live && b.size != size && !b.mixed:
		b.mixed = true
		c.blobs[d] = b
	}
}

func (c *check) manifest(ctx context.Context, m metastore.Manifest) error {
	var sum int64
	for _, f := range m.Files {
		c.refer(f.Digest, f.Size, true)
		sum += f.Size
	}
	f := Fault{Checkpoints: []string{PathOf(m.Checkpoint)}}
	switch {
	case m.RunMissing:
		f.Kind, f.What = NoRun, fmt.Sprintf("%s belongs to a run that is not there", PathOf(m.Checkpoint))
	case len(m.Files) == 0:
		f.Kind, f.What = NoFiles, fmt.Sprintf("%s has no files; its size says %d bytes", PathOf(m.Checkpoint), m.SizeBytes)
	case m.Gaps:
		f.Kind, f.What = IncompleteManifest, fmt.Sprintf("%s lacks files that its manifest had before or between others", PathOf(m.Checkpoint))
	default:
		if sum != m.SizeBytes {
			c.missized = append(c.missized, m.ID)
		}
		return nil
	}
	var err error
	if c.Repair {
		f.Repair, err = c.putAside(ctx, m.ID, f.What)
	}
	c.fault(f)
	return err
}

// putAside moves a checkpoint into quarantine, and says so.
func (c *check) putAside(ctx context.Context, id int64, reason string) (string, error) {
	err := c.Meta.Quarantine(ctx, id, time.Now().UTC(), reason)
	if errors.Is(err, metastore.ErrNotFound) {
		return "deleted by somebody else meanwhile", nil
	}
	return "hidden: the checkpoint is in quarantine", err
}

// state is what a blob is.
type state struct {
	err     error // nil if its bytes are what they should be
	damaged bool  // its bytes have another digest
	info    blobstore.Info
}

func (s state) missing() bool { return errors.Is(s.err, blobstore.ErrNotFound) }

// examineAll finds the blobs to be looked at again.
func (c *check) examineAll(ctx context.Context) error {
	var total, done int64
	live := make([]blobstore.Digest, 0, len(c.blobs))
	for d, b := range c.blobs {
		if b.live {
			live = append(live, d)
			total += b.size
		}
	}
	// In one order, so that two runs do the same; it is also the folder's.
	slices.SortFunc(live, func(a, b blobstore.Digest) int { return slices.Compare(a[:], b[:]) })
	c.report.Blobs, c.report.Bytes = len(live), total

	var mu sync.Mutex
	advance := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		if c.Progress != nil {
			c.Progress(done, total)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.Jobs)
	for _, d := range live {
		g.Go(func() error {
			said := c.blobs[d]
			var s state
			if c.Quick {
				s.info, s.err = c.Blobs.Stat(ctx, d)
				advance(said.size)
			} else {
				s = c.examine(ctx, d, advance)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.err != nil || said.mixed || s.info.Size != said.size {
				mu.Lock()
				defer mu.Unlock()
				c.suspects = append(c.suspects, d)
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(c.suspects, func(a, b blobstore.Digest) int { return slices.Compare(a[:], b[:]) })
	return err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}

// examine reads a blob. What it says of a damaged one holds for the blob that
// was committed at the time it gives.
func (c *check) examine(ctx context.Context, d blobstore.Digest, advance func(int64)) (s state) {
	for range looks {
		if s.info, s.err = c.Blobs.Stat(ctx, d); s.err != nil {
			return s
		}
		sum, size, err := c.hash(ctx, d, advance)
		if err != nil {
			s.err = err
			return s
		}
		if sum == d {
			s.info.Size = size
			return s
		}
		s.err, s.damaged = fmt.Errorf("its %d bytes have the digest %s", size, sum), true
		if now, err := c.Blobs.Stat(ctx, d); err == nil && now.Size == s.info.Size && now.ModTime.Equal(s.info.ModTime) {
			return s
		}
	}
	return s
}

func (c *check) hash(ctx context.Context, d blobstore.Digest, advance func(int64)) (sum blobstore.Digest, size int64, err error) {
	r, err := c.Blobs.OpenRange(ctx, d, 0, -1)
	if err != nil {
		return sum, 0, err
	}
	defer r.Close()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	for {
		n, err := r.Read(*buf)
		h.Write((*buf)[:n])
		size += int64(n)
		advance(int64(n))
		if err == io.EOF {
			return blobstore.Digest(h.Sum(nil)), size, nil
		}
		if err != nil {
			return sum, size, err
		}
	}
}

func nothing(int64) {}

// references returns the ids of the checkpoints that refer to a blob, in
// order, and the uploads.
func (c *check) references(ctx context.Context, d blobstore.Digest) (ids []int64, uploads []metastore.Upload, err error) {
	for last := int64(0); ; last = ids[len(ids)-1] {
		all, err := c.Meta.References(ctx, d, last, referencesPage)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range all {
			ids = append(ids, r.ID)
		}
		if len(all) < referencesPage {
			break
		}
	}
	all, err := c.Meta.Uploads(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range all {
		if u.Digest == d {
			uploads = append(uploads, u)
		}
	}
	return ids, uploads, nil
}

// confirm looks at suspect blobs again, between two looks at who refers to
// them.
func (c *check) confirm(ctx context.Context) error {
	for _, d := range c.suspects {
		before, sent, err := c.references(ctx, d)
		if err != nil {
			return err
		}
		s := c.examine(ctx, d, nothing)
		if err := ctx.Err(); err != nil {
			return err
		}
		if down, ok := outage.Of(s.err); ok {
			return down // it is not about this blob
		}
		after, _, err := c.references(ctx, d)
		if err != nil {
			return err
		}
		ids := slices.DeleteFunc(before, func(id int64) bool { _, still := slices.BinarySearch(after, id); return !still })
		stillSent := 0
		if len(sent) > 0 {
			all, err := c.Meta.Uploads(ctx)
			if err != nil {
				return err
			}
			for _, u := range sent {
				if slices.Contains(all, u) {
					stillSent++
				}
			}
		}
		switch {
		case s.err == nil:
			err = c.fileSizes(ctx, d, s.info.Size, ids)
		case s.missing() && len(ids) == 0 && stillSent == 0:
			// Nobody needs it any more.
		default:
			err = c.badBlob(ctx, d, s, ids, stillSent)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// badBlob reports, and with Repair puts aside, a blob and all that need it.
func (c *check) badBlob(ctx context.Context, d blobstore.Digest, s state, ids []int64, uploads int) error {
	f := Fault{Digest: d.String()}
	switch {
	case s.missing():
		f.Kind, f.What = MissingBlob, fmt.Sprintf("blob %s is missing", d)
	case s.damaged:
		f.Kind, f.What = DamagedBlob, fmt.Sprintf("blob %s is damaged: %v", d, s.err)
	default:
		f.Kind, f.What = UnreadableBlob, fmt.Sprintf("blob %s cannot be read: %v", d, s.err)
	}
	for _, id := range ids {
		m, err := c.Meta.Manifest(ctx, id)
		if errors.Is(err, metastore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		f.Checkpoints = append(f.Checkpoints, PathOf(m.Checkpoint))
		for _, file := range m.Files {
			if file.Digest == d && !slices.Contains(f.Files, file.Name) {
				f.Files = append(f.Files, file.Name)
			}
		}
	}
	if uploads > 0 {
		f.What += fmt.Sprintf(" (sent for imports by %d)", uploads)
	}
	var err error
	if c.Repair {
		f.Repair, err = c.repairBlob(ctx, d, s, f.What)
	}
	c.fault(f)
	return err
}

var emptyDigest = blobstore.Digest(sha256.Sum256(nil))

func (c *check) repairBlob(ctx context.Context, d blobstore.Digest, s state, reason string) (string, error) {
	if !s.missing() && !s.damaged {
		return "left as it is: reading it may work again; look at the disk", nil
	}
	done := ""
	for range looks {
		if !s.damaged {
			break
		}
		where, err := c.Blobs.Quarantine(ctx, s.info)
		if err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return "", err
		}
		if where != "" {
			done = "its bytes were moved to " + where + "; "
		}
		// It may be there again, of a save that was faster.
		s = c.examine(ctx, d, nothing)
	}
	switch {
	case s.err == nil:
		return done + "a save has brought whole ones since", nil
	case !s.missing():
		return "", fmt.Errorf("repair blob %s: %w", d, s.err)
	case d == emptyDigest:
		// What every checkpoint ends with, and everybody knows.
		w, err := c.Blobs.Create(ctx)
		if err != nil {
			return "", err
		}
		_, err = w.Commit(ctx)
		return done + "the empty file was written again", errors.Join(err, w.Abort())
	}
	ids, _, err := c.references(ctx, d)
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		if _, err := c.putAside(ctx, id, reason); err != nil {
			return "", err
		}
	}
	if _, err := c.Meta.ForgetUploads(ctx, d); err != nil {
		return "", err
	}
	return done + fmt.Sprintf("checkpoints hidden, now in quarantine: %d", len(ids)), nil
}

// fileSizes finds the manifests that give a whole blob another size.
func (c *check) fileSizes(ctx context.Context, d blobstore.Digest, size int64, ids []int64) error {
	for _, id := range ids {
		m, err := c.Meta.Manifest(ctx, id)
		if errors.Is(err, metastore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		i := slices.IndexFunc(m.Files, func(f metastore.File) bool { return f.Digest == d && f.Size != size })
		if i < 0 {
			continue
		}
		f := Fault{
			Kind: WrongFileSize, Digest: d.String(), Checkpoints: []string{PathOf(m.Checkpoint)}, Files: []string{m.Files[i].Name},
			What: fmt.Sprintf("the manifest of %s says that %s has %d bytes; its blob, which is whole, has %d", PathOf(m.Checkpoint), m.Files[i].Name, m.Files[i].Size, size),
		}
		if c.Repair {
			f.Repair, err = c.correct(ctx, m, map[blobstore.Digest]int64{d: size}, f.What)
		}
		c.fault(f)
		if err != nil {
			return err
		}
		// Not to be told twice.
		c.missized = slices.DeleteFunc(c.missized, func(other int64) bool { return other == id })
	}
	return nil
}

// correct sets sizes that are proven by the blobs; the checkpoint's own if it
// is proven that no file at the end of the manifest was lost.
func (c *check) correct(ctx context.Context, m metastore.Manifest, sizes map[blobstore.Digest]int64, reason string) (string, error) {
	var sum int64
	for _, f := range m.Files {
		if size, ok := sizes[f.Digest]; ok {
			f.Size = size
		}
		sum += f.Size
	}
	if sum != m.SizeBytes && !ended(m) {
		return c.putAside(ctx, m.ID, reason)
	}
	err := c.Meta.CorrectSizes(ctx, m.ID, sizes)
	if errors.Is(err, metastore.ErrNotFound) {
		return "deleted by somebody else meanwhile", nil
	}
	return "corrected", err
}

// ended reports whether the last file of a manifest is what comes last in
// every checkpoint: then no other was lost.
func ended(m metastore.Manifest) bool {
	return len(m.Files) > 0 && !m.Gaps && m.Files[len(m.Files)-1].Name == registry.CompleteFile
}

func (c *check) sizes(ctx context.Context) error {
	for _, id := range c.missized {
		m, err := c.Meta.Manifest(ctx, id)
		if errors.Is(err, metastore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var sum int64
		for _, f := range m.Files {
			sum += f.Size
		}
		if sum == m.SizeBytes {
			continue
		}
		f := Fault{
			Kind: WrongSize, Checkpoints: []string{PathOf(m.Checkpoint)},
			What: fmt.Sprintf("the size of %s is given as %d bytes, but its files have %d", PathOf(m.Checkpoint), m.SizeBytes, sum),
		}
		if !ended(m) {
			f.What += "; files may have been lost from its manifest"
		}
		if c.Repair {
			f.Repair, err = c.correct(ctx, m, nil, f.What)
		}
		c.fault(f)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *check) orphans(ctx context.Context) error {
	n, err := c.Meta.OrphanFiles(ctx, false)
	if err != nil || n == 0 {
		return err
	}
	f := Fault{Kind: OrphanFiles, What: fmt.Sprintf("files of manifests that belong to no checkpoint: %d", n)}
	if c.Repair {
		if _, err := c.Meta.OrphanFiles(ctx, true); err != nil {
			return err
		}
		f.Repair = "removed from the metadata; their blobs are left to the garbage collector"
	}
	c.fault(f)
	return nil
}

func (c *check) strays(ctx context.Context) error {
	place, ok := c.Blobs.(blobstore.Inspector)
	if !ok {
		return nil
	}
	var found []blobstore.Stray
	for s, err := range place.Strays(ctx) {
		if err != nil {
			return err
		}
		found = append(found, s)
	}
	for _, s := range found {
		f := Fault{Kind: StrayFile, What: s.Path + " lies among the blobs and is none"}
		if c.Repair {
			where, err := place.PutAside(ctx, s)
			if err != nil {
				return err
			}
			f.Repair = "moved to " + where
		}
		c.fault(f)
	}
	return nil
}

func (c *check) unreferenced(ctx context.Context) error {
	for info, err := range c.Blobs.All(ctx) {
		if err != nil {
			return err
		}
		// What was committed since the start may have been referred to since.
		if _, ok := c.blobs[info.Digest]; !ok && info.ModTime.Before(c.start) {
			c.report.Unreferenced++
			c.report.UnreferencedBytes += info.Size
		}
	}
	return nil
}

// quarantine brings back what can be, and reports what cannot.
func (c *check) quarantine(ctx context.Context) error {
	all, err := c.Meta.Quarantined(ctx)
	if err != nil {
		return err
	}
	known := map[blobstore.Digest]state{}
	for _, z := range all {
		out := Quarantined{Path: PathOf(z.Checkpoint), Owner: z.Owner, Since: z.At, Reason: z.Reason}
		if err := c.missingFiles(ctx, z.Manifest, known, &out); err != nil {
			return err
		}
		var sum int64
		for _, f := range z.Files {
			sum += f.Size
		}
		switch {
		case z.RunMissing:
			out.Obstacle = "its run is not there"
		case len(z.Files) == 0, z.Gaps, sum != z.SizeBytes && !ended(z.Manifest):
			out.Obstacle = "files were lost from its manifest; only a copy of the metadata can tell which"
		}
		if out.Ready() && c.Repair {
			_, err := c.Meta.Release(ctx, z.ID)
			switch {
			case err == nil:
				c.report.Released = append(c.report.Released, out.Path)
				c.released(z.Manifest)
				continue
			case errors.Is(err, metastore.ErrExists):
				out.Obstacle = "a newer checkpoint has its name"
			case errors.Is(err, metastore.ErrNotFound):
				continue // somebody else was faster
			default:
				return err
			}
		}
		c.report.Quarantined = append(c.report.Quarantined, out)
	}
	return nil
}

// released counts a checkpoint among the others.
func (c *check) released(m metastore.Manifest) {
	c.report.Checkpoints++
	for _, f := range m.Files {
		if b := c.blobs[f.Digest]; !b.live {
			c.blobs[f.Digest] = claim{size: f.Size, live: true}
			c.report.Blobs++
			c.report.Bytes += f.Size
		}
	}
}

// missingFiles finds the files of a checkpoint in quarantine whose bytes are
// not there. With Repair, bytes that are wrong are moved out of the way.
func (c *check) missingFiles(ctx context.Context, m metastore.Manifest, known map[blobstore.Digest]state, out *Quarantined) error {
	for _, f := range m.Files {
		s, ok := known[f.Digest]
		if !ok {
			if s.info, s.err = c.Blobs.Stat(ctx, f.Digest); s.err == nil && (c.Repair || !c.Quick) {
				s = c.examine(ctx, f.Digest, nothing)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.damaged && c.Repair {
				if _, err := c.Blobs.Quarantine(ctx, s.info); err != nil && !errors.Is(err, blobstore.ErrNotFound) {
					return err
				}
			}
			known[f.Digest] = s
		}
		switch {
		case s.err != nil:
			out.Missing = append(out.Missing, MissingFile{f.Name, f.Digest.String(), f.Size})
		case s.info.Size != f.Size:
			out.Obstacle = fmt.Sprintf("its manifest says that %s has %d bytes; its blob has %d", f.Name, f.Size, s.info.Size)
		}
	}
	return nil
}
