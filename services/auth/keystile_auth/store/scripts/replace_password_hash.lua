#!lua
-- Puts a password hash in another's place, unless that one is gone.
-- KEYS[1]  user
-- ARGV     the hash that is there; the new one
-- Answer   1 when the new one is there now, else 0
local found = redis.call('HGET', KEYS[1], 'password_hash')
if found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'password_hash', ARGV[2])
return 1
