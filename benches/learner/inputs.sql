-- Eighteen inputs: the payment, its card over three windows, its terminal over three windows.
CREATE VIEW fraud_inputs AS
SELECT t.amount,
       CASE WHEN date_part('dow', t.event_time) IN (0, 6) THEN 1 ELSE 0 END AS is_weekend,
       CASE WHEN date_part('hour', t.event_time) <= 6 THEN 1 ELSE 0 END     AS is_night,
       c.count_1d  AS card_count_1d,
       c.count_7d  AS card_count_7d,
       c.count_30d AS card_count_30d,
       c.mean_1d   AS card_mean_1d,
       c.mean_7d   AS card_mean_7d,
       c.mean_30d  AS card_mean_30d,
       m.count_1d  AS terminal_count_1d,
       m.count_7d  AS terminal_count_7d,
       m.count_30d AS terminal_count_30d,
       r.risk_1d   AS terminal_risk_1d,
       r.risk_7d   AS terminal_risk_7d,
       r.risk_30d  AS terminal_risk_30d,
       t.amount / nullif(c.mean_1d, 0)  AS amount_over_mean_1d,
       t.amount / nullif(c.mean_7d, 0)  AS amount_over_mean_7d,
       t.amount / nullif(c.mean_30d, 0) AS amount_over_mean_30d
FROM transactions t
JOIN card c USING (card_id)
JOIN terminal m USING (terminal_id)
JOIN terminal_risk r USING (terminal_id);
