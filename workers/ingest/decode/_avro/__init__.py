"""The C part of ingest: Avro messages to rows by a compiled plan."""
