-- Finishes a task. Returns 0 if its lease is lost. After a node's last task, adds the task `then:<fence>`.
-- ARGV: job, task, fence, ms of work since the last call, `then` (a node, or '') and its resource, prefix under which
--       the counters are added to the totals too ('' for not), then pairs: a counter's name and what is added to it
local job, task, follow = ARGV[1], ARGV[2], ARGV[5]
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
local node = string.match(task, '^(.*):')
charge(entry.resource, job, tonumber(ARGV[4]))
redis.call('HDEL', lease_key(job), task)
redis.call('ZREM', later_key(entry.resource, job), task)
redis.call('HINCRBY', count_key(job), node .. '/parts', 1)
for i = 8, #ARGV, 2 do
  redis.call('HINCRBY', count_key(job), node .. '/' .. ARGV[i], ARGV[i + 1])
  if ARGV[7] ~= '' then redis.call('HINCRBY', p .. 'totals', ARGV[7] .. '/' .. ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', job_key(job), 'updated', wall)
if redis.call('HINCRBY', count_key(job), node .. '/left', -1) <= 0 then
  redis.call('HDEL', count_key(job), node .. '/left')
  if follow ~= '' then add_tasks(ARGV[6], job, follow, entry.fence .. '-' .. entry.fence) end
end
retire(entry.resource, job)
return 1
