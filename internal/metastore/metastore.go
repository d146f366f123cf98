// Package metastore keeps the server's metadata: sessions, training runs,
// samplers, checkpoints with their manifests, durable results and keys.
//
// It stores facts and enforces the invariants that need a transaction; what
// the facts mean (who may see what, when something expires) is decided one
// floor up, in package registry. Times are UTC with microsecond resolution.
package metastore

import (
	"context"
	"errors"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
)

var (
	// ErrNotFound: the row is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists: a row with that identity is there already.
	ErrExists = errors.New("already exists")
	// ErrNoServer: the server that is to hold a run has not joined, or was
	// found not to have renewed its lease.
	ErrNoServer = errors.New("no such server")
)

// Kind is a checkpoint's kind, spelled as in its tinker path.
type Kind string

// The kinds of checkpoint.
const (
	KindTraining Kind = "weights"
	KindSampler  Kind = "sampler_weights"
	KindExternal Kind = "external_weights"
)

// Session is one client's stay. Its runs and samplers carry its id in theirs.
//
// Maps and slices come back as they were stored, nil or empty; numbers in
// UserMetadata as float64, as from any JSON.
type Session struct {
	ID            string
	Owner         string
	CreatedAt     time.Time
	LastHeartbeat time.Time
	Tags          []string
	UserMetadata  map[string]any
	SDKVersion    string
	ProjectID     string
	DisplayName   string
	FinishedAt    *time.Time
	FinishReason  string // "success", "errored", "interrupted"
	FinishDetail  string
}

// SessionPlace is a place in the list of sessions: behind the one that was
// created then and has that id, whether or not it is still there.
type SessionPlace struct {
	CreatedAt time.Time
	ID        string
}

// CheckpointPlace is a place in every list of checkpoints: behind the one that
// was saved then and has that id, whether or not it is still there.
type CheckpointPlace struct {
	CreatedAt time.Time
	ID        int64
}

// Usage is what checkpoints take.
type Usage struct {
	Checkpoints int
	Bytes       int64
}

// LoRA is how an adapter was configured.
type LoRA struct {
	BaseModel    string
	Rank         int
	TrainAttn    bool
	TrainMLP     bool
	TrainUnembed bool
}

// RunState says what became of a run's model.
type RunState string

// The states of a run. A run is Live while a server holds its model; when it
// no longer does, the run is Ended, or Corrupted if steps were lost with it.
const (
	RunLive      RunState = "live"
	RunEnded     RunState = "ended"
	RunCorrupted RunState = "corrupted"
	// RunParked: no server holds its model, but all of it was kept for one to
	// take up again.
	RunParked RunState = "parked"
)

// Run is a training run.
type Run struct {
	ID            string
	SessionID     string // of an existing session, or empty if it belongs to none
	Seq           int64  // position within the session
	Owner         string
	LoRA          LoRA
	Seed          *int64
	UserMetadata  map[string]any
	ResumedFrom   string // tinker path, empty if none
	RequestHash   string // of the request that created it
	CreatedAt     time.Time
	LastRequestAt time.Time
	State         RunState
	Unsaved       bool // steps were taken since the last training checkpoint
	// Server is the one that holds the run's model, or held it last. To create
	// a live run it must have joined (or be empty: nobody holds it).
	Server string
}

// Holding says whether a run is live, and where.
type Holding struct {
	State  RunState
	Server string
}

// Server is one of those at work on the metadata.
type Server struct {
	ID        string
	URL       string // where the others reach it, empty if nowhere
	StartedAt time.Time
	ExpiresAt time.Time // by the database's clock
}

// Sampler is a sampling session.
type Sampler struct {
	ID          string
	SessionID   string // of an existing session, or empty if it belongs to none
	Seq         int64
	Owner       string
	BaseModel   string
	ModelPath   string // tinker path, empty for the base model alone
	RequestHash string
	CreatedAt   time.Time
}

// File is an entry of a manifest.
type File struct {
	Name   string
	Size   int64 // bytes
	Digest blobstore.Digest
}

// Checkpoint is a saved state, its files in order.
type Checkpoint struct {
	ID           int64 // assigned by the store, grows with time, never used again
	RunID        string
	Kind         Kind
	Name         string
	Owner        string // the run's
	Listed       bool   // false for snapshots taken only to be sampled from
	Public       bool
	SizeBytes    int64 // sum of the files' sizes, taken by CommitCheckpoint
	CreatedAt    time.Time
	ExpiresAt    *time.Time // the first moment it is expired at; nil is never
	UserMetadata map[string]string
	LoRA         LoRA
	HasOptimizer bool
	Files        []File // only filled by Checkpoint and by CommitCheckpoint's caller
}

// ListedCheckpoint is what lists tell of a checkpoint.
type ListedCheckpoint struct {
	ID           int64
	RunID        string
	Kind         Kind
	Name         string
	Public       bool
	SizeBytes    int64
	CreatedAt    time.Time
	ExpiresAt    *time.Time
	UserMetadata map[string]string
	BaseModel    string
}

// InList is what lists tell of c.
func (c *Checkpoint) InList() ListedCheckpoint {
	return ListedCheckpoint{
		ID: c.ID, RunID: c.RunID, Kind: c.Kind, Name: c.Name, Public: c.Public, SizeBytes: c.SizeBytes,
		CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, UserMetadata: c.UserMetadata, BaseModel: c.LoRA.BaseModel,
	}
}

// Blob is what a digest stands for.
type Blob struct {
	Digest blobstore.Digest
	Size   int64 // bytes
}

// Import is what makes checkpoints of bytes that came from elsewhere.
type Import struct {
	// Session and Run are created with the checkpoints. Both are nil if these
	// belong to a run that exists.
	Session *Session
	Run     *Run
	// Checkpoints are committed as CommitCheckpoint does, except that they
	// save none of their run's steps.
	Checkpoints []Checkpoint
	Overwrite   bool
	Result      *Result // of the request, if it is to be remembered
	// Uploads are the owner's uploads that have served their purpose.
	Owner   string
	Uploads []blobstore.Digest
}

// Result is the durable outcome of a request: what a retried request is
// answered with, even after a restart.
type Result struct {
	RequestID   string
	SessionID   string
	RequestHash string
	CreatedAt   time.Time
	Payload     []byte // JSON
}

// Retention is which checkpoints of an owner's are kept.
type Retention struct {
	Owner   string
	Version string // another one each time a policy is set
	Policy  []byte // JSON
	SetAt   time.Time
	// What came of it when it was applied last; AppliedAt is nil if it was not
	// yet.
	AppliedAt *time.Time
	Removed   int
	Refused   string // why nothing was done
}

// Key is an API key; the key itself is never stored.
type Key struct {
	ID        string
	Hash      string // hexadecimal SHA-256 of the key
	Owner     string
	Name      string
	CreatedAt time.Time
	RevokedAt *time.Time
}

// Page selects a slice of an ordered list. Limit 0 is "no rows", for callers
// that want only the total.
type Page struct {
	Limit  int
	Offset int
}

// CheckpointFilter selects checkpoints; zero fields do not restrict. Only
// ready, listed ones that have not expired at Now are ever selected.
//
// With an Owner or a RunID, a page costs the same at any offset. The list of
// everything is for administration: it gets slower with the offset.
type CheckpointFilter struct {
	Owner string
	RunID string
	Kind  Kind
	Now   time.Time // required
}

// Store is the metadata. It is safe for concurrent use.
//
// Every implementation promises, and package metastoretest checks:
//
//   - Each method is one transaction: it happens wholly or not at all, and
//     once it has returned it survives a crash.
//   - A name is taken by at most one ready checkpoint of a run and kind.
//   - A checkpoint's strings, but for its user metadata, come back as they were,
//     or are refused: the control character U+001F is.
//   - Lists are newest first, ties broken by id (in a session by Seq), and
//     stable while paging as long as nothing is added or removed. A page and
//     its total are of the same moment.
//   - Absence is ErrNotFound, a taken identity ErrExists, both wrapped. A list
//     of what is not there, a session's or a run's, is empty.
type Store interface {
	CreateSession(ctx context.Context, s Session) error
	Session(ctx context.Context, id string) (Session, error)
	Sessions(ctx context.Context, owner string, p Page) ([]Session, int, error)
	// SessionsAfter lists up to limit of an owner's sessions from a place in
	// the list on; nil is its start.
	SessionsAfter(ctx context.Context, owner string, after *SessionPlace, limit int) ([]Session, error)
	// SessionUsage sums up what the sessions' runs have in listed checkpoints
	// that are unexpired at now. A session without any is not in the map.
	SessionUsage(ctx context.Context, sessionIDs []string, now time.Time) (map[string]Usage, error)
	// TouchSession records a heartbeat. An earlier one than the last is no news.
	TouchSession(ctx context.Context, id string, at time.Time) error
	// FinishSession ends a session; the first reason given stays.
	FinishSession(ctx context.Context, id string, at time.Time, reason, detail string) error
	// SetSessionProject moves a session and its runs to a project.
	SetSessionProject(ctx context.Context, id, projectID string) error

	CreateRun(ctx context.Context, r Run) error
	Run(ctx context.Context, id string) (Run, error)
	// RunInfo is Run with what LatestCheckpoints has about it.
	RunInfo(ctx context.Context, id string, now time.Time) (Run, map[Kind]Checkpoint, error)
	// Runs lists an owner's runs, of one project unless projectID is empty.
	Runs(ctx context.Context, owner, projectID string, p Page) ([]Run, int, error)
	SessionRuns(ctx context.Context, sessionID string) ([]Run, error)
	// TouchRun records activity and, with unsaved, that there are unsaved
	// steps. Only a training checkpoint takes that back.
	TouchRun(ctx context.Context, id string, at time.Time, unsaved bool) error
	// MoveRun changes where a run is, if it is where the caller takes it to be;
	// else, or if there is no such run, it reports false. To become live it
	// needs a server that has joined, or it is ErrNoServer.
	MoveRun(ctx context.Context, id string, from, to Holding) (bool, error)

	// Join enters a server, which holds models of live runs until it leaves or
	// is found not to have renewed its lease. A server that is alone knows that
	// no other one can be at work: all others are removed.
	Join(ctx context.Context, id, url string, lease time.Duration, alone bool) error
	// RenewLease extends a server's lease, though it may have run out, unless
	// it was found to have: then the server is ErrNotFound, and its runs are
	// ended.
	RenewLease(ctx context.Context, id string, lease time.Duration) error
	// Leave removes a server. It ends lost runs as EndLostRuns does.
	Leave(ctx context.Context, id string) error
	// Servers lists those whose leases have not run out, in the order in which
	// they joined.
	Servers(ctx context.Context) ([]Server, error)
	// EndLostRuns removes the servers whose leases have run out and ends the
	// live runs that no server holds: those with unsaved steps become
	// corrupted. It returns how many did.
	EndLostRuns(ctx context.Context) (int, error)
	// TakeDuty reports whether a server may do what only one at a time is to
	// do: nobody else has the duty, or its server is gone.
	TakeDuty(ctx context.Context, name, server string) (bool, error)

	CreateSampler(ctx context.Context, s Sampler) error
	Sampler(ctx context.Context, id string) (Sampler, error)
	SessionSamplers(ctx context.Context, sessionID string) ([]Sampler, error)

	// CommitCheckpoint makes c ready and, in the same transaction, clears the
	// run's Unsaved flag if c is a training checkpoint and records the result
	// if one is given. A ready checkpoint of that name is ErrExists, unless
	// overwrite is set or it has expired at c.CreatedAt, in which case it is
	// replaced by one with another id. The run must exist and have c's owner.
	// It returns c as it is stored, with its id.
	CommitCheckpoint(ctx context.Context, c Checkpoint, overwrite bool, res *Result) (Checkpoint, error)
	// Checkpoint finds a ready checkpoint, expired or not, with its files.
	Checkpoint(ctx context.Context, runID string, kind Kind, name string) (Checkpoint, error)
	// CheckpointInfo is Checkpoint without the files.
	CheckpointInfo(ctx context.Context, runID string, kind Kind, name string) (Checkpoint, error)
	// LatestCheckpoints returns, for each of the runs, its newest training
	// and newest sampler checkpoint that is listed and unexpired at now. A run
	// that has none is not in the map.
	LatestCheckpoints(ctx context.Context, runIDs []string, now time.Time) (map[string]map[Kind]Checkpoint, error)
	Checkpoints(ctx context.Context, f CheckpointFilter, p Page) ([]Checkpoint, int, error)
	// CheckpointsAfter goes through what a filter selects, from a place in its list
	// on or from its beginning, for about limit checkpoints, and says where to go
	// on; nil is the end. It does not count: a list that changes meanwhile can be
	// gone through, and what stays in it is met once. Not all that it returns need
	// be of one moment. The list may use the memory of into.
	CheckpointsAfter(ctx context.Context, f CheckpointFilter, after *CheckpointPlace, limit int, into []ListedCheckpoint) (list []ListedCheckpoint, next *CheckpointPlace, err error)
	// AllRunCheckpoints is Checkpoints of one run, without paging.
	AllRunCheckpoints(ctx context.Context, runID string, now time.Time) ([]Checkpoint, error)
	// SetPublic changes the flag and reports whether it was different.
	SetPublic(ctx context.Context, id int64, public bool) (bool, error)
	SetExpiry(ctx context.Context, id int64, at *time.Time) error
	// DeleteCheckpoint removes the checkpoint and its manifest; the bytes are
	// the garbage collector's.
	DeleteCheckpoint(ctx context.Context, id int64) error
	// DeleteExpired removes up to limit checkpoints that expired at or before
	// now, and up to limit unlisted ones that never expire of sessions that
	// finished, or had their last heartbeat, before idle; and such ones in
	// quarantine. It returns how many went.
	DeleteExpired(ctx context.Context, now, idle time.Time, limit int) (int, error)
	// NextExpiry is when the next checkpoint expires; ok is false if none will.
	NextExpiry(ctx context.Context) (at time.Time, ok bool, err error)
	// CommitImport makes everything of an import visible, or nothing. It
	// returns the checkpoints as they are stored. What is there already is
	// ErrExists.
	CommitImport(ctx context.Context, i Import) ([]Checkpoint, error)

	// PutUpload records that an owner sent a blob; once more renews it.
	PutUpload(ctx context.Context, owner string, b Blob, at time.Time) error
	// ClaimBlobs returns, of the digests, those whose bytes the owner has sent
	// after since or may read: they are in a manifest of the owner's, or in
	// one that is public, which has not expired at now. In the same
	// transaction it records them as uploads of now, so that at no moment
	// between this one and what is made of them they are unreferenced.
	ClaimBlobs(ctx context.Context, owner string, digests []blobstore.Digest, now, since time.Time) (map[blobstore.Digest]int64, error)
	// DeleteUploads forgets uploads recorded at or before a time.
	DeleteUploads(ctx context.Context, before time.Time) (int, error)
	// Referenced returns the digests of all manifests' files, in quarantine
	// too, and of all uploads as they are committed at one moment.
	Referenced(ctx context.Context) (map[blobstore.Digest]struct{}, error)

	// PutResult records a result; the first one of a request stays, and
	// another is ErrExists.
	PutResult(ctx context.Context, r Result) error
	Result(ctx context.Context, requestID string) (Result, error)
	// DeleteResults drops results older than the given time.
	DeleteResults(ctx context.Context, before time.Time) (int, error)

	// SetRetention makes r the owner's policy, which was not applied yet, in the
	// place of another.
	SetRetention(ctx context.Context, r Retention) error
	Retention(ctx context.Context, owner string) (Retention, error)
	DeleteRetention(ctx context.Context, owner string) error
	// DueRetention lists up to limit policies that were not applied after since,
	// by owner, from behind the owner after.
	DueRetention(ctx context.Context, since time.Time, after string, limit int) ([]Retention, error)
	// RetentionApplied writes down what came of r. ErrNotFound: another version
	// is the owner's meanwhile, or none.
	RetentionApplied(ctx context.Context, r Retention) error
	// DeleteRetired removes those of the checkpoints that are r's owner's and,
	// unless public is set, not public, and returns their ids. Once another
	// version is the owner's, or none, it removes nothing: ErrNotFound.
	DeleteRetired(ctx context.Context, r Retention, ids []int64, public bool) ([]int64, error)

	CreateKey(ctx context.Context, k Key) error
	// KeyByHash finds a key, revoked or not.
	KeyByHash(ctx context.Context, hash string) (Key, error)
	Keys(ctx context.Context) ([]Key, error)
	// RevokeKey marks a key as revoked; the first time given stays.
	RevokeKey(ctx context.Context, id string, at time.Time) error

	// Secret returns the named secret, storing create's bytes the first time:
	// every server on the same metadata gets the same one.
	Secret(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error)

	// SpaceUsage tells what checkpoints take.
	SpaceUsage(ctx context.Context, q SpaceQuery, p Page) (SpaceUsage, error)
	// RunStates counts the runs in each state. A state that none is in may be
	// missing.
	RunStates(ctx context.Context) (map[RunState]int, error)
	Audit

	// Check reports whether the store can be reached and written to.
	Check(ctx context.Context) error
	Close() error
}
