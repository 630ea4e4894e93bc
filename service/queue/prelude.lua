-- Keys of the queue, and functions that its scripts share. This file stands before each script.
--
-- The queue moves opaque tasks. A task is a part of a node of a job: "<node>:<part>", part counted from 0. It runs on
-- one class of resource. The queue knows nothing else of nodes: no kinds, no order of work, no statuses.
--
-- Every key starts with p = "winnow:{<workspace id>}:". Times are milliseconds. `wall` is Redis' own clock, which users
-- see. `now` is that clock without its leaps: set back or forward, the clock lets no lease lapse or live on.
--
--   p label:<label>           zset    job -> created (microseconds since 1970): an index of jobs; labels are Python's
--   p job:<job>               hash    created, owner ("" for none), weight (of its priority), labels (JSON list),
--                                     closed ("1": takes no tasks any more), summary (JSON, opaque), started, updated,
--                                     deaths (of workers that held its tasks), ready:<resource> (number of tasks that
--                                     were never claimed), turns (ranges added: the first are claimed first)
--   p count:<job>             hash    "<node>/<counter>" -> number. Of the queue: left (tasks not done), total, parts
--                                     (done), started (first claim). All others are given by callers.
--   p active:<resource>       zset    job -> ms of workers' time that it was given, by its weight; jobs with tasks
--   p ready:<resource>:<job>  zset    "<node>:<first>-<last>" -> turn: tasks that were never claimed, as ranges
--   p later:<resource>:<job>  zset    task -> time from which it is claimable: the end of its lease, or of a pause
--   p lease:<job>             hash    task -> JSON {fence, worker, resource, attempts, deaths, error, claimed, seen,
--                                     idle, note} of tasks that were claimed and are not done; fence 0: no worker holds it;
--                                     idle: its worker did other tasks at the last heartbeat
--   p totals                  hash    counters since the data was last lost; lost: leases whose worker died or hung;
--                                     refused: calls under a lease that was over
--   p workers:<resource>      zset    worker -> last seen; of all resources that it takes
--   p fence                   string  the last fencing token; starts at the time, so that none is given twice after the
--                                     data was lost
--   p clock                   hash    last (the latest `now`), ahead (of `wall`)
--   p epoch, p rebuilding     string  see leases.py
--
-- Invariants: a lapsed lease is claimable. The end of a node's last task adds the follow-up task that the caller names.

local LEAP = 60000  -- ms; a clock that moves by more between two calls was set
local p = KEYS[1]
local time = redis.call('TIME')
local wall = time[1] * 1000 + math.floor(time[2] / 1000)
local clock = redis.call('HMGET', p .. 'clock', 'last', 'ahead')
local last, ahead = tonumber(clock[1]) or wall, tonumber(clock[2]) or 0
local now = wall + ahead
if now < last or now > last + LEAP then now, ahead = last, last - wall end
redis.call('HSET', p .. 'clock', 'last', now, 'ahead', ahead)

local function job_key(job) return p .. 'job:' .. job end
local function count_key(job) return p .. 'count:' .. job end
local function lease_key(job) return p .. 'lease:' .. job end
local function active_key(resource) return p .. 'active:' .. resource end
local function ready_key(resource, job) return p .. 'ready:' .. resource .. ':' .. job end
local function later_key(resource, job) return p .. 'later:' .. resource .. ':' .. job end

-- Adds tasks of a node: `ranges` is '<first>-<last>', or several of these with commas between.
local function add_tasks(resource, job, node, ranges)
  local count, scored = 0, {}
  local _, added = string.gsub(ranges, '-', '-')
  local turn = redis.call('HINCRBY', job_key(job), 'turns', added) - added
  for first, last_part in string.gmatch(ranges, '(%d+)-(%d+)') do
    count, turn = count + last_part - first + 1, turn + 1
    scored[#scored + 1] = turn
    scored[#scored + 1] = node .. ':' .. first .. '-' .. last_part
    if #scored == 2000 then  -- few calls, and no more arguments than Lua takes
      redis.call('ZADD', ready_key(resource, job), unpack(scored))
      scored = {}
    end
  end
  if #scored > 0 then redis.call('ZADD', ready_key(resource, job), unpack(scored)) end
  redis.call('HINCRBY', count_key(job), node .. '/left', count)
  redis.call('HINCRBY', job_key(job), 'ready:' .. resource, count)
  if not redis.call('ZSCORE', active_key(resource), job) then
    local least = redis.call('ZRANGE', active_key(resource), 0, 0, 'WITHSCORES')
    redis.call('ZADD', active_key(resource), least[2] or 0, job)
  end
end

-- Removes a job from the active ones when it has no task of this resource.
local function retire(resource, job)
  if redis.call('EXISTS', ready_key(resource, job), later_key(resource, job)) == 0 then
    redis.call('ZREM', active_key(resource), job)
  end
end

-- Books ms of a worker's time on a job, for the fair share.
local function charge(resource, job, ms)
  local weight = tonumber(redis.call('HGET', job_key(job), 'weight')) or 1
  redis.call('ZADD', active_key(resource), 'XX', 'INCR', ms / weight, job)
end

-- The lease of a task if it is still held under this fence, or nil.
local function held(job, task, fence)
  local text = redis.call('HGET', lease_key(job), task)
  local entry = text and cjson.decode(text)
  if entry and entry.fence == tonumber(fence) then return entry end
  redis.call('HINCRBY', p .. 'totals', 'refused', 1)
end

local function record_worker_death(job, entry, how)
  redis.call('HINCRBY', p .. 'totals', 'lost', 1)
  if entry.idle then  -- the worker died at another task
    entry.attempts = entry.attempts - 1
    return
  end
  entry.error = 'its worker ' .. entry.worker .. how
  entry.deaths = entry.deaths + 1
  redis.call('HINCRBY', job_key(job), 'deaths', 1)
end

-- Puts a job under these labels (a JSON list) and no others.
local function set_labels(job, labels)
  local old = redis.call('HGET', job_key(job), 'labels')
  for _, label in ipairs(old and cjson.decode(old) or {}) do redis.call('ZREM', p .. 'label:' .. label, job) end
  local created = redis.call('HGET', job_key(job), 'created')
  for _, label in ipairs(cjson.decode(labels)) do redis.call('ZADD', p .. 'label:' .. label, created, job) end
  redis.call('HSET', job_key(job), 'labels', labels)
end
