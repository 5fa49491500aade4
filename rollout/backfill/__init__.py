"""Embedding the history of the Pins topic on many machines, for a new generation; its tail stays Kafka's."""
