package tinkextest

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// Fault is how requests fail. The zero value answers any request with 503.
type Fault struct {
	// Method and Path select requests: those of this method, whose path
	// contains this text ("/weights_info", "/archive"). Empty selects all, the
	// heartbeats of a session among them.
	Method, Path string
	// Status is the answer's. Zero is 503. Clients repeat 408, 409, 429 and
	// 5xx, and after the first 401 or 403 they repeat that request with a fresh
	// credential, so that it may take several to make a call fail.
	Status int
	// Detail is what the answer says is wrong. Empty is a sentence that says
	// that this fault was asked for.
	Detail string
	// RetryAfter is how long the answer asks to wait, in whole seconds.
	RetryAfter time.Duration
	// Drop closes the connection instead of answering.
	Drop bool
}

// FailNext makes the next n requests that the fault selects fail; a negative n
// means all that ever come. They do not reach the server. Of several faults, the
// one asked for first takes a request. The function returned tells how many
// requests it has taken.
func (s *Server) FailNext(n int, f Fault) (failed func() int) {
	if n < 0 {
		n = math.MaxInt
	}
	return s.faults.add(&fault{Fault: f, left: n})
}

type fault struct {
	Fault
	left, taken int
}

// faults are those that a server still has to make.
type faults struct {
	mu   sync.Mutex
	list []*fault
}

func (fs *faults) add(f *fault) (taken func() int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.list = append(fs.list, f)
	return func() int {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		return f.taken
	}
}

// take returns the fault that a request has to have, if there is one.
func (fs *faults) take(r *http.Request) (Fault, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i := slices.IndexFunc(fs.list, func(f *fault) bool {
		return f.left > 0 && (f.Method == "" || f.Method == r.Method) && strings.Contains(r.URL.Path, f.Path)
	})
	if i < 0 {
		return Fault{}, false
	}
	f := fs.list[i]
	f.left--
	f.taken++
	return f.Fault, true
}

// before puts the faults in front of a server.
func (fs *faults) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := fs.take(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		f.answer(w)
	})
}

func (f Fault) answer(w http.ResponseWriter) {
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	if f.Status == 0 {
		f.Status = http.StatusServiceUnavailable
	}
	if f.Detail == "" {
		f.Detail = "a fault that the test asked for"
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	w.Header().Set("Content-Type", wire.ContentTypeJSON)
	w.WriteHeader(f.Status)
	_ = json.NewEncoder(w).Encode(wire.ErrorBody{Detail: f.Detail}) // the client may be gone
}
