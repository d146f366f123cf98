package tui

import (
	"context"
	"flag"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
	"github.com/tinkex/tinkex/tinkextest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time in the tests.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const (
	runA = "aaaaaaaa-2222-4333-8444-000000000001:train:0"
	runB = "bbbbbbbb-2222-4333-8444-000000000002:train:0"
)

// patience is for machines that do much else.
const patience = 60 * time.Second

// driver plays the terminal and the program: it presses keys, runs commands
// and hands their messages back.
type driver struct {
	t    *testing.T
	m    *Model
	msgs chan tea.Msg
	quit bool
}

func drive(t *testing.T, opts Options) *driver {
	t.Helper()
	if opts.Now == nil {
		opts.Now = func() time.Time { return noon }
	}
	if opts.ParseTTL == nil {
		opts.ParseTTL = time.ParseDuration
	}
	if opts.Server == "" {
		opts.Server = "https://tinker.example"
	}
	if opts.Describe == nil {
		opts.Describe = describeStub
	}
	d := &driver{t: t, m: New(t.Context(), opts), msgs: make(chan tea.Msg)}
	t.Cleanup(d.m.stop)
	d.size(80, 24)
	d.run(d.m.Init())
	return d
}

func describeStub(_ context.Context, p tinkex.TinkerPath) (Description, error) {
	return Description{
		Properties: []string{"Path", p.String(), "LoRA", "rank 8, on attention, MLP", "Readable by", "you only", "Expires", "never"},
		Files: []DescribedFile{
			{"adapter_config.json", "129 B (129 bytes)", strings.Repeat("ab", 32)},
			{"adapter_model.safetensors", "6.8 MiB (7176504 bytes)", strings.Repeat("cd", 32)},
		},
	}, nil
}

func (d *driver) size(w, h int) { d.send(tea.WindowSizeMsg{Width: w, Height: h}) }

// run starts a command, whose message until takes.
func (d *driver) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	ctx := d.t.Context()
	go func() {
		msg := cmd()
		select {
		case d.msgs <- msg:
		case <-ctx.Done():
		}
	}()
}

func (d *driver) send(msg tea.Msg) {
	switch msg := msg.(type) {
	case tea.BatchMsg:
		for _, cmd := range msg {
			d.run(cmd)
		}
	case tea.QuitMsg:
		d.quit = true
	default:
		_, cmd := d.m.Update(msg)
		d.run(cmd)
	}
}

// until hands on messages until something is so.
func (d *driver) until(what string, is func() bool) {
	d.t.Helper()
	deadline := time.After(patience)
	for !is() {
		select {
		case msg := <-d.msgs:
			d.send(msg)
		case <-deadline:
			d.t.Fatalf("it did not come to: %s\n%s", what, d.screen())
		}
	}
}

func (d *driver) loaded() *driver {
	d.t.Helper()
	d.until("all is read", func() bool {
		return d.m.load == nil && d.m.store.done() && !d.m.checkpoints.working && !d.m.runs.working
	})
	return d
}

// idle waits for the operation to end.
func (d *driver) idle() {
	d.t.Helper()
	d.until("nothing is done any more", func() bool { return d.m.op == nil })
}

// shows waits for a text to be on the screen.
func (d *driver) shows(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		d.until("the screen shows "+text, func() bool { return strings.Contains(d.screen(), text) })
	}
}

func (d *driver) hides(text string) {
	d.t.Helper()
	if s := d.screen(); strings.Contains(s, text) {
		d.t.Errorf("the screen shows %q:\n%s", text, s)
	}
}

func (d *driver) screen() string {
	lines, _ := d.m.screen()
	for i, l := range lines {
		lines[i] = strings.TrimRight(ansi.Strip(l), " ")
	}
	return strings.Join(lines, "\n")
}

var named = map[string]tea.KeyPressMsg{
	"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "tab": {Code: tea.KeyTab}, "up": {Code: tea.KeyUp},
	"down": {Code: tea.KeyDown}, "end": {Code: tea.KeyEnd}, "home": {Code: tea.KeyHome}, "pgdown": {Code: tea.KeyPgDown},
	"space": {Code: tea.KeySpace, Text: " "}, "backspace": {Code: tea.KeyBackspace},
	"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+u": {Code: 'u', Mod: tea.ModCtrl},
}

// press presses keys, by their names or as they are written.
func (d *driver) press(keys ...string) {
	for _, k := range keys {
		msg, ok := named[k]
		if !ok {
			msg = tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		}
		d.send(msg)
	}
}

func (d *driver) typed(s string) {
	for _, r := range s {
		d.press(string(r))
	}
}

// golden compares the screen with a file.
func (d *driver) golden(name string) {
	d.t.Helper()
	file := filepath.Join("testdata", name+".txt")
	got := d.screen() + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			d.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	if want := strings.ReplaceAll(string(want), "\r\n", "\n"); got != want {
		d.t.Errorf("%s is not as in %s:\n%s\nwant:\n%s", name, file, got, want)
	}
}

// world is a server with two runs: A with step-0001 to step-0008 and a sampler
// checkpoint, all of 1000 bytes that they share, and B with three of other
// sizes.
func world(t *testing.T) *tinkextest.Server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := seed.OpenDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const owner = "tml:user:ui"
	if err := s.Key(t.Context(), tinkextest.Key, owner); err != nil {
		t.Fatal(err)
	}
	add := func(run, model, name string, kind metastore.Kind, age time.Duration, bytes int, change func(*metastore.Checkpoint)) {
		c := metastore.Checkpoint{
			RunID: run, Kind: kind, Name: name, Owner: owner, CreatedAt: noon.Add(-age),
			LoRA: metastore.LoRA{BaseModel: model, Rank: 8, TrainAttn: true},
		}
		if change != nil {
			change(&c)
		}
		if _, err := s.Checkpoint(t.Context(), c, seed.File{Name: "adapter_model.safetensors", Body: strings.NewReader(strings.Repeat("x", bytes))}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 8; i++ {
		add(runA, "Qwen/Qwen3-8B", fmt.Sprintf("step-%04d", i), metastore.KindTraining, time.Duration(9-i)*time.Hour, 1000, func(c *metastore.Checkpoint) {
			c.Public = i == 3
			if i == 2 {
				at := noon.Add(50 * time.Hour)
				c.ExpiresAt = &at
			}
		})
	}
	add(runA, "Qwen/Qwen3-8B", "final", metastore.KindSampler, 30*time.Minute, 1000, nil)
	for i := 1; i <= 3; i++ {
		add(runB, "meta-llama/Llama-3.2-1B", fmt.Sprintf("epoch-%d", i), metastore.KindTraining, time.Duration(40-i)*24*time.Hour, i*500_000, nil)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return tinkextest.NewServerWith(t, tinkextest.Options{DataDir: dir, Now: func() time.Time { return noon }})
}

func client(t *testing.T, base string) *tinkex.RestClient {
	t.Helper()
	c, err := tinkex.NewRestClient(tinkex.Options{BaseURL: base, APIKey: tinkextest.Key, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// through is a client that reaches the server through a handler, which says
// whether it has answered a request itself.
func through(t *testing.T, srv *tinkextest.Server, answer func(http.ResponseWriter, *http.Request) bool) *tinkex.RestClient {
	t.Helper()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	return client(t, front.URL)
}

func pathA(name string) tinkex.TinkerPath {
	return tinkex.TinkerPath{RunID: runA, Type: tinkex.Training, Name: name}
}

// names are those of a run's checkpoints that the server has.
func names(t *testing.T, c *tinkex.RestClient, run string) map[string]tinkex.Checkpoint {
	t.Helper()
	list, err := c.ListRunCheckpoints(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]tinkex.Checkpoint{}
	for _, k := range list.Checkpoints {
		out[nameOf(k)] = k
	}
	return out
}

// fake is a client of a server with any number of checkpoints, which it hands
// out as far as it may.
type fake struct {
	Client
	checkpoints []tinkex.Checkpoint
	runs        []tinkex.TrainingRun
	// gate, if not nil, has to give one for every page.
	gate chan struct{}
	// refused counts what is published, which fails.
	refused *atomic.Int32
}

func (f *fake) ListCheckpoints(context.Context, tinkex.ListOptions) (tinkex.CheckpointList, error) {
	return tinkex.CheckpointList{Cursor: &tinkex.Cursor{TotalCount: len(f.checkpoints)}}, nil
}

func (f *fake) AllCheckpoints(ctx context.Context, opts tinkex.PageOptions) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		for i, c := range f.checkpoints {
			if f.gate != nil && i%opts.PageSize == 0 {
				select {
				case <-f.gate:
				case <-ctx.Done():
					yield(c, ctx.Err())
					return
				}
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (f *fake) AllTrainingRuns(context.Context, tinkex.PageOptions) iter.Seq2[tinkex.TrainingRun, error] {
	return func(yield func(tinkex.TrainingRun, error) bool) {
		for _, r := range f.runs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (f *fake) ListRunCheckpoints(_ context.Context, run string) (tinkex.CheckpointList, error) {
	var list tinkex.CheckpointList
	for _, c := range f.checkpoints {
		if runOf(c) == run {
			list.Checkpoints = append(list.Checkpoints, c)
		}
	}
	return list, nil
}

func (f *fake) DeleteCheckpoint(context.Context, tinkex.TinkerPath) error { return nil }

func (f *fake) Publish(context.Context, tinkex.TinkerPath) error {
	f.refused.Add(1)
	return &tinkex.Error{Status: http.StatusUnauthorized, Category: tinkex.CategoryUser}
}

func (f *fake) Manifest(context.Context, tinkex.TinkerPath) (tinkex.Manifest, error) {
	return tinkex.Manifest{}, &tinkex.Error{Status: http.StatusNotFound}
}

// many is a fake with n checkpoints in runs of a thousand.
func many(n int) *fake {
	f := &fake{}
	bytes := int64(1 << 20)
	for i := range n {
		run := fmt.Sprintf("run-%03d", i/1000)
		if i%1000 == 0 {
			f.runs = append(f.runs, tinkex.TrainingRun{TrainingRunID: run, BaseModel: "m", LastRequestTime: noon.Add(-time.Duration(i) * time.Second)})
		}
		id := fmt.Sprintf("weights/step-%06d", n-i)
		f.checkpoints = append(f.checkpoints, tinkex.Checkpoint{
			CheckpointID: id, CheckpointType: tinkex.Training, TinkerPath: tinkex.Scheme + run + "/" + id,
			Time: noon.Add(-time.Duration(i) * time.Second), SizeBytes: &bytes,
		})
	}
	return f
}
