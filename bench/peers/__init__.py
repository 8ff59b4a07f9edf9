"""Servers that others made, measured beside Keystile's in the same rounds.

Nothing may be imported here: a peer's process may have another environment than ours.
"""
