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
| `ks:signing-keys` | signing keys, private parts encrypted |
"""
