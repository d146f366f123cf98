package tinkex

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// stepNumbers returns the numbers of the requests a server saw, in the order
// of their arrival.
func stepNumbers(t *testing.T, f *fakeTinker) []int64 {
	t.Helper()
	var out []int64
	for _, r := range f.seen("POST /optim_step") {
		var q wire.OptimStepRequest
		r.decode(t, &q)
		out = append(out, *q.SeqID)
	}
	return out
}

func TestRequestsArriveOneAfterAnother(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	var mu sync.Mutex
	inside := 0
	accept := f.routes["POST /optim_step"]
	f.handle("POST /optim_step", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		inside++
		if inside > 1 {
			t.Error("a request arrived before the one before it was acknowledged")
		}
		mu.Unlock()
		accept(w, r)
		mu.Lock()
		inside--
		mu.Unlock()
	})
	var futures []*Future[*OptimStepOutput]
	for i := range 50 {
		futures = append(futures, client.OptimStep(t.Context(), AdamParams{LearningRate: float64(i)}))
	}
	for _, future := range futures {
		if out := await(t, future); out.Metrics["grad_norm:mean"] != 1 {
			t.Errorf("metrics: %v", out.Metrics)
		}
	}
	for i, r := range f.seen("POST /optim_step") {
		var q wire.OptimStepRequest
		r.decode(t, &q)
		if *q.SeqID != int64(i+1) || *q.AdamParams.LearningRate != float64(i) || q.ModelID != "s1:train:0" || q.Type != "optim_step" {
			t.Errorf("request %d: number %d, learning rate %v", i, *q.SeqID, *q.AdamParams.LearningRate)
		}
	}
}

func TestConcurrentCallersGetDistinctNumbers(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if _, err := client.OptimStep(t.Context(), AdamParams{}).Await(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, n := range stepNumbers(t, f) {
		if n != int64(i+1) {
			t.Fatalf("request %d has number %d", i, n)
		}
	}
}

// holdSteps makes steps wait for a value before they are answered; entered
// reports each arrival.
func holdSteps(f *fakeTinker) (entered, release chan struct{}) {
	accept := f.routes["POST /optim_step"]
	entered, release = make(chan struct{}, 100), make(chan struct{})
	f.handle("POST /optim_step", func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
		accept(w, r)
	})
	return entered, release
}

func TestARequestGivenUpBeforeItsTurnTakesNoNumber(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	entered, release := holdSteps(f)
	ctx, cancel := context.WithCancel(t.Context())
	first := client.OptimStep(ctx, AdamParams{})
	<-entered
	second := client.OptimStep(ctx, AdamParams{})
	third := client.OptimStep(t.Context(), AdamParams{})
	cancel()
	_, err := second.Await(t.Context()) // at once, although it is not its turn
	wantError(t, err, context.Canceled, "before the request was sent")
	close(release)
	await(t, first) // its sending had begun: it goes through
	await(t, third)
	if got := stepNumbers(t, f); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("numbers %v", got)
	}
}

func TestAFailedRequestDoesNotStopTheOthers(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	// A refusal takes its number, as it does for the official client.
	f.sequence("POST /optim_step", answerDetail(400, "bad learning rate"), f.routes["POST /optim_step"])
	a, b := client.OptimStep(t.Context(), AdamParams{}), client.OptimStep(t.Context(), AdamParams{})
	_, err := a.Await(t.Context())
	wantError(t, err, ErrInvalid, "bad learning rate", "optim_step on s1:train:0")
	await(t, b)
	if got := stepNumbers(t, f); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("numbers %v", got)
	}
}

func TestARequestTurnedAwayAtTheDoorGivesItsNumberBack(t *testing.T) {
	for _, status := range []int{401, 403, 429} {
		f := newFakeTinker(t)
		client := f.training(func(o *Options) { o.MaxRetries = -1 })
		f.sequence("POST /optim_step", answerDetail(status, "no"), f.routes["POST /optim_step"])
		_, err := client.OptimStep(t.Context(), AdamParams{}).Await(t.Context())
		if e := wantError(t, err, nil); e.Status != status {
			t.Errorf("%v", err)
		}
		await(t, client.OptimStep(t.Context(), AdamParams{}))
		if got := stepNumbers(t, f); !slices.Equal(got, []int64{1, 1}) {
			t.Errorf("%d: numbers %v", status, got)
		}
	}
}

func TestLostOnceIsNotLost(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	f.sequence("POST /optim_step", hangUp, answerDetail(502, "x"), f.routes["POST /optim_step"])
	await(t, client.OptimStep(t.Context(), AdamParams{}))
	await(t, client.OptimStep(t.Context(), AdamParams{}))
	got := stepNumbers(t, f)
	if got = slices.Compact(got); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("numbers %v", got)
	}
}

func TestNoServerAtAllBreaksNothing(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training(func(o *Options) { o.MaxRetries = 1 })
	f.Close()
	f.CloseClientConnections()
	for range 2 {
		_, err := client.OptimStep(t.Context(), AdamParams{}).Await(t.Context())
		if e := wantError(t, err, nil, "cannot connect"); errors.Is(e, ErrBroken) {
			t.Error(err)
		}
	}
	if client.queue.next != 1 {
		t.Errorf("the next number is %d", client.queue.next)
	}
}

func TestBrokenClientSaysWhy(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training(func(o *Options) { o.MaxRetries = -1 })
	f.handle("POST /optim_step", answerDetail(500, "panic: index out of range"))
	first, second := client.OptimStep(t.Context(), AdamParams{}), client.OptimStep(t.Context(), AdamParams{})
	_, err := first.Await(t.Context())
	wantError(t, err, nil, "panic: index out of range")
	_, err = second.Await(t.Context())
	wantError(t, err, ErrBroken, "index out of range", "go on from a checkpoint")
	_, err = client.ForwardBackward(t.Context(), []Datum{datum(1, 1)}, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, ErrBroken)
	// What needs no place in line goes on working.
	await(t, client.Info(t.Context()))
}

func TestConclude(t *testing.T) {
	ok := submission{sent: true}
	refused := submission{sent: true, err: &Error{Status: 400}}
	conflict := submission{sent: true, lost: true, err: &Error{Status: 409}}
	away := submission{sent: true, err: &Error{Status: 429}}
	lost := submission{sent: true, lost: true, err: &Error{}}
	lostThenAway := submission{sent: true, lost: true, err: &Error{Status: 429}}
	server := submission{sent: true, lost: true, err: &Error{Status: 500}}
	unsent := submission{err: &Error{Status: 503}} // of the token exchange
	for i, test := range []struct {
		sent   []submission
		next   int64
		broken bool
	}{
		{[]submission{ok}, 11, false},
		{[]submission{ok, ok, ok}, 13, false},
		{[]submission{refused}, 11, false},
		{[]submission{conflict}, 11, false},
		{[]submission{away}, 10, false},
		{[]submission{unsent}, 10, false},
		{[]submission{lost}, 11, true},
		{[]submission{server}, 11, true},
		{[]submission{lostThenAway}, 11, true},
		{[]submission{away, away}, 10, false},
		{[]submission{ok, away, away}, 11, false},
		{[]submission{ok, refused, away}, 12, false},
		{[]submission{away, ok}, 12, true}, // the server waits for number 10
		{[]submission{ok, lost, ok}, 13, true},
	} {
		q := newTurns(10)
		if first := q.take(len(test.sent)); first != 10 {
			t.Fatal(first)
		}
		q.conclude(10, test.sent)
		if err := q.check("x"); (err != nil) != test.broken || q.next != test.next {
			t.Errorf("%d: next is %d, broken: %v", i, q.next, err)
		}
	}
}

// decodeChunks decodes forward_backward requests in the order of arrival.
func decodeChunks(t *testing.T, f *fakeTinker) []*pb.ForwardBackwardRequest {
	t.Helper()
	var out []*pb.ForwardBackwardRequest
	for _, r := range f.seen("POST /forward_backward") {
		q := new(pb.ForwardBackwardRequest)
		if err := proto.Unmarshal(r.body, q); err != nil {
			t.Fatal(err)
		}
		if r.header.Get("Content-Type") != wire.ContentTypeProtobuf {
			t.Errorf("content type %q", r.header.Get("Content-Type"))
		}
		out = append(out, q)
	}
	return out
}

func TestChunksTravelTogetherAndTheFirstOneLast(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"fwdbwd_max_chunk_len": 2})
	client := f.training()
	accept := f.routes["POST /forward_backward"]
	// The three others are answered only when all of them are there.
	var mu sync.Mutex
	arrived, all := 0, make(chan struct{})
	f.handle("POST /forward_backward", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		arrived++
		if arrived == 3 {
			close(all)
		}
		mu.Unlock()
		<-all
		accept(w, r)
	})
	before := client.OptimStep(t.Context(), AdamParams{})
	data := make([]Datum, 7)
	for i := range data {
		data[i] = datum(1, 10*i)
	}
	out := client.ForwardBackward(t.Context(), data, CrossEntropy, nil)
	after := client.OptimStep(t.Context(), AdamParams{})
	await(t, before)
	result := await(t, out)
	await(t, after)

	var numbers []int32
	for _, q := range decodeChunks(t, f) {
		numbers = append(numbers, q.SeqId)
	}
	if numbers[3] != 2 {
		t.Errorf("chunks arrived as %v", numbers)
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int32{2, 3, 4, 5}) || !slices.Equal(stepNumbers(t, f), []int64{1, 6}) {
		t.Errorf("chunks have the numbers %v, steps %v", numbers, stepNumbers(t, f))
	}
	for i, o := range result.LossFnOutputs {
		if o["logprobs"].Float32[0] != -float32(i) {
			t.Errorf("output %d is %v", i, o["logprobs"].Float32)
		}
	}
	if result.Metrics["loss:sum"] != 21 || result.Metrics["clock:unique"] != 2 || result.Metrics["clock:unique_3"] != 5 || result.LossFnOutputType != "ArrayRecord" {
		t.Errorf("metrics %v, type %q", result.Metrics, result.LossFnOutputType)
	}
}

func TestChunksInSequenceIfTheServerWantsIt(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": false})
	client := f.training()
	data := []Datum{datum(1, 1), datum(1, 2), datum(1, 3)}
	await(t, client.Forward(t.Context(), data, CrossEntropy, nil))
	for i, q := range decodeChunks(t, f) {
		if q.SeqId != int32(i+1) || !q.ForwardOnly {
			t.Errorf("request %d is number %d, forward only %v", i, q.SeqId, q.ForwardOnly)
		}
	}
	// One that is refused is the last that is sent.
	f.forget()
	f.sequence("POST /forward_backward", answerDetail(400, "token 7 is outside the vocabulary"), f.routes["POST /forward_backward"])
	_, err := client.Forward(t.Context(), data, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, ErrInvalid, "token 7")
	if n := len(f.seen("POST /forward_backward")); n != 1 {
		t.Errorf("%d chunks were sent", n)
	}
	await(t, client.OptimStep(t.Context(), AdamParams{}))
	if got := stepNumbers(t, f); !slices.Equal(got, []int64{5}) {
		t.Errorf("the step has number %v", got)
	}
}

func TestARefusedChunkFailsTheBatchOnly(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"fwdbwd_max_chunk_len": 1})
	client := f.training()
	accept := f.routes["POST /forward_backward"]
	f.handle("POST /forward_backward", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Idempotency-Key") == "" {
			t.Error("no idempotency key")
		}
		q := decodeChunks(t, f)
		if q[len(q)-1].SeqId == 2 {
			answerDetail(400, "bad chunk")(w, r)
			return
		}
		accept(w, r)
	})
	_, err := client.ForwardBackward(t.Context(), []Datum{datum(1, 1), datum(1, 2)}, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, ErrInvalid, "bad chunk")
	// Number 1 was sent all the same: the server would wait for it for ever.
	if n := len(f.seen("POST /forward_backward")); n != 2 {
		t.Errorf("%d chunks", n)
	}
	await(t, client.OptimStep(t.Context(), AdamParams{}))
	if got := stepNumbers(t, f); !slices.Equal(got, []int64{3}) {
		t.Errorf("the step has number %v", got)
	}
}

func TestOneFailedResultFailsTheBatch(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"fwdbwd_max_chunk_len": 1})
	client := f.training()
	n := 0
	var mu sync.Mutex
	f.handle("POST /forward_backward", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
		result := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } // never comes
		if n == 2 {
			result = answerJSON(200, map[string]any{"error": "diverged", "category": "user", "status_code": 400})
		}
		writeJSON(w, 200, f.promise(result))
	})
	_, err := client.ForwardBackward(t.Context(), []Datum{datum(1, 1), datum(1, 2), datum(1, 3)}, CrossEntropy, nil).Await(t.Context())
	if e := wantError(t, err, ErrInvalid, "diverged"); e.RequestID == "" {
		t.Error("the error does not name the request")
	}
}

func TestWaitersLeaveInOrder(t *testing.T) {
	q := newTurns(1)
	a, b, c := q.enter(), q.enter(), q.enter()
	if err := a.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	select {
	case <-c.before:
		t.Fatal("c's turn came before b's was over")
	default:
	}
	close(a.over)
	close(b.over)
	if err := c.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(q.take(2), q.take(1)); got != "1 3" {
		t.Errorf("numbers %s", got)
	}
}
