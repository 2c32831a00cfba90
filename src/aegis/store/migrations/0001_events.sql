-- What the store itself needs: the counter, the log, the timers.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- No event ever gets a number up to this one again; see aegis/store/writer.py.
INSERT INTO meta (name, value) VALUES ('reserved', '0');

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY,
    ts       REAL NOT NULL,
    type     TEXT NOT NULL,
    instance TEXT,
    session  TEXT,
    turn     TEXT,
    data     TEXT NOT NULL
);
CREATE INDEX events_by_instance ON events (instance, seq);

CREATE TABLE timers (
    id   TEXT PRIMARY KEY,
    due  REAL NOT NULL,
    kind TEXT NOT NULL,
    key  TEXT NOT NULL,
    data TEXT NOT NULL,
    UNIQUE (kind, key)
);
CREATE INDEX timers_by_due ON timers (due);
