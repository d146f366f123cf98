-- +goose Up
-- Checkpoints that were found damaged, as they were: out of everybody's sight,
-- but with the names and digests of their files. These count as referenced.
CREATE TABLE quarantined_checkpoints (
    id             INTEGER NOT NULL PRIMARY KEY, -- what it was as a checkpoint
    run_id         TEXT    NOT NULL, -- which may be what is missing
    kind           TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    listed         INTEGER NOT NULL,
    public         INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER,
    user_metadata  TEXT,
    base_model     TEXT    NOT NULL,
    lora_rank      INTEGER NOT NULL,
    train_attn     INTEGER NOT NULL,
    train_mlp      INTEGER NOT NULL,
    train_unembed  INTEGER NOT NULL,
    has_optimizer  INTEGER NOT NULL,
    quarantined_at INTEGER NOT NULL,
    reason         TEXT    NOT NULL
) STRICT;

CREATE TABLE quarantined_files (
    checkpoint_id INTEGER NOT NULL REFERENCES quarantined_checkpoints (id) ON DELETE CASCADE,
    position      INTEGER NOT NULL,
    name          TEXT    NOT NULL,
    size          INTEGER NOT NULL,
    digest        BLOB    NOT NULL,
    PRIMARY KEY (checkpoint_id, position)
) STRICT, WITHOUT ROWID;
