-- Adds the tasks of a node. Returns 0 and adds none if the job is unknown or closed, or has tasks of this node.
-- ARGV: job, node, resource, summary, counters to start from (JSON object), ranges of parts (see add_tasks)
local job, node, resource = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', job_key(job), 'created', 'closed')
if not known[1] or known[2] == '1' then return 0 end
if (tonumber(redis.call('HGET', count_key(job), node .. '/left')) or 0) > 0 then return 0 end
redis.call('HSET', job_key(job), 'summary', ARGV[4])
for name, value in pairs(cjson.decode(ARGV[5])) do
  redis.call('HSET', count_key(job), node .. '/' .. name, string.format('%.0f', value))
end
add_tasks(resource, job, node, ARGV[6])
return 1
