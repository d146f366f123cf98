package seed_test

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/safetensors"
	"github.com/tinkex/tinkex/internal/seed"
	"github.com/tinkex/tinkex/tinkextest"
)

const (
	owner = "tml:user:seed"
	run   = "11111111-2222-4333-8444-555555555555:train:0"
)

func open(t *testing.T, dir string) *seed.Stores {
	t.Helper()
	s, err := seed.OpenDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestServerServesWhatWasSeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir)
	if err := s.Key(t.Context(), tinkextest.Key, owner); err != nil {
		t.Fatal(err)
	}
	c, err := s.Checkpoint(t.Context(), metastore.Checkpoint{RunID: run, Kind: metastore.KindTraining, Name: "0001", Owner: owner},
		seed.TrainingFiles(10_000, 20_000, 1)...)
	if err != nil {
		t.Fatal(err)
	}
	// The same bytes again, as another kind, and another run of the session.
	for _, again := range []metastore.Checkpoint{
		{RunID: run, Kind: metastore.KindExternal, Name: "0001", Owner: owner, Files: c.Files},
		{RunID: strings.Replace(run, ":0", ":1", 1), Kind: metastore.KindTraining, Name: "0001", Owner: owner, Files: c.Files},
	} {
		if _, err := s.Checkpoint(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}

	rest, err := tinkex.NewRestClient(tinkextest.NewServerWith(t, tinkextest.Options{DataDir: dir}).Options())
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	list, err := rest.ListCheckpoints(t.Context(), tinkex.ListOptions{})
	if err != nil || len(list.Checkpoints) != 3 {
		t.Fatalf("%d checkpoints are listed, want 3 (%v)", len(list.Checkpoints), err)
	}
	path, err := tinkex.ParseTinkerPath("tinker://" + run + "/weights/0001")
	if err != nil {
		t.Fatal(err)
	}
	got, err := checkpoint.Download(t.Context(), rest, path, checkpoint.DownloadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Files) != len(c.Files) {
		t.Fatalf("%d files arrived, want %d", len(got.Files), len(c.Files))
	}
	for i, f := range got.Files {
		if want := c.Files[i]; f.Name != want.Name || f.Size != want.Size || f.SHA256 != want.Digest.String() {
			t.Errorf("file %d is %+v, want %+v", i, f, want)
		}
	}
}

func TestRunIDOfAnotherForm(t *testing.T) {
	s := open(t, t.TempDir())
	_, err := s.Checkpoint(t.Context(), metastore.Checkpoint{RunID: "run-1", Kind: metastore.KindTraining, Name: "a", Owner: owner})
	if err == nil || !strings.Contains(err.Error(), "run-1") {
		t.Errorf("a run id without a session gives %v", err)
	}
}

func TestSafetensors(t *testing.T) {
	read := func(seedOf uint64) []byte {
		b, err := io.ReadAll(seed.Safetensors(100_000, seedOf))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := read(1)
	f, err := safetensors.Open(bytes.NewReader(one), int64(len(one)))
	if err != nil {
		t.Fatal(err)
	}
	var data int64
	for _, tensor := range f.Tensors() {
		data += tensor.Bytes()
	}
	if data < 99_900 || data > 100_000 {
		t.Errorf("the tensors have %d bytes, want about 100000", data)
	}
	if !bytes.Equal(one, read(1)) {
		t.Error("the same seed gives other bytes")
	}
	if bytes.Equal(one, read(2)) {
		t.Error("another seed gives the same bytes")
	}
}
