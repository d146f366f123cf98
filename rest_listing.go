package tinkex

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tinkex/tinkex/internal/wire"
)

// AllCheckpoints iterates over the caller's checkpoints, newest first, page by
// page. The loop's body may delete them.
//
// This project's server is asked in a way of its own, in which every page says
// where the next one begins, and is longer than the one before. On servers that do not know it, pages are asked for
// by offset, and what moves up while the list gets shorter is fetched again.
func (c *RestClient) AllCheckpoints(ctx context.Context, opts PageOptions) iter.Seq2[Checkpoint, error] {
	byOffset := pages(ctx, listCheckpoints, opts, func(k Checkpoint) string { return k.TinkerPath },
		func(ctx context.Context, limit, offset int) (page[Checkpoint], error) {
			list, err := c.ListCheckpoints(ctx, ListOptions{Limit: limit, Offset: offset})
			if err != nil {
				return page[Checkpoint]{}, err
			}
			p := page[Checkpoint]{items: list.Checkpoints, total: -1}
			if list.Cursor != nil {
				p.total = list.Cursor.TotalCount
			}
			return p, nil
		})
	return func(yield func(Checkpoint, error) bool) {
		if opts.PageSize < 0 || c.t.byOffset.Load() {
			byOffset(yield)
			return
		}
		var buffers [2]bytes.Buffer
		limit := cmp.Or(opts.PageSize, firstStretch)
		first, err := c.stretch(ctx, limit, "", &buffers[0])
		if !c.knowsStretches(err) {
			byOffset(yield)
			return
		}
		if err != nil {
			yield(Checkpoint{}, err)
			return
		}
		c.walk(ctx, first, limit, &buffers, yield)
	}
}

const listCheckpoints = "list checkpoints"

// Who goes on goes on for longer: each stretch is twice as long as the one before
// it, from what was asked for or firstStretch to longStretch.
const (
	firstStretch = defaultPageSize
	longStretch  = 2000
)

// errNoStretch is an answer to something else.
var errNoStretch = errors.New("the server's answer is not a list of lines")

// knowsStretches takes the answer to the first request for a stretch, and
// remembers one that says that the server knows none.
func (c *RestClient) knowsStretches(err error) bool {
	if unknownCall(err) {
		c.t.byOffset.Store(true)
		return false
	}
	var e *Error
	refused := errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden)
	return !refused && !errors.Is(err, errNoStretch)
}

// stretch is a part of a list: lines, and where the next part begins, "" at
// the end.
type stretch struct {
	lines []byte
	next  string
}

// stretch asks for up to limit checkpoints from a place on. They are in the
// buffer.
func (c *RestClient) stretch(ctx context.Context, limit int, after string, into *bytes.Buffer) (stretch, error) {
	query := url.Values{}
	query.Set("limit", strconv.Itoa(limit))
	if after != "" {
		query.Set("after", after)
	}
	request := &call{op: listCheckpoints, method: http.MethodGet, path: "/checkpoints", query: query, extension: true, accept: wire.ContentTypeLines, into: into}
	r, err := c.t.do(ctx, request)
	if err != nil {
		return stretch{}, err
	}
	if !strings.Contains(r.header.Get("Content-Type"), wire.ContentTypeLines) {
		return stretch{}, &Error{Op: listCheckpoints, Category: CategoryServer, RequestID: r.header.Get(wire.HeaderRequestID), Err: errNoStretch}
	}
	s, err := parseStretch(r.body)
	if err == nil && s.next != "" && s.next == after {
		err = fmt.Errorf("the list goes on where it was: %q", clean(after, 100))
	}
	if err != nil {
		return stretch{}, c.t.unreadable(listCheckpoints, r, err)
	}
	return s, nil
}

// parseStretch takes the last line off. Without one that says where the list
// goes on, an answer was cut off.
func parseStretch(body []byte) (stretch, error) {
	body = bytes.TrimSuffix(body, []byte("\n"))
	last := bytes.LastIndexByte(body, '\n') + 1
	var end map[string]json.RawMessage
	err := json.Unmarshal(body[last:], &end)
	place, ok := end["next"]
	if err != nil || !ok {
		return stretch{}, errors.New("its last line does not say where the list goes on")
	}
	var next *string
	if err := json.Unmarshal(place, &next); err != nil || next != nil && *next == "" {
		return stretch{}, fmt.Errorf("the list goes on at %.100s", place)
	}
	s := stretch{lines: body[:last]}
	if next != nil {
		s.next = *next
	}
	return s, nil
}

// walk yields the checkpoints of a stretch and of all that follow it. While
// those of the second and later ones are looked at, the next one is fetched:
// who wants only the first few does not have more read than that. The first
// stretch is in the first of the buffers, and the others are in turns: in a list
// of a hundred thousand, collecting them would take longer than reading.
func (c *RestClient) walk(ctx context.Context, s stretch, limit int, buffers *[2]bytes.Buffer, yield func(Checkpoint, error) bool) {
	type answer struct {
		stretch
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var ahead chan answer
	fetched := 1
	fetch := func() {
		next, into := s.next, &buffers[fetched%2]
		fetched++
		limit = max(limit, min(2*limit, longStretch))
		limit := limit
		ahead = make(chan answer, 1)
		go func(ahead chan<- answer) {
			s, err := c.stretch(ctx, limit, next, into)
			ahead <- answer{s, err}
		}(ahead)
	}
	defer func() {
		cancel()
		if ahead != nil {
			<-ahead
		}
	}()
	var r checkpointReader
	for first := true; ; first = false {
		if s.next != "" && !first {
			fetch()
		}
		for line := range bytes.Lines(s.lines) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			k, err := r.line(line)
			if err != nil {
				yield(Checkpoint{}, c.t.unreadable(listCheckpoints, &reply{header: http.Header{}, body: line}, err))
				return
			}
			if !yield(k, nil) {
				return
			}
		}
		if s.next == "" {
			return
		}
		if first {
			fetch()
		}
		a := <-ahead
		if ahead = nil; a.err != nil {
			yield(Checkpoint{}, a.err)
			return
		}
		s = a.stretch
	}
}
