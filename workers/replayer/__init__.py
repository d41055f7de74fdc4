"""Publishes recorded or synthetic market data as Avro at a chosen speed."""
