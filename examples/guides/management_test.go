package guides

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// What follows is docs/guides/checkpoint_management.md's.

func connect(ctx context.Context, out io.Writer) error {
	rest, err := tinkex.NewRestClient(tinkex.Options{}) // TINKER_API_KEY, TINKER_BASE_URL
	if err != nil {
		return err
	}
	defer rest.Close()
	caps, err := rest.ServerCapabilities(ctx)
	if err != nil {
		return err
	}
	for _, m := range caps.SupportedModels {
		fmt.Fprintln(out, "offers", m.ModelName)
	}
	return nil
}

func saving(ctx context.Context, out io.Writer, tc *tinkex.TrainingClient) error {
	toResume := tc.SaveState(ctx, "step-0100", tinkex.SaveOptions{})
	toSample := tc.SaveWeightsForSampler(ctx, "step-0100", tinkex.SaveOptions{
		TTL:          7 * 24 * time.Hour,
		UserMetadata: map[string]string{"loss": "0.42"},
	})
	for _, save := range []*tinkex.Future[*tinkex.SavedCheckpoint]{toResume, toSample} {
		saved, err := save.Await(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "saved", saved.Path.CheckpointID())
	}
	return nil
}

func paths(out io.Writer) error {
	path, err := tinkex.ParseTinkerPath("tinker://0a1b2c3d:train:0/weights/step-0100")
	if err != nil {
		return err // says what is wrong with it; errors.Is(err, tinkex.ErrInvalidPath)
	}
	fmt.Fprintln(out, path.RunID)          // 0a1b2c3d:train:0
	fmt.Fprintln(out, path.Type)           // training
	fmt.Fprintln(out, path.Name)           // step-0100
	fmt.Fprintln(out, path.CheckpointID()) // weights/step-0100
	return nil
}

func listing(ctx context.Context, out io.Writer, rest *tinkex.RestClient) error {
	// One page, the newest first.
	page, err := rest.ListCheckpoints(ctx, tinkex.ListOptions{Limit: 2})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, len(page.Checkpoints), "of", page.Cursor.TotalCount)

	// All of them, fetched page by page as the loop goes on.
	for c, err := range rest.AllCheckpoints(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return err
		}
		fmt.Fprintln(out, c.TinkerPath, c.Time.Format(time.DateOnly), c.Public)
	}

	// Some of them: what the command's filters select.
	weights := checkpoint.Selection{
		Types:   []tinkex.CheckpointType{tinkex.Training},
		Name:    "step-*",
		MinSize: 1 << 10,
		Before:  time.Now().Add(-24 * time.Hour),
	}
	for c, err := range weights.All(ctx, rest) {
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "older than a day:", c.CheckpointID)
	}
	return nil
}

func runs(ctx context.Context, out io.Writer, rest *tinkex.RestClient) error {
	for run, err := range rest.AllTrainingRuns(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return err
		}
		list, err := rest.ListRunCheckpoints(ctx, run.TrainingRunID)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has %d checkpoints\n", run.BaseModel, len(list.Checkpoints))
		if run.LastCheckpoint != nil {
			fmt.Fprintln(out, "go on from", run.LastCheckpoint.CheckpointID)
		}
	}
	return nil
}

func compatible(ctx context.Context, out io.Writer, rest *tinkex.RestClient, path tinkex.TinkerPath) error {
	info, err := rest.WeightsInfo(ctx, path)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, info.BaseModel, *info.LoRARank)

	_, err = checkpoint.ValidateCompatibility(ctx, rest, path, checkpoint.Requirements{Rank: 64, BaseModel: info.BaseModel})
	switch {
	case errors.Is(err, checkpoint.ErrRankMismatch), errors.Is(err, checkpoint.ErrBaseModelMismatch):
		fmt.Fprintln(out, "it does not fit")
	case errors.Is(err, tinkex.ErrNotFound):
		fmt.Fprintln(out, "it is not there")
	case err != nil:
		return err
	}
	return nil
}

func downloading(ctx context.Context, out io.Writer, rest *tinkex.RestClient, path tinkex.TinkerPath) error {
	d, err := checkpoint.Download(ctx, rest, path, checkpoint.DownloadOptions{
		Dir: "models",
		Progress: func(p checkpoint.Progress) {
			fmt.Fprintf(os.Stderr, "\r%d of %d bytes", p.Bytes, p.Total)
		},
	})
	if errors.Is(err, tinkex.ErrExists) {
		fmt.Fprintln(out, "downloaded before; set Force to replace it")
		return nil
	}
	if err != nil {
		return err // done again, it goes on where it stopped
	}
	for _, f := range d.Files {
		fmt.Fprintln(out, f.Name, f.Size, f.SHA256[:8])
	}

	v, err := checkpoint.Verify(ctx, d.Dir) // any time later; no server is asked
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "intact:", v.Intact(), "by digests of the", v.Digests)
	return nil
}

func archive(ctx context.Context, rest *tinkex.RestClient, path tinkex.TinkerPath) (*http.Response, error) {
	url, err := rest.ArchiveURL(ctx, path)
	if err != nil {
		return nil, err
	}
	// No credential: whoever has the URL can read the checkpoint until it expires.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url.URL, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req) // a tar
}

func sharing(ctx context.Context, rest *tinkex.RestClient, path tinkex.TinkerPath) error {
	if err := rest.Publish(ctx, path); err != nil && !errors.Is(err, tinkex.ErrConflict) {
		return err // a conflict: it is public already
	}
	return rest.Unpublish(ctx, path)
}

func expiring(ctx context.Context, out io.Writer, rest *tinkex.RestClient, path tinkex.TinkerPath) error {
	if err := rest.SetTTL(ctx, path, 48*time.Hour); err != nil {
		return err
	}
	c, err := rest.GetCheckpoint(ctx, path)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "expires in", time.Until(*c.ExpiresAt).Round(time.Hour))
	return rest.RemoveTTL(ctx, path)
}

func deleting(ctx context.Context, out io.Writer, rest *tinkex.RestClient, paths []tinkex.TinkerPath) error {
	d, err := checkpoint.Delete(ctx, rest, paths, checkpoint.DeleteOptions{GoneIsDone: true})
	for _, f := range d.Failed {
		fmt.Fprintln(out, "not deleted:", f.Path.CheckpointID())
	}
	fmt.Fprintln(out, len(d.Deleted), "deleted,", len(d.Gone), "gone before")
	return err
}

func sessions(ctx context.Context, out io.Writer, rest *tinkex.RestClient) error {
	for id, err := range rest.AllSessions(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return err
		}
		s, err := rest.GetSession(ctx, id)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, len(s.TrainingRunIDs), "runs,", len(s.SamplerIDs), "samplers")
	}
	return nil
}

func whatToDo(err error) string {
	var e *tinkex.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "nothing: this program gave up"
	case errors.Is(err, tinkex.ErrUnauthorized):
		return "check TINKER_API_KEY and TINKER_BASE_URL"
	case errors.Is(err, tinkex.ErrNotFound):
		return "look whether it expired, or belongs to another key"
	case errors.Is(err, tinkex.ErrConflict):
		return "choose another name, or overwrite"
	case errors.As(err, &e) && e.Category == tinkex.CategoryServer:
		return "try again later; it was tried several times already"
	}
	return "correct the request"
}

// newest is a part of the workflow.
func newest(ctx context.Context, rest *tinkex.RestClient) (tinkex.TinkerPath, error) {
	runs, err := rest.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
	if err != nil {
		return tinkex.TinkerPath{}, err
	}
	if len(runs.TrainingRuns) == 0 || runs.TrainingRuns[0].LastCheckpoint == nil {
		return tinkex.TinkerPath{}, errors.New("there is nothing to keep yet")
	}
	return runs.TrainingRuns[0].LastCheckpoint.Path()
}

// keep downloads the newest checkpoint, checks it, and only then lets old ones go.
func keep(ctx context.Context, out io.Writer, rest *tinkex.RestClient, dir string) error {
	path, err := newest(ctx, rest)
	if err != nil {
		return err
	}
	info, err := checkpoint.ValidateCompatibility(ctx, rest, path, checkpoint.Requirements{})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "keeping %s of %s\n", path.CheckpointID(), info.BaseModel)

	d, err := checkpoint.Download(ctx, rest, path, checkpoint.DownloadOptions{Dir: dir})
	switch {
	case errors.Is(err, tinkex.ErrExists):
		d.Dir = filepath.Join(dir, path.DirName())
	case err != nil:
		return err
	}
	v, err := checkpoint.Verify(ctx, d.Dir)
	if err != nil {
		return err
	}
	if !v.Intact() {
		return fmt.Errorf("%s: missing %v, changed %v, damaged %v", d.Dir, v.Missing, v.Changed, v.Damaged)
	}

	pruned, err := checkpoint.Prune(ctx, rest, checkpoint.Policy{KeepLast: 2}, checkpoint.PruneOptions{
		Selection: checkpoint.Selection{RunID: path.RunID, Types: []tinkex.CheckpointType{tinkex.Training}},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d stay, %d went\n", len(pruned.Keep), len(pruned.Deleted.Deleted))
	return nil
}

// world is a server with a run of an old and two new checkpoints.
func world(t *testing.T) (srv *tinkextest.Server, run string, rest *tinkex.RestClient) {
	t.Helper()
	srv = tinkextest.NewServer(t)
	run = srv.SeedRun(t, tinkextest.Run{Rank: 16, Created: time.Now().Add(-72 * time.Hour)})
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "step-0001", Created: time.Now().Add(-48 * time.Hour)})
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "step-0002", Created: time.Now().Add(-time.Hour)})
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "step-0003"})
	return srv, run, srv.RestClient(t)
}

func TestCheckpointManagement(t *testing.T) {
	srv, run, rest := world(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // no profiles of whoever runs this
	t.Chdir(t.TempDir())
	ctx := t.Context()
	at := func(name string) tinkex.TinkerPath { return mustParse("tinker://" + run + "/weights/" + name) }
	latest := at("step-0003")

	tc, err := srv.ServiceClientFor(t, "tml-other").CreateLoRATrainingClient(ctx, tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		do   func(out io.Writer) error
		says []string
	}{
		{"connect", func(out io.Writer) error { return connect(ctx, out) }, []string{"offers tinkex/tiny\n"}},
		{"saving", func(out io.Writer) error { return saving(ctx, out, tc) }, []string{"saved weights/step-0100\nsaved sampler_weights/step-0100\n"}},
		{"paths", paths, []string{"0a1b2c3d:train:0\ntraining\nstep-0100\nweights/step-0100\n"}},
		{"listing", func(out io.Writer) error { return listing(ctx, out, rest) }, []string{"2 of 3\n", latest.String(), "older than a day: weights/step-0001\n"}},
		{"runs", func(out io.Writer) error { return runs(ctx, out, rest) }, []string{"tinkex/tiny has 3 checkpoints\ngo on from weights/step-0003\n"}},
		{"compatible", func(out io.Writer) error { return compatible(ctx, out, rest, latest) }, []string{"tinkex/tiny 16\nit does not fit\n"}},
		{"gone", func(out io.Writer) error { return compatible(ctx, out, rest, at("step-0009")) }, nil},
		{"downloading", func(out io.Writer) error { return downloading(ctx, out, rest, latest) }, []string{"adapter_model.safetensors", "checkpoint_complete 0 e3b0c442\n", "intact: true by digests of the server\n"}},
		{"downloading again", func(out io.Writer) error { return downloading(ctx, out, rest, latest) }, []string{"downloaded before; set Force to replace it\n"}},
		{"expiring", func(out io.Writer) error { return expiring(ctx, out, rest, latest) }, []string{"expires in 48h0m0s\n"}},
		{"sharing", func(io.Writer) error { return sharing(ctx, rest, latest) }, []string{""}},
		{"sessions", func(out io.Writer) error { return sessions(ctx, out, rest) }, []string{"1 runs, 0 samplers\n"}},
		{"keep", func(out io.Writer) error { return keep(ctx, out, rest, "kept") }, []string{"keeping weights/step-0003 of tinkex/tiny\n2 stay, 1 went\n"}},
		{"keep again", func(out io.Writer) error { return keep(ctx, out, rest, "kept") }, []string{"2 stay, 0 went\n"}},
		{"deleting", func(out io.Writer) error {
			return deleting(ctx, out, rest, []tinkex.TinkerPath{at("step-0001"), at("step-0002")})
		}, []string{"1 deleted, 1 gone before\n"}},
	} {
		var out bytes.Buffer
		err := part.do(&out)
		if part.says == nil {
			if !errors.Is(err, tinkex.ErrNotFound) {
				t.Errorf("%s: %v", part.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", part.name, err)
		}
		for _, want := range part.says {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: it says\n%s\nwhich lacks %q", part.name, &out, want)
			}
		}
	}

	resp, err := archive(ctx, rest, latest)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if tar, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(tar, []byte("adapter_config.json")) {
		t.Errorf("the archive: %s, %d bytes (%v)", resp.Status, len(tar), err)
	}
}

func TestWhatToDo(t *testing.T) {
	srv, _, rest := world(t)
	ctx := t.Context()
	nowhere := mustParse("tinker://nobody:train:0/weights/a")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	once := srv.Options()
	once.MaxRetries = -1
	impatient, err := tinkex.NewRestClient(once)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	ask := func(ctx context.Context, rest *tinkex.RestClient) error {
		_, err := rest.WeightsInfo(ctx, nowhere)
		return err
	}
	srv.FailNext(1, tinkextest.Fault{Path: "/weights_info", Status: http.StatusInternalServerError})
	for _, tc := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{ask(ctx, impatient), "try again later"},
		{ask(ctx, rest), "look whether it expired"},
		{ask(canceled, rest), "nothing"},
		{rest.Unpublish(ctx, latestOf(t, rest)), "choose another name"},
		{rest.SetTTL(ctx, latestOf(t, rest), -1), "correct the request"},
		{&tinkex.Error{Status: http.StatusUnauthorized}, "check TINKER_API_KEY"},
	} {
		if got := whatToDo(tc.err); !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}

func latestOf(t *testing.T, rest *tinkex.RestClient) tinkex.TinkerPath {
	t.Helper()
	path, err := newest(t.Context(), rest)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
