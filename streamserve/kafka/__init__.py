"""Kafka: reading, transactional writing, and an embedded broker for tests."""
