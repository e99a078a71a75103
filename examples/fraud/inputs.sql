-- What the model sees of a payment, as of the payment's own time.
CREATE VIEW fraud_inputs AS
SELECT t.amount,
       t.amount / nullif(c.amount_avg_7d, 0)                              AS amount_over_avg_7d,
       t.amount / nullif(c.amount_avg_30d, 0)                             AS amount_over_avg_30d,
       (t.amount - c.amount_avg_30d) / nullif(c.amount_std_30d, 0)        AS amount_deviations_30d,
       c.tx_count_1h,
       c.tx_count_1d,
       c.amount_sum_1d,
       c.tx_count_7d,
       c.tx_count_30d,
       c.terminals_1d,
       s.tx_count_1d                                                      AS terminal_count_1d,
       s.tx_count_7d                                                      AS terminal_count_7d,
       m.frauds_1d                                                        AS terminal_frauds_1d,
       CAST(m.frauds_1d AS DOUBLE) / nullif(m.labels_1d, 0)               AS terminal_risk_1d,
       CAST(m.frauds_7d AS DOUBLE) / nullif(m.labels_7d, 0)               AS terminal_risk_7d,
       CAST(m.frauds_28d AS DOUBLE) / nullif(m.labels_28d, 0)             AS terminal_risk_28d,
       k.frauds_7d                                                        AS card_frauds_7d,
       k.frauds_28d                                                       AS card_frauds_28d,
       CASE WHEN date_part('dow', t.event_time) IN (0, 6) THEN 1 ELSE 0 END AS is_weekend,
       CASE WHEN date_part('hour', t.event_time) <= 6 THEN 1 ELSE 0 END     AS is_night
FROM transactions t
JOIN card_activity c USING (card_id)
JOIN terminal_activity s USING (terminal_id)
JOIN terminal_risk m USING (terminal_id)
JOIN card_risk k USING (card_id);
