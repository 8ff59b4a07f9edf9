-- Ends a grant and every token of it in one commit.
-- KEYS[1]  grant
-- ARGV     reason, tombstone ttl (ms)
-- Answer   1 when it lived until now, else 0
local grant = load_grant()
if not grant or grant.state == 'ended' then return 0 end
end_grant(grant, ARGV[1], tonumber(ARGV[2]))
return 1
