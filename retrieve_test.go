package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

var savedX = answerJSON(200, map[string]any{"path": "tinker://s1:train:0/weights/x"})

func tryAgain(state, reason string) http.HandlerFunc {
	return answerJSON(200, wire.FutureStatus{Type: wire.TypeTryAgain, QueueState: state, QueueStateReason: reason})
}

// saveX saves on a server that answers polls with the handlers.
func saveX(t *testing.T, polls ...http.HandlerFunc) (*fakeTinker, error) {
	t.Helper()
	f := newFakeTinker(t)
	client := f.training()
	f.forget()
	f.sequence("POST /retrieve_future", polls...)
	_, err := client.SaveState(t.Context(), "x", SaveOptions{}).Await(t.Context())
	return f, err
}

func TestPollsSayWhatTheyAre(t *testing.T) {
	f, err := saveX(t, tryAgain("active", ""), answerJSON(200, map[string]any{"status": "complete_metadata", "response_payload_size": 1 << 40}), savedX)
	if err != nil {
		t.Fatal(err)
	}
	polls := f.seen("POST /retrieve_future")
	for i, p := range polls {
		var q wire.RetrieveFutureRequest
		p.decode(t, &q)
		if q.RequestID == "" || q.AllowMetadataOnly != (i < 2) {
			t.Errorf("poll %d: %+v", i, q)
		}
		if got := p.header.Get("X-Tinker-Request-Iteration"); got != fmt.Sprint(i) {
			t.Errorf("poll %d is iteration %s", i, got)
		}
		if p.header.Get("X-Tinker-Request-Type") != "SaveWeights" || p.header.Get("Accept") != "application/json" {
			t.Errorf("poll %d: %v", i, p.header)
		}
	}
	if len(polls) != 3 {
		t.Errorf("%d polls", len(polls))
	}
}

func TestPollsGoOnThroughFailures(t *testing.T) {
	for _, test := range []struct {
		name  string
		polls []http.HandlerFunc
		waits int // after failures
	}{
		{"503", []http.HandlerFunc{answerDetail(503, "x"), answerDetail(503, "x"), savedX}, 2},
		{"408 is only not yet", []http.HandlerFunc{answerDetail(408, "x"), savedX}, 0},
		{"429", []http.HandlerFunc{answerDetail(429, "x"), savedX}, 1},
		{"connections", []http.HandlerFunc{hangUp, hangUp, hangUp, savedX}, 3},
		{"400, three times", []http.HandlerFunc{answerDetail(400, "x"), answerDetail(400, "x"), answerDetail(400, "x"), savedX}, 3},
		{"result with odd fields", []http.HandlerFunc{answerJSON(200, map[string]any{"path": "tinker://s1:train:0/weights/x", "status": 7, "request_id": []int{1}, "error": nil})}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := saveX(t, test.polls...)
			if err != nil {
				t.Fatal(err)
			}
			waits := 0
			for _, d := range f.clock.slept() {
				if d >= initialRetryDelay*3/4-pollPace {
					waits++
				}
			}
			if strings.HasPrefix(test.name, "connections") && waits == test.waits-1 {
				return // net/http itself replays a request on a reused connection
			}
			if waits != test.waits {
				t.Errorf("%d waits, want %d: %v", waits, test.waits, f.clock.slept())
			}
		})
	}
}

func TestPollsThatEnd(t *testing.T) {
	bad := answerDetail(400, "what?")
	for _, test := range []struct {
		name     string
		polls    []http.HandlerFunc
		want     error
		category Category
		status   int
		says     string
		count    int
	}{
		{"a fourth 400", []http.HandlerFunc{bad, bad, bad, bad, savedX}, ErrInvalid, CategoryUser, 400, "what?", 4},
		{"403", []http.HandlerFunc{answerDetail(403, "not yours")}, ErrForbidden, CategoryUser, 403, "not yours", 1},
		{"410", []http.HandlerFunc{answerDetail(410, "dropped")}, ErrGone, CategoryUser, 410, "dropped", 1},
		{"501", []http.HandlerFunc{answerDetail(501, "no such thing")}, nil, CategoryServer, 501, "no such thing", 1},
		{"failure", []http.HandlerFunc{answerJSON(200, map[string]any{"error": "out of memory", "category": "server", "status_code": 500})}, nil, CategoryServer, 500, "out of memory", 1},
		{"failure of no category", []http.HandlerFunc{answerJSON(200, map[string]any{"error": "hm", "category": "strange"})}, nil, CategoryUnknown, 0, "hm", 1},
		{"failure with an object", []http.HandlerFunc{answerJSON(200, map[string]any{"error": map[string]any{"message": "nested"}, "category": "user"})}, nil, CategoryUser, 0, "nested", 1},
		{"not JSON", []http.HandlerFunc{answerRaw(200, "text/html", "<html>")}, nil, CategoryServer, 0, "cannot be read", 1},
		{"result of another type", []http.HandlerFunc{answerJSON(200, map[string]any{"path": 7})}, nil, CategoryServer, 0, "cannot be read", 1},
		{"result without a path", []http.HandlerFunc{answerJSON(200, map[string]any{})}, nil, CategoryServer, 0, "cannot be read", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := saveX(t, test.polls...)
			e := wantError(t, err, test.want, test.says, `save_weights "x" of s1:train:0`)
			if e.Category != test.category || e.Status != test.status {
				t.Errorf("category %q, status %d", e.Category, e.Status)
			}
			if n := len(f.seen("POST /retrieve_future")); n != test.count {
				t.Errorf("%d polls, want %d", n, test.count)
			}
			if e.RequestID == "" {
				if test.name != "not JSON" {
					t.Error("the error does not name the request")
				}
			}
		})
	}
}

func TestPatienceWithAServerThatIsGoneEnds(t *testing.T) {
	f, err := saveX(t, answerDetail(503, "restarting"))
	wantError(t, err, nil, "restarting; gave up after 15m")
	total := time.Duration(0)
	for _, d := range f.clock.slept() {
		total += d
	}
	if total < pollPatience || total > pollPatience+2*maxPollDelay {
		t.Errorf("it took %v", total)
	}
}

func TestAServerThatDoesNotHoldPollsIsNotHammered(t *testing.T) {
	var polls []http.HandlerFunc
	for range 20 {
		polls = append(polls, tryAgain("active", ""))
	}
	f, err := saveX(t, append(polls, savedX)...)
	if err != nil {
		t.Fatal(err)
	}
	slept := f.clock.slept()
	if len(slept) != 20 || slept[0] > 2*pollPace || slept[19] < maxPollPace*3/4 {
		t.Errorf("waits: %v", slept)
	}
}

func TestQueueStateIsLoggedOnce(t *testing.T) {
	f, err := saveX(t,
		tryAgain("active", ""), tryAgain("paused_capacity", "no machines"), tryAgain("paused_capacity", "no machines"),
		answerJSON(408, wire.FutureStatus{Type: wire.TypeTryAgain, QueueState: "paused_capacity"}),
		tryAgain("active", ""), tryAgain("active", ""), tryAgain("paused_rate_limit", ""), savedX)
	if err != nil {
		t.Fatal(err)
	}
	log := f.logs.String()
	if a, b := strings.Count(log, "paused by the server"), strings.Count(log, "msg=resumed"); a != 2 || b != 2 || !strings.Contains(log, "no machines") {
		t.Errorf("%d pauses and %d resumptions:\n%s", a, b, log)
	}
}

func TestProtobufIsAskedForAndNeeded(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	f.answer("POST /retrieve_future", 200, map[string]any{"loss_fn_outputs": []any{}})
	_, err := client.Forward(t.Context(), []Datum{datum(1, 1)}, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, nil, "too old for this client")
	polls := f.seen("POST /retrieve_future")
	if last := polls[len(polls)-1]; last.header.Get("Accept") != wire.ContentTypeProtobuf || last.header.Get("X-Tinker-Request-Type") != "Forward" {
		t.Errorf("headers: %v", last.header)
	}
	f.handle("POST /retrieve_future", answerRaw(200, wire.ContentTypeProtobuf, "\xff\xff\xff"))
	_, err = client.Forward(t.Context(), []Datum{datum(1, 1)}, CrossEntropy, nil).Await(t.Context())
	wantError(t, err, nil, "the result cannot be read")
}

func TestFutureIsSharedAndOutlivesItsAwaiters(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.handle("POST /retrieve_future", func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(asked) })
		<-release
		savedX(w, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	future := client.SaveState(ctx, "x", SaveOptions{})
	<-asked
	cancel() // of the caller, and of one who waits
	_, err := future.Await(ctx)
	wantError(t, err, context.Canceled, "while waiting for the result")
	select {
	case <-future.Done():
		t.Fatal("done before it is")
	default:
	}
	close(release)
	<-future.Done()
	if v, err := future.Await(ctx); err != nil || v.Path.Name != "x" {
		t.Errorf("an ended context hides a result that is there: %v, %v", v, err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := future.Await(t.Context()); err != nil || v.Path.Name != "x" {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
	wg.Wait()
}
