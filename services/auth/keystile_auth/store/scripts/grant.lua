-- Shared by every script on a grant; put in front of each when it is loaded.
-- KEYS[1] is the grant's key. Its access tokens' keys start with it and share its slot.
-- KEYS[2] is the stream of revocations where the script may revoke; absent in a cluster, where it is in another slot.

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Puts a grant, or a token without one, into a list of its owner for so long, and drops those that have expired.
local function put_into_list(list, member, ttl_ms, now)
  local expires = now + ttl_ms
  redis.call('ZADD', list, 'GT', expires, member)
  redis.call('ZREMRANGEBYSCORE', list, '-inf', now)
  -- GT has no effect on a list that never expires, which a new one does not.
  redis.call('PEXPIREAT', list, expires, 'GT')
  redis.call('PEXPIREAT', list, expires, 'NX')
end

local function load_grant()
  local text = redis.call('GET', KEYS[1])
  return text and cjson.decode(text)
end

local function save_grant(grant, ttl_ms)
  redis.call('SET', KEYS[1], cjson.encode(grant), 'PX', ttl_ms)
end

local function access_token_key(hash)
  return KEYS[1] .. ':a:' .. hash
end

-- Stores an access token's ready answer. `opening` is its JSON without the closing brace; what the store's
-- clock decides is added here. Answers when it expires.
local function put_access_token(grant, hash, ttl_s, audience, opening, now)
  local issued = math.floor(now / 1000)
  local expires = issued + ttl_s
  local answer = string.format('%s,"iat":%d,"nbf":%d,"exp":%d}', opening, issued, issued, expires)
  redis.call('SET', access_token_key(hash), expires .. ' ' .. audience .. '\n' .. answer, 'PXAT', expires * 1000)
  for old, old_expires in pairs(grant.access_tokens) do
    if old_expires * 1000 <= now then grant.access_tokens[old] = nil end
  end
  grant.access_tokens[hash] = expires
  return expires
end

local function seconds_left(expires, now)
  return math.max(0, (expires or 0) - math.floor(now / 1000))
end

-- Tells resource servers what has died, in the same commit: `kind` is 'grant', and `name` its id, or 'token' and its jti.
-- The stream keeps the last 5000 at least; see store/revocations.py.
local function announce(audience, kind, name)
  if KEYS[2] then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', 5000, '*', 'audience', audience, 'kind', kind, 'name', name)
  end
end

-- Ends a grant with all its tokens and leaves a tombstone, so that a replay can still be told from junk.
-- `attempt` is kept: when the answer gets lost and the script is sent again, it must say the same.
local function end_grant(grant, reason, tombstone_ms, attempt)
  -- Without a token there is nothing that a resource server could hold.
  if next(grant.access_tokens) then announce(grant.resource, 'grant', string.sub(KEYS[1], 5, -2)) end
  for hash, _ in pairs(grant.access_tokens) do
    redis.call('DEL', access_token_key(hash))
  end
  grant.access_tokens = {}
  grant.state = 'ended'
  grant.reason = reason
  grant.ended_by = attempt
  save_grant(grant, tombstone_ms)
end
