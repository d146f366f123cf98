package guides

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
	"github.com/tinkex/tinkex/tinkextest"
)

// fromGo is the README's.
func fromGo(ctx context.Context, path tinkex.TinkerPath, data []tinkex.Datum) error {
	svc, err := tinkex.NewServiceClient(tinkex.Options{}) // TINKER_API_KEY, TINKER_BASE_URL
	if err != nil {
		return err
	}
	defer svc.Close()
	tc, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, path, tinkex.StateOptions{})
	if err != nil {
		return err
	}
	pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil) // both are on their way
	step := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-4})
	out, err := pass.Await(ctx)
	if err != nil {
		return err
	}
	log.Println("loss", out.Metrics["loss:sum"])
	if _, err := step.Await(ctx); err != nil {
		return err
	}
	saved, err := tc.SaveState(ctx, "step-0100", tinkex.SaveOptions{TTL: 30 * 24 * time.Hour}).Await(ctx)
	if err != nil {
		return err
	}
	if saved.Path.Name != "step-0100" {
		return fmt.Errorf("saved %s", saved.Path)
	}
	return nil
}

// imported is docs/guides/import.md's.
func imported(ctx context.Context, rest *tinkex.RestClient) error {
	d, err := checkpoint.Import(ctx, rest, "./my-adapter", checkpoint.ImportOptions{Name: "from-peft"})
	if err != nil {
		return err
	}
	for _, c := range d.Checkpoints {
		if _, err := rest.WeightsInfo(ctx, mustParse(c.TinkerPath)); err != nil {
			return err
		}
	}
	if len(d.Checkpoints) != 2 {
		return fmt.Errorf("%d checkpoints were made", len(d.Checkpoints))
	}
	return nil
}

// onTheHub is docs/guides/hugging_face.md's.
func onTheHub(ctx context.Context, rest *tinkex.RestClient, path tinkex.TinkerPath) error {
	adapter, err := checkpoint.Export(ctx, rest, path, checkpoint.ExportOptions{Dir: "./exported"})
	if err != nil {
		return err
	}
	fmt.Println(adapter.Dir, "is for", adapter.BaseModel)
	pushed, err := checkpoint.PushHF(ctx, rest, path, checkpoint.PushHFOptions{Repo: "my-adapter"})
	if errors.Is(err, checkpoint.ErrOccupied) {
		return fmt.Errorf("choose another repository: %w", err)
	}
	if err != nil {
		return err
	}
	if pushed.Repo != hubtest.User+"/my-adapter" || adapter.BaseModel != tinkextest.BaseModel {
		return fmt.Errorf("exported %+v, pushed %+v", adapter, pushed)
	}
	return nil
}

// pruned is docs/guides/retention.md's.
func pruned(ctx context.Context, rest *tinkex.RestClient) error {
	policy := checkpoint.Policy{KeepLast: 3, KeepEvery: 1000, KeepWithin: 24 * time.Hour}
	opts := checkpoint.PruneOptions{
		Selection: checkpoint.Selection{Types: []tinkex.CheckpointType{tinkex.Training}},
		DryRun:    true,
	}
	plan, err := checkpoint.Prune(ctx, rest, policy, opts)
	if err != nil {
		return err
	}
	for _, k := range plan.Keep {
		fmt.Println("keep", k.TinkerPath, k.Reasons)
	}
	fmt.Println(len(plan.Remove), "would go, freeing", plan.Freed.Bytes, "bytes")
	opts.DryRun = false
	if _, err := checkpoint.Prune(ctx, rest, policy, opts); err != nil {
		return err
	}
	if len(plan.Keep) == 0 || len(plan.Remove) != 0 {
		return fmt.Errorf("checkpoints of today: %d are kept, %d removed", len(plan.Keep), len(plan.Remove))
	}
	return nil
}

// mirrored is docs/guides/mirror.md's.
func mirrored(ctx context.Context, rest, own *tinkex.RestClient) error {
	m, err := checkpoint.Mirror(ctx, rest, "./backup", checkpoint.MirrorOptions{
		Selection: checkpoint.Selection{Types: []tinkex.CheckpointType{tinkex.Training}},
	})
	if err != nil {
		return err // a *checkpoint.PartialError if some failed: m.Failed says which
	}
	fmt.Println(len(m.Added), "new,", m.Unchanged, "unchanged,", m.FetchedBytes, "bytes fetched")
	v, err := checkpoint.VerifyMirror(ctx, "./backup", checkpoint.MirrorVerifyOptions{})
	if err != nil {
		return err
	}
	fmt.Println("intact:", v.Intact())
	r, err := checkpoint.Restore(ctx, own, "./backup", checkpoint.RestoreOptions{})
	if err != nil {
		return err
	}
	for _, c := range r.Restored {
		fmt.Println(c.Origin, "is now", c.Path)
	}
	if !v.Intact() || len(m.Added) == 0 || len(r.Restored) != len(m.Added) {
		return fmt.Errorf("mirrored %+v, verified %+v, restored %+v", m, v, r)
	}
	return nil
}

// retained is docs/guides/retention.md's too.
func retained(ctx context.Context, rest *tinkex.RestClient, policy checkpoint.Policy) error {
	set, err := rest.SetRetention(ctx, policy.ForServer())
	if errors.Is(err, tinkex.ErrConflict) {
		return fmt.Errorf("it would delete everything: %w", err)
	}
	if err != nil {
		return err
	}
	fmt.Println("set", set.SetAt)
	would, err := rest.PreviewRetention(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Println(len(would.Remove), "will go, and", len(would.Keep), "stay")
	if len(would.Keep) == 0 || len(would.Remove) != 0 || set.Policy.KeepLast != policy.KeepLast {
		return fmt.Errorf("set %+v, which would do %+v", set, would)
	}
	return rest.UnsetRetention(ctx)
}

func mustParse(path string) tinkex.TinkerPath {
	p, err := tinkex.ParseTinkerPath(path)
	if err != nil {
		panic(err)
	}
	return p
}

func TestFragments(t *testing.T) {
	srv := tinkextest.NewServer(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // no profiles of whoever runs this
	t.Chdir(t.TempDir())
	ctx := t.Context()

	svc, err := tinkex.NewServiceClient(srv.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer svc.Close()
	tc, err := svc.CreateLoRATrainingClient(ctx, tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	saved, err := tc.SaveState(ctx, "start", tinkex.SaveOptions{}).Await(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data := []tinkex.Datum{{
		ModelInput: tinkex.Tokens([]byte("ab")...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints([]byte("bc")),
			"weights":       tinkex.Floats([]float32{1, 1}),
		},
	}}
	if err := fromGo(ctx, saved.Path, data); err != nil {
		t.Errorf("README: %v", err)
	}
	rest := svc.RestClient()
	if _, err := checkpoint.Download(ctx, rest, saved.Path, checkpoint.DownloadOptions{Dir: "."}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(".", saved.Path.DirName()), "my-adapter"); err != nil {
		t.Fatal(err)
	}
	if err := imported(ctx, rest); err != nil {
		t.Errorf("docs/guides/import.md: %v", err)
	}
	hub := hubtest.New(t)
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("HF_TOKEN", hubtest.Token)
	if err := onTheHub(ctx, rest, saved.Path); err != nil {
		t.Errorf("docs/guides/hugging_face.md: %v", err)
	}
	if err := pruned(ctx, rest); err != nil {
		t.Errorf("docs/guides/retention.md: %v", err)
	}
	own, err := tinkex.NewRestClient(tinkextest.NewServer(t).Options())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := mirrored(ctx, rest, own); err != nil {
		t.Errorf("docs/guides/mirror.md: %v", err)
	}
	if err := retained(ctx, rest, checkpoint.Policy{KeepLast: 10}); err != nil {
		t.Errorf("docs/guides/retention.md, on the server: %v", err)
	}
}
