-- egress: one row per request, too, where requests are looked at; `path` without the query, `tunnel` the row of the connection it came by
ALTER TABLE egress ADD COLUMN method TEXT;
ALTER TABLE egress ADD COLUMN path TEXT;
ALTER TABLE egress ADD COLUMN status INTEGER;
ALTER TABLE egress ADD COLUMN tunnel INTEGER;
