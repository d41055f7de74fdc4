"""The brokers' side of ingest: partitions, dead letters, rewinding, back-pressure."""
