-- Every step of a pool, one a call, each atomic. docs/engine.md has the data model.
-- KEYS[1]: "rtcbridge:{pool}:", the prefix of all keys, so that a cluster keeps a pool on one server.
-- ARGV: command, engine's epoch, this replica as "name|epoch", generation of its connection, then what the command takes.
local P, cmd, me = KEYS[1], ARGV[1], ARGV[3]
local META, NODES, INFO, FREE, SESSIONS = P .. 'meta', P .. 'nodes', P .. 'info', P .. 'free', P .. 'sessions'
local EXCLUDING = P .. 'excluding'
local LINE, WAITING, AWAY, REPLICAS, ORPHANS = P .. 'line', P .. 'waiting', P .. 'away', P .. 'replicas', P .. 'orphans'
local JOURNAL, ENDED, MAYBE = P .. 'journal', P .. 'ended', P .. 'maybe'
local call = redis.call
local STEP = 4294967296 -- between two ranks of the line; within one, the order of coming
local FRONT = -2000
local UNSAID = 'engine lost' -- why a session ended that nobody has said again since
local JOURNAL_LIMIT = 200000 -- ended sessions that are kept for the ledger

local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What takes a record apart in one call. Literals, since all of this is run anew with each call.
local NODE = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'
local WAITER = NODE
local CLAIM = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'

local ENTRY = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)$'
local OPEN = '^[^|]*|[^|]*|[^|]*||$' -- one without an end

local function integer(number) return string.format('%.0f', number) end

-- nodes: "capacity|epoch|open|replica's name|replica's epoch|socket". The socket is "" after it has gone, when the
-- replica is the one that had it; the replica is "|" after its death.
local function node_of(id)
  local value = call('HGET', NODES, id)
  if not value then return nil end
  local capacity, epoch, open, replica, life, socket = string.match(value, NODE)
  return {
    id = id, capacity = tonumber(capacity), epoch = tonumber(epoch), open = open == '1',
    replica = replica .. '|' .. life, socket = socket,
  }
end

local function name_of(replica) return string.sub(replica, 1, string.find(replica, '|', 1, true) - 1) end

-- The address of the replica that has a node's socket; "" if none has.
local function replica_of(node) return node.socket == '' and '' or name_of(node.replica) end

local function used(id) return call('SCARD', P .. 'node:' .. id) end

-- Whether a node has a free slot: the fullest first, then by id.
local function refree(node)
  local taken = used(node.id)
  if node.open and taken < node.capacity then
    call('ZADD', FREE, -taken, node.id)
  else
    call('ZREM', FREE, node.id)
  end
end

local function put_node(node)
  call('HSET', NODES, node.id, table.concat({
    integer(node.capacity), integer(node.epoch), node.open and '1' or '0', node.replica, node.socket,
  }, '|'))
  refree(node)
end

-- sessions: "node|node's epoch|live|token of its last yield|project|its limit|owner's name|owner's epoch"; an orphan's
-- owner is "|"
local function claim_of(session)
  local value = call('HGET', SESSIONS, session)
  if not value then return nil end
  local node, epoch, live, token, project, limit, owner, life = string.match(value, CLAIM)
  return {
    session = session, node = node, epoch = tonumber(epoch), live = live == '1', token = token, project = project,
    limit = limit, owner = owner .. '|' .. life,
  }
end

local function own(owner, session) if owner ~= '|' then call('SADD', P .. 'owned:' .. owner, session) end end
local function disown(owner, session) if owner ~= '|' then call('SREM', P .. 'owned:' .. owner, session) end end

local function put_claim(claim)
  call('SADD', P .. 'node:' .. claim.node, claim.session)
  own(claim.owner, claim.session)
  if claim.project ~= '' then call('SADD', P .. 'project:' .. claim.project, claim.session) end
  call('HSET', SESSIONS, claim.session, table.concat({
    claim.node, integer(claim.epoch), claim.live and '1' or '0', claim.token, claim.project, claim.limit, claim.owner,
  }, '|'))
end

local function wake(owner, news, session, node)
  if owner ~= '|' then
    local serial = call('HINCRBY', META, 'serial', 1)
    local text = table.concat({ news, session, node.id, integer(node.epoch), replica_of(node), serial }, '|')
    call('XADD', P .. 'wake:' .. owner, '*', 'w', text)
  end
end

local function drop_claim(claim)
  call('HDEL', SESSIONS, claim.session)
  call('SREM', P .. 'node:' .. claim.node, claim.session)
  if claim.owner == '|' then call('ZREM', ORPHANS, claim.session) end
  if claim.project ~= '' then call('SREM', P .. 'project:' .. claim.project, claim.session) end
  disown(claim.owner, claim.session)
  local node = node_of(claim.node)
  if node then refree(node) end
end

-- waiting: "excluded node|token of its last yield|project|its limit|owner's name|owner's epoch"; the line has its place
local function waiter_of(session)
  local value = call('HGET', WAITING, session)
  if not value then return nil end
  local exclude, token, project, limit, owner, life = string.match(value, WAITER)
  return {
    session = session, exclude = exclude, token = token, project = project, limit = limit, owner = owner .. '|' .. life,
  }
end

local function note_waiter(waiter)
  local text = { waiter.exclude, waiter.token, waiter.project, waiter.limit, waiter.owner }
  call('HSET', WAITING, waiter.session, table.concat(text, '|'))
end

local function put_waiter(waiter, score)
  note_waiter(waiter)
  if waiter.exclude ~= '' then call('HSET', EXCLUDING, waiter.session, waiter.exclude) end
  call('ZADD', LINE, score, waiter.session)
  own(waiter.owner, waiter.session)
end

local function drop_waiter(waiter)
  call('HDEL', WAITING, waiter.session)
  call('ZREM', LINE, waiter.session)
  call('HDEL', AWAY, waiter.session)
  if waiter.exclude ~= '' then call('HDEL', EXCLUDING, waiter.session) end
  disown(waiter.owner, waiter.session)
end

local function score_of(rank) return rank * STEP + call('HINCRBY', META, 'last', 1) end
local function front_score() return FRONT * STEP - call('HINCRBY', META, 'pushed', 1) end

-- journal: "node|project|when it began|when it ended, or nothing|why", of sessions whose offer has gone to the node; the
-- ended ones are in `ended`, too, by when, until the leader's audit has found them in the ledger.
local function entry_of(session)
  local value = call('HGET', JOURNAL, session)
  if not value then return nil end
  local node, project, began, ended, why = string.match(value, ENTRY)
  return { session = session, node = node, project = project, began = began, ended = ended, why = why }
end

-- Whether a session began and has ended, as far as the journal still knows.
local function has_ended(session)
  local entry = entry_of(session)
  return entry and entry.ended ~= '' and entry.why ~= UNSAID and not call('ZSCORE', MAYBE, session)
end

local function put_entry(entry)
  local text = { entry.node, entry.project, entry.began, entry.ended, entry.why }
  call('HSET', JOURNAL, entry.session, table.concat(text, '|'))
end

local function drop_entry(session)
  call('HDEL', JOURNAL, session)
  call('ZREM', ENDED, session)
  call('ZREM', MAYBE, session)
end

-- The offer of a session goes to the node, or another has said that it did.
local function note_begin(claim)
  local text = claim.node .. '|' .. claim.project .. '|' .. integer(now()) .. '||'
  if call('HSETNX', JOURNAL, claim.session, text) == 1 then return end
  local entry = entry_of(claim.session)
  if entry.ended ~= '' then
    call('ZREM', ENDED, claim.session)
    call('ZREM', MAYBE, claim.session)
  end
  entry.node, entry.ended, entry.why = claim.node, '', ''
  if entry.project == '' then entry.project = claim.project end
  put_entry(entry)
end

-- A session has nothing any more; the first end counts.
local function note_end(session, why)
  local value = call('HGET', JOURNAL, session)
  if not value or not string.find(value, OPEN) then return end
  local time = integer(now())
  call('HSET', JOURNAL, session, string.sub(value, 1, -2) .. time .. '|' .. why)
  call('ZADD', ENDED, time, session)
end

-- It did go out.
local function note_surely(session, node)
  local entry = call('ZSCORE', MAYBE, session) and entry_of(session)
  if not entry or (node ~= '' and entry.node ~= node) then return end
  call('ZREM', MAYBE, session)
  call('ZADD', ENDED, entry.ended, session)
end

-- Tell of an orphan, but while owners are still coming back.
local function tell_orphan(node, session)
  if replica_of(node) == '' or call('HEXISTS', META, 'recover') == 1 then return end
  wake(node.replica, 'orphan', session, node)
end

local function tell_orphans()
  for _, session in ipairs(call('ZRANGE', ORPHANS, 0, -1)) do
    local claim = claim_of(session)
    local node = claim and node_of(claim.node)
    if node then tell_orphan(node, session) end
  end
end

-- Milliseconds until slots are given away again.
local function recovering()
  local until_ = call('HGET', META, 'recover')
  if not until_ then return 0 end
  local left = tonumber(until_) - now()
  if left > 0 then return left end
  call('HDEL', META, 'recover')
  tell_orphans()
  return 0
end

local function free_node(exclude)
  for _, id in ipairs(call('ZRANGE', FREE, 0, exclude == '' and 0 or 1)) do
    if id ~= exclude then return node_of(id) end
  end
  return nil
end

-- Whether a project holds as many slots of the pool as it may.
local function at_limit(project, limit)
  limit = tonumber(limit)
  return project ~= '' and limit > 0 and call('SCARD', P .. 'project:' .. project) >= limit
end

local function give(waiter, node)
  put_claim({
    session = waiter.session, node = node.id, epoch = node.epoch, live = false, token = waiter.token,
    project = waiter.project, limit = waiter.limit, owner = waiter.owner,
  })
  refree(node)
end

-- Give the free slots to the line; all but the caller's own session are told through their replica's stream.
local function serve(caller)
  local passed, size, full = 0, 1, {}
  while call('ZCARD', FREE) > 0 do
    local sessions = call('ZRANGE', LINE, passed, passed + size - 1)
    if #sessions == 0 then return end
    for _, session in ipairs(sessions) do
      local waiter = waiter_of(session)
      local limit = waiter.project .. '|' .. waiter.limit
      full[limit] = full[limit] or at_limit(waiter.project, waiter.limit)
      local node = not full[limit] and free_node(waiter.exclude)
      if node then
        drop_waiter(waiter)
        give(waiter, node)
        if session ~= caller then wake(waiter.owner, 'granted', session, node) end
        if call('ZCARD', FREE) == 0 then return end
      else
        passed = passed + 1
      end
    end
    size = math.min(4 * size, 256)
  end
end

local function serve_unless_recovering(caller)
  if call('ZCARD', LINE) > 0 and call('ZCARD', FREE) > 0 and recovering() == 0 then serve(caller) end
end

-- How many slots are on their way; -1 while none is given away, behind a loss of the data, and until a new leader has
-- said it: what a place means is not known before that.
local function supply()
  if call('HEXISTS', META, 'recover') == 1 then return '-1' end
  return call('HGET', META, 'supply') or '0'
end
local function cause() return call('HGET', META, 'cause') or '' end

local function place_of(session)
  local rank = call('ZRANK', LINE, session)
  return rank and rank + 1 or 0
end

-- What a session has, with the number of the last news, so that its replica can tell older news from newer.
local function standing(session)
  local claim, serial = claim_of(session), call('HGET', META, 'serial') or '0'
  if claim then return { 'grant', serial, claim.node, integer(claim.epoch), replica_of(node_of(claim.node)) } end
  if call('HEXISTS', WAITING, session) == 1 then
    local score, waiter = call('ZSCORE', LINE, session) or call('HGET', AWAY, session), waiter_of(session)
    local barred = at_limit(waiter.project, waiter.limit) and '1' or '0'
    return { 'place', serial, tostring(place_of(session)), supply(), score, cause(), barred }
  end
  return { 'none', serial }
end

local run = {}

function run.reserve(session, rank, front, exclude, patient, at, project, limit)
  if call('HEXISTS', SESSIONS, session) == 1 or call('HEXISTS', WAITING, session) == 1 then
    local waiter = waiter_of(session)
    if waiter and (waiter.project ~= project or waiter.limit ~= limit) then
      waiter.project, waiter.limit = project, limit
      note_waiter(waiter)
      serve_unless_recovering(session)
    end
    return standing(session)
  end
  if exclude ~= '' then -- it is tried on another node, and goes on
    local entry = entry_of(session)
    if entry and not call('ZSCORE', MAYBE, session) then note_begin(entry) end
  end
  local meta = call('HMGET', META, 'recover', 'serial')
  if not meta[1] and call('ZCARD', LINE) == 0 and not at_limit(project, limit) then
    local node = free_node(exclude)
    if node then
      give({ session = session, token = '', project = project, limit = limit, owner = me }, node)
      return { 'grant', meta[2] or '0', node.id, integer(node.epoch), replica_of(node) }
    end
  end
  local score
  if at ~= '' then
    score = tonumber(at)
    local order = score % STEP
    if score > FRONT * STEP and order > tonumber(call('HGET', META, 'last') or '0') then
      call('HSET', META, 'last', integer(order))
    elseif score <= FRONT * STEP and FRONT * STEP - score > tonumber(call('HGET', META, 'pushed') or '0') then
      call('HSET', META, 'pushed', integer(FRONT * STEP - score))
    end
  else
    score = front == '1' and front_score() or score_of(tonumber(rank))
  end
  put_waiter({
    session = session, exclude = exclude, token = '', project = project, limit = limit, owner = me,
  }, score)
  serve_unless_recovering(session)
  local found = standing(session)
  local slots = tonumber(found[4])
  if found[1] == 'place' and patient == '0' and slots >= 0 and tonumber(found[3]) > slots then
    drop_waiter(waiter_of(session))
    note_end(session, 'full')
    found[1] = 'out'
  end
  return found
end

function run.release(session, why)
  local claim = claim_of(session)
  local waiter = not claim and waiter_of(session)
  local had = claim or waiter
  if had and had.owner ~= me and had.owner ~= '|' then return { 'OK', '0' } end -- another's by now
  note_end(session, why or '')
  if claim then drop_claim(claim) elseif waiter then drop_waiter(waiter) else return { 'OK', '0' } end
  serve_unless_recovering('')
  return { 'OK', '1' }
end

function run.begin(session)
  local claim = claim_of(session)
  if not claim then return { 'OK', '0' } end
  claim.live = true
  put_claim(claim)
  note_begin(claim)
  return { 'OK', '1' }
end

if cmd ~= 'attach' then
  local known = call('HMGET', META, 'engine', 'g:' .. me)
  if known[1] ~= ARGV[2] then return { 'ENGINE' } end
  if not known[2] and cmd == 'begin' then note_surely(ARGV[5], '') end -- too late for its slot, but it is true
  if not known[2] then return { 'FENCED' } end
  if known[2] ~= ARGV[4] then return { 'STALE' } end
end
-- Whatever follows is made anew with each call, too: those that come most go before.
if run[cmd] then return run[cmd](unpack(ARGV, 5)) end

local function micros()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- News of a node, to the replica that has or had its socket and would tell of it after a loss of the engine's data.
local function wake_replica(node, news)
  if node.replica ~= me then wake(node.replica, news, '', node) end
end

-- A reservation goes with its replica, whose last word, that the offer went out, may not have come: the node may know.
local function note_maybe(claim, grace)
  local entry = entry_of(claim.session)
  if entry then return note_end(claim.session, 'bridge lost') end
  local time = integer(now())
  put_entry({
    session = claim.session, node = claim.node, project = claim.project, began = time, ended = time, why = 'bridge lost',
  })
  call('ZADD', MAYBE, now() + grace, claim.session)
  local node = node_of(claim.node)
  if node and replica_of(node) ~= '' then wake(node.replica, 'maybe', claim.session, node) end
end

-- A slot is lost with its node. Its session waits before all others from now on, until its owner lets another session
-- succeed it, or releases it: in between, nobody overtakes it.
local function lose(claim, node)
  drop_claim(claim)
  note_end(claim.session, 'node lost')
  if claim.owner ~= '|' then
    put_waiter({
      session = claim.session, exclude = '', token = '', project = claim.project, limit = claim.limit,
      owner = claim.owner,
    }, front_score())
    wake(claim.owner, 'lost', claim.session, node)
  end
end

-- A node has another socket, or none any more: who has a slot there is told.
local function tell_moved(node)
  for _, session in ipairs(call('SMEMBERS', P .. 'node:' .. node.id)) do
    local claim = claim_of(session)
    if claim.epoch ~= node.epoch then
      claim.epoch = node.epoch
      put_claim(claim)
    end
    if claim.owner == '|' then tell_orphan(node, session) else wake(claim.owner, 'moved', session, node) end
  end
end

local function version_of_nodes() return redis.sha1hex(table.concat(call('HGETALL', NODES), ' ')) end
local function orphan(claim, grace)
  claim.owner = '|'
  put_claim(claim)
  call('ZADD', ORPHANS, now() + grace, claim.session)
  tell_orphan(node_of(claim.node), claim.session)
end

-- A replica is gone: what waits and what is reserved goes; what is live stays for a while, for another to take over.
-- Its nodes stay, without a socket.
local function bury(replica, grace)
  for _, id in ipairs(call('HKEYS', NODES)) do
    local node = node_of(id)
    if node.replica == replica then
      local was = replica_of(node)
      node.open, node.replica = false, '|'
      put_node(node)
      if was ~= '' then tell_moved(node) end
    end
  end
  for _, session in ipairs(call('SMEMBERS', P .. 'owned:' .. replica)) do
    local claim, waiter = claim_of(session), waiter_of(session)
    if waiter then
      drop_waiter(waiter)
      note_end(session, 'bridge lost')
    elseif claim and claim.live then
      disown(replica, session)
      orphan(claim, grace)
    elseif claim then
      drop_claim(claim)
      note_maybe(claim, grace)
    end
  end
  call('ZREM', REPLICAS, replica)
  call('HDEL', META, 'g:' .. replica)
  call('DEL', P .. 'owned:' .. replica, P .. 'wake:' .. replica)
  if call('HGET', META, 'leader') == replica then call('HDEL', META, 'leader', 'until') end
end

local function reap(grace)
  local time = now()
  for _, replica in ipairs(call('ZRANGEBYSCORE', REPLICAS, '-inf', '(' .. integer(time))) do bury(replica, grace) end
  for _, session in ipairs(call('ZRANGEBYSCORE', ORPHANS, '-inf', '(' .. integer(time))) do
    local claim = claim_of(session)
    if claim then drop_claim(claim) else call('ZREM', ORPHANS, session) end
    note_end(session, 'bridge lost')
  end
  for _, session in ipairs(call('ZRANGEBYSCORE', MAYBE, '-inf', '(' .. integer(time))) do drop_entry(session) end
  for _ = JOURNAL_LIMIT + 1, call('ZCARD', ENDED) do drop_entry(call('ZRANGE', ENDED, 0, 0)[1]) end
end

local function wipe()
  for _, session in ipairs(call('HKEYS', SESSIONS)) do call('DEL', P .. 'project:' .. claim_of(session).project) end
  for _, id in ipairs(call('HKEYS', NODES)) do call('DEL', P .. 'node:' .. id) end
  for _, replica in ipairs(call('ZRANGE', REPLICAS, 0, -1)) do
    call('DEL', P .. 'owned:' .. replica, P .. 'wake:' .. replica)
  end
  call('DEL', META, NODES, INFO, FREE, SESSIONS, LINE, WAITING, AWAY, EXCLUDING, REPLICAS, ORPHANS)
  for _, session in ipairs(call('HKEYS', JOURNAL)) do note_end(session, UNSAID) end -- unless it is said again
end

-- Join or come back: the server's run, lease and grace in ms, a new engine's epoch. A server that is not the one that
-- made the epoch may have lost the last of what was written: it counts as empty.
function run.attach(server, lease, grace, fresh)
  local epoch = call('HGET', META, 'engine')
  if not epoch or call('HGET', META, 'run') ~= server then
    wipe()
    epoch = fresh
    call('HSET', META, 'engine', epoch, 'run', server, 'recover', integer(now() + tonumber(lease)))
  end
  local name, generation = name_of(me), tonumber(ARGV[4])
  local before = tonumber(call('HGET', META, 'c:' .. name) or '0')
  if generation <= before then return { 'STALE' } end
  if not call('ZSCORE', REPLICAS, me) then
    local last = tonumber(call('HGET', META, 'replica') or '0')
    local number = math.max(last + 1, micros())
    call('HSET', META, 'replica', integer(number))
    me = name .. '|' .. integer(number)
  end
  for _, other in ipairs(call('ZRANGE', REPLICAS, 0, -1)) do -- one whose answer to this call was lost
    if other ~= me and name_of(other) == name then bury(other, tonumber(grace)) end
  end
  call('HSET', META, 'c:' .. name, integer(generation), 'g:' .. me, integer(generation))
  call('ZADD', REPLICAS, now() + tonumber(lease), me)
  reap(tonumber(grace))
  serve_unless_recovering('')
  return { 'OK', epoch, me, integer(recovering()) }
end

function run.beat(lease, grace)
  call('ZADD', REPLICAS, now() + tonumber(lease), me)
  reap(tonumber(grace))
  serve_unless_recovering('')
  return { 'OK', integer(call('ZCARD', LINE)), supply(), integer(recovering()) }
end

function run.leave(grace)
  bury(me, tonumber(grace))
  serve_unless_recovering('')
  return { 'OK' }
end

-- What a session that was lost has in line goes to another, or what it has got since.
function run.succeed(session, old, rank, project, limit)
  local claim, waiter = claim_of(old), waiter_of(old)
  if not claim_of(session) and not waiter_of(session) then
    if claim and not claim.live and claim.owner == me then
      local node = node_of(claim.node)
      drop_claim(claim)
      claim.session = session
      give(claim, node)
    elseif waiter and waiter.owner == me then
      local score = call('ZSCORE', LINE, old)
      drop_waiter(waiter)
      waiter.session = session
      put_waiter(waiter, score)
      serve_unless_recovering(session)
    else
      return run.reserve(session, rank, '1', '', '1', '', project, limit)
    end
  end
  return standing(session)
end

-- A node serves these sessions: their offers went out, whether their bridge lived to say so or not.
function run.served(id, ...)
  for _, session in ipairs({ ... }) do
    local claim = claim_of(session)
    if claim and claim.node == id and not claim.live then
      claim.live = true
      put_claim(claim)
      note_begin(claim)
    elseif not claim then
      note_surely(session, id)
    end
  end
  return { 'OK' }
end

-- Of sessions that ended some ms ago, the oldest. None while it is not known whose sessions go on.
function run.journal(age, limit)
  local found, until_ = { 'OK' }, now() - tonumber(age)
  if recovering() > 0 then return found end
  for _, session in ipairs(call('ZRANGE', ENDED, 0, tonumber(limit) - 1)) do
    local entry = entry_of(session)
    if tonumber(entry.ended) > until_ then break end
    for _, value in ipairs({ session, entry.node, entry.project, entry.began, entry.ended, entry.why }) do
      found[#found + 1] = value
    end
  end
  return found
end

-- The ledger has these sessions with their ends.
function run.confirm(...)
  for _, session in ipairs({ ... }) do
    if call('ZSCORE', ENDED, session) then drop_entry(session) end
  end
  return { 'OK' }
end

-- Say that a session has a slot of a node: after a loss of the engine's data, or after its owner's death.
-- `mine`: its owner says so; else it has to be an orphan, or one that nobody claims.
function run.hold(session, id, epoch, live, project, limit, mine)
  local claim, waiter, node = claim_of(session), waiter_of(session), node_of(id)
  local was = claim and '1' or '0'
  if claim then
    if claim.node ~= id then return { 'ELSEWHERE' } end
    if mine == '0' and claim.owner ~= '|' and claim.owner ~= me then return { 'OWNED' } end
    if claim.owner ~= me then wake(claim.owner, 'taken', session, node) end
    disown(claim.owner, session)
    call('ZREM', ORPHANS, session)
    claim.owner, claim.live = me, claim.live or live == '1'
    if claim.project == '' then claim.project, claim.limit = project, limit end
  else
    if live == '1' and has_ended(session) then return { 'ENDED' } end
    if not node or node.epoch < tonumber(epoch) then return { 'NONODE' } end
    if node.epoch ~= tonumber(epoch) then return { 'EPOCH-OF-NODE' } end
    if used(id) >= node.capacity or (live == '0' and at_limit(project, limit)) then return { 'FULL' } end
    if waiter then drop_waiter(waiter) end
    claim = {
      session = session, node = id, epoch = node.epoch, live = live == '1', token = '', project = project,
      limit = limit, owner = me,
    }
  end
  put_claim(claim)
  if claim.live then note_begin(claim) end
  refree(node)
  local serial = call('HGET', META, 'serial') or '0'
  return { 'OK', integer(node.epoch), serial, replica_of(node), claim.project, claim.limit, was }
end

-- Own what a session of another replica has, a slot or a place, as it is.
function run.take(session)
  local claim, waiter = claim_of(session), waiter_of(session)
  if claim and claim.owner ~= me then
    wake(claim.owner, 'taken', session, node_of(claim.node))
    disown(claim.owner, session)
    call('ZREM', ORPHANS, session)
    claim.owner = me
    put_claim(claim)
  elseif waiter and waiter.owner ~= me then
    wake(waiter.owner, 'taken', session, { id = '', epoch = 0, socket = '' })
    disown(waiter.owner, session)
    waiter.owner = me
    note_waiter(waiter)
    own(me, session)
  end
  return standing(session)
end

-- `token` is another one each time: it makes a second arrival of the same call do nothing.
function run.yield(session, rank, token)
  local claim = claim_of(session)
  if claim and claim.token ~= token and not claim.live and call('ZCARD', LINE) > 0 then
    drop_claim(claim)
    put_waiter({
      session = session, exclude = '', token = token, project = claim.project, limit = claim.limit,
      owner = claim.owner,
    }, score_of(tonumber(rank)))
    serve_unless_recovering(session)
  end
  return standing(session)
end

function run.suspend(session)
  local claim, waiter = claim_of(session), waiter_of(session)
  if claim and not claim.live then
    drop_claim(claim)
    waiter = {
      session = session, exclude = '', token = '', project = claim.project, limit = claim.limit, owner = claim.owner,
    }
    put_waiter(waiter, front_score())
  end
  if waiter and call('HEXISTS', AWAY, session) == 0 then
    call('HSET', AWAY, session, call('ZSCORE', LINE, session))
    call('ZREM', LINE, session)
  end
  serve_unless_recovering('')
  return standing(session)
end

function run.resume(session)
  local score = call('HGET', AWAY, session)
  if score then
    call('HDEL', AWAY, session)
    call('ZADD', LINE, score, session)
    serve_unless_recovering(session)
  end
  return standing(session)
end

-- What the epoch of a node that is not known has to be above: that of any that has gone; after a loss of the data, that
-- of any that may still be told.
local function unknown_epoch()
  if call('HEXISTS', META, 'recover') == 1 then return math.floor(now() / 1000) end
  return tonumber(call('HGET', META, 'gone') or '0')
end

-- A node has dialled in (`fresh`), or is told again to an engine that may not know it, with no socket if that has gone.
-- Sessions that it lists and nobody claims yet get their slots as orphans, so that no other session does before their
-- owners have spoken.
-- `slots`: how many more are on their way once it is there, by the leader's word; none if it has not said.
function run.node(id, capacity, socket, epoch, fresh, open, info, grace, slots, ...)
  local old, listed = node_of(id), {}
  epoch = tonumber(epoch)
  if old and fresh ~= '1' and old.socket ~= socket then
    if old.epoch > epoch or (old.epoch == epoch and socket ~= '') then
      return { 'EPOCH-OF-NODE', integer(old.epoch), replica_of(old) }
    end
  end
  local same = old and old.socket == socket
  local node = { id = id, capacity = tonumber(capacity), epoch = epoch, replica = me, socket = socket }
  node.open = open == '1' and socket ~= ''
  if same then
    node.epoch = old.epoch
  elseif fresh == '1' then
    node.epoch = math.max(old and old.epoch or unknown_epoch(), epoch) + 1
  end
  for _, session in ipairs({ ... }) do listed[session] = true end
  put_node(node)
  call('HSET', INFO, id, info)
  if slots ~= '' then call('HSET', META, 'supply', slots) end
  if old and not same and old.replica ~= me then
    wake(old.replica, old.socket == '' and 'forgotten' or 'replaced', '', node)
  end
  for _, session in ipairs(fresh == '1' and not same and call('SMEMBERS', P .. 'node:' .. id) or {}) do
    local claim = claim_of(session)
    if claim.live and not listed[session] then lose(claim, node) end
  end
  if old and (old.epoch ~= node.epoch or replica_of(old) ~= replica_of(node)) then tell_moved(node) end
  for _, session in ipairs(same and {} or { ... }) do
    if not claim_of(session) and not has_ended(session) and used(id) < node.capacity then
      local waiter = waiter_of(session)
      if waiter then drop_waiter(waiter) end
      local claim = { session = session, node = id, epoch = node.epoch, live = true, token = '' }
      claim.project, claim.limit = waiter and waiter.project or '', waiter and waiter.limit or '0'
      orphan(claim, tonumber(grace))
      note_begin(claim)
    end
  end
  refree(node)
  serve_unless_recovering('')
  local found = { 'OK', integer(node.epoch) }
  for _, session in ipairs(call('SMEMBERS', P .. 'node:' .. id)) do
    found[#found + 1] = session
    found[#found + 1] = name_of(claim_of(session).owner)
  end
  return found
end

function run.open(id, epoch, open)
  local node = node_of(id)
  if not node or node.epoch ~= tonumber(epoch) or (open == '1' and replica_of(node) == '') then return { 'OK', '0' } end
  node.open = open == '1'
  put_node(node)
  wake_replica(node, node.open and 'opened' or 'shut')
  serve_unless_recovering('')
  return { 'OK', '1' }
end

-- The socket of a node has gone.
function run.down(id, epoch)
  local node = node_of(id)
  if not node or node.epoch ~= tonumber(epoch) then return { 'OK', '0' } end
  local was = replica_of(node)
  node.open, node.socket = false, ''
  put_node(node)
  if was ~= '' then tell_moved(node) end
  return { 'OK', '1' }
end

function run.gone(id, epoch)
  local node = node_of(id)
  if not node or node.epoch ~= tonumber(epoch) then return { 'OK', '0' } end
  call('HDEL', NODES, id)
  call('HDEL', INFO, id)
  call('ZREM', FREE, id)
  if node.epoch > tonumber(call('HGET', META, 'gone') or '0') then call('HSET', META, 'gone', integer(node.epoch)) end
  wake_replica(node, 'forgotten')
  for _, session in ipairs(call('SMEMBERS', P .. 'node:' .. id)) do
    lose(claim_of(session), node)
  end
  serve_unless_recovering('')
  return { 'OK', '1' }
end

-- The lease of the pool's policy loop. The server's time makes its token rise also where the last one is lost. What the
-- last leader said of the supply may be long ago.
function run.lead(lease)
  local leader = call('HGET', META, 'leader')
  local valid = leader and tonumber(call('HGET', META, 'until')) > now()
  if valid and leader ~= me then return { 'OK', '0', name_of(leader), integer(call('ZCARD', REPLICAS)) } end
  local token = call('HGET', META, 'token') or '0'
  if not (valid and leader == me) then
    token = integer(math.max(tonumber(token) + 1, micros()))
    call('HSET', META, 'supply', '-1')
  end
  call('HSET', META, 'leader', me, 'until', integer(now() + tonumber(lease)), 'token', token)
  return { 'OK', token, name_of(me), integer(call('ZCARD', REPLICAS)) }
end

-- A word that was made from another version of the nodes is left out: a newer one follows.
function run.publish(token, slots, why, version)
  if call('HGET', META, 'token') ~= token then return { 'TOKEN' } end
  if version ~= '' and version_of_nodes() ~= version then return { 'OK', '0' } end
  call('HSET', META, 'supply', slots, 'cause', why)
  return { 'OK', '1' }
end

function run.places()
  if supply() == '-1' then return { 'OK', '0', '' } end
  local found, full = { 'OK', supply(), cause() }, {}
  local few = call('HLEN', WAITING) < call('SCARD', P .. 'owned:' .. me)
  for _, session in ipairs(few and call('HKEYS', WAITING) or call('SMEMBERS', P .. 'owned:' .. me)) do
    local waiter = waiter_of(session)
    if waiter and waiter.owner == me then
      local limit = waiter.project .. '|' .. waiter.limit
      if full[limit] == nil then full[limit] = at_limit(waiter.project, waiter.limit) end
      found[#found + 1] = session
      found[#found + 1] = tostring(place_of(session))
      found[#found + 1] = full[limit] and '1' or '0'
    end
  end
  return found
end

function run.find(session)
  local record = call('HGET', SESSIONS, session)
  return { 'OK', record, record and replica_of(node_of(claim_of(session).node)) }
end

function run.look()
  local leader = call('HGET', META, 'leader')
  if leader and tonumber(call('HGET', META, 'until')) <= now() then leader = nil end
  return {
    'OK', call('HGETALL', NODES), call('HGETALL', INFO), call('HGETALL', SESSIONS), call('ZRANGE', LINE, 0, -1),
    call('HKEYS', AWAY), call('ZRANGE', REPLICAS, 0, -1), leader or '', supply(), integer(recovering()),
    call('HGETALL', EXCLUDING), version_of_nodes(),
  }
end

return run[cmd](unpack(ARGV, 5))
