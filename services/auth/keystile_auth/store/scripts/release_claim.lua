#!lua flags=allow-oom
-- Gives up a claim, if it is still the caller's.
-- KEYS[1]  claim
-- ARGV     the caller's mark
-- Answer   how many were deleted
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
