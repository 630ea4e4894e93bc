-- A lease on a claimable task of the least-served job, or nothing. Tasks that were claimed before come first.
-- ARGV: worker, lease (ms), a job to serve others than which ('' for none): only jobs that were served less than it is
--       are looked at; then the resources, in the order to look
local worker, lease, other_than = ARGV[1], tonumber(ARGV[2]), ARGV[3]
redis.call('SET', p .. 'fence', wall, 'NX')

local function take(resource, job)
  local due = redis.call('ZRANGEBYSCORE', later_key(resource, job), '-inf', now, 'LIMIT', 0, 1)[1]
  if due then return due end
  local range, turn = unpack(redis.call('ZRANGE', ready_key(resource, job), 0, 0, 'WITHSCORES'))
  if not range then return nil end
  local node, first, last_part = string.match(range, '^(.*):(%d+)-(%d+)$')
  first = tonumber(first)
  redis.call('ZREM', ready_key(resource, job), range)
  redis.call('HINCRBY', job_key(job), 'ready:' .. resource, -1)
  if first < tonumber(last_part) then
    redis.call('ZADD', ready_key(resource, job), turn, node .. ':' .. (first + 1) .. '-' .. last_part)
  end
  return node .. ':' .. first
end

local function grant(resource, job, task)
  local text = redis.call('HGET', lease_key(job), task)
  local entry = text and cjson.decode(text) or {attempts = 0, deaths = 0, error = ''}
  if entry.fence and entry.fence ~= 0 then record_worker_death(job, entry, ' died or hung') end
  entry.fence = redis.call('INCR', p .. 'fence')
  entry.worker, entry.resource, entry.claimed, entry.seen = worker, resource, now, now
  entry.note, entry.idle = '', false
  entry.attempts = entry.attempts + 1
  redis.call('HSET', lease_key(job), task, cjson.encode(entry))
  redis.call('ZADD', later_key(resource, job), now + lease, task)
  charge(resource, job, 1)
  redis.call('HSETNX', job_key(job), 'started', wall)
  redis.call('HSETNX', count_key(job), string.match(task, '^(.*):') .. '/started', wall)
  redis.call('HSET', job_key(job), 'updated', wall)
  local deaths = tonumber(redis.call('HGET', job_key(job), 'deaths')) or 0
  return {job, task, resource, entry.fence, entry.attempts, entry.error, deaths - entry.deaths}
end

for i = 4, #ARGV do
  redis.call('ZADD', p .. 'workers:' .. ARGV[i], now, worker)
  redis.call('ZREMRANGEBYSCORE', p .. 'workers:' .. ARGV[i], '-inf', now - 10 * lease - 10000)
end
for i = 4, #ARGV do
  local resource = ARGV[i]
  local most = other_than ~= '' and redis.call('ZSCORE', active_key(resource), other_than)
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', active_key(resource), '-inf', most and '(' .. most or '+inf')) do
    local task = job ~= other_than and take(resource, job)
    if task then return grant(resource, job, task) end
  end
end
return false
