#!lua
-- Stores a grant whose code waits to be redeemed; its times are those of the clock that later decides.
-- KEYS[1]  grant
-- ARGV     document without times (JSON), the code's life (ms), tombstone ttl (ms)
-- Answer   'OK'
local grant = cjson.decode(ARGV[1])
local now = now_ms()
grant.created = now
grant.code.expires = now + tonumber(ARGV[2])
save_grant(grant, tonumber(ARGV[2]) + tonumber(ARGV[3]))
return 'OK'
