-- pump: claim alarms of one shard that must be looked at now. The claim moves them on, so two pumps never ring one twice.
-- KEYS[1] alarms (sorted set)   KEYS[2] incarnation
-- ARGV[1] key base of the shard  ARGV[2] at most this many  ARGV[3] grace, s
-- Returns {incarnation or '', now, then for each claimed run: run id, generation, countdown in s, name, subject}.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local out = {redis.call('GET', KEYS[2]) or '', string.format('%.6f', now)}
if tonumber(ARGV[2]) <= 0 then return out end
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now), 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local run = redis.call('HMGET', ARGV[1] .. ':run:' .. id, 'due', 'generation', 'pipeline', 'step', 'subject')
  local due = now
  if run[1] and tonumber(run[1]) > now then due = tonumber(run[1]) end
  redis.call('ZADD', KEYS[1], string.format('%.6f', due + tonumber(ARGV[3])), id)
  -- Control state that is gone is rung too, with any generation: the worker that fires it rebuilds it from SQL.
  table.insert(out, id)
  table.insert(out, run[2] or '')
  table.insert(out, string.format('%.6f', due - now))
  table.insert(out, run[1] and (run[3] .. '.' .. run[4]) or 'rebuild')
  table.insert(out, run[5] or '')
end
return out
