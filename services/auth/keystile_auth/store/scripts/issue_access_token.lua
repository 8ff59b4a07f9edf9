#!lua
-- Stores an access token that has no refresh family and no person behind it (client_credentials).
-- KEYS[1]  grant (a name only: the token's key starts with it)
-- KEYS[2]  list of its client; absent in a cluster, where it is in another slot and was written before
-- ARGV     access token hash, ttl (s), audience, answer's opening, its name in the list, how long it stays there (ms)
-- Answer   when it expires (Unix s)
local access_hash, ttl, audience, opening, member, listed = unpack(ARGV)
local now = now_ms()
if KEYS[2] then put_into_list(KEYS[2], member, tonumber(listed), now) end
return put_access_token({access_tokens = {}}, access_hash, tonumber(ttl), audience, opening, now)
