-- +goose Up
-- Times are microseconds since 1970 UTC, flags are 0 or 1, structured values
-- are JSON text, digests are the 32 raw bytes.

CREATE TABLE sessions (
    id             TEXT    NOT NULL PRIMARY KEY,
    owner          TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    last_heartbeat INTEGER NOT NULL,
    tags           TEXT,
    user_metadata  TEXT,
    sdk_version    TEXT    NOT NULL,
    project_id     TEXT    NOT NULL,
    display_name   TEXT    NOT NULL,
    finished_at    INTEGER,
    finish_reason  TEXT    NOT NULL,
    finish_detail  TEXT    NOT NULL
) STRICT;
CREATE INDEX sessions_by_owner ON sessions (owner, created_at, id);

CREATE TABLE runs (
    id              TEXT    NOT NULL PRIMARY KEY,
    session_id      TEXT    REFERENCES sessions (id),
    seq             INTEGER NOT NULL,
    owner           TEXT    NOT NULL,
    project_id      TEXT    NOT NULL, -- a copy of the session's, to filter lists by
    base_model      TEXT    NOT NULL,
    lora_rank       INTEGER NOT NULL,
    train_attn      INTEGER NOT NULL,
    train_mlp       INTEGER NOT NULL,
    train_unembed   INTEGER NOT NULL,
    seed            INTEGER,
    user_metadata   TEXT,
    resumed_from    TEXT    NOT NULL,
    request_hash    TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    last_request_at INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    unsaved         INTEGER NOT NULL
) STRICT;
CREATE INDEX runs_by_session ON runs (session_id, created_at, seq);
CREATE INDEX runs_by_owner ON runs (owner, created_at, id);
CREATE INDEX runs_by_project ON runs (owner, project_id, created_at, id);
CREATE INDEX runs_live ON runs (id) WHERE state = 'live';

CREATE TABLE samplers (
    id           TEXT    NOT NULL PRIMARY KEY,
    session_id   TEXT    REFERENCES sessions (id),
    seq          INTEGER NOT NULL,
    owner        TEXT    NOT NULL,
    base_model   TEXT    NOT NULL,
    model_path   TEXT    NOT NULL,
    request_hash TEXT    NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX samplers_by_session ON samplers (session_id, created_at, seq);

-- Every row is a ready checkpoint: there is no state to keep. Ids are never
-- used twice, so that an id held by a client cannot come to mean another one.
CREATE TABLE checkpoints (
    id            INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    run_id        TEXT    NOT NULL REFERENCES runs (id),
    kind          TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    owner         TEXT    NOT NULL, -- the run's
    listed        INTEGER NOT NULL,
    public        INTEGER NOT NULL,
    size_bytes    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    user_metadata TEXT,
    base_model    TEXT    NOT NULL,
    lora_rank     INTEGER NOT NULL,
    train_attn    INTEGER NOT NULL,
    train_mlp     INTEGER NOT NULL,
    train_unembed INTEGER NOT NULL,
    has_optimizer INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX checkpoints_name ON checkpoints (run_id, kind, name);
-- One index per sort of list, each with all that selects and orders it, so
-- that rows which are skipped are never read.
--
-- listed is 0 or 1, and said in different ways so that no query can be answered
-- by an index that was not made for it: a planner that takes an owner's
-- checkpoints to be spread evenly would look for them in the list of everything,
-- and find none for a long time if all of them are old.
CREATE INDEX checkpoints_list ON checkpoints (created_at, id, kind, expires_at) WHERE listed = 1;
CREATE INDEX checkpoints_list_owner ON checkpoints (owner, created_at, id, expires_at, listed) WHERE listed > 0;
CREATE INDEX checkpoints_list_owner_kind ON checkpoints (owner, kind, created_at, id, expires_at, listed) WHERE listed > 0;
CREATE INDEX checkpoints_list_run ON checkpoints (run_id, created_at, id, expires_at, listed) WHERE listed > 0;
CREATE INDEX checkpoints_list_run_kind ON checkpoints (run_id, kind, created_at, id, expires_at, listed) WHERE listed > 0;
CREATE INDEX checkpoints_expiry ON checkpoints (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX checkpoints_expiry_owner ON checkpoints (owner, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX checkpoints_unlisted ON checkpoints (id, run_id) WHERE listed = 0;

CREATE TABLE checkpoint_files (
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,
    position      INTEGER NOT NULL,
    name          TEXT    NOT NULL,
    size          INTEGER NOT NULL,
    digest        BLOB    NOT NULL,
    PRIMARY KEY (checkpoint_id, position)
) STRICT, WITHOUT ROWID;

-- How many listed checkpoints a list has, by stretches of it: a block counts
-- those from its own (created_at, id) up to the next block's. See blocks.go.
CREATE TABLE checkpoint_blocks (
    list             TEXT    NOT NULL,
    created_at       INTEGER NOT NULL,
    id               INTEGER NOT NULL,
    weights          INTEGER NOT NULL,
    sampler_weights  INTEGER NOT NULL,
    external_weights INTEGER NOT NULL,
    PRIMARY KEY (list, created_at, id)
) STRICT, WITHOUT ROWID;

-- How many sessions and runs an owner has, in all and by project.
CREATE TABLE totals (
    list    TEXT    NOT NULL,
    owner   TEXT    NOT NULL,
    project TEXT    NOT NULL,
    n       INTEGER NOT NULL,
    PRIMARY KEY (list, owner, project)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
    request_id   TEXT    NOT NULL PRIMARY KEY,
    session_id   TEXT    NOT NULL,
    request_hash TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    payload      BLOB    NOT NULL
) STRICT;
CREATE INDEX results_by_age ON results (created_at);

CREATE TABLE api_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    hash       TEXT    NOT NULL UNIQUE,
    owner      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row, written to find out whether writing works.
CREATE TABLE health (
    id         INTEGER NOT NULL PRIMARY KEY,
    checked_at INTEGER NOT NULL
) STRICT;
