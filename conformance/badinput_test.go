package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
	"github.com/tinkex/tinkex/tinkextest"
)

// raw sends requests as they are, well formed or not.
type raw struct {
	t       *testing.T
	url     string
	session string
	model   string
	seq     int64
}

func newRaw(t *testing.T) *raw {
	t.Helper()
	r := &raw{t: t, url: tinkextest.NewServer(t).URL}
	r.session = r.ok("/create_session", `{"tags":[],"sdk_version":"x","type":"create_session"}`).at("session_id").str()
	r.model = r.await(r.ok("/create_model", fmt.Sprintf(
		`{"session_id":%q,"model_seq_id":0,"base_model":"tinkex/tiny","lora_config":{"rank":4},"from_the_future":{"x":[1,null]},"user_metadata":null}`, r.session))).at("model_id").str()
	return r
}

func (r *raw) do(method, path, contentType string, body io.Reader, header ...string) (int, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+wire.APIPrefix+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-API-Key", tinkextest.Key)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (r *raw) post(path, body string) (int, []byte) {
	r.t.Helper()
	return r.do(http.MethodPost, path, "application/json", strings.NewReader(body))
}

func (r *raw) ok(path, body string) doc {
	r.t.Helper()
	status, b := r.post(path, body)
	if status != http.StatusOK {
		r.t.Fatalf("%s %s: %d %s", path, body, status, b)
	}
	return decode(r.t, b)
}

// await returns the result that a promise becomes, or its failure.
func (r *raw) await(promise doc) doc {
	r.t.Helper()
	return r.ok("/retrieve_future", fmt.Sprintf(`{"request_id":%q}`, promise.at("request_id").str()))
}

func (r *raw) next() int64 {
	r.seq++
	return r.seq
}

func (r *raw) save(name, extra string) doc {
	r.t.Helper()
	return r.await(r.ok("/save_weights", fmt.Sprintf(`{"model_id":%q,"path":%q,"seq_id":%d%s}`, r.model, name, r.next(), extra)))
}

// fwdbwd sends a protobuf request with the next number.
func (r *raw) fwdbwd(change func(*pb.ForwardBackwardRequest)) (int, []byte) {
	r.t.Helper()
	q := &pb.ForwardBackwardRequest{ModelId: r.model, SeqId: int32(r.next()), LossFn: "cross_entropy", Data: []*pb.Datum{{
		ModelInput: []*pb.Chunk{{Chunk: &pb.Chunk_EncodedText{EncodedText: &pb.EncodedTextChunk{Tokens: wire.PackInt32([]int32{1, 2, 3})}}}},
		LossFnInputs: map[string]*pb.Tensor{
			"target_tokens": {Encoding: &pb.Tensor_Dense{Dense: wire.PackInt64([]int64{2, 3, 4})}, Dtype: pb.DType_DTYPE_INT64, Shape: []int64{3}},
			"weights":       {Encoding: &pb.Tensor_Dense{Dense: wire.PackFloat32([]float32{1, 1, 1})}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: []int64{3}},
		},
	}}}
	if change != nil {
		change(q)
	}
	b, err := proto.Marshal(q)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(http.MethodPost, "/forward_backward", wire.ContentTypeProtobuf, bytes.NewReader(b))
}

// want checks an error's status and that its detail says the words.
func (r *raw) want(name string, status int, body []byte, wantStatus int, words ...string) {
	r.t.Helper()
	var e struct{ Detail, Error string }
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Errorf("%s: not JSON: %s", name, body)
	}
	if status != wantStatus {
		r.t.Errorf("%s: status %d, want %d: %s", name, status, wantStatus, body)
	}
	for _, w := range words {
		if !strings.Contains(e.Detail+e.Error, w) {
			r.t.Errorf("%s: %q does not say %q", name, e.Detail+e.Error, w)
		}
	}
}

// alive checks that the server still does its work and lost nothing.
func (r *raw) alive(checkpoints int) {
	r.t.Helper()
	if status, b := r.fwdbwd(nil); status != http.StatusOK {
		r.t.Fatalf("training goes no further: %d %s", status, b)
	}
	_, b := r.do(http.MethodGet, "/checkpoints", "", nil)
	if list := decode(r.t, b); list.at("cursor", "total_count").num() != float64(checkpoints) {
		r.t.Errorf("checkpoints are %s", b)
	}
	if status, b := r.do(http.MethodGet, "/healthz", "", nil); status != http.StatusOK {
		r.t.Errorf("health: %d %s", status, b)
	}
}

func TestBadPathsAndIDs(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	r.save("kept", "")
	run := "/training_runs/" + r.model + "/checkpoints/"
	for name, tc := range map[string]struct {
		method, path string
		status       int
		says         string
	}{
		"bare name":           {"DELETE", run + "kept", 400, "Invalid checkpoint identifier"},
		"unknown kind":        {"DELETE", run + "other/kept", 422, "kind"},
		"unknown checkpoint":  {"DELETE", run + "weights/none", 404, "not found"},
		"slash in the name":   {"DELETE", run + "weights/a%2Fb", 400, "4 segments"},
		"dots":                {"DELETE", run + "weights/%2e%2e", 400, "unsafe"},
		"dots in the run":     {"DELETE", "/training_runs/%2e%2e/checkpoints/weights/kept", 400, "unsafe"},
		"control character":   {"POST", run + "weights/a%00b/publish", 400, "checkpoint name"},
		"over-long name":      {"POST", run + "weights/" + strings.Repeat("x", 200) + "/publish", 400, "128"},
		"unknown run":         {"GET", "/training_runs/none", 404, "none"},
		"list of unknown run": {"GET", "/training_runs/none/checkpoints", 404, "none"},
		"unknown session":     {"GET", "/sessions/none", 404, "none"},
		"unknown sampler":     {"GET", "/samplers/none", 404, "none"},
		"negative limit":      {"GET", "/checkpoints?limit=-1", 422, "limit"},
		"negative offset":     {"GET", "/training_runs?offset=-5", 422, "offset"},
		"limit is a word":     {"GET", "/checkpoints?limit=many", 422, "limit"},
		"huge limit":          {"GET", "/checkpoints?limit=1000000000", 422, "limit"},
		"no such endpoint":    {"GET", "/nothing", 404, "no such endpoint"},
		"archive of unknown":  {"GET", run + "weights/none/archive", 404, "not found"},
		"files of a training": {"GET", run + "weights/kept/external_weights_urls", 400, "external"},
	} {
		status, b := r.do(tc.method, tc.path, "", nil)
		r.want(name, status, b, tc.status, tc.says)
	}
	for _, body := range []string{`{"tinker_path":"x"}`, `{"tinker_path":"tinker://a/weights/.."}`, `{"tinker_path":"tinker://a/b/c/d"}`} {
		status, b := r.post("/weights_info", body)
		r.want(body, status, b, 400, "invalid tinker path")
	}
	r.alive(1)
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	create := func(config string) string {
		return fmt.Sprintf(`{"session_id":%q,"model_seq_id":5,"base_model":"tinkex/tiny","lora_config":%s}`, r.session, config)
	}
	for name, tc := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"not JSON":             {"/optim_step", `{"model_id":`, 400, ""},
		"not an object":        {"/optim_step", `[1]`, 422, "expected object"},
		"missing field":        {"/optim_step", `{}`, 422, "model_id"},
		"wrong type":           {"/create_model", create(`{"rank":"eight"}`), 422, "lora_config.rank"},
		"rank zero":            {"/create_model", create(`{"rank":0}`), 400, "rank"},
		"rank negative":        {"/create_model", create(`{"rank":-4}`), 400, "rank"},
		"rank absurd":          {"/create_model", create(`{"rank":1000000}`), 400, "rank"},
		"nothing to train":     {"/create_model", create(`{"rank":4,"train_attn":false,"train_mlp":false,"train_unembed":false}`), 400, "train"},
		"unknown base model":   {"/create_model", strings.Replace(create(`{"rank":4}`), "tinkex/tiny", "no/such", 1), 400, "no/such"},
		"unknown session":      {"/create_model", strings.Replace(create(`{"rank":4}`), r.session, "none", 1), 404, "none"},
		"negative number":      {"/create_model", strings.Replace(create(`{"rank":4}`), `"model_seq_id":5`, `"model_seq_id":-5`, 1), 422, "model_seq_id"},
		"other optimizer":      {"/create_model", strings.Replace(create(`{"rank":4}`), `"lora_config"`, `"optimizer_config":{"type":"dimuon"},"lora_config"`, 1), 400, "dimuon"},
		"unknown model":        {"/optim_step", `{"model_id":"none","seq_id":1}`, 404, "none"},
		"unknown future":       {"/retrieve_future", `{"request_id":"none"}`, 404, "none"},
		"session of heartbeat": {"/session_heartbeat", `{"session_id":"none"}`, 404, "none"},
		"load without a way":   {"/load_weights", `{"path":"tinker://a/weights/b","optimizer":true}`, 400, "model_id"},
		"sample of nothing":    {"/asample", `{"prompt":{"chunks":[{"type":"encoded_text","tokens":[1]}]},"sampling_params":{}}`, 400, "base_model"},
		"image chunk":          {"/asample", `{"base_model":"tinkex/tiny","prompt":{"chunks":[{"type":"image","data":"eA=="}]},"sampling_params":{}}`, 400, "image"},
		"too many samples":     {"/asample", `{"base_model":"tinkex/tiny","num_samples":100000,"prompt":{"chunks":[{"type":"encoded_text","tokens":[1]}]},"sampling_params":{}}`, 400, "num_samples"},
	} {
		status, b := r.post(tc.path, tc.body)
		r.want(name, status, b, tc.status, tc.says)
	}
	// Over it by a little: with much of it unread, the server would cut the
	// connection, and perhaps before the answer has been read.
	status, b := r.post("/weights_info", `{"tinker_path":"`+strings.Repeat("x", 1<<20)+`"}`)
	r.want("a body over the limit", status, b, 413)
	r.alive(0)
}

func TestBadBatches(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	tensor := func(q *pb.ForwardBackwardRequest, name string) *pb.Tensor { return q.Data[0].LossFnInputs[name] }
	for name, tc := range map[string]struct {
		change func(*pb.ForwardBackwardRequest)
		says   string
	}{
		"empty batch": {func(q *pb.ForwardBackwardRequest) { q.Data = nil }, "data"},
		"empty datum": {func(q *pb.ForwardBackwardRequest) { q.Data[0].ModelInput = nil }, "data[0]"},
		"token outside": {func(q *pb.ForwardBackwardRequest) {
			q.Data[0].ModelInput[0].GetEncodedText().Tokens = wire.PackInt32([]int32{1, 2, 5000})
		}, "5000"},
		"mismatched": {func(q *pb.ForwardBackwardRequest) {
			tensor(q, "weights").Encoding = &pb.Tensor_Dense{Dense: wire.PackFloat32([]float32{1})}
			tensor(q, "weights").Shape = []int64{1}
		}, "weights"},
		"NaN": {func(q *pb.ForwardBackwardRequest) {
			tensor(q, "weights").Encoding = &pb.Tensor_Dense{Dense: wire.PackFloat32([]float32{1, float32(math.NaN()), 1})}
		}, "weights"},
		"shape lies":      {func(q *pb.ForwardBackwardRequest) { tensor(q, "weights").Shape = []int64{4} }, "weights"},
		"shape overflows": {func(q *pb.ForwardBackwardRequest) { tensor(q, "weights").Shape = []int64{1 << 40, 1 << 40} }, "weights"},
		"negative shape":  {func(q *pb.ForwardBackwardRequest) { tensor(q, "weights").Shape = []int64{-3} }, "weights"},
		"unknown dtype":   {func(q *pb.ForwardBackwardRequest) { tensor(q, "weights").Dtype = 99 }, "dtype"},
		"odd bytes": {func(q *pb.ForwardBackwardRequest) {
			tensor(q, "weights").Encoding = &pb.Tensor_Dense{Dense: []byte{1, 2, 3}}
		}, "weights"},
		"unknown loss":    {func(q *pb.ForwardBackwardRequest) { q.LossFn = "magic" }, "loss_fn"},
		"missing targets": {func(q *pb.ForwardBackwardRequest) { delete(q.Data[0].LossFnInputs, "target_tokens") }, "target_tokens"},
		"image": {func(q *pb.ForwardBackwardRequest) {
			q.Data[0].ModelInput[0] = &pb.Chunk{Chunk: &pb.Chunk_Image{Image: &pb.ImageChunk{}}}
		}, "chunks[0]"},
		"sparse nonsense": {func(q *pb.ForwardBackwardRequest) {
			tensor(q, "weights").Encoding = &pb.Tensor_SparseCsr{SparseCsr: &pb.SparseCsr{
				Values: wire.PackFloat32([]float32{1}), CrowIndices: wire.PackInt64([]int64{0, 7, 1}), ColIndices: wire.PackInt64([]int64{-1}),
			}}
			tensor(q, "weights").Shape = []int64{2, 3}
		}, "weights"},
	} {
		status, b := r.fwdbwd(tc.change)
		r.want(name, status, b, 400, tc.says)
	}
	for name, tc := range map[string]struct {
		contentType, encoding string
		body                  []byte
	}{
		"JSON":        {"application/json", "", []byte(`{}`)},
		"no protobuf": {wire.ContentTypeProtobuf, "", bytes.Repeat([]byte{0xff}, 100)},
		"nothing":     {wire.ContentTypeProtobuf, "", []byte{}},
		"no zstd":     {wire.ContentTypeProtobuf, "zstd", []byte("not zstd at all")},
		"a zstd bomb": {wire.ContentTypeProtobuf, "zstd", bomb(t)},
	} {
		status, b := r.do(http.MethodPost, "/forward_backward", tc.contentType, bytes.NewReader(tc.body), "Content-Encoding", tc.encoding)
		if status < 400 || status >= 500 {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
	r.alive(0)
}

// bomb is a small body that would decompress to a gigabyte.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 1024 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestNumbersNamesAndLoads(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	// Out of order, retried, and retried with another content.
	second := r.ok("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2}`, r.model))
	first := r.ok("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, r.model))
	r.await(second).at("metrics", "step:max").is(2)
	r.await(first).at("metrics", "step:max").is(1)
	r.seq = 2
	r.ok("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2,"type":null}`, r.model)).at("request_id").same(second.at("request_id"))
	status, b := r.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2,"adam_params":{"learning_rate":1}}`, r.model))
	r.want("another request of the same number", status, b, 409, "seq_id")
	for _, seq := range []string{"0", "-1", "99999999"} {
		status, b := r.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":%s}`, r.model, seq))
		r.want("seq_id "+seq, status, b, 400, "seq_id")
	}
	status, b = r.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":%d,"adam_params":{"beta1":1.5}}`, r.model, r.next()))
	r.want("beta1", status, b, 400, "beta1")

	path := r.save("a", "").at("path").str()
	taken := r.save("a", "")
	taken.at("category").is("user")
	taken.at("status_code").is(409)
	r.save("a", `,"overwrite":true`).at("path").is(path)
	for _, name := range []string{"", "..", "a/b", "a\u0000b", strings.Repeat("x", 129)} {
		body, err := json.Marshal(map[string]any{"model_id": r.model, "path": name, "seq_id": r.next()})
		if err != nil {
			t.Fatal(err)
		}
		status, b := r.post("/save_weights", string(body))
		r.want(fmt.Sprintf("name %.20q", name), status, b, 400, "path")
	}
	for _, ttl := range []string{"0", "-5", "99999999999"} {
		status, b := r.post("/save_weights", fmt.Sprintf(`{"model_id":%q,"path":"t","seq_id":%d,"ttl_seconds":%s}`, r.model, r.next(), ttl))
		r.want("ttl "+ttl, status, b, 400, "ttl_seconds")
	}

	n := r.next()
	status, b = r.post("/load_weights", fmt.Sprintf(`{"model_id":%q,"seq_id":%d,"path":%q,"optimizer":true}`, r.model, n, path))
	r.want("a late load", status, b, 400, fmt.Sprintf("LoadWeights is not permitted with seq_id %d", n))
	load := func(p string) (int, []byte) {
		return r.post("/load_weights", fmt.Sprintf(`{"session_id":%q,"model_seq_id":7,"path":%q,"optimizer":true}`, r.session, p))
	}
	status, b = load(strings.Replace(path, "/weights/", "/sampler_weights/", 1))
	r.want("load of a sampler", status, b, 400, "not a training checkpoint")
	status, b = load("nonsense")
	r.want("load of nonsense", status, b, 400, "tinker://")
	status, b = load(path + "x")
	r.want("load of nothing", status, b, 404, "not found")
	r.alive(1)
}

func TestExpiredURL(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServerWith(t, tinkextest.Options{URLTTL: time.Second})
	_, _, path, _ := train(t, srv.URL, tinkextest.Key)
	rest, err := tinkex.NewRestClient(srv.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	a, err := rest.ArchiveURL(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(a.Expires) + 50*time.Millisecond)
	resp, err := http.Get(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(b), "has expired") {
		t.Errorf("%s %s", resp.Status, b)
	}
}

func TestClientThatHangsUp(t *testing.T) {
	t.Parallel()
	r := newRaw(t)
	hangUp := func(method, path string, body io.Reader) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, r.url+wire.APIPrefix+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", tinkextest.Key)
		req.Header.Set("Content-Type", wire.ContentTypeJSON)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
			t.Errorf("%s was answered %s", path, resp.Status)
		}
	}
	// In the middle of a body, and while waiting for a result that never comes.
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s/forward_backward HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nhalf a bo", wire.APIPrefix, tinkextest.Key, wire.ContentTypeProtobuf)
	conn.Close()
	waiting := r.ok("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":5}`, r.model))
	hangUp(http.MethodPost, "/retrieve_future", strings.NewReader(fmt.Sprintf(`{"request_id":%q}`, waiting.at("request_id").str())))
	r.alive(0)
}
