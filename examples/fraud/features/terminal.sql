-- How a terminal is used.
CREATE VIEW terminal_activity AS
SELECT terminal_id,
       count(*)    OVER d1 AS tx_count_1d,
       count(*)    OVER d7 AS tx_count_7d,
       avg(amount) OVER d7 AS amount_avg_7d
FROM transactions
WINDOW d1 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'  PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);
