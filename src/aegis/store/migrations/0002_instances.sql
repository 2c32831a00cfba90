-- gate: one row per effect
CREATE TABLE audit (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    ts        REAL NOT NULL,
    principal TEXT NOT NULL,
    action    TEXT NOT NULL,
    resource  TEXT NOT NULL,
    decision  TEXT NOT NULL,
    reason    TEXT NOT NULL,
    data      TEXT NOT NULL DEFAULT '{}'
);

-- agents: instances, their conversations' memory, their turns
CREATE TABLE instances (
    id             TEXT PRIMARY KEY,
    handle         TEXT NOT NULL,
    idx            INTEGER NOT NULL,
    launch         TEXT NOT NULL,
    state          TEXT NOT NULL,
    reason         TEXT NOT NULL DEFAULT '',
    enabled        INTEGER NOT NULL DEFAULT 1,
    token          TEXT NOT NULL,
    created_at     REAL NOT NULL,
    last_active_at REAL NOT NULL,
    stopped_at     REAL
);
CREATE UNIQUE INDEX instances_handle ON instances (handle);
CREATE UNIQUE INDEX instances_idx ON instances (idx);

CREATE TABLE memory (
    instance TEXT NOT NULL,
    session  TEXT NOT NULL,
    n        INTEGER NOT NULL,
    turn     TEXT NOT NULL,
    ts       REAL NOT NULL,
    message  TEXT NOT NULL,
    PRIMARY KEY (instance, session, n)
);

CREATE TABLE turns (
    id          TEXT PRIMARY KEY,
    instance    TEXT NOT NULL,
    session     TEXT NOT NULL,
    continues   TEXT,
    attempts    INTEGER NOT NULL DEFAULT 0,
    started_at  REAL NOT NULL,
    finished_at REAL,
    outcome     TEXT
);
CREATE INDEX turns_place ON turns (instance, session);
CREATE INDEX turns_open ON turns (finished_at) WHERE finished_at IS NULL;

CREATE TABLE model_calls (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    ts            REAL NOT NULL,
    instance      TEXT NOT NULL,
    session       TEXT,
    turn          TEXT,
    model         TEXT NOT NULL,
    status        INTEGER NOT NULL,
    input         INTEGER NOT NULL,
    output        INTEGER NOT NULL,
    cached        INTEGER NOT NULL,
    cache_written INTEGER NOT NULL,
    cost_usd      REAL,
    ms            REAL NOT NULL
);
CREATE INDEX model_calls_turn ON model_calls (turn);
CREATE INDEX model_calls_instance ON model_calls (instance);

-- mail
CREATE TABLE envelopes (
    id              TEXT PRIMARY KEY,
    seq             INTEGER NOT NULL,
    instance        TEXT NOT NULL,
    session         TEXT NOT NULL,
    sender          TEXT NOT NULL,
    msg_id          TEXT,
    text            TEXT NOT NULL,
    user            TEXT,
    expires         REAL,
    state           TEXT NOT NULL,
    turn            TEXT,
    accepted_at     REAL NOT NULL,
    injected_at     REAL,
    acknowledged_at REAL,
    done_at         REAL,
    reason          TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX envelopes_dedup ON envelopes (instance, sender, msg_id) WHERE msg_id IS NOT NULL;
CREATE INDEX envelopes_waiting ON envelopes (instance, session, seq) WHERE done_at IS NULL;
CREATE INDEX envelopes_turn ON envelopes (turn);
