#!lua
-- Gives a user name to another user, unless somebody else took it meanwhile.
-- KEYS[1]  name
-- ARGV     the subject that has it, or had; the new one
-- Answer   1 when the new one has it now, else 0
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
