-- +goose Up
-- Blobs that an owner has sent, or was told need not be sent, and that no
-- manifest may refer to yet. They count as referenced.
CREATE TABLE uploads (
    owner      TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (owner, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_age ON uploads (created_at);

-- To find out whether somebody may read a blob.
CREATE INDEX checkpoint_files_digest ON checkpoint_files (digest);
