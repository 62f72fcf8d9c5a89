"""Models: versions, repositories and their digests."""
