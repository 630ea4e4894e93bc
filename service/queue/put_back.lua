-- Gives a task back. Returns 0 if its lease is lost.
-- ARGV: job, task, fence, delay (ms) before it is claimable, error ('' for none),
--       why: 'failed' counts the attempt, 'released' does not, 'died' records the death of its worker
local job, task, why = ARGV[1], ARGV[2], ARGV[6]
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
if ARGV[5] ~= '' then entry.error = ARGV[5] end
if why == 'released' then entry.attempts = entry.attempts - 1 end
if why == 'died' then record_worker_death(job, entry, ' died') end
entry.fence, entry.note = 0, ''
redis.call('HSET', lease_key(job), task, cjson.encode(entry))
redis.call('ZADD', later_key(entry.resource, job), 'XX', now + tonumber(ARGV[4]), task)
return 1
