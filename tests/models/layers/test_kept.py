import torch

from prismrec.models.layers.kept import Kept


def test_it_computes_anew_only_after_a_change():
    tensors = [torch.zeros(3), torch.zeros(2, 2)]
    asked = []

    def total():
        asked.append(1)
        return float(sum(t.sum() for t in tensors))

    kept = Kept()
    assert [kept.of(tensors, total) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert len(asked) == 1
    tensors[1][0, 1] = 5.0
    assert [kept.of(tensors, total) for _ in range(2)] == [5.0, 5.0]
    tensors[0] = torch.ones(3)
    assert kept.of(tensors, total) == 8.0
    assert len(asked) == 3
    kept.forget()
    assert kept.of(tensors, total) == 8.0
    assert len(asked) == 4


def test_it_sees_a_step_of_an_optimizer_and_loaded_weights():
    layer = torch.nn.Linear(2, 1, bias=False)
    kept = Kept()

    def found():
        return kept.of(layer.parameters(), lambda: layer.weight.detach().clone())

    first = found()
    layer(torch.ones(1, 2)).sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1).step()
    second = found()
    assert not torch.equal(first, second)
    layer.load_state_dict({"weight": torch.zeros(1, 2)})
    assert torch.equal(found(), torch.zeros(1, 2))
