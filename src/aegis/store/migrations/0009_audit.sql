-- gate: the rules that decided, the exact call, what it cost, and the chain; see aegis/core/audit.py for what the hash is over.
-- Rows of before are brought into the chain by the first that is written after them.
ALTER TABLE audit ADD COLUMN policies TEXT NOT NULL DEFAULT '[]';
ALTER TABLE audit ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN cost REAL;
ALTER TABLE audit ADD COLUMN prev TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN hash TEXT NOT NULL DEFAULT '';
CREATE INDEX audit_unchained ON audit (id) WHERE hash = '';

CREATE TRIGGER audit_in_order BEFORE INSERT ON audit
WHEN NEW.hash = '' OR NEW.id <= (SELECT coalesce(max(id), 0) FROM audit)
BEGIN
    SELECT RAISE(ABORT, 'a row of the audit record goes behind the last, with its hash');
END;
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit
WHEN OLD.hash <> '' OR NEW.hash = '' OR NEW.id <> OLD.id OR NEW.ts <> OLD.ts OR NEW.principal <> OLD.principal OR NEW.action <> OLD.action
    OR NEW.resource <> OLD.resource OR NEW.decision <> OLD.decision OR NEW.reason <> OLD.reason OR NEW.data <> OLD.data
BEGIN
    SELECT RAISE(ABORT, 'the audit record is never changed');
END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit record is never deleted from');
END;

-- signed statements: the row `id` had this hash
CREATE TABLE audit_heads (
    id        INTEGER PRIMARY KEY,
    ts        REAL NOT NULL,
    hash      TEXT NOT NULL,
    key       TEXT NOT NULL,
    signature TEXT NOT NULL
);
CREATE TRIGGER audit_heads_unchanged BEFORE UPDATE ON audit_heads
BEGIN
    SELECT RAISE(ABORT, 'heads of the audit record are never changed');
END;
CREATE TRIGGER audit_heads_kept BEFORE DELETE ON audit_heads
BEGIN
    SELECT RAISE(ABORT, 'heads of the audit record are never deleted');
END;

-- broker: the row of the audit record that let a call pass, so that what it cost is found from there
ALTER TABLE model_calls ADD COLUMN audit INTEGER;
CREATE INDEX model_calls_audit ON model_calls (audit) WHERE audit IS NOT NULL;
