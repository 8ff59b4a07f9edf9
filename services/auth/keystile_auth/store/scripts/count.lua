-- Counts one event in a window that starts with its first.
-- KEYS[1]  window
-- ARGV     its length (ms), how much to add
-- Answer   {count, ms left}
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {count, left}
