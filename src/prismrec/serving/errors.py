"""Errors of the service that the API answers in a way of its own."""

from prismrec.base.errors import InputError


class UnknownItem(InputError):  # noqa: N818 - the contract in `prismrec.serving.types` calls it so
    """There is no such item, or there is none any more. Exit code 3.

    Parameters
    ----------
    item_id
        What was asked for.
    """

    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        super().__init__(f"There is no item {item_id!r}.", "It was never handed in, or it was deleted.")
