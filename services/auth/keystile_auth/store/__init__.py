"""Repositories over Valkey or Redis. They know keys and scripts; what a value means is others' business.

Keys (prefix `ks:`), with the part in braces that Redis Cluster hashes:

| key | holds |
|---|---|
| `ks:{grant}` | a grant: one JSON document, its refresh family and live access tokens in it |
| `ks:{grant}:a:SHA256` | an access token: expiry, audience, ready introspection answer |
| `ks:client:ID` | a registered client; `ks:clients` lists those of the operator |
| `ks:document:SHA256` | a cached Client ID Metadata Document |
| `ks:kept-document:SHA256` | the same for longer, for when its host is away |
| `ks:keys:SHA256` | a cached key set of a client |
| `ks:user:SUB`, `ks:username:NAME` | a user, and the way to it |
| `ks:consents:SUB` | what a user has consented to |
| `ks:session:SHA256`, `ks:sessions:SUB` | a sign-in session, and a user's sessions |
| `ks:request:ID` | an authorization request that waits for a person |
| `ks:grants:user:SUB`, `ks:grants:client:ID` | grants by owner, scored by expiry |
| `ks:assertion:SHA256` | a used client assertion |
| `ks:limit:…` | a rate limit's window |
| `ks:signing-keys` | signing keys in all their states, private parts encrypted |
| `ks:users` | every user's subject |
| `ks:revocations` | the stream of what was revoked lately; see `revocations.py` |
| `ks:mark:{…}` | nothing, for a millisecond: a write for WAIT to wait for; see `store_durability.py` |
| `ks:events-acked:NAME` | how far a resource has acknowledged it |

Only the keys of one grant are written together, by one script, and with them the stream of revocations where the store
is one server; every other write is of one key. Where one thing is
several keys, they are written in an order that leaves no harm when it stops in the middle, and can be done again:

| what | order, and what stands when it stops |
|---|---|
| grant | into the lists of its user and client, then the grant: a listed grant that is not there counts as none |
| token without grant | into its client's list, then the token: the same |
| user, new | into `ks:users`, the user, the name: without a name nobody signs in, and `all` leaves it out |
| user, gone | consents, `ks:users`, the user, the name: repeatable until the user is gone; then the name is free |
| session, new | into the user's list, then the session: a listed session that is not there counts as none |
| session, gone | the session, then its place in the list: it is over at once |
| client of the operator, new | into `ks:clients`, then the client: the same as a grant |
| client, gone | grants, client, its place in the list, grants once more: it can be repeated until the client is gone |
| ending all grants of a list | each by itself, the rest although one fails; then the failure is said |
"""
