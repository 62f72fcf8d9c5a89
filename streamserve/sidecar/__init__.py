"""The drift sidecar: a service beside the workers that merges their samples and tells what it sees."""
