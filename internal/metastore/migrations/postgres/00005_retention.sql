-- +goose Up
-- Which checkpoints are kept, by owner, and what came of it when it was applied
-- last.
CREATE TABLE retention (
    owner      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version    TEXT COLLATE "C" NOT NULL, -- another one each time the policy is set
    policy     TEXT COLLATE "C" NOT NULL,
    set_at     BIGINT           NOT NULL,
    applied_at BIGINT,
    removed    BIGINT           NOT NULL,
    refused    TEXT COLLATE "C" NOT NULL
);
