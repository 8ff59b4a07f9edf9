#!lua flags=allow-oom
-- Ends a grant and every token of it in one commit.
-- KEYS[1]  grant
-- KEYS[2]  stream of revocations; absent in a cluster
-- ARGV     reason, tombstone ttl (ms), attempt
-- Answer   1 when it lived until now, else 0
local grant = load_grant()
if not grant then return 0 end
if grant.state == 'ended' then return grant.ended_by == ARGV[3] and 1 or 0 end
end_grant(grant, ARGV[1], tonumber(ARGV[2]), ARGV[3])
return 1
