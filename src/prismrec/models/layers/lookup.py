"""Rows of a table by code, with nothing for codes that are not in it."""

from torch import Tensor


def rows_or_zero(table: Tensor, codes: Tensor) -> Tensor:
    """Return rows of a table; zeros for codes below 0, which stand for users and items that came later.

    Plain indexing would take -1 for the last row, and give a stranger the last user's vector.

    Parameters
    ----------
    table
        Shape ``(rows, d)``.
    codes
        Shape ``(n,)``.

    Returns
    -------
    Tensor
        Shape ``(n, d)``.
    """
    known = (codes >= 0).to(table.dtype).unsqueeze(1)
    return table[codes.clamp_min(0)] * known
