-- approvals: the exact call, until when somebody may answer and what counts then, how far an answer goes
ALTER TABLE approvals ADD COLUMN action TEXT NOT NULL DEFAULT 'tool.use';
ALTER TABLE approvals ADD COLUMN resource TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN argv TEXT NOT NULL DEFAULT '[]';
ALTER TABLE approvals ADD COLUMN cwd TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN risk TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN policies TEXT NOT NULL DEFAULT '[]';
ALTER TABLE approvals ADD COLUMN deadline REAL;
ALTER TABLE approvals ADD COLUMN fallback TEXT NOT NULL DEFAULT 'reject';
ALTER TABLE approvals ADD COLUMN scope TEXT NOT NULL DEFAULT 'once';
ALTER TABLE approvals ADD COLUMN rule TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN escalated_at REAL;
ALTER TABLE approvals ADD COLUMN escalated_by TEXT NOT NULL DEFAULT '';
