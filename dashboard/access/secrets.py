"""Tokens and the secrets in cookies: how they are made, and how they are kept.

Both are 256 random bits, so a plain SHA-256 is enough to keep them by: there is nothing to guess that a slow hash would protect.
"""

import hashlib
import secrets

_BYTES = 32
_MARK = "fsk_"
LENGTH = 256
"""No secret of ours is longer; what is, is not even hashed."""


def new_token() -> str:
    """Return a fresh token. Its first letters say what it is, to people and to scanners that look for secrets."""
    return _MARK + secrets.token_urlsafe(_BYTES)


def new_session() -> str:
    """Return a fresh secret for a cookie."""
    return secrets.token_urlsafe(_BYTES)


def digest(secret: str) -> str:
    """Return what is kept of a secret: 64 hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
