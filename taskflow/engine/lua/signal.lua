-- signal: pull the alarm of a run to now. While a turn runs, set its wake flag instead: the commit comes back at once.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] grace, s  ARGV[3] ring also what is due already: 1 or 0
-- Returns {verdict, now, generation, name, subject}; verdict is missing, held, due or ring.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local stamp = string.format('%.6f', now)
local run = redis.call('HMGET', KEYS[1], 'pipeline', 'step', 'due', 'generation', 'subject')
if not run[1] then return {'missing', stamp} end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[1], 'wake', '1')
  return {'held', stamp}
end
-- Due already: its hint may wait in a long queue. Another generation would make it stale and cost the run its place.
if tonumber(run[3]) <= now then
  if ARGV[3] ~= '1' then return {'due', stamp} end
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[2])), ARGV[1])
  return {'ring', stamp, run[4], run[1] .. '.' .. run[2], run[5]}
end
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HSET', KEYS[1], 'due', stamp)
redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[2])), ARGV[1])
return {'ring', stamp, tostring(generation), run[1] .. '.' .. run[2], run[5]}
