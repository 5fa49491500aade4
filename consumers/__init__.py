"""Reading from Kafka, and from the places that Pin images live in."""
