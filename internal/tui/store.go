package tui

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// pageSize is how many checkpoints one request asks for.
const pageSize = 1000

// store is what is known of the server. Its slices grow at their ends and are
// not changed in place, so that what runs beside may read what it was given.
type store struct {
	checkpoints []tinkex.Checkpoint // newest first
	runs        []tinkex.TrainingRun
	stats       map[string]runStats
	total       int // checkpoints that the server has, -1 if it does not say

	checkpointsDone, runsDone bool
}

// runStats is what a run's checkpoints come to.
type runStats struct {
	checkpoints int
	bytes       int64
	newest      time.Time
}

func newStore() *store { return &store{stats: map[string]runStats{}, total: -1} }

func (s *store) done() bool { return s.checkpointsDone && s.runsDone }

func (s *store) add(list []tinkex.Checkpoint) {
	s.checkpoints = append(s.checkpoints, list...)
	for _, c := range list {
		s.count(c)
	}
}

func (s *store) count(c tinkex.Checkpoint) {
	run := runOf(c)
	st := s.stats[run]
	st.checkpoints++
	if c.SizeBytes != nil {
		st.bytes += *c.SizeBytes
	}
	if c.Time.After(st.newest) {
		st.newest = c.Time
	}
	s.stats[run] = st
}

// changes are checkpoints as they have become, by their paths; nil ones are
// gone.
type changes map[string]*tinkex.Checkpoint

// apply returns the list with the changes.
func (ch changes) apply(list []tinkex.Checkpoint) []tinkex.Checkpoint {
	if len(ch) == 0 {
		return list
	}
	out := make([]tinkex.Checkpoint, 0, len(list))
	for _, c := range list {
		now, changed := ch[c.TinkerPath]
		switch {
		case !changed:
			out = append(out, c)
		case now != nil:
			out = append(out, *now)
		}
	}
	return out
}

func (s *store) change(ch changes) {
	before := len(s.checkpoints)
	s.checkpoints = ch.apply(s.checkpoints)
	if s.total >= 0 {
		s.total -= before - len(s.checkpoints)
	}
	s.stats = map[string]runStats{}
	for _, c := range s.checkpoints {
		s.count(c)
	}
}

// load is the reading of everything, into a store that is shown at once if
// there is no other and else when it is complete.
type load struct {
	into   *store
	cancel context.CancelFunc
	// since is what was changed here since the load began: what arrives may be
	// from before it.
	since changes
}

// batch is a part of a list that is being read.
type batch[T any] struct {
	items []T
	err   error
	done  bool
}

// stream reads a list beside, a page at a time.
func stream[T any](ctx context.Context, list iter.Seq2[T, error]) <-chan batch[T] {
	out := make(chan batch[T])
	go func() {
		send := func(b batch[T]) bool {
			select {
			case out <- b:
				return true
			case <-ctx.Done():
				return false
			}
		}
		var items []T
		for item, err := range list {
			if err != nil {
				send(batch[T]{items: items, err: err, done: true})
				return
			}
			if items = append(items, item); len(items) == pageSize {
				if !send(batch[T]{items: items}) {
					return
				}
				items = nil
			}
		}
		send(batch[T]{items: items, done: true})
	}()
	return out
}

// batchMsg is a batch for a load, and where the next one comes from.
type batchMsg[T any] struct {
	load *load
	batch[T]
	next tea.Cmd
}

// receive waits for the next batch.
func receive[T any](ctx context.Context, l *load, from <-chan batch[T]) tea.Cmd {
	return func() tea.Msg {
		select {
		case b := <-from:
			m := batchMsg[T]{load: l, batch: b}
			if !b.done {
				m.next = receive(ctx, l, from)
			}
			return m
		case <-ctx.Done():
			return nil
		}
	}
}

// totalMsg is how many checkpoints there are.
type totalMsg struct {
	load  *load
	total int
}

// runListMsg is one run's list.
type runListMsg struct {
	run  string
	list []tinkex.Checkpoint
	err  error
}

// reload reads everything anew. What is shown stays until it is there.
func (m *Model) reload() tea.Cmd {
	if m.load != nil {
		m.load.cancel()
	}
	ctx, cancel := context.WithCancel(m.ctx)
	l := &load{into: newStore(), cancel: cancel, since: changes{}}
	m.load = l
	if len(m.store.checkpoints) == 0 && len(m.store.runs) == 0 {
		m.store = l.into
	}
	client := m.opts.Client
	cmds := []tea.Cmd{
		receive(ctx, l, stream(ctx, client.AllCheckpoints(ctx, tinkex.PageOptions{PageSize: pageSize}))),
		receive(ctx, l, stream(ctx, client.AllTrainingRuns(ctx, tinkex.PageOptions{}))),
		func() tea.Msg {
			page, err := client.ListCheckpoints(ctx, tinkex.ListOptions{Limit: 1})
			if err != nil || page.Cursor == nil {
				return nil // the list itself will say why
			}
			return totalMsg{l, page.Cursor.TotalCount}
		},
	}
	if m.run != "" {
		cmds = append(cmds, m.readRun())
	}
	return tea.Batch(cmds...)
}

// readRun reads the open run's own list: it is not waited for until all that
// is newer has come.
func (m *Model) readRun() tea.Cmd {
	ctx, client, run := m.ctx, m.opts.Client, m.run
	return func() tea.Msg {
		list, err := client.ListRunCheckpoints(ctx, run)
		return runListMsg{run, list.Checkpoints, err}
	}
}

func (m *Model) runListArrived(msg runListMsg) tea.Cmd {
	if msg.run != m.run || m.load == nil && m.store.done() {
		return nil
	}
	if msg.err != nil {
		m.fail(msg.err)
		return nil
	}
	m.runList = msg.list
	if m.load != nil {
		m.runList = m.load.since.apply(m.runList)
	}
	return m.updateCheckpoints()
}

// checkpointsArrived takes a part of the list of checkpoints.
func (m *Model) checkpointsArrived(msg batchMsg[tinkex.Checkpoint]) tea.Cmd {
	if msg.load != m.load {
		return nil
	}
	into := m.load.into
	into.add(m.load.since.apply(msg.items))
	into.checkpointsDone = msg.done && msg.err == nil
	return tea.Batch(msg.next, m.loaded(msg.err))
}

// runsArrived takes a part of the list of runs.
func (m *Model) runsArrived(msg batchMsg[tinkex.TrainingRun]) tea.Cmd {
	if msg.load != m.load {
		return nil
	}
	into := m.load.into
	into.runs = append(into.runs, msg.items...)
	into.runsDone = msg.done && msg.err == nil
	return tea.Batch(msg.next, m.loaded(msg.err))
}

// loaded shows what there is after a part has come.
func (m *Model) loaded(err error) tea.Cmd {
	l := m.load
	switch {
	case err != nil:
		l.cancel()
		m.load = nil
		m.fail(err)
	case l.into.done():
		l.cancel()
		m.load, m.store, m.runList = nil, l.into, nil
		m.keepMarks()
		if m.stale {
			m.stale = false
			m.say("Everything is up to date: %s in %s.", plural(len(m.store.checkpoints), "checkpoint"), plural(len(m.store.runs), "run"))
		} else if m.failed {
			m.status, m.failed = "", false
		}
	}
	if m.store != l.into && err == nil {
		return nil
	}
	return tea.Batch(m.updateRuns(), m.updateCheckpoints())
}

// changed takes what an operation did.
func (m *Model) changed(ch changes) tea.Cmd {
	if len(ch) == 0 {
		return nil
	}
	m.store.change(ch)
	if m.load != nil {
		if m.load.into != m.store {
			m.load.into.change(ch)
		}
		for path, c := range ch {
			m.load.since[path] = c
		}
	}
	m.runList = ch.apply(m.runList)
	return tea.Batch(m.updateRuns(), m.updateCheckpoints())
}

// source is what the page of checkpoints chooses from, and whether all of it
// is there.
func (m *Model) source() (list []tinkex.Checkpoint, complete bool) {
	if m.run != "" && m.runList != nil && !m.store.checkpointsDone {
		return m.runList, true
	}
	return m.store.checkpoints, m.store.checkpointsDone
}

func (m *Model) updateCheckpoints() tea.Cmd {
	source, _ := m.source()
	run := m.run
	return m.checkpoints.update(len(source), func(words []string, order string, reverse bool) []tinkex.Checkpoint {
		var rows []tinkex.Checkpoint
		plain, flags := splitWords(words)
		for _, c := range source {
			if run != "" && runOf(c) != run {
				continue
			}
			if flags.match(c) && (len(plain) == 0 || matches(plain, c.TinkerPath, c.BaseModel)) {
				rows = append(rows, c)
			}
		}
		checkpoint.Sort(rows, checkpoint.Order(order), reverse)
		return rows
	})
}

// filterFlags are the words of a filter that ask for something else than a
// text.
type filterFlags struct{ public, private, expires bool }

const flagHelp = ":public, :private, :expires"

func splitWords(words []string) (plain []string, flags filterFlags) {
	for _, w := range words {
		switch w {
		case ":public":
			flags.public = true
		case ":private":
			flags.private = true
		case ":expires":
			flags.expires = true
		default:
			plain = append(plain, w)
		}
	}
	return plain, flags
}

func (f filterFlags) match(c tinkex.Checkpoint) bool {
	return (!f.public || c.Public) && (!f.private || !c.Public) && (!f.expires || c.ExpiresAt != nil)
}

// runRow is a run with what its checkpoints come to.
type runRow struct {
	tinkex.TrainingRun
	runStats
}

func (r runRow) active() time.Time {
	if r.newest.After(r.LastRequestTime) {
		return r.newest
	}
	return r.LastRequestTime
}

// The orders of runs.
const (
	byActivity    = "last activity"
	bySize        = "size"
	byCheckpoints = "checkpoints"
	byModel       = "base model"
)

func (m *Model) updateRuns() tea.Cmd {
	all := make([]runRow, len(m.store.runs))
	for i, r := range m.store.runs {
		all[i] = runRow{r, m.store.stats[r.TrainingRunID]}
	}
	return m.runs.update(len(all), func(words []string, order string, reverse bool) []runRow {
		var rows []runRow
		for _, r := range all {
			if matches(words, r.TrainingRunID, r.BaseModel) {
				rows = append(rows, r)
			}
		}
		slices.SortFunc(rows, func(a, b runRow) int {
			c := 0
			switch order {
			case bySize:
				c = cmp.Compare(b.bytes, a.bytes)
			case byCheckpoints:
				c = cmp.Compare(b.checkpoints, a.checkpoints)
			case byModel:
				c = strings.Compare(a.BaseModel, b.BaseModel)
			}
			c = cmp.Or(c, b.active().Compare(a.active()), strings.Compare(a.TrainingRunID, b.TrainingRunID))
			if reverse {
				return -c
			}
			return c
		})
		return rows
	})
}
