"""What a client may get and how: one module a grant type, none of which knows HTTP."""
