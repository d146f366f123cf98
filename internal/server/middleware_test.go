package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

func compressed(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// step is a forward_backward request of the model, with its number.
func (f *fixture) step(seq int32) []byte {
	f.t.Helper()
	b, err := proto.Marshal(&pb.ForwardBackwardRequest{ModelId: f.model, SeqId: seq, LossFn: "cross_entropy", Data: []*pb.Datum{goodDatum()}})
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func goodDatum() *pb.Datum {
	return &pb.Datum{
		ModelInput: []*pb.Chunk{{Chunk: &pb.Chunk_EncodedText{EncodedText: &pb.EncodedTextChunk{Tokens: wire.PackInt32([]int32{1, 2, 3})}}}},
		LossFnInputs: map[string]*pb.Tensor{
			"target_tokens": {Encoding: &pb.Tensor_Dense{Dense: wire.PackInt64([]int64{2, 3, 4})}, Dtype: pb.DType_DTYPE_INT64, Shape: []int64{3}},
			"weights":       {Encoding: &pb.Tensor_Dense{Dense: wire.PackFloat32([]float32{1, 1, 1})}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: []int64{3}},
		},
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	seen := map[string]bool{}
	for _, a := range []answer{
		f.get("/healthz").want(http.StatusOK),
		f.get("/openapi.json").want(http.StatusNotFound),
		f.send(http.MethodGet, "/openapi.json", nil).want(http.StatusOK),
		f.send(http.MethodGet, wire.APIPrefix+"/checkpoints", nil).want(http.StatusUnauthorized),
		f.get("/training_runs/none").want(http.StatusNotFound),
		f.post("/create_session", `{`).want(http.StatusBadRequest),
		f.post("/create_session", `{"tags":1}`).want(http.StatusUnprocessableEntity),
		f.post("/create_session", `x`, "Content-Encoding", "zstd").want(http.StatusBadRequest),
		f.post("/unload_model", `{"model_id":"none"}`).want(http.StatusNotFound),
		f.fetch(f.archivePath("a")).want(http.StatusOK),
		f.fetch("/tinkex/v1/traces/x").want(http.StatusForbidden),
	} {
		id := a.header.Get(wire.HeaderRequestID)
		if len(id) != 16 || seen[id] {
			t.Errorf("%s: request id %q", a.what, id)
		}
		seen[id] = true
	}
}

func TestBodyLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	padded := func(n int) string {
		const frame = `{"tags":[],"x":""}`
		return `{"tags":[],"x":"` + strings.Repeat("x", n-len(frame)) + `"}`
	}
	f.post("/create_session", padded(maxJSONBody-1)).want(http.StatusOK)
	f.post("/create_session", padded(maxJSONBody+1)).want(http.StatusRequestEntityTooLarge).detail()
	// What is small on the wire counts as what it becomes.
	f.send(http.MethodPost, wire.APIPrefix+"/create_session", bytes.NewReader(compressed(t, []byte(padded(maxJSONBody+1)))),
		wire.HeaderAPIKey, alice, "Content-Type", wire.ContentTypeJSON, "Content-Encoding", "zstd").
		want(http.StatusRequestEntityTooLarge).detail()
	f.send(http.MethodPost, wire.APIPrefix+"/forward_backward", bytes.NewReader(compressed(t, make([]byte, maxTrainingBody+1))),
		wire.HeaderAPIKey, alice, "Content-Type", wire.ContentTypeProtobuf, "Content-Encoding", "zstd").
		want(http.StatusRequestEntityTooLarge, "decompressed").detail()
	// A prompt may be longer than other requests are.
	f.post("/asample", `{"base_model":"none","prompt":{"chunks":[]},"sampling_params":{},"x":"`+strings.Repeat("x", 2*maxJSONBody)+`"}`).
		want(http.StatusBadRequest, "none")
	if n := f.sessions(); n != 2 {
		t.Errorf("there are %d sessions, want the first and the one whose body fits", n)
	}
}

func (f *fixture) sessions() int {
	f.t.Helper()
	keys, err := f.auth.lookup(f.t.Context(), HashKey(alice))
	if err != nil {
		f.t.Fatal(err)
	}
	_, n, err := f.meta.Sessions(f.t.Context(), keys, metastore.Page{})
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestZstdBodies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	send := func(path, contentType string, body []byte) answer {
		return f.send(http.MethodPost, wire.APIPrefix+path, bytes.NewReader(body),
			wire.HeaderAPIKey, alice, "Content-Type", contentType, "Content-Encoding", "zstd")
	}
	f.await(send("/forward_backward", wire.ContentTypeProtobuf, compressed(t, f.step(1)))).want(http.StatusOK, "loss")
	send("/create_session", wire.ContentTypeJSON, compressed(t, []byte(`{"tags":["a"]}`))).want(http.StatusOK)
	whole := compressed(t, bytes.Repeat([]byte("abc"), 1000))
	for name, body := range map[string][]byte{
		"no zstd":  []byte(`{"tags":[]}`),
		"cut off":  whole[:len(whole)-5],
		"garbage":  append(append([]byte{}, whole[:8]...), bytes.Repeat([]byte{0xff}, 50)...),
		"no bytes": {}, // nothing decompresses to nothing, which is no JSON
	} {
		a := send("/create_session", wire.ContentTypeJSON, body)
		a.what = name
		a.want(http.StatusBadRequest).detail()
	}
	// Nobody without a credential gets anything decompressed.
	f.send(http.MethodPost, wire.APIPrefix+"/create_session", bytes.NewReader(whole), "Content-Encoding", "zstd").want(http.StatusUnauthorized)
}

func TestUnknownFieldsAndNulls(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.post("/create_session", `{"tags":null,"user_metadata":null,"project_id":null,"sdk_version":null,"type":null,"from_the_future":{"deep":[1,null,{"x":null}]}}`).want(http.StatusOK)
	f.train()
	f.await(f.post("/optim_step", fmt.Sprintf(
		`{"model_id":%q,"seq_id":1,"adam_params":{"learning_rate":0.1,"beta1":null,"momentum":0.5},"optimizer_params":null}`, f.model))).
		want(http.StatusOK, `"step:max":1`)
	// A null is a field left out: where it is required, it is missing.
	f.post("/optim_step", `{"model_id":null}`).want(http.StatusUnprocessableEntity, "model_id").detail()
	// In a list it is an element, and no number.
	f.post("/asample", `{"base_model":"tinkex/tiny","prompt":{"chunks":[{"type":"encoded_text","tokens":[1,null]}]},"sampling_params":{}}`).
		want(http.StatusUnprocessableEntity, "prompt.chunks[0].tokens[1]").detail()
}

func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := httptest.NewServer(f.middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			panic("no way " + alice)
		case "/late":
			_, _ = w.Write([]byte("half of"))
			_ = http.NewResponseController(w).Flush()
			panic("too late")
		case "/abort":
			_, _ = w.Write([]byte("half of"))
			panic(http.ErrAbortHandler)
		}
	})))
	defer srv.Close()
	get := func(path string) (*http.Response, string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, string(b), err
	}
	resp, body, err := get("/early")
	if err != nil {
		t.Fatal(err)
	}
	a := answer{t, "/early", resp.StatusCode, resp.Header, []byte(body)}
	id := a.want(http.StatusInternalServerError).header.Get(wire.HeaderRequestID)
	if d := a.detail(); !strings.Contains(d, id) || strings.Contains(d, "no way") {
		t.Errorf("the client is told %q", d)
	}
	if log := f.log.String(); !strings.Contains(log, "no way") || !strings.Contains(log, "middleware_test.go") {
		t.Errorf("the log has neither the panic nor its place:\n%s", log)
	}
	// An answer that is broken off must not look like a whole one.
	for _, path := range []string{"/late", "/abort"} {
		if _, body, err := get(path); err == nil {
			t.Errorf("%s: %q looks like a whole answer", path, body)
		}
	}
	if resp, _, err := get("/"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("after the panics the server answers %v, %v", resp, err)
	}
}

// A client that leaves in the middle of a request leaves nothing behind.
func TestClientThatHangsUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	before := f.sessions()
	came, ended := make(chan struct{}, 10), make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		f.ServeHTTP(w, r)
		ended <- struct{}{}
	}))
	defer srv.Close()
	hangUp := func(path, contentType string, body []byte) {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(srv.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", wire.APIPrefix, path, wire.HeaderAPIKey, alice, contentType, len(body))
		_, _ = conn.Write(body[:len(body)-1])
		conn.Close()
		select {
		case <-ended:
			<-came
		case <-time.After(time.Minute):
			t.Fatalf("%s still waits for its client", path)
		}
	}
	hangUp("/create_session", wire.ContentTypeJSON, []byte(`{"tags":[]}`))
	if n := f.sessions(); n != before {
		t.Errorf("half a request opened a session")
	}
	hangUp("/forward_backward", wire.ContentTypeProtobuf, f.step(1))
	hangUp("/save_weights", wire.ContentTypeJSON, fmt.Appendf(nil, `{"model_id":%q,"path":"half","seq_id":1}`, f.model))
	if cs, err := f.meta.AllRunCheckpoints(t.Context(), f.model, f.clock.now()); err != nil || len(cs) != 0 {
		t.Errorf("half a request saved %v, %v", cs, err)
	}

	// One that waits for a result that is not there yet.
	waiting := f.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2}`, f.model)).want(http.StatusOK).str("request_id")
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+wire.APIPrefix+"/retrieve_future", strings.NewReader(fmt.Sprintf(`{"request_id":%q}`, waiting)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(wire.HeaderAPIKey, alice)
	req.Header.Set("Content-Type", wire.ContentTypeJSON)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
			t.Errorf("it was answered %s", resp.Status)
		}
	}()
	<-came
	time.AfterFunc(20*time.Millisecond, cancel)
	<-gone
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the server still waits for a client that left")
	}

	// Number 1 is free, and the request that waited for it goes on.
	f.await(f.send(http.MethodPost, wire.APIPrefix+"/forward_backward", bytes.NewReader(f.step(1)),
		wire.HeaderAPIKey, alice, "Content-Type", wire.ContentTypeProtobuf)).want(http.StatusOK, "loss")
	f.post("/retrieve_future", fmt.Sprintf(`{"request_id":%q}`, waiting)).want(http.StatusOK, `"step:max":1`)
}

func TestDrainEndsTheWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	waiting := f.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2}`, f.model)).want(http.StatusOK).str("request_id")
	time.AfterFunc(10*time.Millisecond, f.Drain)
	for range 2 { // the one that waits, and one that comes later
		f.post("/retrieve_future", fmt.Sprintf(`{"request_id":%q}`, waiting)).want(http.StatusOK, wire.TypeTryAgain, waiting, `"queue_state":"active"`)
	}
}
