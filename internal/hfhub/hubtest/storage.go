package hubtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
)

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// batch says where LFS files are to be sent.
func (s *Server) batch(q request) {
	var in struct {
		Operation string
		HashAlgo  string `json:"hash_algo"`
		Transfers []string
		Objects   []struct {
			OID  string
			Size int64
		}
	}
	if !readJSON(q, q.r, &in) {
		return
	}
	if in.Operation != "upload" || in.HashAlgo != "sha256" || len(in.Transfers) == 0 {
		refuse(q, http.StatusUnprocessableEntity, "", "the operation is %q, the algorithm %q", in.Operation, in.HashAlgo)
		return
	}
	objects := []map[string]any{}
	for _, o := range in.Objects {
		object := map[string]any{"oid": o.OID, "size": o.Size}
		objects = append(objects, object)
		if !digest.MatchString(o.OID) || o.Size <= 0 {
			object["error"] = map[string]any{"code": 422, "message": "Invalid object"}
			continue
		}
		if _, ok := s.objects[o.OID]; ok {
			continue // without actions: it is there
		}
		upload := map[string]any{"href": s.StorageURL + "/put/" + o.OID + "?signature=secret"}
		if s.PartBytes > 0 && o.Size > s.PartBytes {
			header := map[string]string{"chunk_size": strconv.FormatInt(s.PartBytes, 10)}
			for n := 1; int64(n-1)*s.PartBytes < o.Size; n++ {
				header[fmt.Sprintf("%05d", n)] = fmt.Sprintf("%s/part/%s/%d?signature=secret", s.StorageURL, o.OID, n)
			}
			upload = map[string]any{"href": s.URL + "/lfs/complete/" + o.OID + "?signature=secret", "header": header}
		}
		object["actions"] = map[string]any{"upload": upload, "verify": map[string]any{"href": s.URL + "/lfs/verify"}}
	}
	answer(q, map[string]any{"transfer": "multipart", "objects": objects})
}

// storage takes and gives LFS files by signed addresses. Like a bucket, it
// refuses whoever brings another credential.
func (s *Server) storage() http.Handler {
	mux := http.NewServeMux()
	signed := func(pattern string, f http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("signature") != "secret" || r.Header.Get("Authorization") != "" {
				http.Error(w, "only one auth mechanism allowed", http.StatusBadRequest)
				return
			}
			f(w, r)
		})
	}
	signed("PUT /put/{oid}", func(w http.ResponseWriter, r *http.Request) {
		oid := r.PathValue("oid")
		sum, size, err := s.keep(r.Body, oid+".new", r.ContentLength)
		if err == nil && sum != oid {
			err = fmt.Errorf("it is %s", sum)
		}
		if err == nil {
			err = os.Rename(s.object(oid+".new"), s.object(oid))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.have(oid, size)
		w.Header().Set("ETag", strconv.Quote(oid))
	})
	signed("PUT /part/{oid}/{n}", func(w http.ResponseWriter, r *http.Request) {
		oid := r.PathValue("oid")
		n, err := strconv.Atoi(r.PathValue("n"))
		var sum string
		if err == nil {
			sum, _, err = s.keep(r.Body, fmt.Sprintf("%s.%d", oid, n), r.ContentLength)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		if s.parts[oid] == nil {
			s.parts[oid] = map[int]string{}
		}
		s.parts[oid][n] = sum
		s.mu.Unlock()
		w.Header().Set("ETag", strconv.Quote(sum))
	})
	signed("GET /get/{oid}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", strconv.Quote(r.PathValue("oid")))
		http.ServeFile(w, r, s.object(r.PathValue("oid")))
	})
	return mux
}

func (s *Server) have(oid string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[oid] = size
}

// keep writes a body to disk.
func (s *Server) keep(body io.Reader, name string, want int64) (sum string, size int64, err error) {
	f, err := os.Create(s.object(name))
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, h), body)
	if err == nil && size != want {
		err = fmt.Errorf("%d bytes of %d", size, want)
	}
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// complete puts the parts of an LFS file together.
func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	oid := r.PathValue("oid")
	var in struct {
		OID   string
		Parts []struct {
			PartNumber int
			ETag       string
		}
	}
	if r.URL.Query().Get("signature") != "secret" {
		refuse(w, http.StatusForbidden, "", "not signed")
		return
	}
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := os.Create(s.object(oid))
	if err != nil {
		refuse(w, http.StatusInternalServerError, "", "%v", err)
		return
	}
	defer out.Close()
	h := sha256.New()
	var size int64
	for i, p := range in.Parts {
		if p.PartNumber != i+1 || p.ETag != strconv.Quote(s.parts[oid][p.PartNumber]) {
			refuse(w, http.StatusBadRequest, "", "part %d is not the one that was sent", p.PartNumber)
			return
		}
		b, err := os.ReadFile(s.object(fmt.Sprintf("%s.%d", oid, p.PartNumber)))
		if err == nil {
			_, err = io.MultiWriter(out, h).Write(b)
		}
		if err != nil {
			refuse(w, http.StatusInternalServerError, "", "%v", err)
			return
		}
		size += int64(len(b))
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != oid || in.OID != oid {
		refuse(w, http.StatusBadRequest, "", "the parts make %s", sum)
		return
	}
	s.objects[oid] = size
}
