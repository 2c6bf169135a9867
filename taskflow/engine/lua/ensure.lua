-- ensure: make sure that open runs of one shard have control state and an alarm; also how a run starts.
-- KEYS[1] alarms (sorted set)
-- ARGV[1] key base of the shard  ARGV[2] generation seed  ARGV[3] near window, s  ARGV[4] grace, s
-- ARGV[5..] seven for each run: run id, rev, wake_at ('' = now), pipeline, version, step, subject
-- Returns {now, then for each run: verdict, generation, due, name}; verdict is ok or rebuilt. It never takes a lease.
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local out = {string.format('%.6f', now)}
for i = 5, #ARGV, 7 do
  local id, rev, wake_at = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = ARGV[1] .. ':run:' .. id
  local run = redis.call('HMGET', key, 'rev', 'generation', 'due', 'pipeline', 'step')
  local indexed = redis.call('ZSCORE', KEYS[1], id)
  -- A lower rev than the row's is a stale replica, unless a turn is just between its apply and its commit.
  local behind = run[1] and tonumber(run[1]) < tonumber(rev) and redis.call('EXISTS', ARGV[1] .. ':lease:' .. id) == 0
  if run[1] and indexed and not behind then
    table.insert(out, 'ok'); table.insert(out, run[2]); table.insert(out, run[3]); table.insert(out, run[4] .. '.' .. run[5])
  else
    local due = now
    if wake_at ~= '' and tonumber(wake_at) > now then due = tonumber(wake_at) end
    local due_text = string.format('%.6f', due)
    redis.call('HSET', key, 'pipeline', ARGV[i + 3], 'version', ARGV[i + 4], 'step', ARGV[i + 5], 'rev', rev,
      'attempt', '0', 'fires', '0', 'lost', '0', 'generation', ARGV[2], 'due', due_text, 'wake', '0', 'subject', ARGV[i + 6])
    local score = due - tonumber(ARGV[3])
    if score <= now then score = due + tonumber(ARGV[4]) end
    redis.call('ZADD', KEYS[1], string.format('%.6f', score), id)
    table.insert(out, 'rebuilt'); table.insert(out, ARGV[2]); table.insert(out, due_text)
    table.insert(out, ARGV[i + 3] .. '.' .. ARGV[i + 5])
  end
end
return out
