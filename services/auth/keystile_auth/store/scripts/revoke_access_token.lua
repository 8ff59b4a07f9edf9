#!lua flags=allow-oom
-- Revokes one access token; its grant goes on.
-- KEYS[1]  grant
-- ARGV     access token hash
-- Answer   1 when it lived until now, else 0
local deleted = redis.call('DEL', access_token_key(ARGV[1]))
local grant = load_grant()
if grant and grant.access_tokens[ARGV[1]] then
  grant.access_tokens[ARGV[1]] = nil
  redis.call('SET', KEYS[1], cjson.encode(grant), 'KEEPTTL')
end
return deleted
