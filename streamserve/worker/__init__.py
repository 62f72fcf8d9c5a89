"""A worker slot: its loop, its threads and what it remembers."""
