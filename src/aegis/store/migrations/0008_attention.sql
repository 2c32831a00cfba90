-- attention: what a person is to be told, from the moment it is known until it was told or was not needed any more. Times are wall
-- seconds; `due` is when it may be told at the earliest, `told_at` when it was, `sent_at` when the last channel had it.
CREATE TABLE attention (
    id       INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    instance TEXT NOT NULL,
    cause    TEXT NOT NULL,
    session  TEXT,
    turn     TEXT,
    handle   TEXT NOT NULL,
    text     TEXT NOT NULL,
    state    TEXT NOT NULL DEFAULT 'waiting', -- waiting, told, answered
    since    REAL NOT NULL,
    due      REAL NOT NULL,
    told_at  REAL,
    sent_at  REAL
);
CREATE INDEX attention_open ON attention (due) WHERE state = 'waiting';
CREATE INDEX attention_unsent ON attention (id) WHERE state = 'told' AND sent_at IS NULL;
CREATE INDEX attention_causes ON attention (instance, kind, cause, since);

-- up to which event the log was looked at
CREATE TABLE attention_seen (seq INTEGER NOT NULL);
INSERT INTO attention_seen SELECT coalesce(max(seq), 0) FROM events;
