-- Drops the tasks of a job's nodes whose names begin with a prefix, with their leases and the counters of these nodes.
-- ARGV: job, prefix, resources
local job, prefix = ARGV[1], ARGV[2]
local function matches(name) return string.sub(name, 1, #prefix) == prefix end

for i = 3, #ARGV do
  local resource = ARGV[i]
  for _, range in ipairs(redis.call('ZRANGE', ready_key(resource, job), 0, -1)) do
    if matches(range) then
      local first, last_part = string.match(range, ':(%d+)-(%d+)$')
      redis.call('ZREM', ready_key(resource, job), range)
      redis.call('HINCRBY', job_key(job), 'ready:' .. resource, first - last_part - 1)
    end
  end
  for _, task in ipairs(redis.call('ZRANGE', later_key(resource, job), 0, -1)) do
    if matches(task) then
      redis.call('ZREM', later_key(resource, job), task)
      redis.call('HDEL', lease_key(job), task)
    end
  end
  retire(resource, job)
end
for _, name in ipairs(redis.call('HKEYS', count_key(job))) do
  if matches(name) then redis.call('HDEL', count_key(job), name) end
end
return 1
