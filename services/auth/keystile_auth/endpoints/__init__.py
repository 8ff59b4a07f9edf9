"""One file an endpoint, named by the protocol. They know HTTP; what to decide they ask others."""
