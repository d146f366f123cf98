package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/tinkextest"
)

// request makes one as any HTTP client would; a negative length is not told.
func request(t *testing.T, method, url, key string, body []byte, length int64) (status int, answer string, h http.Header) {
	t.Helper()
	var sent io.Reader = bytes.NewReader(body)
	if length > 16<<20 {
		// It is refused unread. A client that went on sending might find the
		// connection closed before it has read why.
		rest, done := io.Pipe()
		defer done.Close()
		sent = io.MultiReader(bytes.NewReader(body[:1000]), rest)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, io.NopCloser(sent))
	if err != nil {
		t.Fatal(err)
	}
	if req.ContentLength = length; length == 0 {
		req.Body = http.NoBody
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Every route of the extension wants a credential but those whose URLs are
// signed.
func TestExtensionsWantACredential(t *testing.T) {
	url := tinkextest.NewServer(t).URL
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/tinkex/v1/blobs/missing", 401},
		{"PUT", "/tinkex/v1/blobs/" + sha(nil), 401},
		{"POST", "/tinkex/v1/imports", 401},
		{"POST", "/tinkex/v1/restores", 401},
		{"POST", "/tinkex/v1/copies", 401},
		{"GET", "/tinkex/v1/usage", 401},
		{"GET", "/tinkex/v1/checkpoints", 401},
		{"GET", "/tinkex/v1/none", 401},
		{"GET", "/tinkex/v1/%62lobs/missing", 401},
		{"GET", "/tinkex/v1/files", 401},
		{"GET", "/tinkex/v1/archives/r/weights/n/d", 403},
		{"GET", "/tinkex/v1/files/r/weights/n/d/f", 403},
		{"GET", "/tinkex/v1/traces/s", 403},
		{"GET", "/api/v1/healthz", 200},
		{"GET", "/openapi.json", 200},
	} {
		if status, answer, _ := request(t, tc.method, url+tc.path, "", nil, 0); status != tc.status {
			t.Errorf("%s %s: %d %s, want %d", tc.method, tc.path, status, answer, tc.status)
		}
	}
	_, doc, _ := request(t, "GET", url+"/openapi.json", "", nil, 0)
	var spec struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(doc), &spec); err != nil {
		t.Fatal(err)
	}
	for path, method := range map[string]string{"/tinkex/v1/blobs/missing": "post", "/tinkex/v1/blobs/{sha256}": "put", "/tinkex/v1/imports": "post", "/tinkex/v1/restores": "post", "/tinkex/v1/copies": "post"} {
		if spec.Paths[path][method] == nil {
			t.Errorf("/openapi.json has no %s %s", method, path)
		}
	}
}

func TestBlobsOverHTTP(t *testing.T) {
	url := tinkextest.NewServer(t).URL + "/tinkex/v1/blobs/"
	b := []byte("some bytes")
	large := make([]byte, 16<<20+1)
	for name, tc := range map[string]struct {
		digest string
		body   []byte
		length int64
		status int
		says   string
	}{
		"sound":         {sha(b), b, 10, 204, ""},
		"again":         {sha(b), b, 10, 204, ""},
		"in capitals":   {strings.ToUpper(sha(b)), b, 10, 204, ""},
		"empty":         {sha(nil), nil, 0, 204, ""},
		"largest":       {sha(large[1:]), large[1:], 16 << 20, 204, ""},
		"too large":     {sha(large), large, 16<<20 + 1, 413, "16777216"},
		"no length":     {sha(b), b, -1, 411, "Content-Length"},
		"other bytes":   {sha([]byte("x")), b, 10, 400, sha(b) + ", not " + sha([]byte("x"))},
		"digest short":  {"abc", b, 10, 400, "64 hexadecimal"},
		"digest no hex": {strings.Repeat("x", 64), b, 10, 400, "sha256"},
	} {
		status, answer, _ := request(t, "PUT", url+tc.digest, "tml-a", tc.body, tc.length)
		if status != tc.status || !strings.Contains(answer, tc.says) {
			t.Errorf("%s: %d %s, want %d that says %q", name, status, answer, tc.status, tc.says)
		}
	}
	ask := fmt.Sprintf(`{"blobs":[{"sha256":%q,"size_bytes":10},{"sha256":%q,"size_bytes":1}],"tomorrow":1}`, sha(b), sha([]byte("x")))
	for key, want := range map[string]string{"tml-a": sha([]byte("x")), "tml-b": sha(b) + `","` + sha([]byte("x"))} {
		status, answer, _ := request(t, "POST", url+"missing", key, []byte(ask), int64(len(ask)))
		if status != 200 || strings.TrimSpace(answer) != `{"missing":["`+want+`"],"part_bytes":16777216}` {
			t.Errorf("%s is told %d %s", key, status, answer)
		}
	}
	for body, says := range map[string]string{
		`{"blobs":[{"sha256":"x","size_bytes":1}]}`: "blobs[0].sha256",
		`{"blobs":[{"size_bytes":1}]}`:              "sha256",
		`{}`:                                        "blobs",
		`[]`:                                        "",
	} {
		status, answer, _ := request(t, "POST", url+"missing", "tml-a", []byte(body), int64(len(body)))
		if status < 400 || status > 422 || !strings.Contains(answer, says) {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
}

func TestImportsOverHTTP(t *testing.T) {
	url := tinkextest.NewServer(t).URL + "/tinkex/v1/imports"
	file := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"size_bytes":5,"sha256":%q}`, name, sha([]byte(name)))
	}
	both := file("adapter_config.json") + "," + file("adapter_model.safetensors")
	for name, tc := range map[string]struct {
		body   string
		status int
		says   string
	}{
		"no name":        {`{"files":[` + both + `]}`, 0, "name"},
		"bad name":       {`{"name":"a/b","files":[` + both + `]}`, 400, "name: "},
		"bad type":       {`{"name":"a","types":["external_weights"],"files":[` + both + `]}`, 400, "types[0]"},
		"type twice":     {`{"name":"a","types":["weights","weights"],"files":[` + both + `]}`, 400, "types[1]"},
		"ttl":            {`{"name":"a","ttl_seconds":0,"files":[` + both + `]}`, 400, "ttl_seconds"},
		"no files":       {`{"name":"a"}`, 0, "files"},
		"file missing":   {`{"name":"a","files":[` + file("adapter_config.json") + `]}`, 400, "there is no adapter_model.safetensors"},
		"bad digest":     {`{"name":"a","files":[{"name":"x","size_bytes":1,"sha256":"y"}]}`, 400, "files[0].sha256"},
		"bad part":       {`{"name":"a","files":[{"name":"x","size_bytes":1,"sha256":"` + sha(nil) + `","parts":[{"sha256":"y","size_bytes":1}]}]}`, 400, "files[0].parts[0].sha256"},
		"escaping":       {`{"name":"a","files":[` + both + `,` + file("../x") + `]}`, 400, "files[2].name"},
		"nothing sent":   {`{"name":"a","files":[` + both + `]}`, 409, "files[0]: adapter_config.json has not been sent"},
		"no such run":    {`{"name":"a","run_id":"none","files":[` + both + `]}`, 404, "run_id"},
		"tomorrow's":     {`{"name":"a","a_field_of_tomorrow":{},"base_model":null,"files":[` + both + `]}`, 409, "has not been sent"},
		"not an object":  {`3`, 0, ""},
		"cut off":        {`{"name":`, 400, ""},
		"size too large": {`{"name":"a","files":[{"name":"x","size_bytes":1e30,"sha256":"` + sha(nil) + `"}]}`, 0, ""},
	} {
		status, answer, h := request(t, "POST", url, "tml-a", []byte(tc.body), int64(len(tc.body)))
		if status != tc.status && (tc.status != 0 || status < 400 || status > 422) || !strings.Contains(answer, tc.says) || !strings.Contains(answer, `"detail"`) {
			t.Errorf("%s: %d %s, want %d that says %q", name, status, answer, tc.status, tc.says)
		}
		if status == 409 && h.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: the 409 is to be retried", name)
		}
	}
}
