"""Codes to searchable shards: apply, seal, merge, snapshot, search; the index worker."""
