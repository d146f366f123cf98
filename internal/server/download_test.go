package server

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// signedURL asks where a checkpoint of the model can be fetched.
func (f *fixture) archivePath(name string) string {
	f.t.Helper()
	a := f.get("/training_runs/" + f.model + "/checkpoints/weights/" + name + "/archive").want(http.StatusFound)
	if a.header.Get("Location") != a.str("url") {
		f.t.Errorf("the answer redirects to %q but names %q", a.header.Get("Location"), a.str("url"))
	}
	path, ok := strings.CutPrefix(a.str("url"), f.url)
	if !ok {
		f.t.Fatalf("the URL %q is not one of %s", a.str("url"), f.url)
	}
	return path
}

func (f *fixture) fetch(path string) answer {
	f.t.Helper()
	return f.send(http.MethodGet, path, nil) // no credential
}

func TestSignedURLs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	f.save("b", 2, "")
	path := f.archivePath("a")

	members := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(f.fetch(path).want(http.StatusOK).body)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		members[h.Name] = true
	}
	if !members["adapter_model.safetensors"] || !members["checkpoint_complete"] {
		t.Errorf("the archive has %v", members)
	}

	where, rawQuery, _ := strings.Cut(path, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(url.Values)) string {
		q := url.Values{}
		for k, v := range query {
			q[k] = append([]string{}, v...)
		}
		change(q)
		return where + "?" + q.Encode()
	}
	expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]string{
		"unsigned":             where,
		"no expiry":            with(func(q url.Values) { q.Del("expires") }),
		"a later expiry":       with(func(q url.Values) { q.Set("expires", strconv.FormatInt(expires+3600, 10)) }),
		"the same, respelled":  with(func(q url.Values) { q.Set("expires", "+"+query.Get("expires")) }),
		"another signature":    with(func(q url.Values) { q.Set("signature", strings.Repeat("A", 43)) }),
		"another's path":       strings.Replace(path, "/weights/a/", "/weights/b/", 1),
		"another owner's run":  strings.Replace(path, f.session, "00000000-0000-0000-0000-000000000000", 1),
		"another kind of file": strings.Replace(path, "/archives/", "/files/", 1) + "&x=/adapter_config.json",
	} {
		a := f.fetch(p)
		a.what = name
		if name == "another kind of file" {
			a.want(http.StatusNotFound) // no such route, let alone a signature for it
			continue
		}
		a.want(http.StatusForbidden, "not signed by this server")
		a.detail()
	}

	f.clock.advance(time.Unix(expires, 0).Sub(f.clock.now()) - time.Second)
	f.fetch(path).want(http.StatusOK)
	f.clock.advance(time.Second)
	f.fetch(path).want(http.StatusForbidden, "has expired", "ask for a new one").detail()
	f.fetch(f.archivePath("a")).want(http.StatusOK)
}

func TestURLServesTheBytesItWasMadeForOrNone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	path := f.archivePath("a")
	// The same content again is the same archive.
	f.save("a", 2, `,"overwrite":true`)
	f.fetch(path).want(http.StatusOK)
	f.await(f.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":3}`, f.model)))
	f.save("a", 4, `,"overwrite":true`)
	f.fetch(path).want(http.StatusGone, "overwritten").detail()
	fresh := f.archivePath("a")
	f.fetch(fresh).want(http.StatusOK)
	f.send(http.MethodDelete, wire.APIPrefix+"/training_runs/"+f.model+"/checkpoints/weights/a", nil, wire.HeaderAPIKey, alice).want(http.StatusNoContent)
	f.fetch(fresh).want(http.StatusNotFound, "not found").detail()
}

func TestURLEndsWithItsCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, `,"ttl_seconds":60`)
	a := f.get("/training_runs/" + f.model + "/checkpoints/weights/a/archive").want(http.StatusFound)
	if got, want := a.header.Get("Expires"), f.clock.now().Add(time.Minute).Format(http.TimeFormat); got != want {
		t.Errorf("the URL expires at %s, want %s", got, want)
	}
	path := strings.TrimPrefix(a.str("url"), f.url)
	f.clock.advance(time.Minute)
	f.fetch(path).want(http.StatusForbidden, "has expired")
}

// A URL that outlives its checkpoint serves nothing any more, even if it was
// in use until then.
func TestURLOutlivesItsCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	f.save("b", 2, "")
	for _, name := range []string{"a", "b"} {
		archive := f.archivePath(name)
		var m wire.Manifest
		if err := json.Unmarshal(f.manifest(name, alice).want(http.StatusOK).body, &m); err != nil {
			t.Fatal(err)
		}
		file := strings.TrimPrefix(m.Files[1].URL, f.url)
		for range 2 {
			f.send(http.MethodGet, archive, nil, "Range", "bytes=0-99").want(http.StatusPartialContent)
			f.send(http.MethodGet, file, nil, "Range", "bytes=0-99").want(http.StatusPartialContent)
		}
		path := wire.APIPrefix + "/training_runs/" + f.model + "/checkpoints/weights/" + name
		if name == "a" {
			f.send(http.MethodPut, path+"/ttl", strings.NewReader(`{"ttl_seconds":60}`), wire.HeaderAPIKey, alice, "Content-Type", "application/json").want(http.StatusNoContent)
			f.clock.advance(time.Minute)
		} else {
			f.send(http.MethodDelete, path, nil, wire.HeaderAPIKey, alice).want(http.StatusNoContent)
		}
		f.send(http.MethodGet, archive, nil, "Range", "bytes=0-99").want(http.StatusNotFound, "not found").detail()
		f.send(http.MethodGet, file, nil, "Range", "bytes=0-99").want(http.StatusNotFound, "not found").detail()
	}
}

func TestExternalFiles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.await(f.post("/save_weights_external", fmt.Sprintf(`{"model_id":%q,"path":"x","seq_id":1}`, f.model)))
	a := f.get("/training_runs/" + f.model + "/checkpoints/external_weights/x/external_weights_urls").want(http.StatusOK)
	_, rest, _ := strings.Cut(string(a.body), f.url)
	path, _, _ := strings.Cut(rest, `"`)
	path = strings.ReplaceAll(path, `\u0026`, "&")
	whole := f.fetch(path).want(http.StatusOK)
	part := f.send(http.MethodGet, path, nil, "Range", "bytes=3-9").want(http.StatusPartialContent)
	if !bytes.Equal(part.body, whole.body[3:min(10, len(whole.body))]) {
		t.Errorf("bytes 3 to 9 are %q", part.body)
	}
	if etag := whole.header.Get("ETag"); etag == "" || f.send(http.MethodGet, path, nil, "If-None-Match", etag).status != http.StatusNotModified {
		t.Errorf("the entity tag %q is not honoured", etag)
	}
}

// manifest asks for a checkpoint's manifest.
func (f *fixture) manifest(name, key string) answer {
	f.t.Helper()
	return f.send(http.MethodGet, wire.ExtensionPrefix+"/training_runs/"+f.model+"/checkpoints/weights/"+name+"/manifest", nil, wire.HeaderAPIKey, key)
}

// A manifest's URLs give every file as it says, whole and in any part, to
// whoever has them and to nobody else.
func TestManifest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	var m wire.Manifest
	if err := json.Unmarshal(f.manifest("a", alice).want(http.StatusOK).body, &m); err != nil {
		t.Fatal(err)
	}
	if m.TinkerPath != "tinker://"+f.model+"/weights/a" || m.Digest == "" || len(m.Files) != 4 {
		t.Errorf("the manifest is %+v", m)
	}
	var sum int64
	for _, file := range m.Files {
		sum += file.SizeBytes
		path := strings.TrimPrefix(file.URL, f.url)
		got := f.fetch(path).want(http.StatusOK)
		if digest := sha256.Sum256(got.body); int64(len(got.body)) != file.SizeBytes || hex.EncodeToString(digest[:]) != file.SHA256 {
			t.Errorf("%s: %d bytes of digest %x, want %+v", file.Name, len(got.body), digest, file)
		}
		etag := got.header.Get("ETag")
		if etag != `"`+file.SHA256+`"` || got.header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%s: headers %v", file.Name, got.header)
		}
		if head := f.send(http.MethodHead, path, nil).want(http.StatusOK); head.header.Get("Content-Length") != strconv.FormatInt(file.SizeBytes, 10) || len(head.body) != 0 {
			t.Errorf("%s: HEAD says %v", file.Name, head.header)
		}
		if file.SizeBytes < 10 {
			continue
		}
		for _, r := range [][2]int64{{0, 0}, {3, 8}, {file.SizeBytes - 2, file.SizeBytes - 1}} {
			part := f.send(http.MethodGet, path, nil, "Range", fmt.Sprintf("bytes=%d-%d", r[0], r[1]), "If-Range", etag).want(http.StatusPartialContent)
			if !bytes.Equal(part.body, got.body[r[0]:r[1]+1]) {
				t.Errorf("%s: bytes %d to %d differ", file.Name, r[0], r[1])
			}
		}
		f.send(http.MethodGet, path, nil, "Range", "bytes=3-8", "If-Range", `"another"`).want(http.StatusOK)
		f.send(http.MethodGet, path, nil, "If-None-Match", etag).want(http.StatusNotModified)
		f.send(http.MethodGet, path, nil, "Range", fmt.Sprintf("bytes=%d-", file.SizeBytes)).want(http.StatusRequestedRangeNotSatisfiable)
		f.fetch(strings.Replace(path, file.SHA256, strings.Repeat("0", 64), 1)).want(http.StatusForbidden)
	}
	if sum != m.SizeBytes {
		t.Errorf("%d bytes in files of a checkpoint of %d", sum, m.SizeBytes)
	}
	f.send(http.MethodGet, wire.ExtensionPrefix+"/training_runs/"+f.model+"/checkpoints/weights/a/manifest", nil).want(http.StatusUnauthorized)
	if other, none := f.manifest("a", bob).want(http.StatusNotFound), f.manifest("none", bob).want(http.StatusNotFound); strings.Replace(other.detail(), "/a ", "/none ", 1) != none.detail() {
		t.Errorf("somebody else's is %q, none is %q", other.body, none.body)
	}
	f.send(http.MethodPost, wire.APIPrefix+"/training_runs/"+f.model+"/checkpoints/weights/a/publish", nil, wire.HeaderAPIKey, alice).want(http.StatusNoContent)
	f.manifest("a", bob).want(http.StatusOK)
	old := strings.TrimPrefix(m.Files[1].URL, f.url)
	f.await(f.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2}`, f.model)))
	f.save("a", 3, `,"overwrite":true`)
	gone := 0
	for _, file := range m.Files {
		// What is in the new one too is still that; nothing else comes in its place.
		switch got := f.fetch(strings.TrimPrefix(file.URL, f.url)); got.status {
		case http.StatusOK:
			if digest := sha256.Sum256(got.body); hex.EncodeToString(digest[:]) != file.SHA256 {
				t.Errorf("%s: the URL for %s gives %x", file.Name, file.SHA256, digest)
			}
		case http.StatusGone:
			gone++
		default:
			t.Errorf("%s: %d %s", file.Name, got.status, got.body)
		}
	}
	if gone == 0 {
		t.Error("no file changed")
	}
	f.clock.advance(time.Hour)
	f.fetch(old).want(http.StatusForbidden, "has expired")
}
