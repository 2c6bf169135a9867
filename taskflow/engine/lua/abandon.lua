-- abandon: end the lease of a turn whose process is known to be gone, so that the run needs not wait for its end.
-- KEYS[1] run hash   KEYS[2] lease   KEYS[3] alarms (sorted set)
-- ARGV[1] run id  ARGV[2] token of the dead turn  ARGV[3] grace, s  ARGV[4] so many deaths in a row are not waited out
-- Returns {verdict, generation, name, subject}; verdict is ring, held (by another turn, or by none) or waits.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'held'} end
local run = redis.call('HMGET', KEYS[1], 'generation', 'pipeline', 'step', 'lost', 'subject')
-- A step that takes its process down again and again gets the lease's time between two tries: what ails it may pass.
if not run[1] or tonumber(run[4]) > tonumber(ARGV[4]) then return {'waits'} end
redis.call('DEL', KEYS[2])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[3])), ARGV[1])
return {'ring', run[1], run[2] .. '.' .. run[3], run[5]}
