import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.sequential.noise import NoDO, NoiseConfig, noisy_logits

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

VOCABULARY = 48
CHECKPOINTING = pytest.mark.parametrize("reentrant", [True, False])


@pytest.fixture(autouse=True)
def _global_generator_kept() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def policy(*, dropout: float = 0.0, dtype: torch.dtype = torch.float64, **lora: Any) -> Any:
    """A tiny Qwen2 (its attention has biases) with LoRA whose B is not zero, in training mode."""
    torch.manual_seed(1)
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": dropout, "target_modules": "all-linear"} | lora
    base = transformers.Qwen2ForCausalLM(config)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    model = peft.get_peft_model(base, peft.LoraConfig(**settings)).to(dtype)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    return model.train()


def lora_layers(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.Linear) and "default" in module.lora_A
    }


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(seed))


def logits_of(model: Any, ids: Tensor | None = None) -> Tensor:
    return model(input_ids=tokens() if ids is None else ids).logits


def loss_of(model: Any) -> Tensor:
    logits = logits_of(model)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens()[:, 1:].flatten())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def trained_gradients(model: Any, noise: NoDO, index: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    with noise.draw(index):
        loss_of(model).backward()
    return gradients(model)


def effective(layer: Any) -> tuple[Tensor, Tensor]:
    """A' and B' of a layer as they act now: what its modules make of the unit vectors."""
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    with torch.no_grad():
        return (
            a(torch.eye(a.in_features, dtype=a.weight.dtype)).T,
            b(torch.eye(b.in_features, dtype=b.weight.dtype)).T,
        )


def drawn(model: Any, noise: NoDO, index: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The noise of a draw on each layer's A and B."""
    with noise.draw(index), torch.no_grad():
        logits_of(model)
        pairs = {name: effective(layer) for name, layer in lora_layers(model).items()}
    return {
        name: (a - layer.lora_A["default"].weight.detach(), b - layer.lora_B["default"].weight.detach())
        for (name, layer), (a, b) in zip(lora_layers(model).items(), pairs.values(), strict=True)
    }


def replaced(model: Any, noise: NoDO, index: int) -> Any:
    """A copy whose parameters A and B really are A + eps and B + eps."""
    other = copy.deepcopy(model)
    for (eps_a, eps_b), layer in zip(
        drawn(model, noise, index).values(), lora_layers(other).values(), strict=True
    ):
        layer.lora_A["default"].weight.data += eps_a
        layer.lora_B["default"].weight.data += eps_b
    return other


def same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    assert first.keys() == second.keys()
    assert len(first) == 2 * 14
    return all(
        torch.linalg.vector_norm(first[name] - second[name])
        <= tolerance * torch.linalg.vector_norm(second[name])
        for name in first
    )


def test_like_a_model_whose_matrices_are_replaced() -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    other = replaced(model, noise, 5)
    with noise.draw(5):
        noisy = logits_of(model)
        loss_of(model).backward()
    loss_of(other).backward()
    torch.testing.assert_close(noisy, logits_of(other), rtol=1e-12, atol=1e-12)
    assert same(gradients(model), gradients(other), 1e-6)
    assert not torch.allclose(noisy, logits_of(model), atol=1e-3)


def test_noise_is_normal_with_the_asked_sigma_and_differs_between_layers() -> None:
    model = policy(r=16, lora_alpha=16)
    eps = drawn(model, NoDO(model, NoiseConfig(sigma=0.2), seed=0), 0)
    values = torch.cat([part.flatten() for pair in eps.values() for part in pair]) / 0.2
    n = len(values)
    assert n > 10_000
    assert abs(float(values.mean())) < 4 / n**0.5
    assert abs(float(values.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((values**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    first = [float(part[0, 0]) for pair in eps.values() for part in pair]
    assert len(set(first)) == len(first) == 28


@CHECKPOINTING
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("relative", [None, 0.4])
def test_gradient_checkpointing_changes_nothing(
    reentrant: bool, dropout: float, relative: float | None
) -> None:
    plain = policy(dropout=dropout)
    config = NoiseConfig(sigma=0.1, sigma_relative=relative)
    torch.manual_seed(7)
    wanted = trained_gradients(plain, NoDO(plain, config, seed=3))
    model = policy(dropout=dropout)
    checkpoint(model, reentrant)
    noise = NoDO(model, config, seed=3)
    torch.manual_seed(7)
    assert same(trained_gradients(model, noise), wanted)
    torch.manual_seed(7)
    model.zero_grad()
    noise.start(0)
    loss = loss_of(model)
    loss.backward()
    noise.stop()
    assert same(gradients(model), wanted)


def checkpoint(model: Any, reentrant: bool) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()


@CHECKPOINTING
def test_noise_drawn_again_in_backward_would_be_seen(reentrant: bool) -> None:
    # That the test above can fail: the second pass does run with whatever draw is on then.
    model = policy()
    checkpoint(model, reentrant)
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    wanted = trained_gradients(model, noise)
    model.zero_grad()
    noise.start(0)
    loss = loss_of(model)
    noise.stop()
    noise.start(1)
    loss.backward()
    noise.stop()
    assert not same(gradients(model), wanted, 0.05)


def test_a_draw_that_ends_before_backward_gives_an_error_or_a_wrong_gradient() -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    wanted = trained_gradients(model, noise)
    checkpoint(model, True)
    model.zero_grad()
    with noise.draw(0):
        loss = loss_of(model)
    loss.backward()
    assert not same(gradients(model), wanted, 0.05)
    checkpoint(model, False)
    with noise.draw(0):
        loss = loss_of(model)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_are_bitwise_unchanged(dtype: torch.dtype) -> None:
    model = policy(dtype=dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    noise = NoDO(model, NoiseConfig(sigma_relative=0.5), seed=3)
    trained_gradients(model, noise)
    with noise.draw(1):
        logits_of(model)
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_dropout_is_seen_through() -> None:
    model = policy(dropout=0.5)
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    other = replaced(model, noise, 0)
    torch.manual_seed(9)
    with noise.draw(0):
        noisy = logits_of(model)
        again = logits_of(model)
    torch.manual_seed(9)
    torch.testing.assert_close(noisy, logits_of(other), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(noisy, again, atol=1e-3)


def test_reference_evaluation_and_pause_are_clean() -> None:
    model = policy()
    clean = logits_of(model)
    with model.disable_adapter():
        reference = logits_of(model)
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    with noise.draw(0):
        with model.disable_adapter():
            assert torch.equal(logits_of(model), reference)
        noisy = logits_of(model)
        with model.disable_adapter():
            assert torch.equal(logits_of(model), reference)
        with noise.paused():
            assert torch.equal(logits_of(model), clean)
            with noise.paused():
                pass
            assert torch.equal(logits_of(model), clean)
        model.eval()
        assert torch.equal(logits_of(model), clean)
        model.train()
        assert torch.equal(logits_of(model), noisy)
    assert torch.equal(logits_of(model), clean)
    with noise.paused(), noise.draw(0):
        assert torch.equal(logits_of(model), clean)
        assert noise.ratio() is None
        assert len(noise.silent()) == 14
    assert not torch.allclose(noisy, clean, atol=1e-3)


def test_an_error_within_a_draw_or_a_pause_ends_it() -> None:
    model = policy()
    clean = logits_of(model)
    noise = NoDO(model, NoiseConfig(), seed=3)
    with pytest.raises(RuntimeError), noise.draw(0), noise.paused():
        raise RuntimeError
    assert torch.equal(logits_of(model), clean)
    with noise.draw(1):
        assert not torch.equal(logits_of(model), clean)


def test_one_index_is_one_noise_whatever_the_global_generator() -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(), seed=3)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    with noise.draw(0):
        first = logits_of(model)
        within = logits_of(model)
    assert torch.equal(torch.get_rng_state(), state)
    with noise.draw(1):
        second = logits_of(model)
    torch.manual_seed(12)
    with noise.draw(0):
        again = logits_of(model)
    other = policy()
    with NoDO(other, NoiseConfig(), seed=3).draw(0):
        elsewhere = logits_of(other)
    with NoDO(model, NoiseConfig(), seed=4).draw(0):
        other_seed = logits_of(model)
    assert torch.equal(first, within)
    assert torch.equal(first, again)
    assert torch.equal(first, elsewhere)
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, other_seed, atol=1e-3)


def test_all_types_of_parameters_get_the_same_noise() -> None:
    model, half = policy(), policy(dtype=torch.bfloat16)
    exact = drawn(model, NoDO(model, NoiseConfig(sigma=10.0), seed=3), 0)
    coarse = drawn(half, NoDO(half, NoiseConfig(sigma=10.0), seed=3), 0)
    for pair, other in zip(exact.values(), coarse.values(), strict=True):
        for part, rounded in zip(pair, other, strict=True):
            torch.testing.assert_close(rounded.double(), part, rtol=0.02, atol=0.02)


class Measured:
    """||y' - y|| / ||W x|| of each layer in a pass within a draw, by whole outputs."""

    def __init__(self, model: Any) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.layers = lora_layers(model)
        self.handles = [
            layer.register_forward_pre_hook(lambda _, args, name=name: self.inputs.update({name: args[0]}))
            for name, layer in self.layers.items()
        ]

    def ratios(self) -> list[float]:
        ratios = []
        for name, layer in self.layers.items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            noisy_a, noisy_b = effective(layer)
            x = self.inputs[name]
            change = layer.scaling["default"] * (x @ noisy_a.T @ noisy_b.T - x @ a.T @ b.T)
            ratios.append(float(change.detach().norm() / layer.base_layer(x).detach().norm()))
        return ratios


def test_ratio_is_that_of_whole_outputs() -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(sigma=0.2), seed=3)
    assert noise.ratio() is None
    measured = Measured(model)
    with noise.draw(0):
        loss_of(model)
        ratios = measured.ratios()
        logits_of(model, tokens(5))  # only the first pass counts
        with noise.paused():
            logits_of(model)
    assert len(ratios) == 14
    assert max(ratios) > 1.2 * min(ratios)
    assert noise.ratio() == pytest.approx(sum(ratios) / 14, rel=1e-5)
    assert noise.silent() == ()


def test_ratio_of_one_layer_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    model = peft.get_peft_model(model, peft.LoraConfig(r=1, lora_alpha=3, target_modules=["0"]))
    (layer,) = lora_layers(model).values()
    layer.base_layer.weight.data = torch.tensor([[2.0, 1.0]])
    layer.base_layer.bias.data = torch.tensor([1.0])
    layer.lora_A["default"].weight.data = torch.tensor([[1.0, -1.0]])
    layer.lora_B["default"].weight.data = torch.tensor([[0.5]])
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=0)
    with noise.draw(0):
        output = model(torch.tensor([[3.0, 1.0]])).detach()
    # W x + b = 8 and 3 * 0.5 * (3 - 1) = 3
    assert noise.ratio() == pytest.approx(abs(float(output) - 11) / 8, rel=1e-4)


@pytest.mark.parametrize("asked", [0.05, 0.5, 5.0])
def test_sigma_relative_gives_each_layer_the_asked_ratio(asked: float) -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(sigma_relative=asked), seed=3)
    measured = Measured(model)
    with noise.draw(0):
        loss_of(model)
        assert measured.ratios() == pytest.approx([asked] * 14, rel=1e-5)
        before = effective(next(iter(measured.layers.values())))
        logits_of(model, tokens(5))
        assert all(map(torch.equal, before, effective(next(iter(measured.layers.values())))))
    assert noise.ratio() == pytest.approx(asked, rel=1e-5)


def test_sigma_relative_in_bfloat16_and_under_autocast() -> None:
    half = policy(dtype=torch.bfloat16)
    noise = NoDO(half, NoiseConfig(sigma_relative=0.5), seed=3)
    measured = Measured(half)
    with noise.draw(0):
        loss_of(half)
        assert measured.ratios() == pytest.approx([0.5] * 14, rel=0.05)
    mixed = policy(dtype=torch.float32)
    noise = NoDO(mixed, NoiseConfig(sigma_relative=0.5), seed=3)
    measured = Measured(mixed)
    with noise.draw(0), torch.autocast("cpu", torch.bfloat16):
        loss_of(mixed).backward()
        assert measured.ratios() == pytest.approx([0.5] * 14, rel=0.05)


def test_no_noise_on_an_input_of_zeros_with_sigma_relative() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    noise = NoDO(model, NoiseConfig(sigma_relative=0.5), seed=0)
    clean = model(torch.zeros(2, 3))
    with noise.draw(0):
        assert torch.equal(model(torch.zeros(2, 3)), clean)
    assert noise.ratio() == 0


def test_start_and_stop_may_be_repeated_but_draws_do_not_overlap() -> None:
    model = policy()
    noise = NoDO(model, NoiseConfig(), seed=3)
    noise.stop()
    with noise.draw(4):
        once = logits_of(model)
    noise.start(4)
    noise.start(4)
    assert torch.equal(logits_of(model), once)
    with pytest.raises(InputError, match="draw 4 is on"):
        noise.start(5)
    noise.stop()
    noise.stop()
    clean = logits_of(model)
    assert not torch.equal(clean, once)
    with pytest.raises(InputError, match="from 0"):
        noise.start(-1)
    assert torch.equal(logits_of(model), clean)


def test_only_active_adapters_are_noisy() -> None:
    model = policy()
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.to(torch.float64)
    model.set_adapter("other")
    clean = logits_of(model)
    noise = NoDO(model, NoiseConfig(sigma=0.1), seed=3)
    model.set_adapter("default")
    with noise.draw(0):
        noisy = logits_of(model)
        model.set_adapter("other")
        assert torch.equal(logits_of(model), clean)
    alone = policy()
    with NoDO(alone, NoiseConfig(sigma=0.1), seed=3).draw(0):
        torch.testing.assert_close(logits_of(alone), noisy)


def test_layers_that_a_pass_leaves_out_are_named() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.vision = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.text(x)

    model = peft.get_peft_model(Towers(), peft.LoraConfig(r=2, target_modules=["text", "vision"]))
    noise = NoDO(model, NoiseConfig(), seed=0)
    with noise.draw(0):
        model(torch.ones(1, 3))
    assert noise.silent() == ("base_model.model.vision",)
    assert noise.ratio() is not None


def test_models_that_noise_cannot_be_put_on() -> None:
    with pytest.raises(InputError, match="no active LoRA"):
        NoDO(nn.Linear(2, 2), NoiseConfig(), seed=0)
    with pytest.raises(InputError, match="seed"):
        NoDO(policy(), NoiseConfig(), seed=-1)
    with pytest.raises(InputError, match=r"q_proj.*another kind"):
        NoDO(policy(use_dora=True), NoiseConfig(), seed=0)
    with pytest.raises(InputError, match=r"embed_tokens.*another kind"):
        NoDO(policy(target_modules=["q_proj", "embed_tokens"]), NoiseConfig(), seed=0)
    model = policy()
    noise = NoDO(model, NoiseConfig(), seed=0)
    model.merge_adapter()
    with pytest.raises(InputError, match="is merged"):
        noise.start(0)
    model.unmerge_adapter()
    with noise.draw(0):
        logits_of(model)
    assert NoDO(nn.Linear(2, 2), NoiseConfig(where="none"), seed=0).ratio() is None


def test_nowhere_and_logits_leave_the_weights_alone() -> None:
    model = policy()
    clean = logits_of(model)
    for where in ("none", "logits"):
        noise = NoDO(model, NoiseConfig(where=where), seed=0)
        with noise.draw(0):
            assert torch.equal(logits_of(model), clean)
            assert (noise.logits(clean) is clean) == (where == "none")
    with NoDO(model, NoiseConfig(), seed=0).draw(0) as nothing:
        assert nothing is None
    assert NoDO(model, NoiseConfig(), seed=0).logits(clean) is clean


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_on_logits(dtype: torch.dtype) -> None:
    logits = torch.zeros(100, 300, dtype=dtype, requires_grad=True)
    noisy = noisy_logits(logits, 0.3, torch.Generator().manual_seed(5))
    assert noisy.dtype == dtype
    assert float(noisy.detach().float().std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noisy.detach().float().mean())) < 0.01
    assert torch.equal(noisy, noisy_logits(logits, 0.3, torch.Generator().manual_seed(5)))
    assert torch.equal(noisy_logits(logits, 0.0, torch.Generator()), logits)
    (noisy.float() * torch.arange(300.0)).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.arange(300.0).expand(100, 300).to(dtype))
    for sigma in (-0.1, float("nan")):
        with pytest.raises(InputError, match="sigma"):
            noisy_logits(logits, sigma, torch.Generator())


def test_noise_on_logits_follows_the_draw() -> None:
    model = nn.Linear(2, 2)
    noise = NoDO(model, NoiseConfig(where="logits", sigma=0.3), seed=3)
    logits = torch.full((4, 50), 2.0)
    assert noise.logits(logits) is logits
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with noise.draw(0):
        first, second = noise.logits(logits), noise.logits(logits)
        with noise.paused():
            assert noise.logits(logits) is logits
        model.eval()
        assert noise.logits(logits) is logits
        model.train()
    sizes = [float((noisy - logits).norm() / logits.norm()) for noisy in (first, second)]
    assert noise.ratio() == pytest.approx(sum(sizes) / 2, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    with noise.draw(0):
        assert torch.equal(noise.logits(logits), first)
    with noise.draw(1):
        assert not torch.equal(noise.logits(logits), first)
    assert not torch.equal(first, second)
    assert noise.logits(logits) is logits


def test_settings() -> None:
    assert NoiseConfig().sigma == 0.05
    with pytest.raises(ValidationError, match="where = 'weights'"):
        NoiseConfig(where="logits", sigma_relative=0.1)
    for wrong in ({"sigma": -1.0}, {"sigma": float("inf")}, {"sigma_relative": 0.0}, {"where": "weight"}):
        with pytest.raises(ValidationError):
            NoiseConfig.model_validate(wrong)
