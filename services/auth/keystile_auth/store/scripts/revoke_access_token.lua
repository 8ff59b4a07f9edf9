#!lua flags=allow-oom
-- Revokes one access token; its grant goes on.
-- KEYS[1]  grant
-- KEYS[2]  stream of revocations; absent in a cluster
-- ARGV     access token hash
-- Answer   1 when it lived until now, else 0
local value = redis.call('GET', access_token_key(ARGV[1]))
local grant = load_grant()
if grant and grant.access_tokens[ARGV[1]] then
  grant.access_tokens[ARGV[1]] = nil
  redis.call('SET', KEYS[1], cjson.encode(grant), 'KEEPTTL')
end
if not value then return 0 end
redis.call('DEL', access_token_key(ARGV[1]))
local audience, answer = string.match(value, '^%d+ ([^\n]*)\n(.*)$')
if audience then announce(audience, 'token', string.match(answer, '"jti":"([%w_.-]+)"') or ARGV[1]) end
return 1
