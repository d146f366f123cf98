package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

const restoreOrigin = "tinker://there:train:0/weights/a"

// restoreBody is a request that restores a checkpoint of one file.
func restoreBody(content string, change map[string]any) []byte {
	body := map[string]any{
		"origin": restoreOrigin, "base_model": "Elsewhere/Only", "lora_rank": 8, "train_mlp": false,
		"time": "2025-03-01T10:00:00Z", "user_metadata": map[string]string{"note": "x"}, "run_metadata": map[string]string{"who": "me"},
		"files":               []any{map[string]any{"name": "adapter_model.safetensors", "size_bytes": len(content), "sha256": sha([]byte(content))}},
		"a_field_of_tomorrow": 1,
	}
	for k, v := range change {
		if body[k] = v; v == nil {
			delete(body, k)
		}
	}
	b, _ := json.Marshal(body) // it is plain data
	return b
}

func sendBlob(t *testing.T, url, key, content string) {
	t.Helper()
	if status, answer, _ := request(t, "PUT", url+"/tinkex/v1/blobs/"+sha([]byte(content)), key, []byte(content), int64(len(content))); status != 204 {
		t.Fatalf("%d %s", status, answer)
	}
}

func restored(t *testing.T, url, key string, body []byte, wantStatus int, says string) (out tinkex.RestoreResult) {
	t.Helper()
	status, answer, h := request(t, "POST", url+"/tinkex/v1/restores", key, body, int64(len(body)))
	if status != wantStatus && (wantStatus != 0 || status < 400 || status > 422) || !strings.Contains(answer, says) {
		t.Errorf("%s\n%d %s, want %d that says %q", body, status, answer, wantStatus, says)
	}
	if status == 409 && h.Get("X-Should-Retry") != "false" {
		t.Error("the 409 is to be retried")
	}
	if status == 200 {
		if err := json.Unmarshal([]byte(answer), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestRestoresOverHTTP(t *testing.T) {
	t.Parallel()
	url := tinkextest.NewServer(t).URL
	const key = "tml-a"
	restored(t, url, key, restoreBody("one", nil), 409, "has not been sent")
	sendBlob(t, url, key, "one")
	first := restored(t, url, key, restoreBody("one", nil), 200, "")
	c := first.Checkpoint
	if !first.Created || c.CheckpointID != "weights/a" || !c.Time.Equal(time.Date(2025, 3, 1, 10, 0, 0, 0, time.UTC)) || c.Public || c.ExpiresAt != nil ||
		c.BaseModel != "Elsewhere/Only" || c.UserMetadata["note"] != "x" || c.UserMetadata["restored_from"] != restoreOrigin {
		t.Errorf("restored %+v", first)
	}
	if again := restored(t, url, key, restoreBody("one", nil), 200, ""); again.Created || again.Checkpoint.TinkerPath != c.TinkerPath {
		t.Errorf("again %+v", again)
	}
	// One of the same run comes beside it, and times of the future are now.
	b := restored(t, url, key, restoreBody("one", map[string]any{
		"origin": "tinker://there:train:0/sampler_weights/b", "time": "2999-01-01T00:00:00Z", "ttl_seconds": 3600,
	}), 200, "")
	if p, q := pathOf(t, b.Checkpoint), pathOf(t, c); p.RunID != q.RunID || b.Checkpoint.Time.After(time.Now().Add(time.Minute)) || b.Checkpoint.ExpiresAt == nil {
		t.Errorf("b is %+v", b)
	}
	// Another one of that name is none that is lost by accident.
	sendBlob(t, url, key, "another one")
	restored(t, url, key, restoreBody("another one", nil), 409, "has other files")
	if over := restored(t, url, key, restoreBody("another one", map[string]any{"overwrite": true}), 200, ""); !over.Created {
		t.Errorf("overwritten %+v", over)
	}
	// Nothing of it is another owner's.
	restored(t, url, "tml-b", restoreBody("one", nil), 409, "has not been sent")
	sendBlob(t, url, "tml-b", "one")
	if other := restored(t, url, "tml-b", restoreBody("one", nil), 200, ""); pathOf(t, other.Checkpoint).RunID == pathOf(t, c).RunID {
		t.Errorf("both owners have %+v", other)
	}
	restored(t, url, "tml-b", restoreBody("one", map[string]any{"run_id": pathOf(t, c).RunID}), 404, "run_id")

	file := func(change map[string]any) map[string]any {
		f := map[string]any{"name": "f", "size_bytes": 3, "sha256": sha([]byte("one"))}
		for k, v := range change {
			f[k] = v
		}
		return map[string]any{"files": []any{f}}
	}
	for says, change := range map[string]map[string]any{
		"origin":              {"origin": "tinker://x/y/z"},
		"base_model":          {"base_model": ""},
		"control character":   {"base_model": "Else\x1fwhere"},
		"lora_rank":           {"lora_rank": 0},
		"files: there are no": {"files": []any{}},
		"ttl_seconds":         {"ttl_seconds": 0},
		"files[0].name":       file(map[string]any{"name": "../f"}),
		"is reserved":         file(map[string]any{"name": ".tinkex-manifest.json"}),
		"more than 1048576":   file(map[string]any{"name": "adapter_config.json", "size_bytes": 2 << 20}),
		"files[0].sha256":     file(map[string]any{"sha256": "one"}),
		"is negative":         file(map[string]any{"size_bytes": -1}),
		"has 3 bytes, not 4": {"origin": "tinker://there:train:0/weights/y", "files": []any{
			map[string]any{"name": "f", "size_bytes": 4, "sha256": sha([]byte("one"))},
		}},
		"run_id: run": {"run_id": pathOf(t, c).RunID, "lora_rank": 4, "origin": "tinker://there:train:0/weights/z"},
	} {
		restored(t, url, key, restoreBody("one", change), 400, says)
	}
	for _, missing := range []string{"origin", "base_model", "lora_rank", "files"} {
		restored(t, url, key, restoreBody("one", map[string]any{missing: nil}), 0, missing)
	}
}

func pathOf(t *testing.T, c tinkex.Checkpoint) tinkex.TinkerPath {
	t.Helper()
	p, err := c.Path()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Restores of one run that come at once make one run and one of each.
func TestRestoresAtOnce(t *testing.T) {
	t.Parallel()
	url := tinkextest.NewServer(t).URL
	const key = "tml-a"
	sendBlob(t, url, key, "one")
	var mu sync.Mutex
	created, runs := map[string]int{}, map[string]bool{}
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			r := restored(t, url, key, restoreBody("one", map[string]any{"origin": fmt.Sprintf("tinker://there:train:0/weights/%d", i%6)}), 200, "")
			mu.Lock()
			defer mu.Unlock()
			runs[pathOf(t, r.Checkpoint).RunID] = true
			if r.Created {
				created[r.Checkpoint.CheckpointID]++
			}
		})
	}
	all.Wait()
	if len(runs) != 1 || len(created) != 6 {
		t.Errorf("runs %v, made %v", runs, created)
	}
	for id, n := range created {
		if n != 1 {
			t.Errorf("%s was made %d times", id, n)
		}
	}
}

func TestCopiesOverHTTP(t *testing.T) {
	t.Parallel()
	url := tinkextest.NewServer(t).URL
	sendBlob(t, url, "tml-a", "one")
	c := restored(t, url, "tml-a", restoreBody("one", nil), 200, "").Checkpoint
	run := pathOf(t, c).RunID
	for name, tc := range map[string]struct {
		key, body string
		status    int
		says      string
	}{
		"under its name":    {"tml-a", `{"source_path":"SRC"}`, 200, "/weights/a"},
		"under another":     {"tml-a", `{"source_path":"SRC","name":"b","ttl_seconds":60,"project_id":"p"}`, 200, "/weights/b"},
		"into its run":      {"tml-a", `{"source_path":"SRC","name":"c","run_id":"RUN"}`, 200, run + "/weights/c"},
		"onto itself":       {"tml-a", `{"source_path":"SRC","run_id":"RUN","overwrite":true}`, 400, "onto itself"},
		"no such run":       {"tml-a", `{"source_path":"SRC","run_id":"none"}`, 404, "run_id"},
		"run and project":   {"tml-a", `{"source_path":"SRC","run_id":"RUN","project_id":"p"}`, 400, "project_id"},
		"bad name":          {"tml-a", `{"source_path":"SRC","name":"a/b"}`, 400, "name: "},
		"bad path":          {"tml-a", `{"source_path":"x"}`, 400, "source_path"},
		"bad ttl":           {"tml-a", `{"source_path":"SRC","ttl_seconds":0}`, 400, "ttl_seconds"},
		"somebody else's":   {"tml-b", `{"source_path":"SRC"}`, 404, "not found"},
		"what is not there": {"tml-a", `{"source_path":"tinker://none/weights/a"}`, 404, "not found"},
	} {
		body := strings.NewReplacer("SRC", c.TinkerPath, "RUN", run).Replace(tc.body)
		status, answer, _ := request(t, "POST", url+"/tinkex/v1/copies", tc.key, []byte(body), int64(len(body)))
		if status != tc.status || !strings.Contains(answer, tc.says) {
			t.Errorf("%s: %d %s, want %d that says %q", name, status, answer, tc.status, tc.says)
		}
	}
}
