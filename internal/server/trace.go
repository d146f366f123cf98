package server

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tinkex/tinkex/internal/registry"
)

type traceStatus struct {
	Status string `json:"status" enum:"pending,ready,failed"`
	URL    string `json:"url,omitempty"`
}

func (s *Server) exportTrace(ctx context.Context, in *SessionPath) (*reply[traceStatus], error) {
	if _, err := s.reg.Session(ctx, ownerOf(ctx), in.Session); err != nil {
		return nil, s.fail(ctx, err)
	}
	u := s.signedURL(ctx, fill(traceRoute, in.Session), s.now().Add(s.urlTTL))
	return replyWith(traceStatus{Status: "ready", URL: u}), nil
}

func (s *Server) serveTrace(w http.ResponseWriter, r *http.Request) {
	session := r.PathValue("session")
	if server := r.URL.Query().Get(partOf); server != "" {
		s.servePart(w, server, session)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(perfetto(session, s.timeline(r, session)))
}

// Field numbers of Perfetto's trace format (protos/perfetto/trace: trace.proto,
// trace_packet.proto, track_event/track_descriptor.proto, track_event.proto).
const (
	tracePacket           = 1
	packetTimestamp       = 8
	packetSequence        = 10
	packetTrackEvent      = 11
	packetTrackDescriptor = 60

	trackUUID   = 1
	trackName   = 2
	trackParent = 5

	eventType       = 9
	eventTrackUUID  = 11
	eventName       = 23
	eventSliceBegin = 1
	eventSliceEnd   = 2
)

// perfetto writes a session's timeline as a Perfetto trace: one track that
// shows how long requests waited and one that shows how long they took, per
// type of request.
func perfetto(session string, events []registry.TraceEvent) []byte {
	var b []byte
	packet := func(body []byte) {
		body = protowire.AppendTag(body, packetSequence, protowire.VarintType)
		body = protowire.AppendVarint(body, 1)
		b = protowire.AppendTag(b, tracePacket, protowire.BytesType)
		b = protowire.AppendBytes(b, body)
	}
	nextTrack := uint64(1)
	newTrack := func(name string, parent uint64) uint64 {
		id := nextTrack
		nextTrack++
		var d []byte
		d = protowire.AppendTag(d, trackUUID, protowire.VarintType)
		d = protowire.AppendVarint(d, id)
		d = protowire.AppendTag(d, trackName, protowire.BytesType)
		d = protowire.AppendString(d, name)
		if parent != 0 {
			d = protowire.AppendTag(d, trackParent, protowire.VarintType)
			d = protowire.AppendVarint(d, parent)
		}
		p := protowire.AppendTag(nil, packetTrackDescriptor, protowire.BytesType)
		packet(protowire.AppendBytes(p, d))
		return id
	}
	event := func(at time.Time, typ, track uint64, name string) {
		var e []byte
		e = protowire.AppendTag(e, eventType, protowire.VarintType)
		e = protowire.AppendVarint(e, typ)
		e = protowire.AppendTag(e, eventTrackUUID, protowire.VarintType)
		e = protowire.AppendVarint(e, track)
		if name != "" {
			e = protowire.AppendTag(e, eventName, protowire.BytesType)
			e = protowire.AppendString(e, name)
		}
		p := protowire.AppendTag(nil, packetTimestamp, protowire.VarintType)
		p = protowire.AppendVarint(p, uint64(at.UnixNano()))
		p = protowire.AppendTag(p, packetTrackEvent, protowire.BytesType)
		packet(protowire.AppendBytes(p, e))
	}

	root := newTrack("session "+session, 0)
	// Slices of one track must nest; requests overlap freely, so each goes to
	// the first track of its kind that is free at its start.
	type lane struct {
		track uint64
		until time.Time
	}
	lanes := map[string][]lane{}
	place := func(kind string, from, to time.Time) uint64 {
		for i, l := range lanes[kind] {
			if !l.until.After(from) {
				lanes[kind][i].until = to
				return l.track
			}
		}
		track := newTrack(kind, root)
		lanes[kind] = append(lanes[kind], lane{track, to})
		return track
	}
	slice := func(kind, name string, from, to time.Time) {
		track := place(kind, from, to)
		event(from, eventSliceBegin, track, name)
		event(to, eventSliceEnd, track, "")
	}
	for _, e := range events {
		name := e.RequestID
		if e.Failed {
			name += " (failed)"
		}
		if e.Started.After(e.Created) {
			slice(e.Type+": waiting", name, e.Created, e.Started)
		}
		slice(e.Type, name, e.Started, e.Finished)
	}
	return b
}
