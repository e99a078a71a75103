CREATE VIEW card AS
SELECT card_id,
       count(*)    OVER d1  AS count_1d,
       avg(amount) OVER d1  AS mean_1d,
       count(*)    OVER d7  AS count_7d,
       avg(amount) OVER d7  AS mean_7d,
       count(*)    OVER d30 AS count_30d,
       avg(amount) OVER d30 AS mean_30d
FROM transactions
WINDOW d1  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);
