-- +goose Up
-- The servers at work on this metadata. One that does not renew its lease in
-- time is gone, and with it the models it held. Times are by the database's
-- clock.
CREATE TABLE servers (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    url        TEXT             NOT NULL, -- where the others reach it, empty if nowhere
    started_at BIGINT           NOT NULL,
    expires_at BIGINT           NOT NULL
);

-- Which server does what only one at a time is to do.
CREATE TABLE duties (
    name      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    server_id TEXT COLLATE "C" NOT NULL
);

-- The server that holds a run's model, or held it last.
ALTER TABLE runs ADD COLUMN server_id TEXT COLLATE "C" NOT NULL DEFAULT '';
