-- commit: store where a turn stands, its next alarm, and keep or drop the lease: one atomic put + setAlarm.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] token  ARGV[3] step, '' to leave this and the three after it as they are
-- ARGV[4] rev  ARGV[5] failed attempts of the step  ARGV[6] starts of the step  ARGV[7] lost turns, if the lease is kept
-- ARGV[8] delay until the next alarm, s  ARGV[9] keep the lease if it is due: 1 or 0
-- ARGV[10] lease, ms  ARGV[11] near window, s  ARGV[12] grace, s  ARGV[13] slack after the end of a lease, s
-- Returns {verdict, now, due, generation, woke}; verdict is fenced, missing, kept or parked.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local run = redis.call('HMGET', KEYS[1], 'wake', 'due')
if not run[2] then
  -- The store was emptied under this turn. A lease of our own may be all that is left of it.
  if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
  return {'missing', stamp}
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'fenced', stamp} end
-- A signal that came while this turn was running: look again at once, whatever the turn decided.
local woke = run[1] == '1'
local due = now + tonumber(ARGV[8])
if woke then due = now end
local due_text = string.format('%.6f', due)
local kept = ARGV[9] == '1' and due <= now
redis.call('HSET', KEYS[1], 'wake', '0', 'lost', kept and ARGV[7] or '0', 'due', due_text)
if ARGV[3] ~= '' then
  -- Going on is a start of the step as well; a parked one is counted when it fires.
  redis.call('HSET', KEYS[1], 'step', ARGV[3], 'rev', ARGV[4], 'attempt', ARGV[5], 'fires', tonumber(ARGV[6]) + (kept and 1 or 0))
end
if kept then
  redis.call('PEXPIRE', KEYS[2], ARGV[10])
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[10]) / 1000 + tonumber(ARGV[13])), ARGV[1])
  return {'kept', stamp, due_text, '0', woke and '1' or '0'}
end
redis.call('DEL', KEYS[2])
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
-- Near: a hint is published now, look again if it did not fire within the grace. Far: only indexed until the window.
local score = due - tonumber(ARGV[11])
if score <= now then score = due + tonumber(ARGV[12]) end
redis.call('ZADD', KEYS[3], string.format('%.6f', score), ARGV[1])
return {'parked', stamp, due_text, tostring(generation), woke and '1' or '0'}
