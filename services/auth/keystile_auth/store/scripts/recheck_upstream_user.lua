#!lua
-- Stores what an identity answered about a user, unless the user has signed in anew meanwhile or was deleted.
-- KEYS[1]  user
-- ARGV     credential that it was asked with, then fields and values
-- Answer   1 | 0
if redis.call('HGET', KEYS[1], 'credential') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
