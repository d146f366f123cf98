package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

func digestOf(b []byte) blobstore.Digest { return sha256.Sum256(b) }

// put uploads bytes and describes them as a file of one blob.
func (f *fixture) put(owner, name string, b []byte) ImportFile {
	f.t.Helper()
	if err := f.UploadBlob(f.t.Context(), owner, digestOf(b), int64(len(b)), bytes.NewReader(b)); err != nil {
		f.t.Fatal(err)
	}
	return ImportFile{Name: name, Size: int64(len(b)), Digest: digestOf(b)}
}

// putParts uploads bytes in parts.
func (f *fixture) putParts(owner, name string, b []byte, size int) ImportFile {
	f.t.Helper()
	file := ImportFile{Name: name, Size: int64(len(b)), Digest: digestOf(b)}
	for part := range slices.Chunk(b, size) {
		p := f.put(owner, "", part)
		file.Parts = append(file.Parts, metastore.Blob{Digest: p.Digest, Size: p.Size})
	}
	return file
}

// adapterFiles are the bytes of a checkpoint of alice's, which is then gone.
func (f *fixture) adapterFiles() map[string][]byte {
	f.t.Helper()
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	ref := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	c, err := f.Readable(f.t.Context(), alice, ref)
	if err != nil {
		f.t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, file := range c.Files {
		r, err := f.OpenFile(f.t.Context(), file, 0, -1)
		if err != nil {
			f.t.Fatal(err)
		}
		if files[file.Name], err = io.ReadAll(r); err != nil {
			f.t.Fatal(err)
		}
		_ = r.Close()
	}
	if err := f.DeleteCheckpoint(f.t.Context(), alice, ref); err != nil {
		f.t.Fatal(err)
	}
	return files
}

// request uploads an adapter's files, the weights in parts.
func (f *fixture) request(owner string, files map[string][]byte) ImportRequest {
	f.t.Helper()
	return ImportRequest{
		Name: "x", Kinds: []metastore.Kind{metastore.KindTraining, metastore.KindSampler}, Key: "k", Hash: "h",
		Files: []ImportFile{
			f.putParts(owner, engine.AdapterWeightsFile, files[engine.AdapterWeightsFile], 10_000),
			f.put(owner, engine.OptimizerFile, files[engine.OptimizerFile]),
			f.put(owner, "README.md", []byte("made elsewhere")),
			f.put(owner, engine.AdapterConfigFile, files[engine.AdapterConfigFile]),
		},
	}
}

// stored counts the blobs there are.
func (f *fixture) stored() int {
	f.t.Helper()
	n := 0
	for _, err := range f.blobs.All(f.t.Context()) {
		if err != nil {
			f.t.Fatal(err)
		}
		n++
	}
	return n
}

// collect removes garbage as if it were old: the blobs' times are real ones.
func (f *fixture) collect() {
	f.t.Helper()
	f.gcGrace = time.Until(f.clock.now()) - time.Minute
	if _, err := f.CollectGarbage(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// The configuration is looked at as soon as it is there, and only then.
func TestImportOfAConfiguration(t *testing.T) {
	f := newFixture(t)
	files := f.adapterFiles()
	req := f.request(bob, files)
	req.BaseModel = "a/b"
	weights := slices.IndexFunc(req.Files, func(f ImportFile) bool { return f.Name == engine.AdapterWeightsFile })
	req.Files[weights] = ImportFile{Name: engine.AdapterWeightsFile, Size: 1 << 20, Digest: blobstore.Digest{1}}
	_, err := f.Import(t.Context(), bob, req)
	wantCode(t, err, Invalid, `unknown base model "a/b"`)
	_, err = f.Import(t.Context(), alice, req) // who has sent nothing
	wantCode(t, err, Conflict, "has not been sent")
	req.BaseModel = ""
	_, err = f.Import(t.Context(), bob, req)
	wantCode(t, err, Conflict, engine.AdapterWeightsFile, "has not been sent")
}

func TestImport(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	files := f.adapterFiles()
	req := f.request(bob, files)
	f.collect()
	list, err := f.Import(ctx, bob, req)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range list[0].Files {
		names = append(names, file.Name)
	}
	if got := strings.Join(names, " "); got != "adapter_config.json adapter_model.safetensors optimizer_state.safetensors README.md checkpoint_complete" {
		t.Errorf("files in order %s", got)
	}
	if c := list[1]; c.HasOptimizer || len(c.Files) != 4 || !list[0].HasOptimizer || c.LoRA != tinyLoRA || c.RunID != list[0].RunID {
		t.Errorf("imported %+v", list)
	}
	run, err := f.Run(ctx, bob, list[0].RunID)
	if err != nil || run.State != metastore.RunEnded || run.LoRA != tinyLoRA {
		t.Errorf("run %+v, %v", run, err)
	}
	session, err := f.Session(ctx, bob, run.SessionID)
	if err != nil || session.FinishedAt == nil || !slices.Contains(session.Tags, importTag) {
		t.Errorf("session %+v, %v", session, err)
	}

	// Sent again, it is the same import; another one with its key is refused.
	again, err := f.Import(ctx, bob, req)
	if err != nil || again[0].ID != list[0].ID || again[1].ID != list[1].ID {
		t.Errorf("the repeated request got %+v, %v", again, err)
	}
	other := req
	other.Hash = "other"
	_, err = f.Import(ctx, bob, other)
	wantCode(t, err, Conflict, "X-Idempotency-Key")
	// A key is its owner's.
	_, err = f.Import(ctx, alice, req)
	wantCode(t, err, Conflict, "files[0].parts[0]", "adapter_model.safetensors", "has not been sent")

	// The parts have served their purpose; the files stay as long as they are
	// referred to.
	f.collect()
	if n := f.stored(); n != 5 {
		t.Errorf("%d blobs are stored, want 5 files", n)
	}
	f.clock.advance(uploadTTL)
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	f.collect()
	if n := f.stored(); n != 5 {
		t.Errorf("%d blobs are stored a day later, want 5 files", n)
	}
	for _, c := range list {
		if err := f.DeleteCheckpoint(ctx, bob, Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}); err != nil {
			t.Fatal(err)
		}
	}
	f.collect()
	if n := f.stored(); n != 0 {
		t.Errorf("%d blobs are stored after the checkpoints are gone", n)
	}
	_, err = f.Import(ctx, bob, req)
	wantCode(t, err, Gone, "deleted since")
}

// A server that goes away between the uploads and the end shows nothing, keeps
// the bytes for a day and goes on from them, and then forgets them.
func TestImportThatIsNotFinished(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	files := f.adapterFiles()
	f.collect()
	req := f.request(bob, files)
	if err := f.Close(ctx); err != nil { // parks the models that the files are from
		t.Fatal(err)
	}
	f.start()
	blobs := f.stored()
	if got := f.listed(bob); got != nil {
		t.Errorf("listed %v", got)
	}
	f.clock.advance(uploadTTL - time.Second)
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	f.collect()
	if n := f.stored(); n != blobs {
		t.Fatalf("%d of %d blobs are left within the day", n, blobs)
	}
	f.clock.advance(time.Second)
	// From now on they cannot be used, whether they are swept yet or not.
	_, err := f.Import(ctx, bob, req)
	wantCode(t, err, Conflict, "has not been sent")
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	f.collect()
	if n := f.stored(); n != 0 {
		t.Errorf("%d blobs are left after the day", n)
	}
	if got := f.listed(bob); got != nil {
		t.Errorf("listed %v", got)
	}
	// A claim on them gives another day.
	req = f.request(bob, files)
	f.clock.advance(uploadTTL - time.Second)
	var ask []metastore.Blob
	for _, d := range digestsOf(req.Files) {
		ask = append(ask, metastore.Blob{Digest: d, Size: -1})
	}
	for i := range ask {
		info, err := f.blobs.Stat(ctx, ask[i].Digest)
		if err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			t.Fatal(err)
		}
		ask[i].Size = info.Size
	}
	missing, err := f.MissingBlobs(ctx, bob, ask)
	if err != nil || len(missing) != 1 || missing[0] != req.Files[0].Digest {
		t.Errorf("missing %v, %v; want the whole of what was sent in parts", missing, err)
	}
	f.clock.advance(uploadTTL - time.Second)
	if _, err := f.Import(ctx, bob, req); err != nil {
		t.Error(err)
	}
}

// What a checkpoint that is deleted meanwhile had, the import still has.
func TestImportOutlivesWhatItSharesBytesWith(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	req := f.request(bob, f.adapterFiles())
	first, err := f.Import(ctx, bob, req)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(2 * uploadTTL)
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range req.Files {
		req.Files[i].Parts = nil
	}
	var ask []metastore.Blob
	for _, file := range req.Files {
		ask = append(ask, metastore.Blob{Digest: file.Digest, Size: file.Size})
	}
	if missing, err := f.MissingBlobs(ctx, bob, ask); err != nil || missing != nil {
		t.Fatalf("missing %v, %v", missing, err)
	}
	for _, c := range first {
		if err := f.DeleteCheckpoint(ctx, bob, Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}); err != nil {
			t.Fatal(err)
		}
	}
	f.collect()
	req.Key = "another"
	second, err := f.Import(ctx, bob, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range second[0].Files {
		if _, err := f.blobs.Stat(ctx, file.Digest); err != nil {
			t.Errorf("%s: %v", file.Name, err)
		}
	}
}

// Steps of a live run that an import goes into are still to be saved.
func TestImportIntoALiveRun(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	files := f.adapterFiles()
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	req := f.request(alice, files)
	req.RunID = model
	if _, err := f.Import(ctx, alice, req); err != nil {
		t.Fatal(err)
	}
	run, err := f.meta.Run(ctx, model)
	if err != nil || !run.Unsaved {
		t.Errorf("run %+v, %v", run, err)
	}
	req.Key = ""
	_, err = f.Import(ctx, alice, req)
	wantCode(t, err, Conflict, "already exists")
	req.Overwrite = true
	if _, err := f.Import(ctx, alice, req); err != nil {
		t.Error(err)
	}
}

func TestImportRequestsRefused(t *testing.T) {
	f := newFixture(t)
	files := f.adapterFiles()
	good := f.request(bob, files)
	part := metastore.Blob{Digest: digestOf(nil), Size: 1}
	for name, tc := range map[string]struct {
		edit  func(q *ImportRequest)
		words string
	}{
		"no configuration":  {func(q *ImportRequest) { q.Files = q.Files[:3] }, "files: there is no adapter_config.json"},
		"no weights":        {func(q *ImportRequest) { q.Files = q.Files[1:] }, "files: there is no adapter_model.safetensors"},
		"nothing":           {func(q *ImportRequest) { q.Files = nil }, "files: "},
		"path":              {func(q *ImportRequest) { q.Files[2].Name = "a/b" }, "files[2].name"},
		"parent":            {func(q *ImportRequest) { q.Files[2].Name = ".." }, "files[2].name"},
		"backslash":         {func(q *ImportRequest) { q.Files[2].Name = `a\b` }, "files[2].name"},
		"device":            {func(q *ImportRequest) { q.Files[2].Name = "NUL.txt" }, "files[2].name"},
		"control character": {func(q *ImportRequest) { q.Files[2].Name = "a\x00" }, "files[2].name"},
		"empty name":        {func(q *ImportRequest) { q.Files[2].Name = "" }, "files[2].name"},
		"hidden":            {func(q *ImportRequest) { q.Files[2].Name = ".x" }, "reserved"},
		"twice":             {func(q *ImportRequest) { q.Files[2].Name = engine.OptimizerFile }, "files[2].name"},
		"twice in a way":    {func(q *ImportRequest) { q.Files[2].Name = "ADAPTER_MODEL.safetensors" }, "files[2].name"},
		"mark with content": {func(q *ImportRequest) { q.Files[2].Name = CompleteFile }, "reserved"},
		"mark in capitals":  {func(q *ImportRequest) { q.Files[2] = ImportFile{Name: "Checkpoint_Complete", Digest: emptyDigest} }, "reserved"},
		"negative size":     {func(q *ImportRequest) { q.Files[2].Size = -1 }, "files[2].size_bytes"},
		"huge configuration": {func(q *ImportRequest) {
			q.Files[3].Size = maxAdapterConfig + 1
		}, "files[3].size_bytes"},
		"too many":     {func(q *ImportRequest) { q.Files = make([]ImportFile, maxImportFiles+1) }, "files: "},
		"another size": {func(q *ImportRequest) { q.Files[2].Size++ }, "files[2].size_bytes"},
		"parts of the wrong": {func(q *ImportRequest) {
			q.Files[0].Digest = digestOf([]byte("others"))
		}, "files[0].sha256: the parts of adapter_model.safetensors are not the whole"},
		"parts too few":   {func(q *ImportRequest) { q.Files[0].Parts = q.Files[0].Parts[1:] }, "files[0].parts: "},
		"part of nothing": {func(q *ImportRequest) { q.Files[0].Parts[0].Size = 0 }, "files[0].parts[0].size_bytes"},
		"part too large":  {func(q *ImportRequest) { q.Files[0].Parts[0].Size = PartBytes + 1 }, "files[0].parts[0].size_bytes"},
		"part of other size": {func(q *ImportRequest) {
			q.Files[0].Digest = digestOf([]byte("others"))
			q.Files[0].Parts[0].Size--
			q.Files[0].Parts[1].Size++
		}, "files[0].parts[0].size_bytes"},
		"configuration isn't": {func(q *ImportRequest) { q.Files[3].Digest, q.Files[3].Size = q.Files[2].Digest, q.Files[2].Size }, "adapter_config.json"},
		"weights aren't": {func(q *ImportRequest) {
			q.Files[0] = ImportFile{Name: q.Files[0].Name, Size: q.Files[2].Size, Digest: q.Files[2].Digest}
		}, "adapter_model.safetensors"},
		"optimizer isn't": {func(q *ImportRequest) { q.Files[1].Digest, q.Files[1].Size = q.Files[2].Digest, q.Files[2].Size }, "optimizer_state.safetensors"},
		"weights as state": {func(q *ImportRequest) {
			b := files[engine.AdapterWeightsFile]
			q.Files[1] = f.put(bob, engine.OptimizerFile, b)
		}, "optimizer_state.safetensors"},
		"another base model": {func(q *ImportRequest) { q.BaseModel = "a/b" }, "base_model"},
		"parts without end":  {func(q *ImportRequest) { q.Files[0].Parts = []metastore.Blob{part} }, "files[0].parts: 1 bytes in all"},
	} {
		q := good
		q.Key = ""
		q.Files = slices.Clone(good.Files)
		q.Files[0].Parts = slices.Clone(good.Files[0].Parts)
		tc.edit(&q)
		_, err := f.Import(t.Context(), bob, q)
		if err == nil || CodeOf(err) != Invalid || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %v, want it to say %q", name, err, tc.words)
		}
	}
	q := good
	q.RunID = "none"
	_, err := f.Import(t.Context(), bob, q)
	wantCode(t, err, NotFound, "run_id")
	if got := f.listed(bob); got != nil {
		t.Errorf("listed %v", got)
	}
	if _, n, err := f.Sessions(t.Context(), bob, metastore.Page{}); err != nil || n != 0 {
		t.Errorf("%d sessions, %v", n, err)
	}
}

func TestUploadsRefused(t *testing.T) {
	f := newFixture(t)
	b := []byte("some bytes")
	for name, tc := range map[string]struct {
		digest blobstore.Digest
		size   int64
		body   io.Reader
		code   Code
		words  string
	}{
		"other bytes": {digestOf([]byte("x")), 10, bytes.NewReader(b), Invalid, digestOf(b).String()},
		"too few":     {digestOf(b), 11, bytes.NewReader(b), Invalid, "11 bytes"},
		"too many":    {digestOf(b), 9, bytes.NewReader(b), Invalid, "9 bytes"},
		"too large":   {digestOf(b), PartBytes + 1, bytes.NewReader(b), Invalid, "parts"},
		"broken off":  {digestOf(b), 10, iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(b))), Unavailable, "broke off"},
	} {
		err := f.UploadBlob(t.Context(), bob, tc.digest, tc.size, tc.body)
		if err == nil || CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %v, want it to say %q", name, err, tc.words)
		}
	}
	// Other bytes than announced were stored before that could be known.
	f.collect()
	if n := f.stored(); n != 0 {
		t.Errorf("%d blobs are stored", n)
	}
	missing, err := f.MissingBlobs(t.Context(), bob, []metastore.Blob{{Digest: digestOf(b), Size: 10}, {Digest: digestOf(b), Size: 10}})
	if err != nil || len(missing) != 1 {
		t.Errorf("missing %v, %v", missing, err)
	}
	f.put(bob, "", b)
	_, err = f.MissingBlobs(t.Context(), bob, []metastore.Blob{{Digest: digestOf(b), Size: 11}})
	wantCode(t, err, Invalid, "10 bytes, not 11")
}
