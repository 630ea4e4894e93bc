-- Makes a job known; one that is known stays as it is.
-- ARGV: job, created (us), owner, weight, labels (JSON list), summary
local job = ARGV[1]
if redis.call('HSETNX', job_key(job), 'created', ARGV[2]) == 0 then return 0 end
redis.call('HSET', job_key(job), 'owner', ARGV[3], 'weight', ARGV[4], 'summary', ARGV[6], 'deaths', 0)
set_labels(job, ARGV[5])
return 1
