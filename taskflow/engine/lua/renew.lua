-- renew: extend the lease of a turn and move the run's alarm with it.
-- KEYS[1] lease   KEYS[2] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] token  ARGV[3] lease, ms  ARGV[4] slack after the end of a lease, s
-- Returns 1, or 0 when the lease is no longer this token's.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], string.format('%.6f', now + tonumber(ARGV[3]) / 1000 + tonumber(ARGV[4])), ARGV[1])
return 1
