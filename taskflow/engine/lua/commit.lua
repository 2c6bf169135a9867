-- commit: store what a turn decided, its next alarm, and keep or drop the lease: one atomic put + setAlarm.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] token  ARGV[3] kind: step, snooze, retry or release  ARGV[4] step  ARGV[5] rev
-- ARGV[6] delay until the next alarm, s  ARGV[7] keep the lease if it is due: 1 or 0
-- ARGV[8] lease, ms  ARGV[9] near window, s  ARGV[10] grace, s  ARGV[11] slack after the end of a lease, s
-- Returns {verdict, now, due, generation, woke, fires}; verdict is fenced, missing, kept or parked.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local run = redis.call('HMGET', KEYS[1], 'wake', 'step', 'due')
if not run[3] then
  -- The store was emptied under this turn. A lease of our own may be all that is left of it.
  if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
  return {'missing', stamp}
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'fenced', stamp} end
local kind = ARGV[3]
if kind == 'retry' then redis.call('HINCRBY', KEYS[1], 'attempt', 1)
elseif kind ~= 'release' then redis.call('HSET', KEYS[1], 'attempt', '0') end
if kind == 'step' and run[2] ~= ARGV[4] then redis.call('HSET', KEYS[1], 'fires', '0') end
if kind ~= 'release' then redis.call('HSET', KEYS[1], 'step', ARGV[4], 'rev', ARGV[5]) end
-- A signal that came while this turn was running: look again at once, whatever the turn decided.
local woke = run[1] == '1'
local due = now + tonumber(ARGV[6])
if woke then due = now end
redis.call('HSET', KEYS[1], 'wake', '0', 'lost', '0', 'due', string.format('%.6f', due))
if ARGV[7] == '1' and due <= now then
  redis.call('PEXPIRE', KEYS[2], ARGV[8])
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[8]) / 1000 + tonumber(ARGV[11])), ARGV[1])
  redis.call('HSET', KEYS[1], 'lost', '1')
  local fires = redis.call('HINCRBY', KEYS[1], 'fires', 1)
  return {'kept', stamp, string.format('%.6f', due), '0', woke and '1' or '0', tostring(fires)}
end
redis.call('DEL', KEYS[2])
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
-- Near: a hint is published now, look again if it did not fire within the grace. Far: only indexed until the window.
local score = due - tonumber(ARGV[9])
if score <= now then score = due + tonumber(ARGV[10]) end
redis.call('ZADD', KEYS[3], string.format('%.6f', score), ARGV[1])
return {'parked', stamp, string.format('%.6f', due), tostring(generation), woke and '1' or '0', '0'}
