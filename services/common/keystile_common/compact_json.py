"""JSON as it is stored, signed and sent: without spaces."""

import json

to_json = json.JSONEncoder(separators=(",", ":")).encode
"""As `json.dumps`, which makes an encoder anew for each value."""
