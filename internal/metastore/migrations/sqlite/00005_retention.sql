-- +goose Up
-- Which checkpoints are kept, by owner, and what came of it when it was applied
-- last.
CREATE TABLE retention (
    owner      TEXT    NOT NULL PRIMARY KEY,
    version    TEXT    NOT NULL, -- another one each time the policy is set
    policy     TEXT    NOT NULL,
    set_at     INTEGER NOT NULL,
    applied_at INTEGER,
    removed    INTEGER NOT NULL,
    refused    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
