-- Changes where a job stands: its labels and summary, and whether it takes tasks.
-- ARGV: job, mode ('open': as before; 'closed': its tasks go and no others come; 'gone': all of it goes), labels (JSON
--       list), summary, resources
local job, mode = ARGV[1], ARGV[2]
local known = redis.call('HMGET', job_key(job), 'created', 'closed')
if not known[1] then return 0 end
if mode ~= 'open' then
  for i = 5, #ARGV do
    redis.call('DEL', ready_key(ARGV[i], job), later_key(ARGV[i], job))
    redis.call('ZREM', active_key(ARGV[i]), job)
    redis.call('HDEL', job_key(job), 'ready:' .. ARGV[i])
  end
  redis.call('DEL', lease_key(job))
end
if mode == 'gone' then
  set_labels(job, '[]')
  redis.call('DEL', job_key(job), count_key(job))
  return 1
end
redis.call('HSET', job_key(job), 'summary', ARGV[4], 'updated', wall)
if mode == 'closed' and known[2] ~= '1' then redis.call('HSET', job_key(job), 'closed', '1') end
if known[2] ~= '1' or mode == 'closed' then set_labels(job, ARGV[3]) end
return 1
