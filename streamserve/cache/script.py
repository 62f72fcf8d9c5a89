"""The rule of the cache as a Redis script: an entry is written only over an older version of its key.

Owns the Lua text and its digest. Used by `redis_cache` (which sends it) and `memory_server` (which plays it).
"""

from __future__ import annotations

import hashlib

WRITE = """\
-- KEYS: entries.  ARGV: time to live in ms, then a version per key, then a document per key.
-- Versions are compared as text: numbers here are doubles and exact only up to 2^53.
local count = #KEYS
local ttl_ms = ARGV[1]
local written = 0
for i = 1, count do
  local version = ARGV[1 + i]
  local known = redis.pcall('HGET', KEYS[i], 'v')
  if type(known) == 'table' then
    -- a key that is no hash is none of ours: leave it, and do not let it hold up the others
    if not string.find(known.err, 'WRONGTYPE', 1, true) then return known end
  elseif not known or version > known then
    redis.call('HSET', KEYS[i], 'v', version, 'd', ARGV[1 + count + i])
    redis.call('PEXPIRE', KEYS[i], ttl_ms)
    written = written + 1
  end
end
return written
"""
WRITE_SHA = hashlib.sha1(WRITE.encode(), usedforsecurity=False).hexdigest()
