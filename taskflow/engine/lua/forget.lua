-- forget: delete everything of a run that SQL says is finished or unknown. A late holder of its lease is fenced by that.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id
-- Returns the number of keys and entries removed.
return redis.call('DEL', KEYS[1], KEYS[2]) + redis.call('ZREM', KEYS[3], ARGV[1])
