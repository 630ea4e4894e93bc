"""The queue's Lua scripts and the schema of its keys. Each script is atomic; together they keep the queue's invariants.

Every key starts with `p` = `winnow:{<workspace id>}:`. Times are milliseconds of Redis' own clock, those that a user
sees as it is (`wall`), all others (`now`) without its leaps: set back or forward, it lets no lease lapse or live on.

    p jobs                  zset    job -> created at, microseconds since 1970: the index of jobs
    p status:<status>       zset    the same, for the jobs of one status
    p owner:<owner>         zset    the same, for the jobs of one owner
    p owner:<owner>:<status> zset   the same, for those of one status
    p job:<job>             hash    status, stage, view (JSON: what the workspace says), created_at (as in jobs), owner,
                                    weight (of its priority), bytes (of text that it scores), shards_total,
                                    shards_done, documents_done, tokens_done, rejects, started_at, updated_at, deaths,
                                    scoring_at (first claim of a shard), scored_at (latest shard done),
                                    cpu_ms, gpu_ms (time that training and shards took workers, by their device)
    p open:<owner>          zset    job -> when it was admitted; an owner's jobs that have not ended
    p active:<kind>         zset    job -> ms of workers' time it was served, by its weight; the jobs that have tasks
                                    of this kind
    p tasks:<kind>:<job>    zset    task -> time from which it is claimable: its index while new, the end of its
                                    lease while leased
    p lease:<job>           hash    task -> {fence, worker, attempts, deaths, documents, tokens, error, claimed (time),
                                    since, device}, of the tasks that were claimed and are not done; fence 0: nobody
                                    holds it; deaths: of workers that held it; since: charged up to then
    p rate:<job>            hash    ring of RING buckets of BUCKET ms: i -> {bucket, tokens} scored in it
    p totals                hash    since the data was last lost: shards, documents, tokens scored by all jobs; lost:
                                    leases whose worker died or hung; refused: calls under a lease that was over
    p workers               zset    worker -> last seen
    p fence                 string  the last fencing token; it starts at the time, so that none is given again when
                                    the data was lost
    p clock                 hash    last (the latest `now`), ahead (of `wall`)
    p epoch                 string  run id of the server on which this data was last made to agree with the workspace
    p rebuilding            string  the process that makes it agree now, while it says so

A task is its kind, or `score:<shard>`. A lapsed lease is simply claimable. Invariant: a job that has not ended has a
task: finishing its last one puts `advance`, which looks at the workspace and submits what comes next or ends the job.
"""

LEAP = 60_000  # ms; a clock that goes on by more between two calls was set

COMMON = (
    f"local LEAP = {LEAP}"
    + """
local p = KEYS[1]
local time = redis.call('TIME')
local wall = time[1] * 1000 + math.floor(time[2] / 1000)
local clock = redis.call('HMGET', p .. 'clock', 'last', 'ahead')
local last, ahead = tonumber(clock[1]) or wall, tonumber(clock[2]) or 0
local now = wall + ahead
if now < last or now > last + LEAP then now, ahead = last, last - wall end
redis.call('HSET', p .. 'clock', 'last', now, 'ahead', ahead)
local RING, BUCKET, FIRST_TIME = 16, 2000, 1e11
local KINDS = {'advance', 'select', 'plan', 'score', 'train'}
local ENDED = {succeeded = true, failed = true, cancelled = true}
local STATUS = {train = 'training', score = 'scoring', select = 'selecting'}
local RANK = {plan = 1, train = 2, score = 3, select = 4}

local function kind_of(task) return string.match(task, '^%a+') end
local function job_key(job) return p .. 'job:' .. job end
local function lease_key(job) return p .. 'lease:' .. job end
local function tasks_key(kind, job) return p .. 'tasks:' .. kind .. ':' .. job end

local function set_status(job, status)
  local old = redis.call('HGET', job_key(job), 'status')
  if old == status then return end
  local created = redis.call('HGET', job_key(job), 'created_at')
  if old then redis.call('ZREM', p .. 'status:' .. old, job) end
  redis.call('HSET', job_key(job), 'status', status)
  redis.call('ZADD', p .. 'status:' .. status, created, job)
  redis.call('ZADD', p .. 'jobs', created, job)
  local owner = redis.call('HGET', job_key(job), 'owner')
  if owner and owner ~= '' then
    if old then redis.call('ZREM', p .. 'owner:' .. owner .. ':' .. old, job) end
    redis.call('ZADD', p .. 'owner:' .. owner .. ':' .. status, created, job)
    redis.call('ZADD', p .. 'owner:' .. owner, created, job)
  end
end

local function add_task(kind, job, task, from)
  redis.call('ZADD', tasks_key(kind, job), 'NX', from, task)
  if not redis.call('ZSCORE', p .. 'active:' .. kind, job) then
    local least = redis.call('ZRANGE', p .. 'active:' .. kind, 0, 0, 'WITHSCORES')
    redis.call('ZADD', p .. 'active:' .. kind, least[2] or 0, job)
  end
end

-- A job's share of the workers' time: ms that a worker was at one of its tasks, and 1 for each claim.
local function charge(kind, job, ms)
  local weight = tonumber(redis.call('HGET', job_key(job), 'weight')) or 1
  redis.call('ZADD', p .. 'active:' .. kind, 'XX', 'INCR', ms / weight, job)
end

-- Up to so many of a job's tasks that are to be had, in order: those whose workers have died or that failed come before
-- the new ones, whose numbers are small.
local function claimable(kind, job, most)
  local tasks = redis.call('ZRANGEBYSCORE', tasks_key(kind, job), FIRST_TIME, now, 'LIMIT', 0, most)
  local new = redis.call('ZRANGEBYSCORE', tasks_key(kind, job), '-inf', '(' .. FIRST_TIME, 'LIMIT', 0, most - #tasks)
  for _, task in ipairs(new) do table.insert(tasks, task) end
  return tasks
end

local function drop_tasks(job)
  for _, kind in ipairs(KINDS) do
    redis.call('DEL', tasks_key(kind, job))
    redis.call('ZREM', p .. 'active:' .. kind, job)
  end
  redis.call('DEL', lease_key(job))
end

-- The entry of a lease that is still held under this fence, or nil.
local function held(job, task, fence)
  local text = redis.call('HGET', lease_key(job), task)
  local entry = text and cjson.decode(text)
  if entry and entry.fence == tonumber(fence) then return entry end
  if task ~= 'advance' then redis.call('HINCRBY', p .. 'totals', 'refused', 1) end  -- it may end its own job
end

-- Books the time that a worker had a task of training or scoring.
local function spend(job, task, entry)
  local kind = kind_of(task)
  if entry.claimed and (kind == 'score' or kind == 'train') then
    redis.call('HINCRBY', job_key(job), entry.device == 'cuda' and 'gpu_ms' or 'cpu_ms', now - entry.claimed)
  end
end

local function put_back(job, task, entry, from)
  charge(kind_of(task), job, now - entry.since)
  spend(job, task, entry)
  entry.fence, entry.documents, entry.tokens = 0, 0, 0
  redis.call('ZADD', tasks_key(kind_of(task), job), 'XX', from, task)
  redis.call('HSET', lease_key(job), task, cjson.encode(entry))
end

-- Its worker is dead, or as good as that.
local function mourn(job, entry, what)
  entry.error = 'its worker ' .. entry.worker .. what
  entry.deaths = entry.deaths + 1
  redis.call('HINCRBY', job_key(job), 'deaths', 1)
  redis.call('HINCRBY', p .. 'totals', 'lost', 1)
end

local function add_rate(job, tokens)
  local bucket = math.floor(now / BUCKET)
  local text = redis.call('HGET', p .. 'rate:' .. job, bucket % RING)
  local entry = text and cjson.decode(text)
  if not entry or entry.bucket ~= bucket then entry = {bucket = bucket, tokens = 0} end
  entry.tokens = entry.tokens + tokens
  redis.call('HSET', p .. 'rate:' .. job, bucket % RING, cjson.encode(entry))
end

-- An owner's jobs that have not ended: the job leaves them.
local function close(job)
  redis.call('ZREM', p .. 'open:' .. (redis.call('HGET', job_key(job), 'owner') or ''), job)
end
"""
)

# job, created at (us), view, owner, weight: makes a job known; one that is known keeps its state.
ADD = """
local job, created, view, owner, weight = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HSETNX', job_key(job), 'created_at', created) == 1 then
  redis.call('HSET', job_key(job), 'view', view, 'owner', owner, 'weight', weight)
  redis.call('ZADD', p .. 'open:' .. owner, now, job)
  set_status(job, 'queued')
end
"""

# job, owner, ms after which an admitted job that did not come is forgotten, then pairs of a limit's name and value:
# counts a new job in and returns nothing, or returns the name of the limit that is reached and what there is.
ADMIT = """
local job, open = ARGV[1], p .. 'open:' .. ARGV[2]
if redis.call('ZSCORE', open, job) then return false end
local used = {jobs = 0, shards = 0, bytes = 0}
for _, other in ipairs(redis.call('ZRANGE', open, 0, -1)) do
  local known = redis.call('HMGET', job_key(other), 'created_at', 'shards_total', 'shards_done', 'bytes')
  if known[1] or tonumber(redis.call('ZSCORE', open, other)) > now - ARGV[3] then
    local total, done, bytes = tonumber(known[2]) or 0, tonumber(known[3]) or 0, tonumber(known[4]) or 0
    used.jobs, used.shards = used.jobs + 1, used.shards + total - done
    if total > 0 then used.bytes = used.bytes + math.ceil(bytes * (total - done) / total) end
  else
    redis.call('ZREM', open, other)
  end
end
for i = 4, #ARGV, 2 do
  if used[ARGV[i]] >= tonumber(ARGV[i + 1]) then return {ARGV[i], used[ARGV[i]]} end
end
redis.call('ZADD', open, now, job)
return false
"""

# job, kind, count, view, and the job's bytes and shards: the tasks of a job's next stage, all at once or, if the stage
# was reached before, none.
SUBMIT = """
local job, kind, count, view = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local state = redis.call('HMGET', job_key(job), 'status', 'stage')
local status, stage = state[1], state[2]
if not status or status == 'failed' or status == 'cancelled' then return 0 end
if ENDED[status] and kind ~= 'select' then return 0 end
if stage and RANK[stage] > RANK[kind] then return 0 end
if redis.call('EXISTS', tasks_key(kind, job)) == 1 then return 0 end
if not ENDED[status] and STATUS[kind] then set_status(job, STATUS[kind]) end
redis.call('HSET', job_key(job), 'stage', kind, 'view', view)
redis.call('DEL', p .. 'rate:' .. job)
if kind == 'score' then
  redis.call('HSET', job_key(job), 'shards_total', count, 'shards_done', 0, 'bytes', ARGV[5])
  redis.call('HSET', job_key(job), 'documents_done', 0, 'tokens_done', 0, 'rejects', 0)
  for i = 0, count - 1 do add_task(kind, job, 'score:' .. i, i) end
else
  if kind == 'train' then  -- for its owner's quotas it has all to score
    redis.call('HSET', job_key(job), 'shards_total', ARGV[6], 'shards_done', 0, 'bytes', ARGV[5])
  end
  add_task(kind, job, kind, 0)
end
return 1
"""

# worker, lease (ms), a job and a task of it to take before others of its kind (or ''), kinds in the order to look: a
# lease on a claimable task of the least-served job, or nothing. What is wanted was the next in turn a few batches ago;
# it does not go before what a dead worker had.
CLAIM = """
local worker, lease, wanted_job, wanted = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
redis.call('SET', p .. 'fence', wall, 'NX')
redis.call('ZADD', p .. 'workers', now, worker)
redis.call('ZREMRANGEBYSCORE', p .. 'workers', '-inf', now - 10 * lease - 10000)

local function grant(kind, job, task)
  local text = redis.call('HGET', lease_key(job), task)
  local entry = text and cjson.decode(text) or {attempts = 0, deaths = 0, error = ''}
  if entry.fence and entry.fence ~= 0 then mourn(job, entry, ' died or hung') end
  entry.fence = redis.call('INCR', p .. 'fence')
  entry.worker, entry.documents, entry.tokens, entry.since, entry.claimed = worker, 0, 0, now, now
  entry.attempts = entry.attempts + 1
  redis.call('HSET', lease_key(job), task, cjson.encode(entry))
  redis.call('ZADD', tasks_key(kind, job), now + lease, task)
  charge(kind, job, 1)
  if kind == 'plan' then
    redis.call('HSETNX', job_key(job), 'started_at', wall)
    set_status(job, 'planning')
  elseif kind == 'score' then
    redis.call('HSETNX', job_key(job), 'scoring_at', now)
  end
  redis.call('HSET', job_key(job), 'updated_at', wall)
  local deaths = tonumber(redis.call('HGET', job_key(job), 'deaths')) or 0
  return {job, task, entry.fence, entry.attempts, entry.error, deaths - entry.deaths}
end

for i = 5, #ARGV do
  local kind = ARGV[i]
  if wanted ~= '' and kind == kind_of(wanted) then
    local from = redis.call('ZSCORE', tasks_key(kind, wanted_job), wanted)
    local given_back = redis.call('ZCOUNT', tasks_key(kind, wanted_job), FIRST_TIME, now)
    if from and tonumber(from) <= now and (given_back == 0 or tonumber(from) >= FIRST_TIME) then
      return grant(kind, wanted_job, wanted)
    end
  end
  for _, job in ipairs(redis.call('ZRANGE', p .. 'active:' .. kind, 0, -1)) do
    local task = claimable(kind, job, 1)[1]
    if task then return grant(kind, job, task) end
  end
end
return false
"""

# worker, silence (ms) after which one counts as gone: the job and task that it would get if it claimed a shard now, of
# as many as there are live workers one by its name, so that they do not all think of the same; or nothing.
NEXT = """
local worker, silence = ARGV[1], tonumber(ARGV[2])
for _, job in ipairs(redis.call('ZRANGE', p .. 'active:score', 0, -1)) do
  local live = redis.call('ZRANGEBYSCORE', p .. 'workers', now - silence, '+inf')
  local tasks = claimable('score', job, math.max(1, #live))
  table.sort(live)
  local place = 1
  for i, name in ipairs(live) do if name == worker then place = i end end
  if #tasks > 0 then return {job, tasks[(place - 1) % #tasks + 1]} end
end
return false
"""

# job, task, fence, lease (ms), documents, tokens, device ("" while unknown): 1 if the lease goes on, 0 if it is lost.
BEAT = """
local job, task, documents, tokens = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
add_rate(job, tokens - entry.tokens)
charge(kind_of(task), job, now - entry.since)
entry.documents, entry.tokens, entry.since, entry.device = documents, tokens, now, ARGV[7]
redis.call('HSET', lease_key(job), task, cjson.encode(entry))
redis.call('ZADD', tasks_key(kind_of(task), job), 'XX', now + tonumber(ARGV[4]), task)
redis.call('ZADD', p .. 'workers', now, entry.worker)
redis.call('HSET', job_key(job), 'updated_at', wall)
return 1
"""

# job, task, fence, documents, tokens, rejects, fresh (1: scored now, 0: found): 1, or 0 if the lease is lost.
DONE = """
local job, task, documents, tokens = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local kind = kind_of(task)
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
charge(kind, job, now - entry.since)
redis.call('HDEL', lease_key(job), task)
redis.call('ZREM', tasks_key(kind, job), task)
spend(job, task, entry)
if kind == 'score' then
  redis.call('HINCRBY', job_key(job), 'shards_done', 1)
  redis.call('HINCRBY', job_key(job), 'documents_done', documents)
  redis.call('HINCRBY', job_key(job), 'tokens_done', tokens)
  redis.call('HINCRBY', job_key(job), 'rejects', ARGV[6])
  if ARGV[7] == '1' then
    add_rate(job, tokens - entry.tokens)
    redis.call('HINCRBY', p .. 'totals', 'shards', 1)
    redis.call('HINCRBY', p .. 'totals', 'documents', documents)
    redis.call('HINCRBY', p .. 'totals', 'tokens', tokens)
  end
  redis.call('HSET', job_key(job), 'scored_at', now)
end
redis.call('HSET', job_key(job), 'updated_at', wall)
if redis.call('EXISTS', tasks_key(kind, job)) == 0 then redis.call('ZREM', p .. 'active:' .. kind, job) end
local left = 0
for _, k in ipairs(KINDS) do left = left + redis.call('EXISTS', tasks_key(k, job)) end
if left == 0 and kind ~= 'advance' then add_task('advance', job, 'advance', 0) end
return 1
"""

# job, task, fence, delay (ms), error, forgive (1: the attempt does not count): gives a task back; 0 if lost.
PUT_BACK = """
local job, task = ARGV[1], ARGV[2]
local entry = held(job, task, ARGV[3])
if not entry then return 0 end
entry.attempts = entry.attempts - tonumber(ARGV[6])
if ARGV[5] ~= '' then entry.error = ARGV[5] end
local delay = tonumber(ARGV[4])
put_back(job, task, entry, delay > 0 and now + delay or 0)
return 1
"""

# job, task, fence: what the task needs is gone; the job goes back to what its files call for. 0 if lost.
REDO = """
local job = ARGV[1]
if not held(job, ARGV[2], ARGV[3]) then return 0 end
drop_tasks(job)
redis.call('HDEL', job_key(job), 'stage')
add_task('advance', job, 'advance', 0)
return 1
"""

# worker: gives back all that a dead worker holds; how many tasks that were.
RECLAIM = """
local worker, count = ARGV[1], 0
for _, kind in ipairs(KINDS) do
  for _, job in ipairs(redis.call('ZRANGE', p .. 'active:' .. kind, 0, -1)) do
    local leases = redis.call('HGETALL', lease_key(job))
    for i = 1, #leases, 2 do
      local entry = cjson.decode(leases[i + 1])
      if entry.worker == worker and entry.fence ~= 0 then
        mourn(job, entry, ' died')
        put_back(job, leases[i], entry, 0)
        count = count + 1
      end
    end
  end
end
redis.call('ZREM', p .. 'workers', worker)
return count
"""

# job, status, view, stage: the job has ended; its tasks and leases go.
END = """
local job, status, view = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', job_key(job)) == 0 then return 0 end
if ENDED[redis.call('HGET', job_key(job), 'status')] then
  redis.call('HSET', job_key(job), 'view', view)
  return 0
end
drop_tasks(job)
close(job)
redis.call('DEL', p .. 'rate:' .. job)
redis.call('HSET', job_key(job), 'view', view, 'stage', 'select', 'updated_at', wall)
set_status(job, status)
return 1
"""

# job: forgets a job that the workspace does not know.
FORGET = """
local job = ARGV[1]
drop_tasks(job)
close(job)
local status = redis.call('HGET', job_key(job), 'status')
if status then redis.call('ZREM', p .. 'status:' .. status, job) end
local owner = redis.call('HGET', job_key(job), 'owner')
if owner and status then redis.call('ZREM', p .. 'owner:' .. owner .. ':' .. status, job) end
if owner then redis.call('ZREM', p .. 'owner:' .. owner, job) end
redis.call('ZREM', p .. 'jobs', job)
redis.call('DEL', job_key(job), p .. 'rate:' .. job)
"""

# silence (ms) after which a worker counts as gone: kind, pending, leased for each kind, then the live workers.
STATS = """
local out = {}
for _, kind in ipairs(KINDS) do
  local pending, leased = 0, 0
  for _, job in ipairs(redis.call('ZRANGE', p .. 'active:' .. kind, 0, -1)) do
    local ready = redis.call('ZCOUNT', tasks_key(kind, job), '-inf', now)
    pending, leased = pending + ready, leased + redis.call('ZCARD', tasks_key(kind, job)) - ready
  end
  table.insert(out, {kind, pending, leased})
end
return {out, redis.call('ZCOUNT', p .. 'workers', now - tonumber(ARGV[1]), '+inf')}
"""

SCRIPTS = {
    name: COMMON + body
    for name, body in {
        "add": ADD,
        "admit": ADMIT,
        "submit": SUBMIT,
        "claim": CLAIM,
        "next": NEXT,
        "beat": BEAT,
        "done": DONE,
        "put_back": PUT_BACK,
        "redo": REDO,
        "reclaim": RECLAIM,
        "end": END,
        "forget": FORGET,
        "stats": STATS,
    }.items()
}
