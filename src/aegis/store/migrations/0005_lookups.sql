-- mail: what waits, what a turn has and what a box holds are each found without reading anything else
DROP INDEX envelopes_waiting;
CREATE INDEX envelopes_waiting ON envelopes (instance, session, seq, turn, done_at) WHERE done_at IS NULL AND turn IS NULL;
CREATE INDEX envelopes_taken ON envelopes (instance, session, turn, done_at) WHERE done_at IS NULL AND turn IS NOT NULL;
CREATE INDEX envelopes_box ON envelopes (instance, seq);

-- broker: what an instance has used, so that nobody adds up its whole history; `unpriced` counts calls of unknown cost
CREATE TABLE model_totals (
    instance TEXT PRIMARY KEY,
    calls    INTEGER NOT NULL,
    input    INTEGER NOT NULL,
    output   INTEGER NOT NULL,
    cached   INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    unpriced INTEGER NOT NULL
);
INSERT INTO model_totals (instance, calls, input, output, cached, cost_usd, unpriced)
SELECT instance, count(*), sum(input), sum(output), sum(cached), coalesce(sum(cost_usd), 0), sum(CASE WHEN cost_usd IS NULL THEN 1 ELSE 0 END)
FROM model_calls GROUP BY instance;
