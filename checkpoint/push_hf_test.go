package checkpoint_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
	"github.com/tinkex/tinkex/tinkextest"
)

// adapters saves a checkpoint of each kind, and trains nothing.
func adapters(t *testing.T) (rest *tinkex.RestClient, training, sampler tinkex.TinkerPath) {
	t.Helper()
	svc := client(t, tinkextest.NewServer(t), tinkextest.Key)
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4, SkipMLP: true})
	if err != nil {
		t.Fatal(err)
	}
	a, err := tc.SaveState(t.Context(), "0001", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := tc.SaveWeightsForSampler(t.Context(), "0001", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return svc.RestClient(), a.Path, b.Path
}

func entriesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestExport(t *testing.T) {
	rest, training, sampler := adapters(t)
	for _, path := range []tinkex.TinkerPath{training, sampler} {
		dir := filepath.Join(t.TempDir(), "made", "adapter")
		d, err := checkpoint.Export(t.Context(), rest, path, checkpoint.ExportOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := entriesOf(t, dir), []string{checkpoint.ManifestFile, "README.md", "adapter_config.json", "adapter_model.safetensors"}; !slices.Equal(got, want) {
			t.Errorf("%s: exported %q, want %q", path, got, want)
		}
		onlyEntry(t, filepath.Dir(dir), "adapter")
		if d.Dir != dir || !d.Verified || d.BaseModel != tinkextest.BaseModel || len(d.Files) != 3 || d.Fetched >= d.SizeBytes {
			t.Errorf("exported %+v", d)
		}
		if v, err := checkpoint.Verify(t.Context(), dir); err != nil || !v.Intact() || v.Checked != 3 || len(v.Extra) > 0 {
			t.Errorf("verified %+v, %v", v, err)
		}
		card, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"---\nbase_model: " + tinkextest.BaseModel + "\nlibrary_name: peft\ntags:\n- tinker\n- peft\n- lora\n- base_model:adapter:" + tinkextest.BaseModel + "\ntinker_path: " + path.String() + "\n---\n",
			"| Rank | 4 |", "| Trained parts | attention, unembedding |", "`" + path.String() + "`", `from_pretrained("path/to/this/directory")`,
		} {
			if !strings.Contains(string(card), want) {
				t.Errorf("the card lacks %q:\n%s", want, card)
			}
		}
		// What is exported is an adapter to import.
		if _, err := checkpoint.Import(t.Context(), rest, dir, checkpoint.ImportOptions{Name: "back"}); err != nil {
			t.Error(err)
		}

		// A checkpoint's directory is replaced only if that is wanted, somebody
		// else's never.
		if _, err := checkpoint.Export(t.Context(), rest, path, checkpoint.ExportOptions{Dir: dir}); !errors.Is(err, tinkex.ErrExists) {
			t.Errorf("once more: %v", err)
		}
		again := checkpoint.ExportOptions{Dir: dir, Force: true, NoModelCard: true}
		if _, err := checkpoint.Export(t.Context(), rest, path, again); err != nil || slices.Contains(entriesOf(t, dir), "README.md") {
			t.Errorf("replaced: %v, %q", err, entriesOf(t, dir))
		}
		again.Dir = filepath.Dir(dir)
		if _, err := checkpoint.Export(t.Context(), rest, path, again); !errors.Is(err, tinkex.ErrInvalid) || !strings.Contains(err.Error(), "is not replaced") {
			t.Errorf("a directory of other things: %v", err)
		}
		if len(entriesOf(t, dir)) != 3 {
			t.Errorf("the refused export left %q", entriesOf(t, dir))
		}
	}
}

// foreign is a server that gives an archive of these files and knows nothing
// else.
type foreign struct {
	url  string
	info *tinkex.WeightsInfo
}

func (f foreign) ArchiveURL(context.Context, tinkex.TinkerPath) (tinkex.ArchiveURL, error) {
	return tinkex.ArchiveURL{URL: f.url}, nil
}

func (f foreign) WeightsInfo(context.Context, tinkex.TinkerPath) (tinkex.WeightsInfo, error) {
	if f.info == nil {
		return tinkex.WeightsInfo{}, &tinkex.Error{Status: http.StatusNotFound}
	}
	return *f.info, nil
}

func archived(t *testing.T, files ...string) foreign {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(files[i+1]))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.Bytes()))
	}))
	t.Cleanup(srv.Close)
	return foreign{url: srv.URL}
}

// emptyTensors is a safetensors file without tensors.
const emptyTensors = "\x08\x00\x00\x00\x00\x00\x00\x00{}      "

func TestExportFromOtherServers(t *testing.T) {
	t.Parallel()
	path := tinkex.TinkerPath{RunID: "run", Type: tinkex.Sampler, Name: "x"}
	external := tinkex.TinkerPath{RunID: "run", Type: tinkex.External, Name: "x"}
	config := `{"z": [1], "peft_type": "LORA", "base_model_name_or_path": null}`
	named := `{"base_model_name_or_path": "org/model"}`
	lora := &tinkex.WeightsInfo{IsLoRA: true, BaseModel: "org/other"}
	for name, tc := range map[string]struct {
		path  tinkex.TinkerPath
		files []string
		info  *tinkex.WeightsInfo
		err   string // of those that are refused
		// config is what adapter_config.json is in the end, card what README.md
		// has and noCard what not.
		config, base, card, noCard string
	}{
		"nobody says":        {path: path, files: []string{"adapter_config.json", config, "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, config: config, card: "`adapter_config.json` names", noCard: "base_model"},
		"the config says":    {path: path, files: []string{"adapter_config.json", named, "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, config: named, base: "org/model", card: "base_model: org/model\n"},
		"the server says":    {path: path, info: lora, files: []string{"adapter_config.json", config, "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, config: "{\n  \"base_model_name_or_path\": \"org/other\",\n  \"peft_type\": \"LORA\",\n  \"z\": [\n    1\n  ]\n}\n", base: "org/other", card: "base_model:adapter:org/other"},
		"a folder":           {path: path, info: &tinkex.WeightsInfo{IsLoRA: true, BaseModel: "/data/my model"}, files: []string{"adapter_config.json", named, "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, config: named, base: "/data/my model", card: "on top of `/data/my model`", noCard: "base_model:"},
		"a card of its own":  {path: path, files: []string{"README.md", "mine", "adapter_config.json", named, "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, config: named, base: "org/model", card: "mine", noCard: "peft"},
		"a pickle":           {path: path, files: []string{"adapter_config.json", named, "adapter_model.bin", "x", "checkpoint_complete", ""}, config: named, base: "org/model"},
		"external weights":   {path: external, files: []string{"adapter_config.json", named, "adapter_model.safetensors", emptyTensors}, config: named, base: "org/model"},
		"optimizer's state":  {path: path, files: []string{"adapter_config.json", named, "adapter_model.safetensors", emptyTensors, "optimizer_state.safetensors", emptyTensors, "checkpoint_complete", ""}, config: named, base: "org/model"},
		"no config":          {path: path, files: []string{"adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, err: "it has no adapter_config.json"},
		"no weights":         {path: path, files: []string{"adapter_config.json", named, "checkpoint_complete", ""}, err: "it has no adapter_model.safetensors"},
		"encrypted":          {path: external, files: []string{"adapter_config.json.age", "x", "adapter_model.safetensors.age", "x"}, err: "it has no adapter_config.json"},
		"cut off":            {path: path, files: []string{"adapter_config.json", named, "adapter_model.safetensors", emptyTensors}, err: "it has no checkpoint_complete"},
		"no JSON":            {path: path, files: []string{"adapter_config.json", "[]", "adapter_model.safetensors", emptyTensors, "checkpoint_complete", ""}, err: "is not a JSON object"},
		"weights of a model": {path: path, info: &tinkex.WeightsInfo{BaseModel: "org/other"}, err: "only LoRA checkpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := archived(t, tc.files...)
			f.info = tc.info
			parent := t.TempDir()
			dir := filepath.Join(parent, "adapter")
			d, err := checkpoint.Export(t.Context(), f, tc.path, checkpoint.ExportOptions{Dir: dir})
			if tc.err != "" {
				if !errors.Is(err, checkpoint.ErrNotPEFT) || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v, want %q", err, tc.err)
				}
				onlyEntry(t, parent, "")
				return
			}
			if err != nil || d.BaseModel != tc.base || d.Verified {
				t.Fatalf("exported %+v, %v", d, err)
			}
			got, _ := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
			card, _ := os.ReadFile(filepath.Join(dir, "README.md"))
			if string(got) != tc.config {
				t.Errorf("adapter_config.json is %s", got)
			}
			if !strings.Contains(string(card), tc.card) || tc.noCard != "" && strings.Contains(string(card), tc.noCard) {
				t.Errorf("the card is\n%s", card)
			}
			if have := entriesOf(t, dir); slices.Contains(have, "checkpoint_complete") || slices.Contains(have, "optimizer_state.safetensors") {
				t.Errorf("exported %q", have)
			}
			if v, err := checkpoint.Verify(t.Context(), dir); err != nil || !v.Intact() || len(v.Extra) > 0 {
				t.Errorf("verified %+v, %v", v, err)
			}
		})
	}
}

func hubOptions(s *hubtest.Server) checkpoint.PushHFOptions {
	return checkpoint.PushHFOptions{Endpoint: s.URL, Token: hubtest.Token, RetryDelay: time.Millisecond}
}

func TestPushHF(t *testing.T) {
	rest, training, sampler := adapters(t)
	s := hubtest.New(t)
	opts := hubOptions(s)
	opts.TempDir = t.TempDir()
	var sent, total int64
	opts.Progress = func(s, n int64) { sent, total = s, n }
	d, err := checkpoint.PushHF(t.Context(), rest, sampler, opts)
	if err != nil {
		t.Fatal(err)
	}
	// Run ids hold colons, which repositories do not.
	repo := hubtest.User + "/tinker-tiny-" + strings.ReplaceAll(sampler.RunID, ":", "-")
	if d.Repo != repo || d.Revision != "sampler_weights-0001" || !d.Private || !d.Created || d.Unchanged || d.BaseModel != tinkextest.BaseModel {
		t.Errorf("pushed %+v", d)
	}
	if !s.Private(repo) || s.Message(repo, d.Revision) != "Upload "+sampler.String() || sent == 0 || sent != total || sent != d.SentBytes {
		t.Errorf("private %t, message %q, sent %d of %d (%d)", s.Private(repo), s.Message(repo, d.Revision), sent, total, d.SentBytes)
	}
	files := s.Files(repo, d.Revision)
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, []string{"README.md", "adapter_config.json", "adapter_model.safetensors"}) {
		t.Errorf("pushed %q", got)
	}
	if !strings.Contains(files["README.md"], `from_pretrained("`+repo+`")`) {
		t.Errorf("the card is\n%s", files["README.md"])
	}
	if len(s.Files(repo, "main")) != 0 {
		t.Errorf("the main branch has %q", slices.Sorted(maps.Keys(s.Files(repo, "main"))))
	}
	onlyEntry(t, opts.TempDir, "")

	// Once more it is all there; the run's other checkpoint is a branch beside
	// it, whose weights are there too.
	if again, err := checkpoint.PushHF(t.Context(), rest, sampler, opts); err != nil || !again.Unchanged || again.Created || again.Commit != d.Commit {
		t.Errorf("again: %+v, %v", again, err)
	}
	if other, err := checkpoint.PushHF(t.Context(), rest, training, opts); err != nil || other.Repo != repo || other.Revision != "weights-0001" || other.SentBytes != 0 || other.Created {
		t.Errorf("the other: %+v, %v", other, err)
	}
}

func TestPushHFOptions(t *testing.T) {
	rest, _, path := adapters(t)
	s := hubtest.New(t)
	s.AddRepo(hubtest.User+"/public", false, nil)
	for name, tc := range map[string]struct {
		change func(o *checkpoint.PushHFOptions)
		check  func(t *testing.T, d checkpoint.PushedHF, notices []string)
	}{
		"public": {func(o *checkpoint.PushHFOptions) { o.Repo, o.Public, o.CommitMessage = "open", true, "mine" }, func(t *testing.T, d checkpoint.PushedHF, notices []string) {
			if d.Repo != hubtest.User+"/open" || d.Revision != "main" || d.Private || s.Private(d.Repo) || s.Message(d.Repo, "main") != "mine" || len(notices) > 0 {
				t.Errorf("%+v, %q", d, notices)
			}
		}},
		"one that is public": {func(o *checkpoint.PushHFOptions) { o.Repo = hubtest.User + "/public" }, func(t *testing.T, d checkpoint.PushedHF, notices []string) {
			if d.Private || d.Created || len(notices) != 1 || !strings.Contains(notices[0], "everybody will see") {
				t.Errorf("%+v, %q", d, notices)
			}
		}},
		"pull request": {func(o *checkpoint.PushHFOptions) { o.CreatePR = true }, func(t *testing.T, d checkpoint.PushedHF, _ []string) {
			if d.Revision != "main" || d.PullRequestURL == "" || len(s.Files(d.Repo, "main")) != 0 || len(s.Files(d.Repo, "refs/pr/1")) != 3 {
				t.Errorf("%+v", d)
			}
		}},
		"patterns": {func(o *checkpoint.PushHFOptions) {
			o.Repo, o.AllowPatterns, o.IgnorePatterns = "some", []string{"adapter*", "*.md"}, []string{"[a]*.json"}
		}, func(t *testing.T, d checkpoint.PushedHF, _ []string) {
			if got := slices.Sorted(maps.Keys(s.Files(d.Repo, "main"))); !slices.Equal(got, []string{"README.md", "adapter_model.safetensors"}) || len(d.Files) != 2 {
				t.Errorf("%q, %+v", got, d.Files)
			}
		}},
		"no card": {func(o *checkpoint.PushHFOptions) { o.Repo, o.NoModelCard = "bare", true }, func(t *testing.T, d checkpoint.PushedHF, _ []string) {
			if _, ok := s.Files(d.Repo, "main")["README.md"]; ok || len(d.Files) != 2 {
				t.Errorf("%+v", d)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := hubOptions(s)
			var notices []string
			opts.Notice = func(m string) { notices = append(notices, m) }
			tc.change(&opts)
			d, err := checkpoint.PushHF(t.Context(), rest, path, opts)
			if err != nil {
				t.Fatal(err)
			}
			tc.check(t, d, notices)
		})
	}
}

func TestPushHFRefusals(t *testing.T) {
	rest, training, sampler := adapters(t)
	s := hubtest.New(t)
	mine := func(name string) string { return hubtest.User + "/" + name }
	s.AddRepo(mine("other"), true, map[string]string{"README.md": "of `" + training.String() + "`."})
	s.AddRepo(mine("files"), true, map[string]string{"README.md": "a card", "model.gguf": "x"})
	s.AddRepo("somebody/else", false, nil)
	missing := sampler
	missing.Name = "missing"
	for name, tc := range map[string]struct {
		path   tinkex.TinkerPath
		change func(o *checkpoint.PushHFOptions)
		is     error
		want   string
	}{
		"another checkpoint's": {sampler, func(o *checkpoint.PushHFOptions) { o.Repo = mine("other") }, checkpoint.ErrOccupied, "holds another checkpoint: " + training.String()},
		"somebody's files":     {sampler, func(o *checkpoint.PushHFOptions) { o.Repo = mine("files") }, checkpoint.ErrOccupied, "has 2 files and no model card that names this checkpoint"},
		"a pull request there": {sampler, func(o *checkpoint.PushHFOptions) { o.Repo, o.CreatePR = mine("other"), true }, checkpoint.ErrOccupied, "another checkpoint"},
		"somebody else's":      {sampler, func(o *checkpoint.PushHFOptions) { o.Repo = "somebody/else" }, tinkex.ErrForbidden, "you may not write"},
		"another namespace":    {sampler, func(o *checkpoint.PushHFOptions) { o.Repo = "somebody/new" }, tinkex.ErrForbidden, "rights to create"},
		"a wrong token":        {sampler, func(o *checkpoint.PushHFOptions) { o.Token = "hf_wrong" }, tinkex.ErrUnauthorized, "HTTP 401"},
		"no repository id":     {sampler, func(o *checkpoint.PushHFOptions) { o.Repo = "a/b/c" }, tinkex.ErrInvalid, "NAMESPACE/NAME"},
		"no branch":            {sampler, func(o *checkpoint.PushHFOptions) { o.Repo, o.Revision = "x", "a..b" }, tinkex.ErrInvalid, "cannot be a branch"},
		"branch and request":   {sampler, func(o *checkpoint.PushHFOptions) { o.Repo, o.Revision, o.CreatePR = "x", "b", true }, tinkex.ErrInvalid, "pull request"},
		"no pattern":           {sampler, func(o *checkpoint.PushHFOptions) { o.AllowPatterns = []string{"[z-a]"} }, tinkex.ErrInvalid, "no pattern"},
		"nothing left":         {sampler, func(o *checkpoint.PushHFOptions) { o.Repo, o.AllowPatterns = "x", []string{"*.gguf"} }, tinkex.ErrInvalid, "leave no file"},
		"no such checkpoint":   {missing, func(o *checkpoint.PushHFOptions) { o.Repo = "x" }, tinkex.ErrNotFound, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := hubOptions(s)
			opts.TempDir = t.TempDir()
			tc.change(&opts)
			d, err := checkpoint.PushHF(t.Context(), rest, tc.path, opts)
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v; want %v, %q", d, err, tc.is, tc.want)
			}
			onlyEntry(t, opts.TempDir, "")
		})
	}
	if len(s.Repos()) != 3 {
		t.Errorf("refused pushes made repositories: %q", s.Repos())
	}
	// What is refused can be insisted on, and a branch beside it is nobody's.
	opts := hubOptions(s)
	opts.Repo, opts.Revision = mine("other"), "beside"
	if _, err := checkpoint.PushHF(t.Context(), rest, sampler, opts); err != nil {
		t.Error(err)
	}
	opts.Revision, opts.Force = "", true
	if _, err := checkpoint.PushHF(t.Context(), rest, sampler, opts); err != nil {
		t.Error(err)
	}
	if !strings.Contains(s.Files(mine("other"), "main")["README.md"], sampler.String()) {
		t.Error("the push that was insisted on came to nothing")
	}
}

// Somebody commits while the checkpoint is on its way.
func TestPushHFIntoAMovingBranch(t *testing.T) {
	rest, training, sampler := adapters(t)
	s := hubtest.New(t)
	opts := hubOptions(s)
	opts.Repo = "moving"
	if _, err := checkpoint.PushHF(t.Context(), rest, sampler, opts); err != nil {
		t.Fatal(err)
	}
	mine := opts
	mine.Force = true
	moved := false
	opts.Download.Progress = func(checkpoint.Progress) {
		if !moved {
			moved = true
			if _, err := checkpoint.PushHF(context.Background(), rest, training, mine); err != nil {
				t.Error(err)
			}
		}
	}
	opts.CommitMessage = "late"
	_, err := checkpoint.PushHF(t.Context(), rest, sampler, opts)
	if !errors.Is(err, tinkex.ErrConflict) || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Errorf("%v", err)
	}
	if got := s.Message(hubtest.User+"/moving", "main"); got == "late" {
		t.Error("the late push was committed all the same")
	}
}
