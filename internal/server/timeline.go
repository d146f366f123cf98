package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// A session's requests are carried out by any of the servers that share their
// stores, and each remembers its own. The one that is asked for the timeline
// asks the others for their parts, under the signed URL that it was asked under
// itself: they sign with one key. A server that is asked for its part asks
// nobody.

const (
	// partOf names, in the query, the server that is asked for its part. What
	// is between servers may drop a header it does not know; then each would
	// have all others ask all others.
	partOf = "part_of"
	// partPatience is how long another server may take to send its part. The
	// parts are asked for at the same time.
	partPatience = 3 * time.Second
	// maxPart bounds a part, in bytes. The 20,000 requests that a server
	// remembers of a session are below 6 MiB.
	maxPart = 8 << 20
)

// partEvent is a registry.TraceEvent on its way to another server.
type partEvent struct {
	RequestID string    `json:"request_id"`
	Type      string    `json:"type"`
	Created   time.Time `json:"created"`
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished"`
	Failed    bool      `json:"failed,omitempty"`
}

// servePart sends what this server remembers, if it is the one that is asked.
func (s *Server) servePart(w http.ResponseWriter, server, session string) {
	if !s.reg.IsServer(server) {
		misdirected(w)
		return
	}
	events := s.reg.Trace(session)
	part := make([]partEvent, len(events))
	for i, e := range events {
		part[i] = partEvent(e)
	}
	w.Header().Set("Content-Type", wire.ContentTypeJSON)
	_ = json.NewEncoder(w).Encode(part)
}

// timeline puts a session's timeline together, in the order of completion, from
// this server's part and those that the others send in time.
func (s *Server) timeline(r *http.Request, session string) []registry.TraceEvent {
	ctx := r.Context()
	events := s.reg.Trace(session)
	others, err := s.others(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "a timeline may lack what other servers did", "request_id", requestIDOf(ctx), "session", session, "error", err)
	}
	parts := make([][]registry.TraceEvent, len(others))
	var asking sync.WaitGroup
	for i, other := range others {
		asking.Go(func() {
			part, err := s.part(ctx, other, r.URL)
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "a timeline lacks what another server did", "request_id", requestIDOf(ctx),
					"session", session, "server", other.Server, "url", other.URL, "error", err)
			}
			parts[i] = part
		})
	}
	asking.Wait()
	for _, part := range parts {
		events = append(events, part...)
	}
	slices.SortStableFunc(events, func(a, b registry.TraceEvent) int { return a.Finished.Compare(b.Finished) })
	return events
}

func (s *Server) others(ctx context.Context) ([]registry.Elsewhere, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	return s.reg.Others(ctx)
}

// part asks another server for its part of the timeline at a signed URL.
func (s *Server) part(ctx context.Context, other registry.Elsewhere, signed *url.URL) ([]registry.TraceEvent, error) {
	if other.URL == "" {
		return nil, errors.New("it was not told under which URL the others reach it (tinkex serve --advertise)")
	}
	base, err := url.Parse(other.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, signed.RequestURI(), nil)
	if err != nil {
		return nil, err
	}
	(&httputil.ProxyRequest{Out: req}).SetURL(base) // as requests are passed on
	req.URL.RawQuery += "&" + url.Values{partOf: {other.Server}}.Encode()
	req.Header.Set(wire.HeaderRequestID, requestIDOf(ctx))
	resp, err := s.transport.RoundTrip(req) // follows no redirect
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusMisdirectedRequest:
		return nil, errMisdirected
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answered %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPart+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read its answer: %w", err)
	case len(body) > maxPart:
		return nil, fmt.Errorf("its answer exceeds %d bytes", maxPart)
	}
	return readPart(body)
}

func readPart(body []byte) (events []registry.TraceEvent, err error) {
	defer func() {
		if err != nil {
			events, err = nil, fmt.Errorf("its answer is no part of a timeline: %w", err)
		}
	}()
	// One by one, so that what is none does not grow in memory.
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.Join(errors.New("it is no list"), err)
	}
	for d.More() {
		var e partEvent
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		if e.RequestID == "" || e.Type == "" || e.Created.IsZero() || e.Started.IsZero() || e.Finished.IsZero() {
			return nil, fmt.Errorf("event %d is not complete", len(events))
		}
		events = append(events, registry.TraceEvent(e))
	}
	if _, err := d.Token(); err != nil { // of the list's end
		return nil, err
	}
	return events, nil
}
