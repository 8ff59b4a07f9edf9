"""Clients: how they become known, how they prove who they are, where they may be sent to."""
