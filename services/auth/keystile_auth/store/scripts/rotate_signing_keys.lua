#!lua
-- Rotates the signing keys: the next one signs, the current one retires, a new next one is published.
-- KEYS[1]  the document of all signing keys
-- ARGV     the new next key (JSON without its state), force '1' or '0', age at which rotation is due (s),
--          for how long a key is published before it signs (s), and after it signed (s)
-- Answer   {'rotated', kid that signs now, kid that retired} | {'early', seconds until it is due}
--          | {'unpublished', seconds until the next key may sign} | {'absent'}
local candidate, force, rotate_after, published, retired_seconds = unpack(ARGV)
local text = redis.call('GET', KEYS[1])
if not text then return {'absent'} end
local now = tonumber(redis.call('TIME')[1])
local current, upcoming, retired = nil, nil, {}
for _, key in ipairs(cjson.decode(text).keys) do
  key.kid = key.kid or key.public.kid
  if key.state == 'current' then current = key
  elseif key.state == 'next' then upcoming = key
  elseif key['until'] > now then table.insert(retired, key) end
end
candidate = cjson.decode(candidate)
candidate.state, candidate.created = 'next', now

local function save()
  local keys = {current, upcoming}
  for _, key in ipairs(retired) do table.insert(keys, key) end
  redis.call('SET', KEYS[1], cjson.encode({keys = keys}))
end

-- Our own rotation again: its answer got lost on the way, and it was sent once more.
if upcoming and upcoming.kid == candidate.kid then
  return {'rotated', current.kid, retired[1] and retired[1].kid or ''}
end
local since = current.since or current.created
if force ~= '1' and since + tonumber(rotate_after) > now then
  return {'early', since + tonumber(rotate_after) - now}
end
if not upcoming then
  upcoming = candidate
  save()
  return {'unpublished', tonumber(published)}
end
-- The first two keys were published together: whoever knows the one knows the other.
if not upcoming.from_the_start and upcoming.created + tonumber(published) > now then
  return {'unpublished', upcoming.created + tonumber(published) - now}
end
current.state, current['until'] = 'retired', now + tonumber(retired_seconds)
table.insert(retired, 1, current)
upcoming.state, upcoming.since, upcoming.from_the_start = 'current', now, nil
current, upcoming = upcoming, candidate
save()
return {'rotated', current.kid, retired[1].kid}
