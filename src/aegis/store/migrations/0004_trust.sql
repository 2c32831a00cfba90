-- config: declarations that a person accepted; a path may have several accepted contents (branches)
CREATE TABLE trusted_projects (
    path TEXT NOT NULL,
    hash TEXT NOT NULL,
    at   REAL NOT NULL,
    PRIMARY KEY (path, hash)
);
