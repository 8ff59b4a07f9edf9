#!lua
-- Puts a grant, or a token without one, into the list of its owner, and drops those that have expired.
-- KEYS[1]  list, scored by expiry (Unix ms)
-- ARGV     member, how long it stays (ms)
-- Answer   'OK'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local expires = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], 'GT', expires, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
-- GT has no effect on a list that never expires, which a new one does not.
redis.call('PEXPIREAT', KEYS[1], expires, 'GT')
redis.call('PEXPIREAT', KEYS[1], expires, 'NX')
return 'OK'
