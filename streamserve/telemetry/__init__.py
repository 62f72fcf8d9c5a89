"""What a worker says about itself: metrics, logs, health, and the HTTP port they are read from."""
