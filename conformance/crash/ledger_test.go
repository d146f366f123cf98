package crash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
)

// content is what a checkpoint consists of: file names and what they hold.
type content map[string]tinkex.Blob

func (c content) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		parts = append(parts, fmt.Sprintf("%s=%.8s/%d", name, c[name].SHA256, c[name].SizeBytes))
	}
	return strings.Join(parts, " ")
}

func (c content) bytes() (n int64) {
	for _, b := range c {
		n += b.SizeBytes
	}
	return n
}

// window is when something expires, as far as a client can know: ttl from some
// moment between a request and its answer.
type window struct {
	ttl      time.Duration
	from, to time.Time
}

func (w *window) sent() {
	if w != nil && w.from.IsZero() {
		w.from = time.Now().Add(w.ttl)
	}
}

func (w *window) answered() {
	if w != nil && w.to.IsZero() {
		w.to = time.Now().Add(w.ttl)
	}
}

// slack is what the times of a client and a server on one machine differ by.
const slack = 50 * time.Millisecond

// version is a state that a checkpoint may be in. A nil one is its absence.
type version struct {
	content content
	public  bool
	expires *window
	// trained tells a training checkpoint of the reference's variants.
	trained *progress
}

func (v *version) with(change func(*version)) *version {
	c := *v
	change(&c)
	return &c
}

func (v *version) String() string {
	if v == nil {
		return "absent"
	}
	s := fmt.Sprintf("public=%v %v", v.public, v.content)
	if v.expires != nil {
		s += fmt.Sprintf(" expiring %s to %s", v.expires.from.Format(time.StampMilli), v.expires.to.Format(time.StampMilli))
	}
	return s
}

// is reports whether a listed checkpoint is this version of it.
func (v *version) is(k tinkex.Checkpoint, files content) bool {
	if v == nil || k.Public != v.public || !maps.Equal(files, v.content) || (k.ExpiresAt == nil) != (v.expires == nil) {
		return false
	}
	return v.expires == nil || !k.ExpiresAt.Before(v.expires.from.Add(-slack)) && !k.ExpiresAt.After(v.expires.to.Add(slack))
}

// entry is a checkpoint of the ledger: the one state that its last acknowledged
// operation left it in, or that and what an unanswered one may have made of it.
type entry struct {
	path tinkex.TinkerPath
	may  []*version
}

func (e *entry) known() *version {
	if len(e.may) != 1 {
		return nil
	}
	return e.may[0]
}

// creation is an unanswered request that the server would have chosen a run
// for: all of its checkpoints are there, in one run, or none.
type creation struct {
	name  string
	kinds map[tinkex.CheckpointType]*version
}

// ledger is what one owner knows of what the server must have.
type ledger struct {
	entries map[string]*entry
	deleted map[string]bool // acknowledged
	doubt   *creation
	// expired are the contents of what was dropped because its time was over,
	// since the last look.
	expired []content
}

func newLedger() *ledger {
	return &ledger{entries: map[string]*entry{}, deleted: map[string]bool{}}
}

func (l *ledger) set(path tinkex.TinkerPath, may ...*version) {
	if len(may) == 1 && may[0] == nil {
		delete(l.entries, path.String())
		l.deleted[path.String()] = true
		return
	}
	delete(l.deleted, path.String())
	l.entries[path.String()] = &entry{path, may}
}

// verdict counts what a comparison looked at.
type verdict struct {
	checked    int // checkpoints whose manifests are what they must be
	downloaded int // and whose bytes were fetched and hashed
	bytes      int64
	happened   int // operations in doubt that turned out to have happened
	not        int // or not
	expired    int
}

// compare checks that the server has what the ledger says, and nothing else,
// and leaves no doubt in the ledger. sample says which files to download.
func (l *ledger) compare(t *testing.T, rest *tinkex.RestClient, who string, sample func() bool) (v verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	before := time.Now()
	listed := map[string]tinkex.Checkpoint{}
	for k, err := range rest.AllCheckpoints(ctx, tinkex.PageOptions{}) {
		if err != nil {
			t.Errorf("%s: %v", who, err)
			return v
		}
		if _, twice := listed[k.TinkerPath]; twice {
			t.Errorf("%s: %s is listed twice", who, k.TinkerPath)
		}
		listed[k.TinkerPath] = k
	}
	after := time.Now()
	l.created(t, who, listed, &v)

	l.expired = nil
	for id, e := range l.entries {
		k, there := listed[id]
		delete(listed, id)
		doubt := len(e.may) > 1
		if !there {
			i := slices.IndexFunc(e.may, func(m *version) bool {
				return m == nil || m.expires != nil && !after.Add(slack).Before(m.expires.from)
			})
			if i < 0 {
				t.Errorf("%s: LOST: %s is not listed; it must be one of %v", who, id, e.may)
				continue
			}
			if m := e.may[i]; m != nil {
				v.expired++
				l.expired = append(l.expired, m.content)
			}
			if doubt {
				v.count(i > 0)
			}
			delete(l.entries, id)
			if e.may[i] == nil {
				l.deleted[id] = true
			}
			continue
		}
		files, urls, err := manifest(ctx, rest, e.path)
		if err != nil {
			if k.ExpiresAt != nil && !time.Now().Add(slack).Before(*k.ExpiresAt) {
				v.expired++
				l.expired = append(l.expired, e.may[len(e.may)-1].content)
				delete(l.entries, id)
				continue
			}
			t.Errorf("%s: %s is listed, but: %v", who, id, err)
			continue
		}
		i := slices.IndexFunc(e.may, func(m *version) bool { return m.is(k, files) })
		if i < 0 {
			t.Errorf("%s: %s is public=%v expires=%v %v; it must be one of %v", who, id, k.Public, k.ExpiresAt, files, e.may)
			continue
		}
		m := e.may[i]
		if m.expires != nil && m.expires.to.Add(slack).Before(before) {
			t.Errorf("%s: %s has expired and is listed", who, id)
		}
		if k.SizeBytes == nil || *k.SizeBytes != files.bytes() {
			t.Errorf("%s: %s has size %v, its files %d bytes", who, id, k.SizeBytes, files.bytes())
		}
		v.checked++
		if doubt {
			v.count(i > 0)
		}
		// URLs end when their checkpoint expires.
		if soon := m.expires != nil && m.expires.ttl < longTTL; !soon && (doubt || sample()) {
			n, err := fetch(ctx, files, urls)
			v.bytes += n
			if err != nil {
				t.Errorf("%s: %s: %v", who, id, err)
			}
			v.downloaded++
		}
		e.may = []*version{m}
	}
	for id := range listed {
		if l.deleted[id] {
			t.Errorf("%s: BACK: %s was deleted and is listed", who, id)
		} else {
			t.Errorf("%s: UNKNOWN: %s is listed and nobody saved it", who, id)
		}
	}
	return v
}

func (v *verdict) count(happened bool) {
	if happened {
		v.happened++
	} else {
		v.not++
	}
}

// created resolves a creation in doubt: what it made is listed under a run that
// nobody knew.
func (l *ledger) created(t *testing.T, who string, listed map[string]tinkex.Checkpoint, v *verdict) {
	t.Helper()
	c := l.doubt
	if c == nil {
		return
	}
	l.doubt = nil
	found := map[tinkex.CheckpointType]tinkex.TinkerPath{}
	for id, k := range listed {
		path, err := k.Path()
		if err != nil {
			t.Errorf("%s: %s: %v", who, id, err)
			continue
		}
		if l.entries[id] != nil || l.deleted[id] || path.Name != c.name || c.kinds[path.Type] == nil {
			continue
		}
		if other, twice := found[path.Type]; twice {
			t.Errorf("%s: one request made %s and %s", who, other, path)
		}
		found[path.Type] = path
	}
	if len(found) == 0 {
		v.not++
		return
	}
	v.happened++
	run := ""
	for kind, want := range c.kinds {
		path, ok := found[kind]
		switch {
		case !ok:
			if want.expires == nil || time.Now().Before(want.expires.from) {
				t.Errorf("%s: HALF: a request in doubt made %v, but no %s", who, found, kind)
			}
			continue
		case run != "" && run != path.RunID:
			t.Errorf("%s: HALF: one request made checkpoints of runs %s and %s", who, run, path.RunID)
		}
		run = path.RunID
		l.set(path, want)
	}
}

func manifest(ctx context.Context, rest *tinkex.RestClient, path tinkex.TinkerPath) (content, map[string]string, error) {
	m, err := rest.Manifest(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	files, urls := content{}, map[string]string{}
	for _, f := range m.Files {
		files[f.Name] = tinkex.Blob{SHA256: f.SHA256, SizeBytes: f.SizeBytes}
		urls[f.Name] = f.URL
	}
	if len(files) != len(m.Files) {
		return nil, nil, fmt.Errorf("%s: its manifest has a file twice", path)
	}
	return files, urls, nil
}

// fetch downloads files and compares them with what they must hold.
func fetch(ctx context.Context, files content, urls map[string]string) (n int64, err error) {
	for name, want := range files {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, urls[name], nil)
		if err != nil {
			return n, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return n, err
		}
		h := sha256.New()
		m, err := io.Copy(h, resp.Body)
		resp.Body.Close()
		n += m
		if err != nil {
			return n, fmt.Errorf("file %s: %w", name, err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); resp.StatusCode != http.StatusOK || got != want.SHA256 || m != want.SizeBytes {
			return n, fmt.Errorf("file %s: %s, %d bytes with SHA-256 %s, want %v", name, resp.Status, m, got, want)
		}
	}
	return n, nil
}
