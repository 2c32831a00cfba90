-- vault: values that a secret had before the present one, sealed as that is
CREATE TABLE secret_versions (
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    at          REAL NOT NULL,
    master_key  TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    sealed      BLOB NOT NULL,
    PRIMARY KEY (name, version)
);

-- secrets: the hosts that a secret is bound to (JSON list), and the header that carries it there; who may use it, where that was said
CREATE TABLE secret_bindings (
    name   TEXT PRIMARY KEY,
    hosts  TEXT NOT NULL,
    header TEXT
);
CREATE TABLE secret_grants (
    name   TEXT NOT NULL,
    kind   TEXT NOT NULL, -- agent, project
    target TEXT NOT NULL,
    at     REAL NOT NULL,
    PRIMARY KEY (name, kind, target)
);
