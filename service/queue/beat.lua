-- Renews a lease. Returns 0 if it is lost.
-- ARGV: job, task, fence, lease (ms), ms of work since the last call, note (opaque text that readers of the job see),
--       then all resources: the worker is seen at those that it takes
local job, task = ARGV[1], ARGV[2]
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
charge(entry.resource, job, tonumber(ARGV[5]))
entry.note, entry.seen, entry.idle = ARGV[6], now, tonumber(ARGV[5]) == 0
redis.call('HSET', lease_key(job), task, cjson.encode(entry))
redis.call('ZADD', later_key(entry.resource, job), 'XX', now + tonumber(ARGV[4]), task)
redis.call('ZADD', p .. 'workers:' .. entry.resource, now, entry.worker)
for i = 7, #ARGV do redis.call('ZADD', p .. 'workers:' .. ARGV[i], 'XX', now, entry.worker) end
redis.call('HSET', job_key(job), 'updated', wall)
return 1
