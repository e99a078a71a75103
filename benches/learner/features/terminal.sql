-- Counts of payments at a terminal, and the share of frauds among the labels that are known by now.
CREATE VIEW terminal AS
SELECT terminal_id,
       count(*) OVER d1  AS count_1d,
       count(*) OVER d7  AS count_7d,
       count(*) OVER d30 AS count_30d
FROM transactions
WINDOW d1  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

CREATE VIEW terminal_risk AS
SELECT terminal_id,
       avg(CAST(is_fraud AS DOUBLE)) OVER d1  AS risk_1d,
       avg(CAST(is_fraud AS DOUBLE)) OVER d7  AS risk_7d,
       avg(CAST(is_fraud AS DOUBLE)) OVER d30 AS risk_30d
FROM labels
WINDOW d1  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);
