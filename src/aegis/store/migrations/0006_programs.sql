-- agents: one row per session; how the program inside names it, and what it runs with
CREATE TABLE sessions (
    instance        TEXT NOT NULL,
    session         TEXT NOT NULL,
    program_session TEXT,
    fork_of         TEXT,
    model           TEXT,
    mode            TEXT,
    effort          TEXT,
    title           TEXT NOT NULL DEFAULT '',
    context_used    INTEGER NOT NULL DEFAULT 0,
    context_size    INTEGER NOT NULL DEFAULT 0,
    created_at      REAL NOT NULL,
    PRIMARY KEY (instance, session)
);
ALTER TABLE turns ADD COLUMN origin TEXT NOT NULL DEFAULT 'mail';
ALTER TABLE turns ADD COLUMN tools INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN tool_errors INTEGER NOT NULL DEFAULT 0;

-- agents: providers that give no more for now
CREATE TABLE provider_limits (
    provider TEXT PRIMARY KEY,
    until    REAL NOT NULL,
    reason   TEXT NOT NULL DEFAULT '',
    told     INTEGER NOT NULL,
    hits     INTEGER NOT NULL DEFAULT 1
);

-- broker: who told of a call, and how long its first byte took
ALTER TABLE model_calls ADD COLUMN source TEXT NOT NULL DEFAULT 'broker';
ALTER TABLE model_calls ADD COLUMN first_byte_ms REAL;

-- mail: pictures that come with a message
CREATE TABLE envelope_images (
    envelope   TEXT NOT NULL,
    n          INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    data       BLOB NOT NULL,
    PRIMARY KEY (envelope, n)
);

-- approvals: what agents asked leave for
CREATE TABLE approvals (
    id           TEXT PRIMARY KEY,
    instance     TEXT NOT NULL,
    session      TEXT NOT NULL,
    turn         TEXT NOT NULL,
    digest       TEXT NOT NULL,
    tool         TEXT NOT NULL,
    kind         TEXT NOT NULL,
    title        TEXT NOT NULL,
    input        TEXT NOT NULL,
    call_id      TEXT,
    question     INTEGER NOT NULL DEFAULT 0,
    state        TEXT NOT NULL,
    asked_at     REAL NOT NULL,
    decided_at   REAL,
    delivered_at REAL,
    principal    TEXT NOT NULL DEFAULT '',
    reason       TEXT NOT NULL DEFAULT '',
    edited       TEXT
);
CREATE INDEX approvals_open ON approvals (state) WHERE state = 'pending';
CREATE INDEX approvals_place ON approvals (instance, session, digest);

-- egress: one row per connection that was asked for
CREATE TABLE egress (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    ts        REAL NOT NULL,
    instance  TEXT NOT NULL,
    host      TEXT NOT NULL,
    port      INTEGER NOT NULL,
    address   TEXT NOT NULL DEFAULT '',
    allowed   INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    sent      INTEGER NOT NULL DEFAULT 0,
    received  INTEGER NOT NULL DEFAULT 0,
    ms        REAL
);
CREATE INDEX egress_instance ON egress (instance, id);
