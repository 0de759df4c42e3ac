"""The packages that only a service needs."""

from prismrec.features.pretrained_source import need

_PACKAGES = ("fastapi", "uvicorn", "jinja2", "python_multipart", "lancedb", "prometheus_client")


def require_serve() -> None:
    """Check that the extra ``serve`` is installed.

    Raises
    ------
    MissingExtraError
        Naming the first package that is not.
    """
    for package in _PACKAGES:
        need(package, "The service", "serve")
