"""A real Kafka and a real Redis without any system package: `pinstream local`, and `LocalServers` for tests."""

from pinstream.local.cluster import Health, LocalServers, ServerStatus
from pinstream.local.java import kafka_tool

__all__ = ["Health", "LocalServers", "ServerStatus", "kafka_tool"]
