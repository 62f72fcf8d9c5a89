"""The prediction cache: a projection of the prediction topic onto one document per entity key, held in Redis.

Kafka is the truth, Redis a view of it that may be late but never wrong for long: every write is a
compare-and-set by version, so order, repetition and concurrency of writes do not matter. The parts, in the
order of the data's way: `entries` (predictions to cache entries), `writer` (the cache thread's queue),
`redis_cache` (the port's adapter), `repair` and `rebuild` (the view is mended from the topic),
`memory_server` (a stand-in for a server).
"""
