#!lua
-- Rotates a refresh token, or finds that it was used before (RFC 9700 section 4.14.2).
-- KEYS[1]  grant
-- KEYS[2]  stream of revocations; absent in a cluster
-- ARGV     presented hash, its generation, attempt, successor hash, access token hash,
--          access token ttl (s), audience, answer's opening, scope, grant ttl (ms), grace (ms), tombstone (ms),
--          '1' where the answer waits for answer_token_request.lua, else ''
-- Answer   {'rotated' | 'repeated' | 'repaired', seconds the access token has left, when it expires (Unix s), scope}
--          | {'unknown'} | {'ended'} | {'reused'}
--          repeated: within the grace, or while the first was never answered, the same successor is answered again, nothing new is made.
--          repaired: the store had lost rotations that this token proves; it goes on from there.
local presented, generation, attempt, successor, access_hash, access_ttl, audience, opening, scope,
  grant_ttl, grace, tombstone, unanswered = unpack(ARGV)
generation = tonumber(generation)
local grant = load_grant()
if not grant or not grant.refresh then return {'unknown'} end
if grant.state ~= 'live' then return {grant.ended_by == attempt and 'reused' or 'ended'} end
local now = now_ms()
local family, last = grant.refresh, grant.refresh.last
local outcome
if generation == family.generation and presented == family.hash then
  outcome = 'rotated'
elseif generation > family.generation then
  outcome = 'repaired'
elseif last and generation == family.generation - 1 and presented == last.hash
    and (last.attempt == attempt or last.unanswered or now - last.at < tonumber(grace)) then
  if last.unanswered and last.attempt ~= attempt then
    last.attempt = attempt
    save_grant(grant, tonumber(grant_ttl))
  end
  return {'repeated', seconds_left(last.expires, now), last.expires, last.scope}
else
  end_grant(grant, 'refresh_token_reuse', tonumber(tombstone), attempt)
  return {'reused'}
end
local expires = put_access_token(grant, access_hash, tonumber(access_ttl), audience, opening, now)
grant.refresh = {
  generation = generation + 1,
  hash = successor,
  last = {
    hash = presented, attempt = attempt, at = now, expires = expires, scope = scope,
    unanswered = unanswered ~= '' or nil,
  },
}
grant.used = now
save_grant(grant, tonumber(grant_ttl))
return {outcome, tonumber(access_ttl), expires, scope}
