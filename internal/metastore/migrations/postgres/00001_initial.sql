-- +goose Up
-- Times are microseconds since 1970 UTC, flags are 0 or 1, structured values
-- are JSON text, digests are the 32 raw bytes. Text is compared by its bytes,
-- as everywhere else in the program.

CREATE TABLE sessions (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    owner          TEXT COLLATE "C" NOT NULL,
    created_at     BIGINT           NOT NULL,
    last_heartbeat BIGINT           NOT NULL,
    tags           TEXT COLLATE "C",
    user_metadata  TEXT COLLATE "C",
    sdk_version    TEXT COLLATE "C" NOT NULL,
    project_id     TEXT COLLATE "C" NOT NULL,
    display_name   TEXT COLLATE "C" NOT NULL,
    finished_at    BIGINT,
    finish_reason  TEXT COLLATE "C" NOT NULL,
    finish_detail  TEXT COLLATE "C" NOT NULL
);
CREATE INDEX sessions_by_owner ON sessions (owner, created_at, id);

CREATE TABLE runs (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    session_id      TEXT COLLATE "C" REFERENCES sessions (id),
    seq             BIGINT           NOT NULL,
    owner           TEXT COLLATE "C" NOT NULL,
    project_id      TEXT COLLATE "C" NOT NULL, -- a copy of the session's, to filter lists by
    base_model      TEXT COLLATE "C" NOT NULL,
    lora_rank       BIGINT           NOT NULL,
    train_attn      BIGINT           NOT NULL,
    train_mlp       BIGINT           NOT NULL,
    train_unembed   BIGINT           NOT NULL,
    seed            BIGINT,
    user_metadata   TEXT COLLATE "C",
    resumed_from    TEXT COLLATE "C" NOT NULL,
    request_hash    TEXT COLLATE "C" NOT NULL,
    created_at      BIGINT           NOT NULL,
    last_request_at BIGINT           NOT NULL,
    state           TEXT COLLATE "C" NOT NULL,
    unsaved         BIGINT           NOT NULL
);
CREATE INDEX runs_by_session ON runs (session_id, created_at, seq);
CREATE INDEX runs_by_owner ON runs (owner, created_at, id);
CREATE INDEX runs_by_project ON runs (owner, project_id, created_at, id);
CREATE INDEX runs_live ON runs (id) WHERE state = 'live';

CREATE TABLE samplers (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    session_id   TEXT COLLATE "C" REFERENCES sessions (id),
    seq          BIGINT           NOT NULL,
    owner        TEXT COLLATE "C" NOT NULL,
    base_model   TEXT COLLATE "C" NOT NULL,
    model_path   TEXT COLLATE "C" NOT NULL,
    request_hash TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT           NOT NULL
);
CREATE INDEX samplers_by_session ON samplers (session_id, created_at, seq);

-- Every row is a ready checkpoint: there is no state to keep. Ids are never
-- used twice, so that an id held by a client cannot come to mean another one.
CREATE TABLE checkpoints (
    id            BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    kind          TEXT COLLATE "C" NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    owner         TEXT COLLATE "C" NOT NULL, -- the run's
    listed        BIGINT           NOT NULL,
    public        BIGINT           NOT NULL,
    size_bytes    BIGINT           NOT NULL,
    created_at    BIGINT           NOT NULL,
    expires_at    BIGINT,
    user_metadata TEXT COLLATE "C",
    base_model    TEXT COLLATE "C" NOT NULL,
    lora_rank     BIGINT           NOT NULL,
    train_attn    BIGINT           NOT NULL,
    train_mlp     BIGINT           NOT NULL,
    train_unembed BIGINT           NOT NULL,
    has_optimizer BIGINT           NOT NULL
);
CREATE UNIQUE INDEX checkpoints_name ON checkpoints (run_id, kind, name);
-- One index per sort of list, each with all that selects and orders it, so
-- that rows which are skipped are never read.
--
-- listed is 0 or 1, and said in different ways so that no query can be answered
-- by an index that was not made for it: a planner that takes an owner's
-- checkpoints to be spread evenly would look for them in the list of everything,
-- and find none for a long time if all of them are old.
CREATE INDEX checkpoints_list ON checkpoints (created_at, id, kind, expires_at) WHERE listed = 1;
CREATE INDEX checkpoints_list_owner ON checkpoints (owner, created_at, id, expires_at) WHERE listed > 0;
CREATE INDEX checkpoints_list_owner_kind ON checkpoints (owner, kind, created_at, id, expires_at) WHERE listed > 0;
CREATE INDEX checkpoints_list_run ON checkpoints (run_id, created_at, id, expires_at) WHERE listed > 0;
CREATE INDEX checkpoints_list_run_kind ON checkpoints (run_id, kind, created_at, id, expires_at) WHERE listed > 0;
CREATE INDEX checkpoints_expiry ON checkpoints (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX checkpoints_expiry_owner ON checkpoints (owner, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX checkpoints_unlisted ON checkpoints (id, run_id) WHERE listed = 0;

CREATE TABLE checkpoint_files (
    checkpoint_id BIGINT           NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,
    position      BIGINT           NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    size          BIGINT           NOT NULL,
    digest        BYTEA            NOT NULL,
    PRIMARY KEY (checkpoint_id, position)
);

-- How many listed checkpoints a list has, by stretches of it: a block counts
-- those from its own (created_at, id) up to the next block's. See blocks.go.
CREATE TABLE checkpoint_blocks (
    list             TEXT COLLATE "C" NOT NULL,
    created_at       BIGINT           NOT NULL,
    id               BIGINT           NOT NULL,
    weights          BIGINT           NOT NULL,
    sampler_weights  BIGINT           NOT NULL,
    external_weights BIGINT           NOT NULL,
    PRIMARY KEY (list, created_at, id)
);

-- How many sessions and runs an owner has, in all and by project.
CREATE TABLE totals (
    list    TEXT COLLATE "C" NOT NULL,
    owner   TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    n       BIGINT           NOT NULL,
    PRIMARY KEY (list, owner, project)
);

CREATE TABLE results (
    request_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    session_id   TEXT COLLATE "C" NOT NULL,
    request_hash TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT           NOT NULL,
    payload      BYTEA            NOT NULL
);
CREATE INDEX results_by_age ON results (created_at);

CREATE TABLE api_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    owner      TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT           NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE secrets (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA            NOT NULL
);

-- One row, written to find out whether writing works.
CREATE TABLE health (
    id         BIGINT NOT NULL PRIMARY KEY,
    checked_at BIGINT NOT NULL
);
