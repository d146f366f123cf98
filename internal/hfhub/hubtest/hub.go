package hubtest

import (
	"bytes"
	"crypto/sha1" // git's names
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// gitattributes is what the Hub puts into a new repository.
const gitattributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"

func gitName(kind string, b []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(b))
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

func (e entry) pointer() []byte {
	return fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", e.lfs, e.size)
}

// blob is git's name for a file: for an LFS file, that of its pointer.
func (e entry) blob() string {
	if e.lfs != "" {
		return gitName("blob", e.pointer())
	}
	return gitName("blob", e.content)
}

func (s *Server) makeRepo(id string, private bool) *repo {
	r := &repo{private: private, branches: map[string]string{}, commits: map[string]*commit{}}
	s.repos[id] = r
	r.add("main", "initial commit", "", func(to map[string]entry) {
		to[".gitattributes"] = entry{content: []byte(gitattributes), size: int64(len(gitattributes))}
	})
	return r
}

// at finds a commit by a branch or its id.
func (r *repo) at(revision string) (string, *commit) {
	if id, ok := r.branches[revision]; ok {
		return id, r.commits[id]
	}
	return revision, r.commits[revision]
}

// add makes a commit of a branch's files after a change, and moves the branch.
func (r *repo) add(branch, summary, description string, change func(map[string]entry)) string {
	c := &commit{summary: summary, description: description, files: map[string]entry{}}
	parent, old := r.at(branch)
	if old != nil {
		maps.Copy(c.files, old.files)
	}
	change(c.files)
	var b bytes.Buffer
	fmt.Fprintln(&b, parent, summary, description, len(r.commits))
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		fmt.Fprintln(&b, name, c.files[name].blob())
	}
	id := gitName("commit", b.Bytes())
	r.commits[id], r.branches[branch] = c, id
	return id
}

// request is one about a repository, by somebody who may see it.
type request struct {
	http.ResponseWriter
	r                  *http.Request
	id, revision, user string
	repo               *repo
}

// resolved is the path of a file at a revision.
var resolved = regexp.MustCompile(`^/([^/]+)/([^/]+)/resolve/([^/]+)/(.+)$`)

// hub is the endpoint. All of a request happens at once.
func (s *Server) hub() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/whoami-v2", func(w http.ResponseWriter, r *http.Request) {
		user, ok := s.userOf(w, r)
		if ok {
			answer(w, map[string]any{"type": "user", "id": "1", "name": user, "fullname": user, "orgs": []any{}, "auth": map[string]any{"type": "access_token"}})
		}
	})
	mux.HandleFunc("POST /api/repos/create", s.create)
	mux.HandleFunc("POST /api/validate-yaml", s.validate)
	guarded := func(writes bool, f func(request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			q := request{ResponseWriter: w, r: r, id: r.PathValue("ns") + "/" + r.PathValue("name"), revision: r.PathValue("rev")}
			q.user = s.users[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
			q.id = strings.TrimSuffix(q.id, ".git")
			q.repo = s.repos[q.id]
			switch owner := q.user == r.PathValue("ns"); {
			case q.repo == nil || q.repo.private && !owner:
				status := http.StatusNotFound
				if q.user == "" {
					status = http.StatusUnauthorized
				}
				refuse(w, status, "RepoNotFound", "Repository not found")
				return
			case writes && !owner:
				refuse(w, http.StatusForbidden, "", "you may not write to %s", q.id)
				return
			}
			if _, c := q.repo.at(q.revision); q.revision != "" && c == nil {
				refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: %s", q.revision)
				return
			}
			f(q)
		}
	}
	about := func(pattern string, writes bool, f func(request)) { mux.HandleFunc(pattern, guarded(writes, f)) }
	about("GET /api/models/{ns}/{name}", false, s.info)
	about("GET /api/models/{ns}/{name}/revision/{rev}", false, s.info)
	about("GET /api/models/{ns}/{name}/tree/{rev}", false, s.tree)
	about("POST /api/models/{ns}/{name}/preupload/{rev}", true, s.preupload)
	about("POST /api/models/{ns}/{name}/commit/{rev}", true, s.commit)
	about("POST /api/models/{ns}/{name}/branch/{branch...}", true, s.branch)
	about("POST /{ns}/{name}/info/lfs/objects/batch", true, s.batch)
	resolve := guarded(false, s.resolve)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) { // HEAD too
		m := resolved.FindStringSubmatch(r.URL.EscapedPath())
		if m == nil {
			http.NotFound(w, r)
			return
		}
		for i, name := range []string{"ns", "name", "rev", "file"} {
			value, err := url.PathUnescape(m[i+1])
			if err != nil {
				http.NotFound(w, r)
				return
			}
			r.SetPathValue(name, value)
		}
		resolve(w, r)
	})
	mux.HandleFunc("POST /lfs/verify", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := s.userOf(w, r); !ok {
			return
		}
		var o struct {
			OID  string
			Size int64
		}
		if !readJSON(w, r, &o) {
			return
		}
		s.mu.Lock()
		size, ok := s.objects[o.OID]
		s.mu.Unlock()
		if !ok || size != o.Size {
			refuse(w, http.StatusNotFound, "", "there is no such object of %d bytes", o.Size)
		}
	})
	mux.HandleFunc("POST /lfs/complete/{oid}", s.complete)
	mux.HandleFunc("POST /oauth/token", s.giveToken)
	mux.HandleFunc("GET "+ActionsPath, s.mint)
	return mux
}

func (s *Server) userOf(w http.ResponseWriter, r *http.Request) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, ok := s.users[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !ok {
		refuse(w, http.StatusUnauthorized, "", "Invalid username or password.")
	}
	return user, ok
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	user, ok := s.userOf(w, r)
	var in struct{ Name, Organization, Type, Visibility string }
	if !ok || !readJSON(w, r, &in) {
		return
	}
	if in.Organization == "" {
		in.Organization = user
	}
	id := in.Organization + "/" + in.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case in.Type != "" && in.Type != "model":
		refuse(w, http.StatusBadRequest, "", "only models are made here")
	case in.Organization != user:
		refuse(w, http.StatusForbidden, "", "You don't have the rights to create a model under the namespace %q", in.Organization)
	case s.repos[id] != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "You already created this model repo", "url": s.URL + "/" + id})
	default:
		s.makeRepo(id, in.Visibility == "private")
		answer(w, map[string]string{"url": s.URL + "/" + id, "name": id, "id": "2"})
	}
}

// validate checks a card's front matter as far as tests need it to be.
func (s *Server) validate(w http.ResponseWriter, r *http.Request) {
	var in struct{ Content, RepoType string }
	if !readJSON(w, r, &in) {
		return
	}
	type said struct {
		Message string `json:"message"`
	}
	out := map[string][]said{"errors": {}, "warnings": {}}
	front, _, closed := strings.Cut(strings.TrimPrefix(in.Content, "---\n"), "\n---\n")
	if !strings.HasPrefix(in.Content, "---\n") || !closed {
		out["warnings"] = []said{{"empty or missing yaml metadata in repo card"}}
	}
	for l := range strings.SplitSeq(front, "\n") {
		if strings.Contains(l, "\t") || closed && l != "" && !strings.Contains(l, ":") && !strings.HasPrefix(l, "- ") {
			out["errors"] = append(out["errors"], said{fmt.Sprintf("%q is not YAML", l)})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if len(out["errors"]) > 0 {
		w.WriteHeader(http.StatusBadRequest)
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Server) info(q request) {
	revision := q.revision
	if revision == "" {
		revision = "main"
	}
	id, c := q.repo.at(revision)
	siblings := []map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		siblings = append(siblings, map[string]string{"rfilename": name})
	}
	answer(q, map[string]any{"_id": "3", "id": q.id, "modelId": q.id, "sha": id, "private": q.repo.private, "siblings": siblings, "tags": []string{}, "downloads": 0, "likes": 0})
}

func (s *Server) tree(q request) {
	_, c := q.repo.at(q.revision)
	list := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		e := c.files[name]
		f := map[string]any{"type": "file", "path": name, "size": e.size, "oid": e.blob()}
		if e.lfs != "" {
			f["lfs"] = map[string]any{"oid": e.lfs, "size": e.size, "pointerSize": len(e.pointer())}
		}
		list = append(list, f)
	}
	answer(q, list)
}

func (s *Server) preupload(q request) {
	var in struct {
		Files []struct {
			Path   string
			Sample []byte
			Size   int64
		}
	}
	if !readJSON(q, q.r, &in) {
		return
	}
	_, c := q.repo.at(q.revision)
	files := []map[string]any{}
	for _, f := range in.Files {
		if len(f.Sample) != int(min(f.Size, 512)) {
			refuse(q, http.StatusBadRequest, "", "%s: a sample of %d bytes", f.Path, len(f.Sample))
			return
		}
		mode := "regular"
		if ext := path.Ext(f.Path); ext == ".safetensors" || ext == ".bin" || f.Size >= s.RegularBytes {
			mode = "lfs"
		}
		t := map[string]any{"path": f.Path, "uploadMode": mode, "shouldIgnore": false}
		if e, ok := c.files[f.Path]; ok {
			t["oid"] = e.blob()
			if e.lfs != "" {
				t["oid"] = e.lfs
			}
		}
		files = append(files, t)
	}
	answer(q, map[string]any{"files": files})
}

func (s *Server) branch(q request) {
	name := q.r.PathValue("branch")
	if _, ok := q.repo.branches[name]; ok {
		refuse(q, http.StatusConflict, "", "Reference already exists")
		return
	}
	q.repo.branches[name] = q.repo.branches["main"]
	q.WriteHeader(http.StatusCreated)
}

func (s *Server) commit(q request) {
	lines := json.NewDecoder(q.r.Body)
	if q.r.Header.Get("Content-Type") != "application/x-ndjson" {
		refuse(q, http.StatusBadRequest, "", "expected application/x-ndjson")
		return
	}
	var header struct{ Summary, Description, ParentCommit string }
	changes := map[string]entry{}
	deleted := []string{}
	for n := 0; lines.More(); n++ {
		var l struct {
			Key   string
			Value json.RawMessage
		}
		var v struct {
			Path, Content, Encoding, Algo, OID string
			Size                               int64
		}
		err := lines.Decode(&l)
		switch {
		case err == nil && l.Key == "header":
			if n > 0 {
				err = fmt.Errorf("the header comes first")
			} else {
				err = json.Unmarshal(l.Value, &header)
			}
		case err == nil:
			err = json.Unmarshal(l.Value, &v)
		}
		if err != nil {
			refuse(q, http.StatusBadRequest, "", "line %d: %v", n+1, err)
			return
		}
		switch l.Key {
		case "header":
		case "file":
			b, err := base64.StdEncoding.DecodeString(v.Content)
			if err != nil || v.Encoding != "base64" {
				refuse(q, http.StatusBadRequest, "", "%s is not base64", v.Path)
				return
			}
			changes[v.Path] = entry{content: b, size: int64(len(b))}
		case "lfsFile":
			size, ok := s.objects[v.OID]
			if !ok || v.Algo != "sha256" || v.Size != size {
				refuse(q, http.StatusBadRequest, "", "%s: LFS pointer pointed to a file that does not exist", v.Path)
				return
			}
			changes[v.Path] = entry{lfs: v.OID, size: size}
		case "deletedFile":
			deleted = append(deleted, v.Path)
		default:
			refuse(q, http.StatusBadRequest, "", "line %d: %q is not known", n+1, l.Key)
			return
		}
	}
	head, _ := q.repo.at(q.revision)
	switch _, isBranch := q.repo.branches[q.revision]; {
	case header.Summary == "":
		refuse(q, http.StatusBadRequest, "", "a commit needs a summary")
		return
	case !isBranch:
		refuse(q, http.StatusBadRequest, "", "%s is no branch", q.revision)
		return
	case header.ParentCommit != "" && header.ParentCommit != head:
		refuse(q, http.StatusPreconditionFailed, "", "A commit has happened since. Please refresh and try again.")
		return
	}
	out := map[string]any{"success": true}
	branch := q.revision
	if q.r.URL.Query().Get("create_pr") != "" {
		q.repo.pulls++
		branch = fmt.Sprintf("refs/pr/%d", q.repo.pulls)
		q.repo.branches[branch] = head
		out["pullRequestUrl"] = fmt.Sprintf("%s/%s/discussions/%d", s.URL, q.id, q.repo.pulls)
	}
	id := q.repo.add(branch, header.Summary, header.Description, func(to map[string]entry) {
		maps.Copy(to, changes)
		for _, name := range deleted {
			delete(to, name)
		}
	})
	out["commitOid"], out["commitUrl"] = id, fmt.Sprintf("%s/%s/commit/%s", s.URL, q.id, id)
	answer(q, out)
}

// resolve serves a file: a regular one itself, an LFS file by a redirection to
// storage.
func (s *Server) resolve(q request) {
	id, c := q.repo.at(q.revision)
	e, ok := c.files[q.r.PathValue("file")]
	if !ok {
		refuse(q, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	h := q.Header()
	h.Set("X-Repo-Commit", id)
	if e.lfs != "" {
		h.Set("X-Linked-Etag", strconv.Quote(e.lfs))
		h.Set("X-Linked-Size", strconv.FormatInt(e.size, 10))
		h.Set("Location", s.StorageURL+"/get/"+e.lfs+"?signature=secret")
		q.WriteHeader(http.StatusFound)
		return
	}
	h.Set("ETag", strconv.Quote(e.blob()))
	h.Set("Content-Length", strconv.FormatInt(e.size, 10))
	if q.r.Method != http.MethodHead {
		_, _ = q.Write(e.content)
	}
}

// object is where an LFS file is kept.
func (s *Server) object(oid string) string { return s.dir + string(os.PathSeparator) + oid }
