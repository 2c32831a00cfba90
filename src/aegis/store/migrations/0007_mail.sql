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
CREATE INDEX envelopes_sender ON envelopes (sender, seq);
