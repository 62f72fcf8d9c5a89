"""Streaming inference workers on Kafka: micro-batches in, predictions out, exactly once."""

__version__ = "0.1.0"
