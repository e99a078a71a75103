-- How a card is used: bursts, amounts against its habits, new places.
CREATE VIEW card_activity AS
SELECT card_id,
       count(*)                      OVER h1  AS tx_count_1h,
       count(*)                      OVER d1  AS tx_count_1d,
       sum(amount)                   OVER d1  AS amount_sum_1d,
       max(amount)                   OVER d1  AS amount_max_1d,
       count(DISTINCT terminal_id)   OVER d1  AS terminals_1d,
       count(*)                      OVER d7  AS tx_count_7d,
       avg(amount)                   OVER d7  AS amount_avg_7d,
       count(*)                      OVER d30 AS tx_count_30d,
       avg(amount)                   OVER d30 AS amount_avg_30d,
       stddev(amount)                OVER d30 AS amount_std_30d
FROM transactions
WINDOW h1  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour'  PRECEDING AND CURRENT ROW),
       d1  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d30 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);
