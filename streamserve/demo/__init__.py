"""The demonstration: real Kafka and Redis on this machine, sample events, and a pipeline that serves them."""
