#!lua
-- Redeems an authorization code: single use, decided here and nowhere else (RFC 6749 section 4.1.2).
-- KEYS[1]  grant
-- KEYS[2]  stream of revocations; absent in a cluster
-- ARGV     code hash, attempt, access token hash, access token ttl (s), audience, answer's opening,
--          refresh token hash or '', grant ttl (ms), tombstone ttl (ms), '1' where the answer waits for
--          answer_token_request.lua, else ''
-- Answer   {'redeemed', seconds the access token has left, when it expires (Unix s)} | {'unknown'} | {'expired'} | {'ended'} | {'reused'}
local code, attempt, access_hash, access_ttl, audience, opening, refresh_hash, grant_ttl, tombstone,
  unanswered = unpack(ARGV)
local grant = load_grant()
if not grant or not grant.code or grant.code.hash ~= code then return {'unknown'} end
if grant.state == 'ended' then return {grant.ended_by == attempt and 'reused' or 'ended'} end
local now = now_ms()
if grant.code.attempt then
  -- The same attempt again: our answer got lost on its way, the first redemption stands.
  if grant.code.attempt == attempt then
    local expires = grant.access_tokens[access_hash] or 0
    return {'redeemed', seconds_left(expires, now), expires}
  end
  if not grant.code.unanswered then
    end_grant(grant, 'code_reuse', tonumber(tombstone), attempt)
    return {'reused'}
  end
end
if now > grant.code.expires then return {'expired'} end
-- What an attempt made that was never answered, nobody has; it must not live beside what this one makes.
for old, _ in pairs(grant.access_tokens) do
  redis.call('DEL', access_token_key(old))
  grant.access_tokens[old] = nil
end
grant.code.attempt = attempt
grant.code.unanswered = unanswered ~= '' or nil
grant.state = 'live'
grant.used = now
if refresh_hash ~= '' then
  grant.refresh = {generation = 0, hash = refresh_hash}
end
local expires = put_access_token(grant, access_hash, tonumber(access_ttl), audience, opening, now)
save_grant(grant, tonumber(grant_ttl))
return {'redeemed', tonumber(access_ttl), expires}
