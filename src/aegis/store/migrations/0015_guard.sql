-- what was taken out of workspaces because other programs of the person would act on it, until and after a person decided. Times are
-- wall seconds; `place` and `path` are where it stood, `before` the digest of what was there when it was last in order.
CREATE TABLE held (
    id         TEXT PRIMARY KEY,
    instance   TEXT NOT NULL,
    handle     TEXT NOT NULL,
    place      TEXT NOT NULL,
    path       TEXT NOT NULL,
    rule       TEXT NOT NULL,
    reason     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    state      TEXT NOT NULL, -- holding, held, released, dropped
    size       INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    mode       INTEGER NOT NULL,
    uid        INTEGER NOT NULL,
    gid        INTEGER NOT NULL,
    before     TEXT NOT NULL,
    restored   INTEGER NOT NULL,
    session    TEXT,
    turn       TEXT,
    held_at    REAL NOT NULL,
    decided_at REAL,
    principal  TEXT NOT NULL DEFAULT ''
);
CREATE INDEX held_open ON held (instance) WHERE state IN ('holding', 'held');
