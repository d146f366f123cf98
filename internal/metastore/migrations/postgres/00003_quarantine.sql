-- +goose Up
-- Checkpoints that were found damaged, as they were: out of everybody's sight,
-- but with the names and digests of their files. These count as referenced.
CREATE TABLE quarantined_checkpoints (
    id             BIGINT           NOT NULL PRIMARY KEY, -- what it was as a checkpoint
    run_id         TEXT COLLATE "C" NOT NULL, -- which may be what is missing
    kind           TEXT COLLATE "C" NOT NULL,
    name           TEXT COLLATE "C" NOT NULL,
    owner          TEXT COLLATE "C" NOT NULL,
    listed         BIGINT           NOT NULL,
    public         BIGINT           NOT NULL,
    size_bytes     BIGINT           NOT NULL,
    created_at     BIGINT           NOT NULL,
    expires_at     BIGINT,
    user_metadata  TEXT COLLATE "C",
    base_model     TEXT COLLATE "C" NOT NULL,
    lora_rank      BIGINT           NOT NULL,
    train_attn     BIGINT           NOT NULL,
    train_mlp      BIGINT           NOT NULL,
    train_unembed  BIGINT           NOT NULL,
    has_optimizer  BIGINT           NOT NULL,
    quarantined_at BIGINT           NOT NULL,
    reason         TEXT COLLATE "C" NOT NULL
);

CREATE TABLE quarantined_files (
    checkpoint_id BIGINT           NOT NULL REFERENCES quarantined_checkpoints (id) ON DELETE CASCADE,
    position      BIGINT           NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    size          BIGINT           NOT NULL,
    digest        BYTEA            NOT NULL,
    PRIMARY KEY (checkpoint_id, position)
);
