package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

func TestRetentionCommands(t *testing.T) {
	w := newWorld(t, "step-1", "step-2", "step-3")
	none := []string{"no retention policy is set; 'tinkex retention set' sets one"}
	run(t, "retention", "show").want(t, exitNotFound, nil, none)
	run(t, "retention", "unset").want(t, exitNotFound, nil, none)
	run(t, "retention", "preview").want(t, exitNotFound, nil, none)

	run(t, "retention", "preview", "--keep-last", "1").want(t, exitDone,
		[]string{"keep", "latest, keep-last 1 of 1", w.path("step-3"), "delete", "no rule keeps it", w.path("step-1")},
		[]string{"Would delete 2 checkpoints, freeing ", ", and keep 1."})
	plan := decode[retentionPlanJSON](t, run(t, "-f", "json", "retention", "preview", "--keep-last", "1"))
	if len(plan.Keep) != 1 || len(plan.Remove) != 2 || !plan.Freed.Exact || plan.Refused != "" || plan.Keep[0].Reasons[0] != "latest" {
		t.Errorf("%+v", plan)
	}
	run(t, "retention", "preview", "--keep-every", "100", "--include-latest").want(t, exitDone, []string{"delete"}, []string{"It would not be applied", "all 3 checkpoints"})
	run(t, "retention", "preview", "--keep-last", "1", "--type", "sampler_weights").want(t, exitDone, nil, []string{"no checkpoints that it applies to"})
	run(t, "retention", "show").want(t, exitNotFound, nil, none) // previews set nothing

	// It asks, and a "no" sets nothing.
	run(t, "retention", "set", "--keep-last", "5").want(t, exitUsage, nil, []string{"delete 0 of 3 checkpoints for good", "--yes"})
	tinkexWith(t, Env{StdinTerminal: true, Stdin: strings.NewReader("n\n")}, "retention", "set", "--keep-last", "5").want(t, exitFailed, nil, []string{"not confirmed"})
	run(t, "retention", "show").want(t, exitNotFound, nil, none)
	tinkexWith(t, Env{StdinTerminal: true, Stdin: strings.NewReader("y\n")}, "retention", "set", "--keep-last", "5", "--keep-within", "7d", "--time-zone", "UTC", "--type", "weights").
		want(t, exitDone, []string{"keep-last 5, keep-within 7d, time-zone UTC, type weights", "not yet"}, []string{"within a minute"})
	run(t, "retention", "show").want(t, exitDone, []string{"Keeps", "keep-last 5, keep-within 7d, time-zone UTC, type weights", "Set", "Applied"}, nil)
	run(t, "retention", "preview").want(t, exitDone, []string{"keep-within"}, []string{"Would delete 0 checkpoints"})

	r := decode[retentionJSON](t, run(t, "-f", "json", "retention", "set", "--keep-daily", "30", "--include-public", "-y").want(t, exitDone, []string{`"types": []`}, nil))
	if r.Policy.KeepDaily != 30 || r.Policy.KeepLast != 0 || !r.Policy.IncludePublic || r.SetAt.IsZero() || r.AppliedAt != nil {
		t.Errorf("%+v", r)
	}
	// What would leave nothing is refused, whether it asks or not.
	for _, yes := range []string{"--yes", "--yes=false"} {
		run(t, "retention", "set", "--keep-every", "100", "--include-latest", yes).want(t, exitUsage, nil, []string{"all 3 checkpoints", "--all"})
	}
	run(t, "retention", "unset").want(t, exitDone, nil, []string{"is removed"})
	run(t, "retention", "show").want(t, exitNotFound, nil, none)
}

// What the policy does not apply to holds on to its files as well.
func TestRetentionPreviewMeasuresAllTypes(t *testing.T) {
	srv := tinkextest.NewServer(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	id := srv.SeedRun(t, tinkextest.Run{})
	shared := []byte(strings.Repeat("x", 1000))
	for _, c := range []tinkextest.Checkpoint{
		{Name: "1", Files: map[string][]byte{"adapter_model.safetensors": shared, "optimizer_state.safetensors": []byte(strings.Repeat("o", 500))}},
		{Name: "1", Type: tinkex.Sampler, Files: map[string][]byte{"adapter_model.safetensors": shared}},
		{Name: "2", Files: map[string][]byte{"adapter_model.safetensors": []byte("another")}},
	} {
		c.RunID = id
		srv.SeedCheckpoint(t, c)
	}
	plan := decode[retentionPlanJSON](t, run(t, "-f", "json", "retention", "preview", "--keep-last", "1", "--type", "weights"))
	if want := (checkpoint.Freed{Bytes: 500, Exact: true}); len(plan.Remove) != 1 || plan.Freed != want {
		t.Errorf("%+v would be freed, want %+v", plan.Freed, want)
	}
}

func TestRetentionUsage(t *testing.T) {
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
	for args, want := range map[string]string{
		"set":                                      "say what to keep",
		"set --include-latest":                     "say what to keep",
		"set --keep-last 0":                        "--keep-last: 0: expected at least 1",
		"set --keep-last -1":                       "--keep-last",
		"set --keep-within soon":                   "--keep-within",
		"set --keep-within 1500ms":                 "--keep-within",
		"set --keep-last 1 --type x":               `--type: "x" is no type`,
		"set --keep-last 1 --type weights,weights": "is there twice",
		"set --keep-daily 1 --time-zone=":          "--time-zone",
		"set --keep-last 1 --type= -y":             "--type is empty",
		"set x":                                    "unexpected argument",
		"set --keeplast 1":                         "did you mean --keep-last?",
		"show x":                                   "unexpected argument",
		"preview --type weights":                   "say what to keep",
		"prewiew":                                  `did you mean "preview"?`,
	} {
		r := run(t, append([]string{"retention"}, strings.Fields(args)...)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: code %d, %q; want %q", args, r.code, r.stderr, want)
		}
	}
}

// A server of another kind does not know of it.
func TestRetentionElsewhere(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	for _, args := range []string{"show", "unset", "preview", "preview --keep-last 1", "set --keep-last 1 -y"} {
		run(t, append([]string{"retention"}, strings.Fields(args)...)...).want(t, exitNotFound, nil, []string{"an extension of tinkex serve"})
	}
}
