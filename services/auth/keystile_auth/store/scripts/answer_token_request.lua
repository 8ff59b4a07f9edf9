#!lua flags=allow-oom
-- Notes that what a redemption or rotation made is about to be given out: the same request again is reuse from now on.
-- KEYS[1]  grant
-- ARGV     attempt, the hash of the refresh token that was presented or '' for a code, grace (ms)
-- Answer   'answered' | 'ended'
--          | 'superseded': another attempt made the same meanwhile, and only one may be answered. Within a grace both
--          may be, since refresh tokens have one successor.
local attempt, presented, grace = unpack(ARGV)
local grant = load_grant()
if not grant or grant.state ~= 'live' then return 'ended' end
local made, is_shared = grant.code, false
if presented ~= '' then
  made, is_shared = grant.refresh.last, tonumber(grace) > 0
end
local is_there = presented == '' or (made and made.hash == presented)
if not is_shared and not (is_there and made.attempt == attempt) then return 'superseded' end
if is_there and made.unanswered then
  made.unanswered = nil
  -- The grace is for an answer that got lost, so it begins with the answer.
  made.at = now_ms()
  redis.call('SET', KEYS[1], cjson.encode(grant), 'KEEPTTL')
end
return 'answered'
