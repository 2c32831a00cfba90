-- agents: who spawned an instance; NULL for one that a person started
ALTER TABLE instances ADD COLUMN parent TEXT;

-- mail between agents: what the sender is called, which of his conversations wrote it, the task it belongs to and how that went,
-- how many agents passed it on before, and whether the final text of its turn goes back to the sender
ALTER TABLE envelopes ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE envelopes ADD COLUMN sender_session TEXT;
ALTER TABLE envelopes ADD COLUMN task TEXT;
ALTER TABLE envelopes ADD COLUMN status TEXT;
ALTER TABLE envelopes ADD COLUMN hops INTEGER NOT NULL DEFAULT 0;
ALTER TABLE envelopes ADD COLUMN report INTEGER NOT NULL DEFAULT 0;
ALTER TABLE envelopes ADD COLUMN report_to TEXT;
ALTER TABLE envelopes ADD COLUMN interrupt INTEGER NOT NULL DEFAULT 0;
-- how it came into its turn: 0 the turn began with it, 1 handed to the program while it ran, 2 with the result of a tool
ALTER TABLE envelopes ADD COLUMN joined INTEGER NOT NULL DEFAULT 0;
CREATE INDEX envelopes_sender ON envelopes (sender, seq);
CREATE INDEX envelopes_dead ON envelopes (seq) WHERE state IN ('failed', 'expired');
