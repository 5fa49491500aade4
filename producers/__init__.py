"""Writing to Kafka: Pin events, codes in transactions, dead letters."""
