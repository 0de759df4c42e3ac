"""The packages that only a service needs."""

import importlib

from prismrec.base.errors import MissingExtraError

_PACKAGES = ("fastapi", "uvicorn", "jinja2", "multipart", "lancedb", "prometheus_client")


def require_serve() -> None:
    """Check that the extra ``serve`` is installed.

    Raises
    ------
    MissingExtraError
        Naming the first package that is not.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(package, "serve", "The service") from error
