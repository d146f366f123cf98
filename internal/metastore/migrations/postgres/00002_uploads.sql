-- +goose Up
-- Blobs that an owner has sent, or was told need not be sent, and that no
-- manifest may refer to yet. They count as referenced.
CREATE TABLE uploads (
    owner      TEXT COLLATE "C" NOT NULL,
    digest     BYTEA            NOT NULL,
    size       BIGINT           NOT NULL,
    created_at BIGINT           NOT NULL,
    PRIMARY KEY (owner, digest)
);
CREATE INDEX uploads_by_age ON uploads (created_at);

-- To find out whether somebody may read a blob.
CREATE INDEX checkpoint_files_digest ON checkpoint_files (digest);
