package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// doAgain is how to try again what failed for some: it stays marked.
const doAgain = "do it again when that has changed"

// progressEvery is how often the progress of an operation is drawn.
const progressEvery = 200 * time.Millisecond

// downloadRetries is how often in a row a request of a download may fail, as
// in checkpoint download.
const downloadRetries = 8

// operation is something that is being done to checkpoints, beside the screen.
type operation struct {
	doing, did string // "Deleting", "Deleted"
	again      string // what is to be known after it was cancelled
	targets    []tinkex.Checkpoint
	work       func(ctx context.Context, o *operation) outcome
	download   bool

	cancel    context.CancelFunc
	cancelled bool
	ended     chan struct{}
	began     time.Time

	mu     sync.Mutex
	done   int
	failed int
	items  map[tinkex.TinkerPath]checkpoint.Progress // of a download
	order  []tinkex.TinkerPath                       // the latest to begin comes last
	notes  []string
}

// outcome is what came of an operation.
type outcome struct {
	changes  changes
	failures []failure
	left     int      // not come to
	done     []string // the paths of those that are done
	where    string   // of downloads
}

type failure struct {
	path string
	err  error
}

// opMsg says that an operation has ended.
type opMsg struct {
	op  *operation
	out outcome
}

// tickMsg asks to draw an operation's progress.
type tickMsg struct{ op *operation }

func tick(o *operation) tea.Cmd {
	return tea.Tick(progressEvery, func(time.Time) tea.Msg { return tickMsg{o} })
}

// start begins an operation. There is one at a time.
func (m *Model) start(o *operation) tea.Cmd {
	ctx, cancel := context.WithCancel(m.ctx)
	o.cancel, o.ended, o.began = cancel, make(chan struct{}), m.now()
	m.op, m.status = o, ""
	// It does not depend on the command being run, so that stop may wait for it.
	result := make(chan outcome, 1)
	go func() {
		out := o.work(ctx, o)
		close(o.ended) // before anybody hears of it
		result <- out
	}()
	return tea.Batch(tick(o), func() tea.Msg { return opMsg{o, <-result} })
}

// ended takes what an operation did. What could not be done stays marked.
func (m *Model) ended(msg opMsg) tea.Cmd {
	o := msg.op
	o.cancel()
	m.op, m.failures = nil, msg.out.failures
	if m.page() == pageOperation {
		m.back()
	}
	for _, path := range msg.out.done {
		m.unmark(path)
	}
	failed := map[string]bool{}
	for _, f := range msg.out.failures {
		failed[f.path] = true
	}
	for _, c := range o.targets {
		if failed[c.TinkerPath] {
			m.mark(c)
		}
	}
	var said []string
	if n := len(msg.out.done); n > 0 || len(msg.out.failures) == 0 && msg.out.left == 0 {
		s := o.did + " " + plural(n, "checkpoint")
		switch msg.out.where {
		case "":
		case ".":
			s += " to the current directory"
		default:
			s += " to " + msg.out.where
		}
		said = append(said, s)
	}
	if msg.out.left > 0 {
		stopped := "stopped"
		if len(said) == 0 {
			stopped = "Stopped"
		}
		s := fmt.Sprintf("%s with %s left", stopped, plural(msg.out.left, "checkpoint"))
		if o.again != "" {
			s += "; " + o.again
		}
		said = append(said, s)
	}
	if n := len(msg.out.failures); n > 0 {
		first := msg.out.failures[0].err
		s := fmt.Sprintf("%s failed and stay marked (e shows why): %s", count(n), m.explain(first, doAgain))
		if n == 1 {
			s = fmt.Sprintf("1 failed and stays marked: %s", m.explain(first, doAgain))
		}
		m.sayError("%s", strings.Join(append(said, s), "; "))
	} else {
		m.say("%s.", strings.Join(said, "; "))
	}
	if m.quitting {
		return tea.Quit
	}
	cmd := m.changed(msg.out.changes)
	if m.page() == pageDetails {
		switch now, changed := msg.out.changes[m.details.of.TinkerPath]; {
		case changed && now == nil:
			m.back()
		case changed:
			return tea.Batch(cmd, m.describe(*now))
		}
	}
	return cmd
}

// step counts what has been dealt with.
func (o *operation) step(done, failed int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done, o.failed = done, failed
}

// each does something to every target, many at once, until the server refuses
// the credential or ctx ends. With settled, an error that it knows counts as
// done.
func (o *operation) each(ctx context.Context, do func(context.Context, tinkex.TinkerPath) error, settled func(error) bool, become func(tinkex.Checkpoint) tinkex.Checkpoint) outcome {
	errs := make([]error, len(o.targets))
	var g errgroup.Group
	g.SetLimit(checkpoint.DefaultDeleteJobs)
	var mu sync.Mutex
	var done, failed int
	var stop error
	for i, c := range o.targets {
		g.Go(func() error {
			mu.Lock()
			err := stop
			mu.Unlock()
			if err == nil {
				err = ctx.Err()
			}
			var path tinkex.TinkerPath
			if err == nil {
				path, err = c.Path()
			}
			if err == nil {
				err = do(ctx, path)
			}
			if settled(err) {
				err = nil
			}
			mu.Lock()
			defer mu.Unlock()
			if errs[i] = err; err == nil {
				done++
			} else {
				failed++
			}
			if errors.Is(err, tinkex.ErrUnauthorized) && stop == nil {
				stop = fmt.Errorf("not tried after %w", err)
			}
			o.step(done, failed)
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	out := outcome{changes: changes{}}
	for i, err := range errs {
		c := o.targets[i]
		switch {
		case err == nil:
			now := become(c)
			out.changes[c.TinkerPath] = &now
			out.done = append(out.done, c.TinkerPath)
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			out.left++
		default:
			out.failures = append(out.failures, failure{c.TinkerPath, err})
		}
	}
	return out
}

// paths parses the targets' paths. What is none fails.
func (o *operation) paths() (paths []tinkex.TinkerPath, bad []failure) {
	for _, c := range o.targets {
		p, err := c.Path()
		if err != nil {
			bad = append(bad, failure{c.TinkerPath, err})
			continue
		}
		paths = append(paths, p)
	}
	return paths, bad
}

func (m *Model) deletion(targets []tinkex.Checkpoint) *operation {
	client := m.opts.Client
	return &operation{doing: "Deleting", did: "Deleted", targets: targets, work: func(ctx context.Context, o *operation) outcome {
		paths, bad := o.paths()
		// Its error says no more than its result.
		d, _ := checkpoint.Delete(ctx, client, paths, checkpoint.DeleteOptions{
			GoneIsDone: true,
			Progress:   func(p checkpoint.DeleteProgress) { o.step(p.Done, p.Failed) },
		})
		out := outcome{changes: changes{}, failures: bad, left: len(d.Left)}
		for _, list := range [][]tinkex.TinkerPath{d.Deleted, d.Gone} {
			for _, p := range list {
				out.changes[p.String()] = nil
				out.done = append(out.done, p.String())
			}
		}
		for _, f := range d.Failed {
			out.failures = append(out.failures, failure{f.Path.String(), f.Err})
		}
		return out
	}}
}

func (m *Model) publication(targets []tinkex.Checkpoint, public bool) *operation {
	o := &operation{doing: "Publishing", did: "Published", targets: targets}
	do := m.opts.Client.Publish
	if !public {
		o.doing, o.did, do = "Unpublishing", "Unpublished", m.opts.Client.Unpublish
	}
	o.work = func(ctx context.Context, o *operation) outcome {
		already := func(err error) bool { return errors.Is(err, tinkex.ErrConflict) }
		return o.each(ctx, do, already, func(c tinkex.Checkpoint) tinkex.Checkpoint {
			c.Public = public
			return c
		})
	}
	return o
}

// expiration sets a time to live, or with 0 removes it.
func (m *Model) expiration(targets []tinkex.Checkpoint, ttl time.Duration) *operation {
	client := m.opts.Client
	o := &operation{doing: "Setting the expiry of", did: "Set the expiry of", targets: targets}
	do := func(ctx context.Context, p tinkex.TinkerPath) error { return client.SetTTL(ctx, p, ttl) }
	if ttl == 0 {
		o.doing, o.did, do = "Removing the expiry of", "Removed the expiry of", client.RemoveTTL
	}
	o.work = func(ctx context.Context, o *operation) outcome {
		return o.each(ctx, do, func(error) bool { return false }, func(c tinkex.Checkpoint) tinkex.Checkpoint {
			if c.ExpiresAt = nil; ttl > 0 {
				at := m.now().Add(ttl) // as the server, whose clock this is not, will have it within moments
				c.ExpiresAt = &at
			}
			return c
		})
	}
	return o
}

const downloadGoesOn = "the same download goes on from there next time"

func (m *Model) download(targets []tinkex.Checkpoint, dir string) *operation {
	client, logger := m.opts.Client, m.opts.Logger
	return &operation{
		doing: "Downloading", did: "Downloaded", again: downloadGoesOn, targets: targets, download: true,
		items: map[tinkex.TinkerPath]checkpoint.Progress{},
		work: func(ctx context.Context, o *operation) outcome {
			paths, bad := o.paths()
			results := checkpoint.DownloadAll(ctx, client, paths, checkpoint.DownloadOptions{
				Dir: dir, Retries: downloadRetries, Logger: logger,
				Progress: o.arrived,
				Notice: func(p tinkex.TinkerPath, message string) {
					o.mu.Lock()
					defer o.mu.Unlock()
					o.notes = append(o.notes, p.CheckpointID()+": "+message)
				},
			})
			out := outcome{failures: bad, where: dir}
			for i, r := range results {
				switch {
				case r.Err == nil:
					out.done = append(out.done, paths[i].String())
				case ctx.Err() != nil && errors.Is(r.Err, context.Canceled):
					out.left++
				default:
					out.failures = append(out.failures, failure{paths[i].String(), r.Err})
				}
			}
			return out
		},
	}
}

func (o *operation) arrived(p checkpoint.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before, began := o.items[p.Path]
	if !began {
		o.order = append(o.order, p.Path)
	}
	if o.items[p.Path] = p; p.Bytes == p.Total && before.Bytes != before.Total {
		o.done++
	}
}

// state is how far an operation is.
type state struct {
	done, failed, total    int
	bytes, resumed, expect int64 // of a download
	items                  []checkpoint.Progress
	notes                  []string
}

func (o *operation) state() state {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := state{done: o.done, failed: o.failed, total: len(o.targets), notes: append([]string(nil), o.notes...)}
	if !o.download {
		return s
	}
	for _, p := range o.order {
		s.items = append(s.items, o.items[p])
	}
	for _, c := range o.targets {
		path, _ := c.Path() // one that is none has no progress
		switch p, ok := o.items[path]; {
		case ok:
			s.bytes += p.Bytes
			s.resumed += p.Resumed
			s.expect += max(p.Total, p.Bytes)
		case c.SizeBytes != nil:
			s.expect += *c.SizeBytes
		}
	}
	return s
}

// summary is one line about a running operation.
func (m *Model) opSummary(width int) string {
	o := m.op
	s := o.state()
	text := fmt.Sprintf("%s %s", o.doing, plural(s.total, "checkpoint"))
	if o.cancelled {
		text = "Stopping: " + text
	}
	done, total := int64(s.done+s.failed), int64(s.total)
	if o.download {
		done, total = s.bytes, s.expect
		text += fmt.Sprintf(": %s of %s", size(s.bytes), size(s.expect))
		if took := m.now().Sub(o.began); took >= time.Second && s.bytes > s.resumed {
			text += fmt.Sprintf(", %s/s", size(int64(float64(s.bytes-s.resumed)/took.Seconds())))
		}
	} else {
		text += fmt.Sprintf(": %s done", count(s.done))
	}
	if s.failed > 0 {
		text += fmt.Sprintf(", %s failed", count(s.failed))
	}
	keys := m.pen.dot() + "x stops"
	if o.cancelled {
		keys = ""
	}
	room := width - widthOf([]rune(text+keys)) - 1
	if room < 6 {
		return m.pen.clip(text+keys, width)
	}
	return m.pen.bar(done, total, min(room, 20)) + " " + text + keys
}

// operationLines are the page about an operation.
func (m *Model) operationLines(width, height int) []string {
	if m.op == nil {
		return []string{"Nothing is being done."}
	}
	s := m.op.state()
	lines := []string{m.opSummary(width), ""}
	if m.op.download {
		lines = append(lines, wrap("What is complete appears in its directory. If it is stopped, "+downloadGoesOn+".", width)...)
		lines = append(lines, "")
	}
	var items []string
	for _, p := range s.items {
		total := "?"
		if p.Total >= 0 {
			total = size(p.Total)
		}
		mark := m.pen.bar(p.Bytes, max(p.Total, 1), 16)
		items = append(items, fmt.Sprintf("%s %s of %s  %s", mark, size(p.Bytes), total, m.opts.Text(p.Path.CheckpointID()+"  "+p.Path.RunID)))
	}
	for _, n := range s.notes {
		items = append(items, m.pen.yellow(m.opts.Text(n)))
	}
	room := max(height-len(lines), 0)
	if over := len(items) - room; over > 0 {
		items = items[over:] // the latest
	}
	return append(lines, items...)
}
