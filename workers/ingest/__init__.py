"""Kafka to shared memory: decoded, judged, accounted for, exactly once."""
