"""An embedded Kafka-protocol broker and schema registry, for demos and tests."""
