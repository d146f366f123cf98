package tinkex

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

func TestRESTOpensNoSession(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("GET /sessions", 200, map[string]any{"sessions": []string{"a"}})
	s := f.service()
	if _, err := s.RestClient().ListSessions(t.Context(), ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if paths := f.paths(); slices.Contains(paths, "POST /create_session") {
		t.Errorf("requests %v", paths)
	}
	_, err := s.RestClient().ListSessions(t.Context(), ListOptions{})
	wantError(t, err, ErrClosed)
}

func TestRequestsAreNumberedInCallOrder(t *testing.T) {
	f := newFakeTinker(t)
	tc := f.training()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := tc.ForwardBackward(t.Context(), []Datum{datum(2, 0)}, CrossEntropy, nil)
	given := tc.OptimStep(ctx, AdamParams{}) // given up before its turn: takes no number
	b := tc.OptimStep(t.Context(), AdamParams{LearningRate: 1e-3})
	c := tc.SaveState(t.Context(), "x", SaveOptions{})
	await(t, a)
	await(t, b)
	if got := await(t, c).Path.Name; got != "x" {
		t.Errorf("saved %q", got)
	}
	if _, err := given.Await(t.Context()); err == nil {
		t.Error("a request with an ended context succeeded")
	}
	var step wire.OptimStepRequest
	steps := f.seen("POST /optim_step")
	steps[len(steps)-1].decode(t, &step)
	var save wire.SaveWeightsRequest
	f.seen("POST /save_weights")[0].decode(t, &save)
	if *save.SeqID != *step.SeqID+1 || *step.SeqID != int64(len(steps))+1 {
		t.Errorf("step is number %d of %d, save %d", *step.SeqID, len(steps), *save.SeqID)
	}
}

func TestLargeBatchIsSentInChunks(t *testing.T) {
	f := newFakeTinker(t)
	tc := f.training()
	data := make([]Datum, 2500)
	for i := range data {
		data[i] = datum(1, i)
	}
	out := await(t, tc.ForwardBackward(t.Context(), data, CrossEntropy, nil))
	for i, o := range out.LossFnOutputs {
		if want := -float32(i) / 10; o["logprobs"].Float32[0] != want {
			t.Fatalf("datum %d has logprob %v, want %v", i, o["logprobs"].Float32[0], want)
		}
	}
	if want := 2499.0 * 2500 / 2 / 10; math.Abs(out.Metrics["loss:sum"]-want) > 1 {
		t.Errorf("loss %v, want about %v", out.Metrics["loss:sum"], want)
	}
	var seqs, lens []int
	for _, r := range f.seen("POST /forward_backward") {
		var q pb.ForwardBackwardRequest
		if err := proto.Unmarshal(r.body, &q); err != nil {
			t.Fatal(err)
		}
		seqs, lens = append(seqs, int(q.SeqId)), append(lens, len(q.Data))
	}
	if len(seqs) != 3 || seqs[2] != 1 {
		t.Errorf("chunks %v arrived; the first one is to be sent last", seqs)
	}
	slices.Sort(seqs)
	slices.Sort(lens)
	if !slices.Equal(seqs, []int{1, 2, 3}) || !slices.Equal(lens, []int{452, 1024, 1024}) {
		t.Errorf("numbers %v, lengths %v", seqs, lens)
	}
}

func TestCustomLossSendsItsGradient(t *testing.T) {
	f := newFakeTinker(t)
	tc := f.training()
	loss := func(_ []Datum, logprobs [][]float32) (float64, [][]float32, map[string]float64, error) {
		return 42, [][]float32{{3, -1}}, map[string]float64{"mine": float64(len(logprobs[0]))}, nil
	}
	out := await(t, tc.ForwardBackwardCustom(t.Context(), []Datum{datum(2, 5)}, loss))
	if out.Metrics["loss:sum"] != 42 || out.Metrics["mine"] != 2 {
		t.Errorf("metrics %v", out.Metrics)
	}
	var q pb.ForwardBackwardRequest
	seen := f.seen("POST /forward_backward")
	if err := proto.Unmarshal(seen[len(seen)-1].body, &q); err != nil {
		t.Fatal(err)
	}
	weights, err := wire.UnpackFloat32(q.Data[0].LossFnInputs["weights"].GetDense())
	if err != nil || !slices.Equal(weights, []float32{-3, 1}) || q.ForwardOnly || len(seen) != 2 {
		t.Errorf("the backward pass of %d requests has weights %v", len(seen), weights)
	}
}

func TestFutures(t *testing.T) {
	for name, tc := range map[string]struct {
		answers []http.HandlerFunc
		err     error
		says    string
	}{
		"comes later": {[]http.HandlerFunc{
			answerJSON(200, map[string]any{"type": "try_again", "queue_state": "active"}),
			answerDetail(408, "x"), answerDetail(503, "x"),
			answerJSON(200, map[string]any{"path": "tinker://s1:train:0/weights/x"}),
		}, nil, ""},
		"size first": {[]http.HandlerFunc{
			answerJSON(200, map[string]any{"status": "complete_metadata", "response_payload_size": 10}),
			answerJSON(200, map[string]any{"path": "tinker://s1:train:0/weights/x"}),
		}, nil, ""},
		"fails for the user":  {[]http.HandlerFunc{answerJSON(200, map[string]any{"error": "name is taken", "category": "user", "status_code": 409})}, ErrConflict, "name is taken"},
		"fails on the server": {[]http.HandlerFunc{answerJSON(200, map[string]any{"error": "broken", "category": "server"})}, nil, "broken"},
		"is gone":             {[]http.HandlerFunc{answerDetail(410, "no longer kept")}, ErrGone, "no longer kept"},
		"is not there":        {[]http.HandlerFunc{answerDetail(404, "none")}, ErrNotFound, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeTinker(t)
			client := f.training()
			f.sequence("POST /retrieve_future", tc.answers...)
			fut := client.SaveState(t.Context(), "x", SaveOptions{})
			saved, err := fut.Await(t.Context())
			again, err2 := fut.Await(t.Context())
			if saved != again || fmt.Sprint(err) != fmt.Sprint(err2) {
				t.Errorf("a second wait gives %v, %v", again, err2)
			}
			if tc.says == "" {
				if err != nil || saved.Path.Name != "x" {
					t.Errorf("%+v, %v", saved, err)
				}
				return
			}
			wantError(t, err, tc.err, tc.says)
		})
	}
}

func TestLostSubmissionBreaksTheClient(t *testing.T) {
	f := newFakeTinker(t)
	tc := f.training(func(o *Options) { o.MaxRetries = 1 })
	f.handle("POST /optim_step", hangUp)
	if _, err := tc.OptimStep(t.Context(), AdamParams{}).Await(t.Context()); err == nil {
		t.Fatal("a lost request succeeded")
	}
	_, err := tc.SaveState(t.Context(), "x", SaveOptions{}).Await(t.Context())
	wantError(t, err, ErrBroken)
	if n := len(f.seen("POST /save_weights")); n != 0 {
		t.Errorf("%d requests after the break", n)
	}
}

func TestInputIsCheckedBeforeAnythingIsSent(t *testing.T) {
	f := newFakeTinker(t)
	tc := f.training()
	before := len(f.paths())
	_, err := tc.ForwardBackward(t.Context(), nil, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, ErrInvalid)
	_, err = tc.SaveState(t.Context(), "a/b", SaveOptions{}).Await(t.Context())
	wantError(t, err, ErrInvalidPath, "a/b")
	bad := datum(2, 0)
	bad.LossFnInputs["weights"] = Floats([]float32{1, 2, 3}, 2)
	if _, err := tc.ForwardBackward(t.Context(), []Datum{bad}, CrossEntropy, nil).Await(t.Context()); err == nil {
		t.Error("a tensor of another shape was sent")
	}
	if after := len(f.paths()); after != before {
		t.Errorf("%d requests were sent", after-before)
	}
}

func TestIteratorPagesThroughAChangingList(t *testing.T) {
	f := newFakeServer(t)
	all := make([]string, 25)
	for i := range all {
		all[i] = fmt.Sprintf("s%02d", i)
	}
	list := slices.Clone(all)
	f.handle("GET /sessions", func(w http.ResponseWriter, r *http.Request) {
		limit, offset := 20, 0
		_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
		_, _ = fmt.Sscan(r.URL.Query().Get("offset"), &offset)
		part := list[min(offset, len(list)):min(offset+limit, len(list))]
		writeJSON(w, 200, map[string]any{"sessions": append([]string{}, part...)})
		if len(list) == len(all) {
			list = append([]string{"new"}, list...) // one appears at the top meanwhile
		}
	})
	var got []string
	for id, err := range f.rest().AllSessions(t.Context(), PageOptions{PageSize: 10}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if !slices.Equal(got, all) {
		t.Errorf("got %v", got)
	}
	f.answer("GET /sessions", 400, map[string]string{"detail": "no"})
	n := 0
	for _, err := range f.rest().AllSessions(t.Context(), PageOptions{}) {
		n++
		wantError(t, err, ErrInvalid)
	}
	if n != 1 {
		t.Errorf("%d rounds after an error", n)
	}
}
