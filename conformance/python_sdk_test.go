package conformance

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/testproc"
)

func TestPythonTraining(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-training", "training", nil)
	d.at("capabilities", "supported_models", 0, "model_name").is("tinkex/tiny")
	d.at("capabilities", "supported_models", 0, "max_context_length").is(2048)
	d.at("info", "lora_rank").is(8)
	d.at("info", "model_data", "model_name").is("tinkex/tiny")
	d.at("model_id").is(d.at("session_id").str() + ":train:0")

	// The loss is what the log probabilities and weights say.
	sum := 0.0
	for i, datum := range d.at("first", "logprobs").list() {
		weights := d.at("weights", i).list()
		for j, lp := range datum.list() {
			sum -= lp.num() * weights[j].num()
		}
	}
	d.at("first", "loss").near(sum, math.Abs(sum)*1e-5)
	d.at("first").same(d.at("again"))
	d.at("stepped", "after_forward").same(d.at("stepped", "after_nothing"))
	d.at("stepped", "other_seed", "next").differs(d.at("stepped", "after_nothing", "next"))
	d.at("accumulated", "together").same(d.at("accumulated", "apart"))
	d.at("standing_still").same(d.at("before"))
	losses := d.at("learning").list()
	if first, last := losses[0].at("loss").num(), losses[len(losses)-1].at("loss").num(); last > 0.8*first {
		t.Errorf("the loss went from %v to %v", first, last)
	}

	// Policy losses by their definitions.
	policy := d.at("policy")
	want := map[string]float64{}
	for i := range policy.at("old").list() {
		lp, old, adv := policy.at("losses", "ppo", "logprobs", i).num(), policy.at("old", i).num(), policy.at("advantages", i).num()
		ratio := math.Exp(lp - old)
		want["importance_sampling"] -= ratio * adv
		want["ppo"] -= min(ratio*adv, min(max(ratio, 0.9), 1.1)*adv)
		want["cispo"] -= min(max(ratio, 0.5), 1.5) * lp * adv
	}
	for name, loss := range want {
		policy.at("losses", name, "loss").near(loss, 1e-4*(1+math.Abs(loss)))
	}
}

func TestPythonChunks(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-chunks", "chunks", nil).at("runs")
	d.at("at_once", "requests").is(3)
	d.at("by_hand", "requests").is(3)
	for _, what := range []string{"tokens", "logprobs", "after"} {
		d.at("at_once", what).same(d.at("by_hand", what))
	}
	d.at("at_once", "loss").near(d.at("by_hand", "loss").num(), 1e-6*d.at("by_hand", "loss").num())
}

func TestPythonResume(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-resume", "resume", nil)
	runs := d.at("runs")
	runs.at("with_optimizer").same(runs.at("uninterrupted"))
	runs.at("without_optimizer", "steps", 0, "logprobs").same(runs.at("uninterrupted", "steps", 0, "logprobs"))
	runs.at("without_optimizer", "end").differs(runs.at("uninterrupted", "end"))
	if slices.Contains(runs.keys(), "load_state") {
		runs.at("load_state_with_optimizer").same(runs.at("uninterrupted"))
		runs.at("load_state").same(runs.at("without_optimizer"))
	}
	d.at("gradients", "resumed").same(d.at("gradients", "kept"))
	d.at("info", "lora_rank").is(6)
	for _, name := range d.at("flags").keys() {
		f := d.at("flags", name)
		for _, flag := range f.at("asked").keys() {
			f.at("info", flag).same(f.at("asked", flag))
		}
		f.at("rank").is(3)
		f.at("size").same(f.at("first_size"))
	}
}

func TestPythonCheckpoints(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-checkpoints", "checkpoints", nil)
	before, after := d.at("before"), d.at("after")
	d.at("saved", "plain").is("tinker://" + d.at("model_id").str() + "/weights/plain")
	d.at("saved", "sampler").is("tinker://" + d.at("model_id").str() + "/sampler_weights/plain")
	if got := len(before.keys()); got != 5 {
		t.Errorf("%d checkpoints are listed", got)
	}
	before.at("weights/plain", "expires_at").is(nil)
	before.at("weights/with.metadata", "user_metadata").is(map[string]string{"epoch": "3", "empty": ""})
	before.at("sampler_weights/plain", "checkpoint_type").is("sampler")
	before.at("external_weights/exported", "checkpoint_type").is("external")
	before.at("weights/with-ttl", "expires_at").str()
	d.at("taken", "type").is("RequestFailedError")
	d.at("taken", "category").is("User")
	quick(d.at("taken"))
	after.at("weights/plain", "time").differs(before.at("weights/plain", "time"))
	d.at("resumed").same(d.at("at_overwrite"))
	d.at("external_files").is([]string{"adapter_config.json", "adapter_model.safetensors", "checkpoint_complete"})
	d.at("run", "user_metadata").is(map[string]string{"experiment": "saving"})
	d.at("run", "last_checkpoint", "checkpoint_id").is("weights/plain")
}

// quick checks that a user was told of a mistake without a long wait; the
// machine may be busy.
func quick(failure doc) {
	failure.t.Helper()
	if s := failure.at("seconds").num(); s > 30 {
		failure.t.Errorf("%s: the user waited %v seconds to be told %q", failure.path, s, failure.at("message").str())
	}
}

// refused checks a failure's status and words.
func refused(failure doc, status int, words ...string) {
	failure.t.Helper()
	failure.at("status").is(status)
	for _, w := range words {
		if !strings.Contains(failure.at("message").str(), w) {
			failure.t.Errorf("%s says %q, not %q", failure.path, failure.at("message").str(), w)
		}
	}
	quick(failure)
}

func TestPythonSampling(t *testing.T) {
	t.Parallel()
	const key = "tml-sampling"
	d := script(t, serve(t, t.TempDir()).url, key, "sampling", map[string]string{"key": key})
	tokens := func(s doc) []doc {
		var out []doc
		for _, q := range s.list() {
			out = append(out, q.at("tokens"), q.at("logprobs"))
		}
		return out
	}
	seven := tokens(d.at("seeded", "seven"))
	for i, s := range tokens(d.at("seeded", "seven_again")) {
		s.same(seven[i])
	}
	for i, s := range tokens(d.at("clone")) {
		s.same(seven[i])
	}
	d.at("seeded", "eight", 0, "tokens").differs(d.at("seeded", "seven", 0, "tokens"))
	d.at("seeded", "seven", 0, "tokens").differs(d.at("seeded", "seven", 1, "tokens"))
	ids := map[string]bool{}
	for _, name := range []string{"seven", "seven_again", "eight"} {
		for _, s := range d.at("seeded", name).list() {
			ids[s.at("id").str()] = true
		}
	}
	if len(ids) != 12 {
		t.Errorf("%d distinct sequence ids of 12", len(ids))
	}

	greedy := d.at("greedy")
	greedy.at("top_k_one").same(greedy.at("sequence", "tokens"))
	greedy.at("top_p_tiny").same(greedy.at("sequence", "tokens"))
	prompt := len(d.at("prompt").list())
	for i, lp := range greedy.at("sequence", "logprobs").list() {
		greedy.at("rescored", prompt+i).near(lp.num(), 1e-3)
		greedy.at("topk", i, 0, 0).same(greedy.at("sequence", "tokens", i))
		greedy.at("topk", i, 0, 1).same(lp)
	}
	stopped := d.at("stopped")
	stopped.at("by_token", 0, "stop_reason").is("stop")
	last := stopped.at("by_token", 0, "tokens").list()
	last[len(last)-1].same(d.at("stop_token"))
	stopped.at("by_string", 0, "stop_reason").is("stop")
	stopped.at("by_strings", 0, "tokens").same(stopped.at("by_string", 0, "tokens"))
	stopped.at("by_length", 0, "stop_reason").is("length")
	if n := len(stopped.at("by_length", 0, "tokens").list()); n != 5 {
		t.Errorf("%d tokens, want 5", n)
	}

	asked := d.at("prompt_asked")
	asked.at("logprobs", 0).is(nil)
	asked.at("logprobs").same(d.at("computed"))
	asked.at("alternatives_scored").same(asked.at("alternative_logprobs"))
	for i, row := range asked.at("targets").list() {
		row.at(0).same(asked.at("logprobs", i+1))
		row.at(1).is(0)
	}
	for i, lp := range d.at("last", "logprobs").list() {
		if i < prompt-4 {
			lp.is(nil)
		} else {
			lp.near(d.at("computed", i).num(), 1e-3)
		}
	}
	for i, lp := range d.at("trained", "logprobs", 0).list() {
		lp.near(d.at("computed", i+1).num(), 1e-3)
	}
	d.at("computed_by_base").differs(d.at("computed"))
	d.at("snapshot", "after").same(d.at("snapshot", "before"))
	d.at("snapshot", "moved").differs(d.at("snapshot", "before"))
	for i, c := range d.at("crowd").list() {
		c.same(d.at("crowd", i%3))
	}
	d.at("sampler_info", "weights", "model_path").same(d.at("path"))
	d.at("sampler_info", "base", "model_path").is(nil)
	d.at("sampler_info", "snapshot", "model_path").is(nil)
	d.at("checkpoints").is([]string{"sampler_weights/weights"})
}

func TestPythonREST(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-rest", "rest", nil)
	all := []string{
		"sampler_weights/0003", "sampler_weights/0001", "weights/0004", "weights/0003", "weights/0002", "weights/0001", "weights/0000",
	}
	d.at("everything", "ids").is(all)
	d.at("everything", "cursor").is(map[string]int{"offset": 0, "limit": 100, "total_count": 7})
	var paged []string
	for i, p := range d.at("pages").list() {
		p.at("cursor").is(map[string]int{"offset": 3 * i, "limit": 3, "total_count": 7})
		for _, id := range p.at("ids").list() {
			paged = append(paged, id.str())
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("pages hold %v", paged)
	}
	if len(d.at("by_run").list()) != 7 {
		t.Errorf("the run's list is %s", d.at("by_run").json())
	}
	run := d.at("run")
	run.same(d.at("by_path"))
	run.at("training_run_id").same(d.at("model_id"))
	run.at("lora_rank").is(5)
	run.at("corrupted").is(false)
	run.at("model_owner").same(d.at("whoami", "user_urn"))
	run.at("last_checkpoint", "checkpoint_id").is("weights/0004")
	run.at("last_sampler_checkpoint", "checkpoint_id").is("sampler_weights/0003")
	run.at("user_metadata").is(map[string]string{"experiment": "rest"})
	d.at("info", "train_mlp").is(false)
	d.at("info", "train_attn").is(true)
	d.at("info", "lora_rank").is(5)
	pages := d.at("run_pages")
	newest := []string{d.at("other_ids", 1).str(), d.at("other_ids", 0).str(), d.at("model_id").str()}
	pages.at("all", "ids").is(newest)
	pages.at("first", "ids").is(newest[:2])
	pages.at("rest", "ids").is(newest[2:])
	pages.at("alpha", "ids").is(newest)
	pages.at("beta", "ids").is([]string{})
	pages.at("moved_alpha", "ids").is([]string{})
	pages.at("moved_beta", "ids").is(newest)
	d.at("sessions", "list").is([]string{d.at("session").str()})
	d.at("sessions", "none").is([]string{})
	d.at("sessions", "get", "user_metadata").is(map[string]string{"team": "conformance"})
	d.at("sessions", "get", "display_name").is("the rest")
	d.at("sampler", "base_model").is("tinkex/tiny")
	d.at("published", "public").is(true)
	d.at("unpublished", "public").is(false)
	refused(d.at("already_public"), 400, "already public")
	refused(d.at("not_public"), 400, "not public")
	d.at("with_ttl", "expires_at").str()
	d.at("without_ttl", "expires_at").is(nil)
	d.at("after_delete", "cursor", "total_count").is(5)
	d.at("run_after_delete", "last_checkpoint", "checkpoint_id").is("weights/0003")
	d.at("run_after_delete", "last_sampler_checkpoint", "checkpoint_id").is("sampler_weights/0001")
	refused(d.at("deleted_again"), 404, "not found")
}

func TestPythonIsolation(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-unused", "isolation", map[string]string{"mine": "tml-mine", "theirs": "tml-theirs"})
	for _, name := range d.at("refused", "private").keys() {
		private, absent := d.at("refused", "private", name), d.at("refused", "absent", name)
		refused(private, 404, "not found")
		a := strings.ReplaceAll(private.at("message").str(), "/private", "/absent")
		if b := absent.at("message").str(); a != b {
			t.Errorf("%s tells a private checkpoint from an absent one: %q and %q", name, a, b)
		}
	}
	for _, name := range d.at("runs").keys() {
		refused(d.at("runs", name), 404, "not found")
	}
	for _, name := range d.at("public_attempts").keys() {
		refused(d.at("public_attempts", name), 404, "not found")
	}
	d.at("info", "lora_rank").is(4)
	d.at("loaded").same(d.at("end"))
	d.at("next", "theirs", "logprobs").same(d.at("next", "mine", "logprobs"))
	d.at("sampled", "theirs").same(d.at("sampled", "mine"))
	d.at("their_checkpoints", "checkpoints").is([]string{})
	d.at("their_runs").is([]string{d.at("loaded_id").str()})
	if len(d.at("my_checkpoints").list()) != 3 {
		t.Errorf("my checkpoints are %s", d.at("my_checkpoints").json())
	}
	d.at("whoami", "mine", "user_urn").differs(d.at("whoami", "theirs", "user_urn"))
}

func TestPythonMistakes(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-mistakes", "errors", nil)
	says := map[string]string{
		"duplicate_name": "already exists", "duplicate_sampler_name": "already exists", "bad_name": "checkpoint name",
		"name_with_slash": "checkpoint name", "long_name": "128", "ttl_zero": "ttl_seconds",
		"already_public": "already public", "not_public": "not public", "publish_absent": "not found",
		"info_malformed": "tinker://", "resume_sampler": "not a training checkpoint", "resume_absent": "not found",
		"resume_other_base": "tinkex/other", "rank_zero": "rank", "rank_absurd": "rank", "unknown_base": "tinkex/other",
		"token_out_of_vocabulary": "999999", "negative_token": "data[0].model_input", "target_out_of_vocabulary": "target_tokens",
		"empty_datum": "data[0]", "mismatched_targets": "target_tokens", "mismatched_weights": "weights",
		"nan_weights": "weights", "infinite_weights": "weights", "missing_weights": "weights",
		"missing_advantages": "advantages", "good_then_bad": "data[1]", "too_long": "2048", "empty_batch": "No data",
		"negative_learning_rate": "learning_rate", "sample_out_of_vocabulary": "260", "sample_empty_prompt": "prompt",
		"sample_temperature": "temperature", "sample_top_p": "top_p",
		"load_later": "LoadWeights is not permitted with seq_id", "load_other_rank": "rank", "load_sampler": "not a training checkpoint",
	}
	for _, name := range d.at("failures").keys() {
		f := d.at("failures", name)
		if name == "sample_too_long" && f.at("type").v == nil {
			continue // cut at the context's end is as good as refused
		}
		if f.at("type").v == nil {
			t.Errorf("%s did not fail", name)
			continue
		}
		quick(f)
		if w := says[name]; !strings.Contains(f.at("message").str(), w) {
			t.Errorf("%s says %q, not %q", name, f.at("message").str(), w)
		}
		if s := f.at("status").num(); s >= 500 {
			t.Errorf("%s is answered with %v: %s", name, s, f.at("message").str())
		}
	}
	d.at("after").same(d.at("before"))
	d.at("checkpoints").same(d.at("expected_checkpoints"))
	if !strings.HasSuffix(d.at("saved_afterwards").str(), "/weights/afterwards") {
		t.Errorf("saved %s", d.at("saved_afterwards").str())
	}
}

func TestPythonExpiry(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-expiry", "expiry", nil)
	if n := len(d.at("before", "names").list()); n < 3 {
		t.Errorf("before: %s", d.at("before", "names").json())
	}
	d.at("after", "names").is([]string{"weights/stays"})
	d.at("after", "total").is(1)
	d.at("after", "by_run").is([]string{"weights/stays"})
	d.at("after", "run", "last_checkpoint", "checkpoint_id").is("weights/stays")
	d.at("after", "run", "last_sampler_checkpoint").is(nil)
	for _, name := range d.at("failures").keys() {
		refused(d.at("failures", name), 404)
	}
	d.at("finally").is([]string{"weights/expires", "weights/stays"})
}

func TestPythonAcrossRestarts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end       func(*server)
		unsaved   int
		corrupted bool
	}{
		"stopped":                    {(*server).stop, 0, false},
		"killed":                     {(*server).kill, 0, false},
		"killed with unsaved steps":  {(*server).kill, 2, true},
		"stopped with unsaved steps": {(*server).stop, 2, false}, // parked
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const key = "tml-restart"
			data := t.TempDir()
			s := serve(t, data)
			before := script(t, s.url, key, "restart", map[string]any{"phase": "before", "unsaved_steps": tc.unsaved})
			tc.end(s)
			s = serve(t, data)
			after := script(t, s.url, key, "restart", map[string]any{"phase": "after", "unsaved_steps": tc.unsaved, "before": before.v})
			for _, what := range []string{"checkpoints", "by_run", "info", "session", "sessions", "whoami"} {
				after.at("state", what).same(before.at("state", what))
			}
			after.at("state", "run", "corrupted").is(tc.corrupted)
			after.at("state", "run", "last_checkpoint").same(before.at("state", "run", "last_checkpoint"))
			if tc.unsaved > 0 {
				after.at("resumed").same(before.at("ahead"))
			} else {
				after.at("resumed_end").same(before.at("end"))
			}
			after.at("sampled").same(before.at("sampled"))
			after.at("sampler", "model_path").same(before.at("sampler_path"))
			if _, err := os.Stat(data); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPythonCopiesAndSearch(t *testing.T) {
	t.Parallel()
	d := script(t, serve(t, t.TempDir()).url, "tml-unused", "copies", map[string]string{"mine": "tml-mine", "theirs": "tml-theirs"})
	r := d.at("refused")
	refused(r.at("private"), 404, "not found")
	refused(r.at("absent"), 404, "not found")
	refused(r.at("nonsense"), 400, "source_path")
	refused(r.at("ttl"), 400, "ttl_seconds")

	original, state, sampler := d.at("original").list(), d.at("copies", "state").list(), d.at("copies", "sampler").list()
	if len(original) != 2 || len(state) != 1 || len(sampler) != 1 {
		t.Fatalf("%d, %d and %d checkpoints are listed", len(original), len(state), len(sampler))
	}
	state[0].at("tinker_path").same(d.at("copy"))
	state[0].at("checkpoint_id").is("weights/state")
	state[0].at("public").is(false)
	state[0].at("size_bytes").same(original[1].at("size_bytes"))
	expires, err := time.Parse(time.RFC3339Nano, state[0].at("expires_at").str())
	if err != nil {
		t.Fatal(err)
	}
	if in := float64(expires.UnixMicro())/1e6 - d.at("began").num(); in < 7199 || in > 7260 {
		t.Errorf("the copy expires in %v seconds, want 7200", in)
	}
	sampler[0].at("tinker_path").same(d.at("through_service"))
	sampler[0].at("checkpoint_type").is("sampler")
	sampler[0].at("expires_at").is(nil)
	d.at("info", "lora_rank").is(4)
	d.at("info", "train_mlp").is(false)
	d.at("run", "corrupted").is(false)
	d.at("run", "last_checkpoint", "tinker_path").same(d.at("copy"))
	if got := len(d.at("project").list()); got != 2 {
		t.Errorf("the project has %d runs, want one for each copy", got)
	}
	d.at("went_on").same(d.at("end"))

	found, others := d.at("found"), d.at("other_ids").list()
	newest := []string{others[2].str(), others[1].str(), others[0].str()}
	mine := []string{d.at("session").str()}
	all := append(slices.Clone(newest), mine...)
	found.at("all").is(all)
	found.at("pages").is([][]string{all[:3], all[3:]})
	found.at("by_name").is(mine)
	found.at("either").is([]string{newest[0], mine[0]})
	found.at("project").is(newest)
	found.at("metadata").is(mine)
	found.at("no_metadata").is([]string{})
	found.at("active").is(newest[:1])
	found.at("finished").is(newest[1:])
	found.at("cancelled").is([]string{})
	found.at("accessible").is(newest)
	found.at("of_another").is([]string{})
	found.at("of_oneself").is(newest)
	one := found.at("by_id", 0)
	one.at("session_id").same(d.at("session"))
	one.at("project_id").is("work")
	one.at("display_name").is("Nightly of mine")
	one.at("user_metadata").is(map[string]string{"team": "conformance"})
	one.at("status", "type").is("active")
	one.at("checkpoints_count").is(1)
	one.at("checkpoint_storage_bytes").same(original[0].at("size_bytes"))
	errored := found.at("errored", 0)
	errored.at("session_id").is(newest[1])
	errored.at("status", "type").is("client_finished")
	errored.at("status", "reason", "type").is("errored")
	errored.at("status", "detail").is("out of memory")
}

// A loop that trains while the server is restarted, twice, ends bit for bit as
// one that was left alone: as if there had been no restart.
func TestPythonTrainsAcrossRestarts(t *testing.T) {
	t.Parallel()
	venv(t) // before the clock of what follows starts
	const steps = 60
	args := func(mark string) map[string]any {
		return map[string]any{"steps": steps, "mark_after": 10, "mark": mark}
	}
	undisturbed := script(t, serve(t, t.TempDir()).url, "tml-survive", "survive", args(filepath.Join(t.TempDir(), "mark")))

	data, mark := t.TempDir(), filepath.Join(t.TempDir(), "mark")
	port, err := testproc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s := serveAt(t, data, addr)
	restarted := make(chan *server, 1)
	go func() {
		defer close(restarted)
		restart := func(when func() bool) bool {
			for !when() {
				if t.Context().Err() != nil {
					return false
				}
				time.Sleep(5 * time.Millisecond)
			}
			s.stop()
			s = serveAt(t, data, addr)
			return true
		}
		ten := func() bool {
			_, err := os.Stat(mark)
			return err == nil
		}
		back := func() bool { return strings.Contains(s.log.String(), "brought a parked model back") }
		if restart(ten) && restart(back) {
			restarted <- s
		}
	}()
	disturbed := script(t, s.url, "tml-survive", "survive", args(mark))
	last := <-restarted
	if last == nil {
		t.Fatal("the server was not restarted")
	}
	if n := strings.Count(last.log.String(), "brought a parked model back"); n != 1 {
		t.Errorf("the last server brought %d models back, so the restart did not hit the training", n)
	}
	if n := len(disturbed.at("steps").list()); n != steps {
		t.Errorf("%d steps", n)
	}
	disturbed.at("steps").same(undisturbed.at("steps"))
	disturbed.at("end").same(undisturbed.at("end"))
}
