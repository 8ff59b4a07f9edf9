"""What a token is made of: opaque strings, keys, scopes and the resources they are for."""
