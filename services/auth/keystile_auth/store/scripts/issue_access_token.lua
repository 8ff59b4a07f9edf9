#!lua
-- Stores an access token that has no refresh family and no person behind it (client_credentials).
-- KEYS[1]  grant (a name only: the token's key starts with it)
-- ARGV     access token hash, ttl (s), audience, answer's opening
-- Answer   when it expires (Unix s)
local access_hash, ttl, audience, opening = unpack(ARGV)
return put_access_token({access_tokens = {}}, access_hash, tonumber(ttl), audience, opening, now_ms())
