package telemetry

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Metastore measures the operations of a store of metadata; kind says which
// it is ("sqlite", "postgres").
func (t *Telemetry) Metastore(next metastore.Store, kind string) metastore.Store {
	return &meta{Store: next, t: t, kind: kind, system: attribute.String("db.system.name", kind)}
}

// meta has every method of the store; a test sees to it that none is passed
// through unmeasured.
type meta struct {
	metastore.Store
	t      *Telemetry
	kind   string
	system attribute.KeyValue
}

func (m *meta) begin(ctx context.Context, name string) (context.Context, *operation) {
	ctx, span := m.t.child(ctx, "metastore."+name, m.system)
	return ctx, &operation{
		began: time.Now(), span: span, time: m.t.metaTime.WithLabelValues(m.kind, name),
		errors: m.t.metaErrors, labels: [2]string{m.kind, name}, answers: isMetaAnswer,
	}
}

// isMetaAnswer reports whether an error is what the store was asked for.
func isMetaAnswer(err error) bool {
	return errors.Is(err, metastore.ErrNotFound) || errors.Is(err, metastore.ErrExists)
}

func (m *meta) CreateSession(ctx context.Context, s metastore.Session) (err error) {
	ctx, op := m.begin(ctx, "CreateSession")
	defer op.end(&err)
	return m.Store.CreateSession(ctx, s)
}

func (m *meta) Session(ctx context.Context, id string) (_ metastore.Session, err error) {
	ctx, op := m.begin(ctx, "Session")
	defer op.end(&err)
	return m.Store.Session(ctx, id)
}

func (m *meta) Sessions(ctx context.Context, owner string, p metastore.Page) (_ []metastore.Session, _ int, err error) {
	ctx, op := m.begin(ctx, "Sessions")
	defer op.end(&err)
	return m.Store.Sessions(ctx, owner, p)
}

func (m *meta) SessionsAfter(ctx context.Context, owner string, after *metastore.SessionPlace, limit int) (_ []metastore.Session, err error) {
	ctx, op := m.begin(ctx, "SessionsAfter")
	defer op.end(&err)
	return m.Store.SessionsAfter(ctx, owner, after, limit)
}

func (m *meta) SessionUsage(ctx context.Context, sessionIDs []string, now time.Time) (_ map[string]metastore.Usage, err error) {
	ctx, op := m.begin(ctx, "SessionUsage")
	defer op.end(&err)
	return m.Store.SessionUsage(ctx, sessionIDs, now)
}

func (m *meta) TouchSession(ctx context.Context, id string, at time.Time) (err error) {
	ctx, op := m.begin(ctx, "TouchSession")
	defer op.end(&err)
	return m.Store.TouchSession(ctx, id, at)
}

func (m *meta) FinishSession(ctx context.Context, id string, at time.Time, reason, detail string) (err error) {
	ctx, op := m.begin(ctx, "FinishSession")
	defer op.end(&err)
	return m.Store.FinishSession(ctx, id, at, reason, detail)
}

func (m *meta) SetSessionProject(ctx context.Context, id, projectID string) (err error) {
	ctx, op := m.begin(ctx, "SetSessionProject")
	defer op.end(&err)
	return m.Store.SetSessionProject(ctx, id, projectID)
}

func (m *meta) CreateRun(ctx context.Context, r metastore.Run) (err error) {
	ctx, op := m.begin(ctx, "CreateRun")
	defer op.end(&err)
	return m.Store.CreateRun(ctx, r)
}

func (m *meta) Run(ctx context.Context, id string) (_ metastore.Run, err error) {
	ctx, op := m.begin(ctx, "Run")
	defer op.end(&err)
	return m.Store.Run(ctx, id)
}

func (m *meta) Runs(ctx context.Context, owner, projectID string, p metastore.Page) (_ []metastore.Run, _ int, err error) {
	ctx, op := m.begin(ctx, "Runs")
	defer op.end(&err)
	return m.Store.Runs(ctx, owner, projectID, p)
}

func (m *meta) SessionRuns(ctx context.Context, sessionID string) (_ []metastore.Run, err error) {
	ctx, op := m.begin(ctx, "SessionRuns")
	defer op.end(&err)
	return m.Store.SessionRuns(ctx, sessionID)
}

func (m *meta) TouchRun(ctx context.Context, id string, at time.Time, unsaved bool) (err error) {
	ctx, op := m.begin(ctx, "TouchRun")
	defer op.end(&err)
	return m.Store.TouchRun(ctx, id, at, unsaved)
}

func (m *meta) MoveRun(ctx context.Context, id string, from, to metastore.Holding) (_ bool, err error) {
	ctx, op := m.begin(ctx, "MoveRun")
	defer op.end(&err)
	return m.Store.MoveRun(ctx, id, from, to)
}

func (m *meta) Join(ctx context.Context, id, url string, lease time.Duration, alone bool) (err error) {
	ctx, op := m.begin(ctx, "Join")
	defer op.end(&err)
	return m.Store.Join(ctx, id, url, lease, alone)
}

func (m *meta) RenewLease(ctx context.Context, id string, lease time.Duration) (err error) {
	ctx, op := m.begin(ctx, "RenewLease")
	defer op.end(&err)
	return m.Store.RenewLease(ctx, id, lease)
}

func (m *meta) Leave(ctx context.Context, id string) (err error) {
	ctx, op := m.begin(ctx, "Leave")
	defer op.end(&err)
	return m.Store.Leave(ctx, id)
}

func (m *meta) Servers(ctx context.Context) (_ []metastore.Server, err error) {
	ctx, op := m.begin(ctx, "Servers")
	defer op.end(&err)
	return m.Store.Servers(ctx)
}

func (m *meta) EndLostRuns(ctx context.Context) (_ int, err error) {
	ctx, op := m.begin(ctx, "EndLostRuns")
	defer op.end(&err)
	return m.Store.EndLostRuns(ctx)
}

func (m *meta) TakeDuty(ctx context.Context, name, server string) (_ bool, err error) {
	ctx, op := m.begin(ctx, "TakeDuty")
	defer op.end(&err)
	return m.Store.TakeDuty(ctx, name, server)
}

func (m *meta) CreateSampler(ctx context.Context, s metastore.Sampler) (err error) {
	ctx, op := m.begin(ctx, "CreateSampler")
	defer op.end(&err)
	return m.Store.CreateSampler(ctx, s)
}

func (m *meta) Sampler(ctx context.Context, id string) (_ metastore.Sampler, err error) {
	ctx, op := m.begin(ctx, "Sampler")
	defer op.end(&err)
	return m.Store.Sampler(ctx, id)
}

func (m *meta) SessionSamplers(ctx context.Context, sessionID string) (_ []metastore.Sampler, err error) {
	ctx, op := m.begin(ctx, "SessionSamplers")
	defer op.end(&err)
	return m.Store.SessionSamplers(ctx, sessionID)
}

func (m *meta) CommitCheckpoint(ctx context.Context, c metastore.Checkpoint, overwrite bool, res *metastore.Result) (_ metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "CommitCheckpoint")
	defer op.end(&err)
	return m.Store.CommitCheckpoint(ctx, c, overwrite, res)
}

func (m *meta) Checkpoint(ctx context.Context, runID string, kind metastore.Kind, name string) (_ metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "Checkpoint")
	defer op.end(&err)
	return m.Store.Checkpoint(ctx, runID, kind, name)
}

func (m *meta) LatestCheckpoints(ctx context.Context, runIDs []string, now time.Time) (_ map[string]map[metastore.Kind]metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "LatestCheckpoints")
	defer op.end(&err)
	return m.Store.LatestCheckpoints(ctx, runIDs, now)
}

func (m *meta) Checkpoints(ctx context.Context, f metastore.CheckpointFilter, p metastore.Page) (_ []metastore.Checkpoint, _ int, err error) {
	ctx, op := m.begin(ctx, "Checkpoints")
	defer op.end(&err)
	return m.Store.Checkpoints(ctx, f, p)
}

func (m *meta) CheckpointsAfter(ctx context.Context, f metastore.CheckpointFilter, after *metastore.CheckpointPlace, limit int, into []metastore.ListedCheckpoint) (_ []metastore.ListedCheckpoint, _ *metastore.CheckpointPlace, err error) {
	ctx, op := m.begin(ctx, "CheckpointsAfter")
	defer op.end(&err)
	return m.Store.CheckpointsAfter(ctx, f, after, limit, into)
}

func (m *meta) AllRunCheckpoints(ctx context.Context, runID string, now time.Time) (_ []metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "AllRunCheckpoints")
	defer op.end(&err)
	return m.Store.AllRunCheckpoints(ctx, runID, now)
}

func (m *meta) SetPublic(ctx context.Context, id int64, public bool) (_ bool, err error) {
	ctx, op := m.begin(ctx, "SetPublic")
	defer op.end(&err)
	return m.Store.SetPublic(ctx, id, public)
}

func (m *meta) SetExpiry(ctx context.Context, id int64, at *time.Time) (err error) {
	ctx, op := m.begin(ctx, "SetExpiry")
	defer op.end(&err)
	return m.Store.SetExpiry(ctx, id, at)
}

func (m *meta) DeleteCheckpoint(ctx context.Context, id int64) (err error) {
	ctx, op := m.begin(ctx, "DeleteCheckpoint")
	defer op.end(&err)
	return m.Store.DeleteCheckpoint(ctx, id)
}

func (m *meta) DeleteExpired(ctx context.Context, now, idle time.Time, limit int) (_ int, err error) {
	ctx, op := m.begin(ctx, "DeleteExpired")
	defer op.end(&err)
	return m.Store.DeleteExpired(ctx, now, idle, limit)
}

func (m *meta) NextExpiry(ctx context.Context) (at time.Time, ok bool, err error) {
	ctx, op := m.begin(ctx, "NextExpiry")
	defer op.end(&err)
	return m.Store.NextExpiry(ctx)
}

func (m *meta) CommitImport(ctx context.Context, i metastore.Import) (_ []metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "CommitImport")
	defer op.end(&err)
	return m.Store.CommitImport(ctx, i)
}

func (m *meta) PutUpload(ctx context.Context, owner string, b metastore.Blob, at time.Time) (err error) {
	ctx, op := m.begin(ctx, "PutUpload")
	defer op.end(&err)
	return m.Store.PutUpload(ctx, owner, b, at)
}

func (m *meta) ClaimBlobs(ctx context.Context, owner string, digests []blobstore.Digest, now, since time.Time) (_ map[blobstore.Digest]int64, err error) {
	ctx, op := m.begin(ctx, "ClaimBlobs")
	defer op.end(&err)
	return m.Store.ClaimBlobs(ctx, owner, digests, now, since)
}

func (m *meta) DeleteUploads(ctx context.Context, before time.Time) (_ int, err error) {
	ctx, op := m.begin(ctx, "DeleteUploads")
	defer op.end(&err)
	return m.Store.DeleteUploads(ctx, before)
}

func (m *meta) Referenced(ctx context.Context) (_ map[blobstore.Digest]struct{}, err error) {
	ctx, op := m.begin(ctx, "Referenced")
	defer op.end(&err)
	return m.Store.Referenced(ctx)
}

func (m *meta) PutResult(ctx context.Context, r metastore.Result) (err error) {
	ctx, op := m.begin(ctx, "PutResult")
	defer op.end(&err)
	return m.Store.PutResult(ctx, r)
}

func (m *meta) Result(ctx context.Context, requestID string) (_ metastore.Result, err error) {
	ctx, op := m.begin(ctx, "Result")
	defer op.end(&err)
	return m.Store.Result(ctx, requestID)
}

func (m *meta) DeleteResults(ctx context.Context, before time.Time) (_ int, err error) {
	ctx, op := m.begin(ctx, "DeleteResults")
	defer op.end(&err)
	return m.Store.DeleteResults(ctx, before)
}

func (m *meta) CreateKey(ctx context.Context, k metastore.Key) (err error) {
	ctx, op := m.begin(ctx, "CreateKey")
	defer op.end(&err)
	return m.Store.CreateKey(ctx, k)
}

func (m *meta) KeyByHash(ctx context.Context, hash string) (_ metastore.Key, err error) {
	ctx, op := m.begin(ctx, "KeyByHash")
	defer op.end(&err)
	return m.Store.KeyByHash(ctx, hash)
}

func (m *meta) Keys(ctx context.Context) (_ []metastore.Key, err error) {
	ctx, op := m.begin(ctx, "Keys")
	defer op.end(&err)
	return m.Store.Keys(ctx)
}

func (m *meta) RevokeKey(ctx context.Context, id string, at time.Time) (err error) {
	ctx, op := m.begin(ctx, "RevokeKey")
	defer op.end(&err)
	return m.Store.RevokeKey(ctx, id, at)
}

func (m *meta) Secret(ctx context.Context, name string, create func() ([]byte, error)) (_ []byte, err error) {
	ctx, op := m.begin(ctx, "Secret")
	defer op.end(&err)
	return m.Store.Secret(ctx, name, create)
}

func (m *meta) SpaceUsage(ctx context.Context, q metastore.SpaceQuery, p metastore.Page) (_ metastore.SpaceUsage, err error) {
	ctx, op := m.begin(ctx, "SpaceUsage")
	defer op.end(&err)
	return m.Store.SpaceUsage(ctx, q, p)
}

func (m *meta) RunStates(ctx context.Context) (_ map[metastore.RunState]int, err error) {
	ctx, op := m.begin(ctx, "RunStates")
	defer op.end(&err)
	return m.Store.RunStates(ctx)
}

func (m *meta) Check(ctx context.Context) (err error) {
	ctx, op := m.begin(ctx, "Check")
	defer op.end(&err)
	return m.Store.Check(ctx)
}

func (m *meta) Manifests(ctx context.Context, after int64, limit int) (_ []metastore.Manifest, err error) {
	ctx, op := m.begin(ctx, "Manifests")
	defer op.end(&err)
	return m.Store.Manifests(ctx, after, limit)
}

func (m *meta) Manifest(ctx context.Context, id int64) (_ metastore.Manifest, err error) {
	ctx, op := m.begin(ctx, "Manifest")
	defer op.end(&err)
	return m.Store.Manifest(ctx, id)
}

func (m *meta) References(ctx context.Context, d blobstore.Digest, after int64, limit int) (_ []metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "References")
	defer op.end(&err)
	return m.Store.References(ctx, d, after, limit)
}

func (m *meta) OrphanFiles(ctx context.Context, remove bool) (_ int, err error) {
	ctx, op := m.begin(ctx, "OrphanFiles")
	defer op.end(&err)
	return m.Store.OrphanFiles(ctx, remove)
}

func (m *meta) CorrectSizes(ctx context.Context, id int64, sizes map[blobstore.Digest]int64) (err error) {
	ctx, op := m.begin(ctx, "CorrectSizes")
	defer op.end(&err)
	return m.Store.CorrectSizes(ctx, id, sizes)
}

func (m *meta) Uploads(ctx context.Context) (_ []metastore.Upload, err error) {
	ctx, op := m.begin(ctx, "Uploads")
	defer op.end(&err)
	return m.Store.Uploads(ctx)
}

func (m *meta) ForgetUploads(ctx context.Context, d blobstore.Digest) (_ int, err error) {
	ctx, op := m.begin(ctx, "ForgetUploads")
	defer op.end(&err)
	return m.Store.ForgetUploads(ctx, d)
}

func (m *meta) Quarantine(ctx context.Context, id int64, at time.Time, reason string) (err error) {
	ctx, op := m.begin(ctx, "Quarantine")
	defer op.end(&err)
	return m.Store.Quarantine(ctx, id, at, reason)
}

func (m *meta) Quarantined(ctx context.Context) (_ []metastore.Quarantined, err error) {
	ctx, op := m.begin(ctx, "Quarantined")
	defer op.end(&err)
	return m.Store.Quarantined(ctx)
}

func (m *meta) Release(ctx context.Context, id int64) (_ metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "Release")
	defer op.end(&err)
	return m.Store.Release(ctx, id)
}

func (m *meta) DropQuarantined(ctx context.Context, id int64) (err error) {
	ctx, op := m.begin(ctx, "DropQuarantined")
	defer op.end(&err)
	return m.Store.DropQuarantined(ctx, id)
}

func (m *meta) Counters(ctx context.Context) (_ []metastore.Counter, err error) {
	ctx, op := m.begin(ctx, "Counters")
	defer op.end(&err)
	return m.Store.Counters(ctx)
}

func (m *meta) Recount(ctx context.Context, c metastore.Counter) (err error) {
	ctx, op := m.begin(ctx, "Recount")
	defer op.end(&err)
	return m.Store.Recount(ctx, c)
}

func (m *meta) SetRetention(ctx context.Context, r metastore.Retention) (err error) {
	ctx, op := m.begin(ctx, "SetRetention")
	defer op.end(&err)
	return m.Store.SetRetention(ctx, r)
}

func (m *meta) Retention(ctx context.Context, owner string) (_ metastore.Retention, err error) {
	ctx, op := m.begin(ctx, "Retention")
	defer op.end(&err)
	return m.Store.Retention(ctx, owner)
}

func (m *meta) DeleteRetention(ctx context.Context, owner string) (err error) {
	ctx, op := m.begin(ctx, "DeleteRetention")
	defer op.end(&err)
	return m.Store.DeleteRetention(ctx, owner)
}

func (m *meta) DueRetention(ctx context.Context, since time.Time, after string, limit int) (_ []metastore.Retention, err error) {
	ctx, op := m.begin(ctx, "DueRetention")
	defer op.end(&err)
	return m.Store.DueRetention(ctx, since, after, limit)
}

func (m *meta) RetentionApplied(ctx context.Context, r metastore.Retention) (err error) {
	ctx, op := m.begin(ctx, "RetentionApplied")
	defer op.end(&err)
	return m.Store.RetentionApplied(ctx, r)
}

func (m *meta) DeleteRetired(ctx context.Context, r metastore.Retention, ids []int64, public bool) (_ []int64, err error) {
	ctx, op := m.begin(ctx, "DeleteRetired")
	defer op.end(&err)
	return m.Store.DeleteRetired(ctx, r, ids, public)
}

func (m *meta) CheckpointInfo(ctx context.Context, runID string, kind metastore.Kind, name string) (_ metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "CheckpointInfo")
	defer op.end(&err)
	return m.Store.CheckpointInfo(ctx, runID, kind, name)
}

func (m *meta) RunInfo(ctx context.Context, id string, now time.Time) (_ metastore.Run, _ map[metastore.Kind]metastore.Checkpoint, err error) {
	ctx, op := m.begin(ctx, "RunInfo")
	defer op.end(&err)
	return m.Store.RunInfo(ctx, id, now)
}
