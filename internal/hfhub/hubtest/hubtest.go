// Package hubtest is a Hugging Face Hub for tests, as far as model repositories
// go: users, repositories, branches, commits, pull requests, files, LFS storage
// on a server of its own, in one piece or in parts, and tokens that are renewed
// or given to CI jobs. The conformance tests hold it to what the huggingface_hub
// Python package makes of it.
package hubtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// Token and User are the one user's that a new server knows.
const (
	Token = "hf_hubtestTokenOfTheTests"
	User  = "someone"
)

// Server is a Hub. Its exported fields are set before it is used.
type Server struct {
	// URL is the endpoint.
	URL string
	// StorageURL is where LFS files are sent to, on another port.
	StorageURL string
	// RegularBytes is the size from which files are LFS files, whatever they
	// are called; safetensors and bin files always are.
	RegularBytes int64
	// PartBytes is the size from which LFS files come in parts of that size. 0
	// is never.
	PartBytes int64
	// OAuth says how tokens are renewed.
	OAuth OAuth

	grants   grants
	t        testing.TB
	dir      string
	mu       sync.Mutex
	users    map[string]string // by token
	repos    map[string]*repo
	objects  map[string]int64 // LFS files by digest
	parts    map[string]map[int]string
	faults   []*fault
	requests []Request
}

// Request is one that was made.
type Request struct {
	Method, Path string
	Header       http.Header
	Storage      bool
}

type fault struct {
	method, part string
	skip, times  int
	answer       http.HandlerFunc // nil loses the answer of what is done
}

type repo struct {
	private  bool
	branches map[string]string // commits
	commits  map[string]*commit
	pulls    int
}

type commit struct {
	summary, description string
	files                map[string]entry
}

// entry is a file in a commit: its content, or an LFS object.
type entry struct {
	content []byte
	lfs     string
	size    int64
}

// New starts a server that ends with the test. LFS files are kept on disk.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		t: t, dir: t.TempDir(), RegularBytes: 10 << 20,
		users: map[string]string{Token: User}, repos: map[string]*repo{},
		objects: map[string]int64{}, parts: map[string]map[int]string{},
		grants: grants{users: map[string]string{}, trusted: map[string]string{}},
	}
	hub := httptest.NewServer(s.seen(false, s.hub()))
	storage := httptest.NewServer(s.seen(true, s.storage()))
	t.Cleanup(hub.Close)
	t.Cleanup(storage.Close)
	s.URL, s.StorageURL = hub.URL, storage.URL
	return s
}

// AddUser makes another user.
func (s *Server) AddUser(token, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[token] = name
}

// AddRepo makes a repository with files on its main branch.
func (s *Server) AddRepo(id string, private bool, files map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.makeRepo(id, private)
	r.add("main", "initial content", "", func(to map[string]entry) {
		for name, content := range files {
			to[name] = entry{content: []byte(content), size: int64(len(content))}
		}
	})
}

// Fail answers the next so many requests whose method is the given one and
// whose path has part in it, after skip of them, by what answer writes.
func (s *Server) Fail(method, part string, skip, times int, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{method, part, skip, times, answer})
}

// Lose carries out the next request whose method is the given one and whose
// path has part in it, and answers that the gateway is bad.
func (s *Server) Lose(method, part string) { s.Fail(method, part, 0, 1, nil) }

// Requests are those that were made so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request{}, s.requests...)
}

// Repos are the repositories there are.
func (s *Server) Repos() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for id := range s.repos {
		names = append(names, id)
	}
	return names
}

// Private reports whether a repository is.
func (s *Server) Private(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repos[id].private
}

// Message is the summary of a branch's commit.
func (s *Server) Message(id, revision string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, c := s.repos[id].at(revision); c != nil {
		return c.summary
	}
	return ""
}

// Files are the contents of a branch, without .gitattributes. Nil is that there
// is no such branch.
func (s *Server) Files(id, revision string) map[string]string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[id]
	if r == nil {
		return nil
	}
	_, c := r.at(revision)
	if c == nil {
		return nil
	}
	out := map[string]string{}
	for name, e := range c.files {
		if name == ".gitattributes" {
			continue
		}
		b := e.content
		if e.lfs != "" {
			var err error
			if b, err = os.ReadFile(s.object(e.lfs)); err != nil {
				s.t.Fatal(err)
			}
		}
		out[name] = string(b)
	}
	return out
}

// StoredBytes is how much LFS storage holds.
func (s *Server) StoredBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, size := range s.objects {
		n += size
	}
	return n
}

// seen notes requests and lets those fail that are to.
func (s *Server) seen(storage bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.Header.Clone(), storage})
		var hit *fault
		for _, f := range s.faults {
			if f.method != r.Method || !strings.Contains(r.URL.Path, f.part) || f.times == 0 {
				continue
			}
			if f.skip > 0 {
				f.skip--
				continue
			}
			f.times--
			hit = f
			break
		}
		s.mu.Unlock()
		switch {
		case hit == nil:
			next.ServeHTTP(w, r)
		case hit.answer != nil:
			hit.answer(w, r)
		default:
			next.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusBadGateway)
		}
	})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, code, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("X-Request-Id", "Root=1-hubtest")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "", "%v", err)
	}
	return err == nil
}
