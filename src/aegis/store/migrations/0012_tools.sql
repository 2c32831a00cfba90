-- tools: declarations of a project's `.mcp.json` that a person accepted, server by server
CREATE TABLE trusted_servers (
    project TEXT NOT NULL,
    server  TEXT NOT NULL,
    hash    TEXT NOT NULL,
    at      REAL NOT NULL,
    PRIMARY KEY (project, server, hash)
) WITHOUT ROWID;
-- the definitions of tools that were accepted: at first use, or by a person. `declared` is the hash of the server's declaration.
CREATE TABLE tool_pins (
    project    TEXT NOT NULL, -- the directory whose declaration it is; empty for one of the home
    server     TEXT NOT NULL,
    declared   TEXT NOT NULL,
    tool       TEXT NOT NULL,
    hash       TEXT NOT NULL,
    definition TEXT NOT NULL, -- JSON, as it was offered
    at         REAL NOT NULL,
    PRIMARY KEY (project, server, declared, tool)
) WITHOUT ROWID;
