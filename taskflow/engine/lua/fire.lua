-- fire: may this alarm start a turn now? If so, take the lease.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] generation of the hint ('' = any)  ARGV[3] token  ARGV[4] lease, ms  ARGV[5] slack after the end of a lease, s
-- Returns {verdict, now, due, generation, step, rev, attempt, fires, lost, name, subject}; verdict is missing, busy, stale, early or go.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local run = redis.call('HMGET', KEYS[1], 'due', 'generation', 'step', 'rev', 'attempt', 'fires', 'lost', 'pipeline', 'subject')
if not run[1] then return {'missing', stamp} end
local verdict = 'go'
if redis.call('EXISTS', KEYS[2]) == 1 then verdict = 'busy'
elseif ARGV[2] ~= '' and ARGV[2] ~= run[2] then verdict = 'stale'
elseif tonumber(run[1]) > now then verdict = 'early' end
if verdict == 'go' then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
  -- From here the index says: ring again when this lease has run out. It is what survives the death of the worker.
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[4]) / 1000 + tonumber(ARGV[5])), ARGV[1])
  redis.call('HSET', KEYS[1], 'wake', '0')
  run[6] = tostring(redis.call('HINCRBY', KEYS[1], 'fires', 1))
  -- "lost" counts turns that took the lease and never committed: a step that kills its worker is seen here.
  run[7] = tostring(redis.call('HINCRBY', KEYS[1], 'lost', 1))
end
return {verdict, stamp, run[1], run[2], run[3], run[4], run[5], run[6], run[7], run[8] .. '.' .. run[3], run[9]}
