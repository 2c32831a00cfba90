-- budgets: what was used, by place and by bucket of time. `width` is that of the bucket in seconds, 0 for the whole life;
-- `bucket` is the time divided by it. Money is in micro-dollars. `unpriced` counts calls whose price was not known.
CREATE TABLE budget_totals (
    scope    TEXT NOT NULL,
    subject  TEXT NOT NULL,
    width    INTEGER NOT NULL,
    bucket   INTEGER NOT NULL,
    usd      INTEGER NOT NULL,
    tokens   INTEGER NOT NULL,
    output   INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    PRIMARY KEY (scope, subject, width, bucket)
);
-- budgets: calls under way, with what they may use; what a crash leaves here is counted as used
CREATE TABLE budget_open (
    call    TEXT PRIMARY KEY,
    ts      REAL NOT NULL,
    places  TEXT NOT NULL,
    usd     INTEGER NOT NULL,
    tokens  INTEGER NOT NULL,
    output  INTEGER NOT NULL
);
-- budgets: those that a person set by a verb; `instance` is the one that it is about
CREATE TABLE budgets (
    name     TEXT PRIMARY KEY,
    instance TEXT,
    spec     TEXT NOT NULL,
    set_at   REAL NOT NULL
);
CREATE INDEX budgets_instance ON budgets (instance);
-- budgets: of which crossing a person was told already
CREATE TABLE budget_warnings (
    name    TEXT NOT NULL,
    subject TEXT NOT NULL,
    kind    TEXT NOT NULL,
    PRIMARY KEY (name, subject, kind)
);

-- What was used before there were budgets. A call of unknown price is counted as such, and its tokens.
INSERT INTO budget_totals (scope, subject, width, bucket, usd, tokens, output, unpriced)
WITH RECURSIVE
    line (instance, member) AS (
        SELECT id, id FROM instances
        UNION
        SELECT line.instance, instances.parent FROM line JOIN instances ON instances.id = line.member WHERE instances.parent IS NOT NULL
    ),
    members (instance, member, agent, project) AS (
        SELECT line.instance, line.member, json_extract(instances.launch, '$.agent'), json_extract(instances.launch, '$.project')
        FROM line JOIN instances ON instances.id = line.member
    ),
    places (instance, scope, subject) AS (
        SELECT id, 'home', '' FROM instances
        UNION SELECT instance, 'instance', member FROM members
        UNION SELECT instance, 'agent', agent FROM members WHERE agent IS NOT NULL
        UNION SELECT instance, 'agent', agent || ' in ' || project FROM members WHERE agent IS NOT NULL AND project IS NOT NULL
        UNION SELECT instance, 'project', project FROM members WHERE project IS NOT NULL
    ),
    used (instance, session, ts, usd, tokens, output, unpriced) AS (
        SELECT instance, session, ts,
            CASE WHEN cost_usd > 0 AND cost_usd < 1000000000 THEN CAST(cost_usd * 1000000 + 0.999999 AS INTEGER) ELSE 0 END,
            max(0, min(input, 1000000000000000)) + max(0, min(output, 1000000000000000)),
            max(0, min(output, 1000000000000000)),
            CASE WHEN cost_usd IS NULL THEN 1 ELSE 0 END
        FROM model_calls WHERE source NOT IN ('count', 'replayed')
    ),
    all_used (scope, subject, ts, usd, tokens, output, unpriced) AS (
        SELECT places.scope, places.subject, used.ts, used.usd, used.tokens, used.output, used.unpriced
        FROM used JOIN places ON places.instance = used.instance
        UNION ALL
        SELECT 'session', instance || ' ' || session, ts, usd, tokens, output, unpriced FROM used WHERE session IS NOT NULL
    ),
    widths (width) AS (VALUES (0), (60), (3600))
SELECT scope, subject, width, CASE width WHEN 0 THEN 0 ELSE CAST(ts AS INTEGER) / width END,
    sum(usd), sum(tokens), sum(output), sum(unpriced)
FROM all_used, widths GROUP BY 1, 2, 3, 4;
