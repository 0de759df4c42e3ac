"""Keeps other sites from writing through a visitor's browser.

Two checks, either of which would do: the browser says that the form stands on this site, and the form carries
a signature of a random number that only this site could have set as a cookie.
"""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response

from prismrec.base.errors import ConfigError

FIELD = "token"
"""Field of a form that carries the signature."""

_COOKIE = "prismrec_form"
_LEAST_SECRET = 32


class Guard:
    """Signs forms and checks them.

    Parameters
    ----------
    secret
        See `prismrec.serving.page.options.PageOptions`.

    Raises
    ------
    ConfigError
        If the secret is too short.
    """

    def __init__(self, secret: bytes | None) -> None:
        if secret is not None and len(secret) < _LEAST_SECRET:
            raise ConfigError(
                f"The secret that signs forms has {len(secret)} bytes.", f"Give at least {_LEAST_SECRET}."
            )
        self._secret = secret or secrets.token_bytes(_LEAST_SECRET)

    def token(self, request: Request) -> tuple[str, str | None]:
        """Return the signature for a visitor's forms, and the cookie to set; None if it is there already."""
        there = request.cookies.get(_COOKIE)
        drawn = None if there else secrets.token_urlsafe(24)
        return self._sign(there or drawn or ""), drawn

    def remember(self, request: Request, answer: Response, cookie: str) -> None:
        """Set the cookie."""
        answer.set_cookie(
            _COOKIE, cookie, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict"
        )

    def check(self, request: Request, token: str) -> None:
        """Refuse what was not sent by a form of this site.

        Raises
        ------
        HTTPException
            403.
        """
        if not _same_origin(request):
            raise HTTPException(403, "This form was sent from another site. Open it here and send it again.")
        cookie = request.cookies.get(_COOKIE, "")
        if not cookie or not hmac.compare_digest(self._sign(cookie).encode(), token.encode()):
            raise HTTPException(
                403, "This form is too old, or cookies are switched off. Open it again and send it again."
            )

    def _sign(self, cookie: str) -> str:
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


def _same_origin(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # Without encryption browsers tell the origin only. What tells neither is no browser: it has the API.
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")
