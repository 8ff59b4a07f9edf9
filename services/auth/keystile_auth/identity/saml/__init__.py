"""Signing in at a SAML 2.0 identity provider. Nothing here is imported unless an identity is of that kind."""
