-- What the labels that are known so far say about a terminal and a card.
CREATE VIEW terminal_risk AS
SELECT terminal_id,
       count(*)                         OVER d1  AS labels_1d,
       count(*) FILTER (WHERE is_fraud) OVER d1  AS frauds_1d,
       count(*)                         OVER d7  AS labels_7d,
       count(*) FILTER (WHERE is_fraud) OVER d7  AS frauds_7d,
       count(*)                         OVER d28 AS labels_28d,
       count(*) FILTER (WHERE is_fraud) OVER d28 AS frauds_28d
FROM labels
WINDOW d1  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'   PRECEDING AND CURRENT ROW),
       d7  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d28 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW);

CREATE VIEW card_risk AS
SELECT card_id,
       count(*) FILTER (WHERE is_fraud) OVER d7  AS frauds_7d,
       count(*) FILTER (WHERE is_fraud) OVER d28 AS frauds_28d
FROM labels
WINDOW d7  AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
       d28 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW);
