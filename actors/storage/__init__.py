"""Files on a disk or in an object store: atomic writes, shards, policies, locks, logs. Without Ray."""
