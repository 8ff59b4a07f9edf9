#!lua
-- Finds a grant with its client and its user, as they are at one moment.
-- KEYS[1]  grant
-- ARGV     how the keys of clients begin, and those of users
-- Answer   {grant (JSON), client (JSON) or nil, user (each field and its value)} | nil
local text = redis.call('GET', KEYS[1])
if not text then return nil end
local grant = cjson.decode(text)
return {text, redis.call('GET', ARGV[1] .. grant.client_id), redis.call('HGETALL', ARGV[2] .. grant.sub)}
