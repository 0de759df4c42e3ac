"""How the service is run: address, keys, limits. A TOML file, then the environment, then arguments.

The file looks like this; all of it may be left out (see the fields)::

    host = "0.0.0.0"
    rerank_seconds = 0.5

    [[keys]]
    name = "shop"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["read", "write"]

    [rate]
    per_second = 100
    burst = 200

    [limits]
    body_bytes = 16777216
"""

import hashlib
import ipaddress
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prismrec.base.errors import ConfigError, InputError
from prismrec.models.settings import parse_settings

KEYS_VARIABLE = "PRISMREC_API_KEYS"
"""Environment variable with keys: ``name:sha256:scope+scope``, several separated by commas."""

Scope = Literal["read", "write"]

_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiKey(_Section):
    """``[[keys]]``: somebody who may use the service. The secret itself is written nowhere."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Who it is; stands in the logs.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the secret, 64 hex digits.")
    scopes: frozenset[Scope] = Field(
        frozenset({"read"}), min_length=1, description="What it may do: 'read', 'write', or both."
    )


class Rate(_Section):
    """``[rate]``: how many requests a key, or an address without one, may make (a token bucket)."""

    per_second: float = Field(50.0, gt=0.0, le=1e6, description="Requests a second in the long run.")
    burst: int = Field(200, ge=1, le=1_000_000, description="Requests at once after a pause.")


class Limits(_Section):
    """``[limits]``: how much a request may ask for."""

    body_bytes: int = Field(8 * 1024**2, ge=1024, le=1024**3, description="Bytes of a request's body.")
    body_seconds: float = Field(30.0, gt=0.0, le=3600.0, description="Time in which a body must arrive.")
    picture_bytes: int = Field(5 * 1024**2, ge=1024, le=1024**3, description="Bytes of an encoded picture.")
    pixels: int = Field(25_000_000, ge=1, le=64_000_000, description="Pixels of a picture once decoded.")
    items: int = Field(100, ge=1, le=100_000, description="Items that one request hands in.")
    events: int = Field(1_000, ge=1, le=1_000_000, description="Events that one request records.")
    k: int = Field(1_000, ge=1, le=1_000, description="Length of a list.")
    concurrency: int = Field(8, ge=1, le=1_000, description="Requests that are worked on at once.")
    waiting: int = Field(64, ge=0, le=100_000, description="Requests that wait for their turn; others: 503.")
    replays: int = Field(1_000, ge=1, le=1_000_000, description="Writes remembered by Idempotency-Key.")


class ServeSettings(_Section):
    """How the service is run."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0: any that is free.")
    hosts: tuple[str, ...] = Field(
        (),
        description="Names in the Host header that are answered; empty: all, or without keys this machine's.",
    )
    keys: tuple[ApiKey, ...] = Field((), description="Who may use it; none: everybody on this machine.")
    rate: Rate | None = Field(Rate(), description="Requests a second; null: as many as come.")
    limits: Limits = Field(Limits(), description="How much a request may ask for.")
    rerank_seconds: float = Field(
        1.0, gt=0.0, le=60.0, description="Time a language model has to order a list; then the first order."
    )
    index_from: int = Field(
        1_000_000,
        ge=1,
        le=2**40,
        description="Recommendable items from which on they are searched by an index instead of exactly.",
    )
    index_recall: float = Field(
        0.98, gt=0.0, le=1.0, description="Share of the exact best 50 that the index has to find on average."
    )
    bundle: Path | None = Field(None, description="What POST /v1/reload opens; left out: nothing.")
    shutdown_seconds: int = Field(
        30, ge=1, le=3600, description="Time that requests in flight have when the service ends."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        names = [key.name for key in self.keys]
        digests = [key.sha256 for key in self.keys]
        if len(set(names)) < len(names) or len(set(digests)) < len(digests):
            raise ValueError("'keys' holds a name or a secret twice")
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"without 'keys' the service may listen on this machine only (127.0.0.1), not on "
                f"{self.host!r}: everybody could read and write. Add [[keys]] to the settings or set "
                f"{KEYS_VARIABLE}"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_settings(
    path: Path | None, environment: Mapping[str, str], changes: Mapping[str, Any] | None = None
) -> ServeSettings:
    """Read the settings.

    Parameters
    ----------
    path
        A TOML file; None: the defaults.
    environment
        Where `KEYS_VARIABLE` may stand (``os.environ``). Its keys are added to the file's.
    changes
        Settings that come before the file's, by name (``host``, ``port`` and so on).

    Raises
    ------
    InputError
        If the file is missing or not TOML.
    ConfigError
        If a setting is unknown or out of its bounds, or there are no keys and the host is not this machine.
    """
    values = {} if path is None else _read(path)
    where = "serve" if path is None else str(path)
    keys = list(values.get("keys", [])) if isinstance(values.get("keys", []), list) else values["keys"]
    named = _keys_of(environment.get(KEYS_VARIABLE, ""))
    if named:
        keys = [*keys, *named]
    _check_digests(keys, where)
    return parse_settings(ServeSettings, {**values, "keys": keys, **(changes or {})}, where)


def new_key(name: str, scopes: frozenset[Scope]) -> tuple[str, ApiKey]:
    """Draw a secret; return it (it cannot be had again) and the key that goes into the settings."""
    secret = secrets.token_urlsafe(32)
    return secret, ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=scopes)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({error}).", "Check the file.") from None


def _keys_of(text: str) -> list[dict[str, Any]]:
    found = []
    for place, row in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        parts = row.split(":")
        if len(parts) not in (2, 3):
            raise ConfigError(
                f"{KEYS_VARIABLE}: key {place} has {len(parts)} parts.", "Expected name:sha256:read+write."
            )
        scopes = parts[2].split("+") if len(parts) == 3 else ["read"]
        found.append({"name": parts[0], "sha256": parts[1], "scopes": scopes})
    return found


def _check_digests(keys: Any, where: str) -> None:
    # Before the general check, whose error shows what was given: here that may be the secret itself.
    for place, row in enumerate(keys if isinstance(keys, list) else [], start=1):
        given: Annotated[Any, "never shown"] = row.get("sha256") if isinstance(row, dict) else None
        if given is not None and not (isinstance(given, str) and _DIGEST.fullmatch(given)):
            raise ConfigError(
                f"{where}: key {place}: 'sha256' is not 64 hexadecimal digits in small letters.",
                "Write the SHA-256 of the secret, not the secret: printf %s SECRET | sha256sum",
            )
