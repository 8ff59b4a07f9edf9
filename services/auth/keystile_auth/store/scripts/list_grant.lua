#!lua
-- Puts a grant, or a token without one, into the list of its owner, and drops those that have expired.
-- KEYS[1]  list, scored by expiry (Unix ms)
-- ARGV     member, how long it stays (ms)
-- Answer   'OK'
put_into_list(KEYS[1], ARGV[1], tonumber(ARGV[2]), now_ms())
return 'OK'
