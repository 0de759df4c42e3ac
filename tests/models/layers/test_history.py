import numpy as np
import torch

from prismrec.data.interactions import Pairs
from prismrec.models.layers.history import History
from prismrec.models.layers.lookup import rows_or_zero

TABLE = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])


def history() -> History:
    # User 0 touched items 7 and 2, user 2 touched item 5, user 1 and 3 nothing.
    pairs = Pairs(np.array([0, 2, 0], dtype=np.int32), np.array([7, 5, 2], dtype=np.int32))
    found = History()
    found.fit(pairs, np.array([2, 5, 7], dtype=np.int32), 4)
    return found


def test_sums_and_means_over_what_a_user_touched() -> None:
    users = torch.tensor([2, 0, 1, -1, 3, 0])
    sums = [[0, 2], [5, 4], [0, 0], [0, 0], [0, 0], [5, 4]]
    means = [[0, 2], [2.5, 2], [0, 0], [0, 0], [0, 0], [2.5, 2]]
    torch.testing.assert_close(history().sum(users, TABLE), torch.tensor(sums, dtype=torch.float32))
    torch.testing.assert_close(history().mean(users, TABLE), torch.tensor(means, dtype=torch.float32))


def test_multi_hot_leaves_out_items_without_a_column() -> None:
    hot = history().multi_hot(torch.tensor([0, 2, -1]), torch.tensor([1, -1, 0]), 2)
    assert hot.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_no_users_is_no_rows() -> None:
    nobody = torch.zeros(0, dtype=torch.int64)
    assert history().sum(nobody, TABLE).shape == (0, 2)
    assert history().multi_hot(nobody, torch.tensor([0, 1, 2]), 3).shape == (0, 3)


def test_minus_one_is_not_the_last_row() -> None:
    assert rows_or_zero(TABLE, torch.tensor([-1, 2])).tolist() == [[0, 0], [4, 4]]
