-- Card payments, and the labels that come back about them.
CREATE EXTERNAL TABLE transactions (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, terminal_id VARCHAR NOT NULL,
  amount DOUBLE NOT NULL, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'transactions' WITH ORDER (event_time)
  OPTIONS ('format' 'json', 'key' 'card_id', 'id' 'tx_id');

-- A label's event_time is when it became known, so a feature over labels cannot see the future.
CREATE EXTERNAL TABLE labels (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, terminal_id VARCHAR NOT NULL,
  is_fraud BOOLEAN NOT NULL, tx_time TIMESTAMP NOT NULL, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'labels' WITH ORDER (event_time)
  OPTIONS ('format' 'json', 'key' 'card_id', 'id' 'tx_id');
