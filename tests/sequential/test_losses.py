"""Preference losses by hand, against each other, against TRL, and over two processes."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import ConfigError, InputError
from prismrec.sequential import losses
from prismrec.sequential.losses import (
    AnswerScores,
    PreferenceConfig,
    RunningMargin,
    batch_scale,
    beta_dpo,
    dmpo,
    dpo,
    hanorec,
    length_normalised_gap,
    margins,
    pair_betas,
    preference_loss,
    s_dpo,
    simpo,
)

ALL = ("dpo", "s-dpo", "dmpo", "simpo", "beta-dpo", "hanorec")
LN3 = math.log(3)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def scores(chosen, rejected, chosen_tokens=None, rejected_tokens=None):
    chosen, rejected = doubles(chosen), doubles(rejected)
    return AnswerScores(
        chosen,
        rejected,
        torch.ones_like(chosen) if chosen_tokens is None else torch.tensor(chosen_tokens),
        torch.ones_like(rejected) if rejected_tokens is None else torch.tensor(rejected_tokens),
    )


def random_scores(seed, b, k):
    random = np.random.default_rng(seed)
    return scores(
        random.uniform(-30, 0, b),
        random.uniform(-30, 0, (b, k)),
        random.integers(1, 20, b),
        random.integers(1, 20, (b, k)),
    )


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cost(x):
    return math.log1p(math.exp(-x))


shapes = st.tuples(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 5))
betas = st.floats(0.01, 3)


# By hand


def test_margins():
    policy = scores([-1.0, -2.0], [[-3.0, -4.0], [-5.0, -1.0]])
    reference = scores([-1.5, -2.0], [[-2.0, -4.0], [-4.0, -3.0]])
    assert margins(policy, reference).tolist() == [[1.5, 0.5], [1.0, -2.0]]


def test_dpo_by_hand():
    # -log sigmoid(ln 3) = ln 4/3, -log sigmoid(0) = ln 2, -log sigmoid(-ln 3) = ln 4
    z = doubles([[2 * LN3, 0.0], [0.0, -2 * LN3]])
    wanted = (math.log(4 / 3) + 2 * math.log(2) + math.log(4)) / 4
    assert float(dpo(z, 0.5)) == pytest.approx(wanted, abs=1e-12)


def test_s_dpo_by_hand():
    # exp(-z) = 1/3 and 2/3, sum 1: -log sigmoid(0); exp(-z) = 1 and 2, sum 3: -log sigmoid(-ln 3)
    z = doubles([[2 * LN3, 2 * math.log(1.5)], [0.0, -2 * math.log(2)]])
    assert float(s_dpo(z, 0.5)) == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-12)


def test_dmpo_by_hand():
    z = doubles([[3 * LN3, LN3], [LN3, -LN3]])
    assert float(dmpo(z, 0.5)) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, abs=1e-12)


def test_simpo_by_hand():
    policy = scores([-6.0], [[-8.0, -20.0]], [3], [[2, 5]])
    gap = length_normalised_gap(policy)
    assert gap.tolist() == [[2.0, 2.0]]
    wanted = math.log(4 / 3)
    assert float(simpo(gap, 1.0, 2.0 - LN3)) == pytest.approx(wanted, abs=1e-12)
    config = PreferenceConfig(loss="simpo", beta=2.0, gamma=4.0 - LN3)
    terms = preference_loss(config, policy, None)
    assert float(terms.loss) == pytest.approx(wanted, abs=1e-12)
    assert (terms.margin, terms.accuracy, terms.beta, terms.eta) == (2.0, 1.0, 2.0, 1.0)


def test_beta_dpo_by_hand():
    # First batch: M0 = 2, deviation sqrt 2, beta0 as it is, both pairs weigh the same.
    first, beta, state = beta_dpo(doubles([[1.0], [3.0]]), 0.1, RunningMargin())
    assert (beta, state.batches) == (0.1, 1)
    assert (state.mean, state.std) == pytest.approx((2.0, math.sqrt(2)), abs=1e-12)
    assert float(first) == pytest.approx((cost(0.1) + cost(0.3)) / 2, abs=1e-12)
    # Second batch 4, 8: M0 = 0.9 * 2 + 0.1 * 6, std = 0.9 sqrt 2 + 0.1 sqrt 8, beta = 0.1 (1 + 0.6 * 3.6).
    second, beta, state = beta_dpo(doubles([[4.0, 8.0]]), 0.1, state)
    assert (beta, state.mean, state.std) == pytest.approx((0.316, 2.4, 1.1 * math.sqrt(2)), abs=1e-12)
    near, far = (math.exp(-((z - 2.4) ** 2) / (2 * 1.21 * 2)) for z in (4, 8))
    wanted = (near * cost(0.316 * 4) + far * cost(0.316 * 8)) / (near + far)
    assert float(second) == pytest.approx(wanted, abs=1e-12)


def test_beta_dpo_keeps_its_floor_and_bears_a_single_pair_and_outliers():
    loss, beta, state = beta_dpo(doubles([[2.0]]), 0.1, RunningMargin())
    assert (beta, state.std) == (0.1, 0.0)
    assert float(loss) == pytest.approx(cost(0.2), abs=1e-12)
    low, beta, state = beta_dpo(doubles([[-500.0, -501.0]]), 0.1, replace(state, std=1e-3))
    assert beta == 1e-3
    assert math.isfinite(float(low))
    far = RunningMargin(0.0, 1e-6, 5)
    assert math.isfinite(float(beta_dpo(torch.tensor([[400.0, 900.0]]), 0.1, far)[0]))


def test_batch_scale_by_hand():
    # mean 2: g^ = 0.5, 0.5, 1, 2; without the extremes 0.75
    assert float(batch_scale(doubles([1, 1, 2, 4]))) == pytest.approx(sigmoid(0.75) / sigmoid(1), abs=1e-12)
    # mean 0, mean |g| 4/3: g^ = -1.5, 0, 1.5
    assert float(batch_scale(doubles([-2, 0, 2]))) == pytest.approx(1.0, abs=1e-12)
    # mean 0, mean |g| 1.5: g^ = -2, 2/3, 2/3, 2/3
    skewed = batch_scale(doubles([-3, 1, 1, 1]))
    assert float(skewed) == pytest.approx(sigmoid(2 / 3) / sigmoid(0), abs=1e-12)
    # negative mean -2: g^ = 2.5, 0.5, 0
    assert float(batch_scale(doubles([-5, -1, 0]))) == pytest.approx(sigmoid(0.5) / sigmoid(1), abs=1e-12)


@pytest.mark.parametrize("g", [[5.0], [1.0, -7.0], [0.0, 0.0, 0.0, 0.0], [1e-12, 0.0, -1e-12], [3.0] * 5])
def test_batch_scale_is_one_with_too_few_or_equal_samples(g):
    assert float(batch_scale(doubles(g))) == pytest.approx(1.0, abs=1e-4)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.floats(0.01, 100))
def test_batch_scale_knows_no_order_and_no_unit(values, unit):
    g = doubles(values)
    eta = float(batch_scale(g))
    assert 0 <= eta < 1.37
    assert float(batch_scale(g.flip(0))) == pytest.approx(eta, rel=1e-6, abs=1e-9)
    if sum(values):
        assert float(batch_scale(unit * g)) == pytest.approx(eta, rel=1e-6)


def test_hanorec_by_hand():
    z = doubles([[1.0], [1.0], [2.0], [4.0]])
    weights = doubles([[1.0], [0.5], [2.0], [1.5]])
    eta = sigmoid(0.75) / sigmoid(1)
    each = [0.1 * eta * weight for weight in (1.0, 0.5, 2.0, 1.5)]
    wanted = sum(cost(b * m) for b, m in zip(each, (1, 1, 2, 4), strict=True)) / 4
    policy = scores([1.0, 1.0, 2.0, 4.0], [[0.0]] * 4)
    terms = preference_loss(PreferenceConfig(), policy, scores([0.0] * 4, [[0.0]] * 4), weights)
    assert float(terms.loss) == pytest.approx(wanted, abs=1e-12)
    assert (terms.margin, terms.accuracy) == (2.0, 1.0)
    assert (terms.beta, terms.eta) == pytest.approx((0.125 * eta, eta), abs=1e-12)
    assert float(hanorec(z, pair_betas(0.1, doubles(eta), weights))) == pytest.approx(wanted, abs=1e-12)


def test_the_beta_of_a_pair_has_a_floor():
    made = pair_betas(0.1, doubles(0.0), doubles([[1.0, 2.0]]))
    assert made.tolist() == [[1e-6, 1e-6]]
    assert pair_betas(0.1, doubles(1.0), doubles([[1.0]]), floor=0.3).tolist() == [[0.3]]


# Gradients


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss):
    policy, reference = random_scores(4, 4, 3), random_scores(5, 4, 3)
    weights = doubles(np.random.default_rng(6).uniform(0.5, 1.5, (4, 3)))
    config = PreferenceConfig(loss=loss, beta=0.3)
    z = margins(policy, reference)
    state = RunningMargin(0.5, 9.0, 3)
    fixed = batch_scale(0.3 * z), beta_dpo(z, 0.3, state)[1:]

    def value(chosen, rejected):
        moved = replace(policy, chosen=chosen, rejected=rejected)
        if loss == "hanorec":
            return hanorec(margins(moved, reference), pair_betas(0.3, fixed[0], weights))
        return preference_loss(config, moved, reference, weights, state).loss

    inputs = [one.clone().requires_grad_() for one in (policy.chosen, policy.rejected)]
    if loss != "beta-dpo":
        assert torch.autograd.gradcheck(value, inputs)
    made = torch.autograd.grad(preference_loss_of(config, policy, inputs, reference, weights, state), inputs)
    assert all(torch.isfinite(one).all() and one.abs().max() > 0 for one in made)
    if loss == "hanorec":  # the whole has the gradient of the part with fixed betas
        part = torch.autograd.grad(value(*inputs), inputs)
        assert all(torch.allclose(x, y, rtol=1e-12) for x, y in zip(made, part, strict=True))
    if loss == "beta-dpo":  # likewise with fixed beta and weights
        beta, after = fixed[1]
        power = torch.exp(-(((z - after.mean) / after.std) ** 2) / 2)
        z = margins(replace(policy, chosen=inputs[0], rejected=inputs[1]), reference)
        part = torch.autograd.grad(
            (torch.nn.functional.softplus(-beta * z) * power).sum() / power.sum(), inputs
        )
        assert all(torch.allclose(x, y, rtol=1e-9) for x, y in zip(made, part, strict=True))


def preference_loss_of(config, policy, inputs, reference, weights, state):
    moved = replace(policy, chosen=inputs[0], rejected=inputs[1])
    return preference_loss(config, moved, reference, weights, state).loss


def test_the_reference_and_the_weights_get_no_gradient():
    policy, reference = random_scores(1, 4, 2), random_scores(2, 4, 2)
    leaves = [one.requires_grad_() for one in (reference.chosen, reference.rejected)]
    weights = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    policy.chosen.requires_grad_()
    preference_loss(PreferenceConfig(), policy, reference, weights).loss.backward()
    assert all(one.grad is None for one in (*leaves, weights))
    assert policy.chosen.grad.abs().max() > 0


# What they have in common


@given(shapes, betas)
def test_with_one_rejected_answer_they_are_dpo(shape, beta):
    z = margins(random_scores(shape[0], shape[1], 1), random_scores(shape[0] + 1, shape[1], 1))
    wanted = pytest.approx(float(dpo(z, beta)), rel=1e-12)
    assert float(s_dpo(z, beta)) == wanted
    assert float(dmpo(z, beta)) == wanted


@given(shapes, betas)
def test_with_eta_and_weights_of_one_hanorec_is_dpo(shape, beta):
    policy, reference = random_scores(*shape), random_scores(shape[0] + 1, *shape[1:])
    z = margins(policy, reference)
    wanted = pytest.approx(float(dpo(z, beta)), rel=1e-12)
    assert float(hanorec(z, pair_betas(beta, doubles(1.0), torch.ones_like(z)))) == wanted
    off = preference_loss(PreferenceConfig(beta=beta, hars=False), policy, reference)
    assert float(off.loss) == wanted
    assert (off.beta, off.eta) == (beta, 1.0)


@given(shapes, betas)
def test_a_first_batch_of_equal_margins_is_dpo_to_beta_dpo(shape, beta):
    z = doubles(np.full(shape[1:], shape[0] / 1000))
    assert float(beta_dpo(z, beta, RunningMargin())[0]) == pytest.approx(float(dpo(z, beta)), rel=1e-9)


@given(shapes, betas, st.floats(-20, 20), st.sampled_from([one for one in ALL if one != "simpo"]))
def test_what_both_models_gain_changes_nothing(shape, beta, gain, loss):
    policy, reference = random_scores(*shape), random_scores(shape[0] + 1, *shape[1:])
    z = margins(policy, reference)
    config = PreferenceConfig(loss=loss, beta=beta)

    def moved(one):
        return replace(one, chosen=one.chosen + gain, rejected=one.rejected + gain / 2)

    before = preference_loss(config, policy, reference, torch.ones_like(z))
    after = preference_loss(config, moved(policy), moved(reference), torch.ones_like(z))
    assert float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    assert after.accuracy == before.accuracy


@given(shapes, betas, st.sampled_from(ALL))
def test_a_better_chosen_answer_costs_less(shape, beta, loss):
    policy, reference = random_scores(*shape), random_scores(shape[0] + 1, *shape[1:])
    policy = replace(policy, chosen=policy.chosen.requires_grad_())
    config = PreferenceConfig(loss=loss, beta=beta)
    weights = torch.ones_like(policy.rejected)
    terms = preference_loss(config, policy, reference, weights)
    terms.loss.backward()
    assert terms.loss.item() > 0
    assert (policy.chosen.grad <= 0).all()


def test_numbers_for_the_log():
    policy, reference = scores([1.0, 0.0], [[0.0, 2.0], [0.0, -3.0]]), scores([0.0] * 2, [[0.0] * 2] * 2)
    for loss in ("dpo", "s-dpo", "dmpo"):
        terms = preference_loss(PreferenceConfig(loss=loss, beta=0.2), policy, reference)
        # z = 1, -1, 0, 3: half of them are positive
        assert (terms.margin, terms.accuracy, terms.beta, terms.eta) == (0.75, 0.5, 0.2, 1.0)
        assert terms.state == RunningMargin()
    terms = preference_loss(PreferenceConfig(loss="beta-dpo"), policy, reference)
    assert (terms.state.mean, terms.state.batches) == (0.75, 1)
    again = preference_loss(PreferenceConfig(loss="beta-dpo"), policy, reference, state=terms.state)
    assert again.state.batches == 2


# What is refused


@pytest.mark.parametrize("loss", [one for one in ALL if one != "simpo"])
def test_a_missing_reference_is_named(loss):
    with pytest.raises(InputError, match="reference"):
        preference_loss(PreferenceConfig(loss=loss), random_scores(0, 3, 2), None, torch.ones(3, 2))


def test_missing_or_misshapen_weights_are_named():
    policy = random_scores(0, 3, 2)
    with pytest.raises(InputError, match="got none"):
        preference_loss(PreferenceConfig(), policy, policy)
    with pytest.raises(InputError, match=r"\(3,\)"):
        preference_loss(PreferenceConfig(), policy, policy, torch.ones(3))


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="same answers"):
        margins(random_scores(0, 3, 2), random_scores(0, 3, 1))
    for chosen, rejected in (((3,), (2, 2)), ((3,), (3,)), ((3, 1), (3, 2)), ((3,), (3, 0)), ((0,), (0, 2))):
        with pytest.raises(InputError, match="shape"):
            AnswerScores(*(torch.zeros(one) for one in (chosen, rejected, chosen, rejected)))
    with pytest.raises(InputError, match="tokens"):
        AnswerScores(torch.zeros(3), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3))


def test_settings():
    made = PreferenceConfig.parse({"loss": "hanorec", "temperature": 0.1, "direction": "harder_is_heavier"})
    assert (made.beta, made.beta_floor, made.hars, made.temperature) == (0.1, 1e-6, True, 0.1)
    for values, message in (
        ({"loss": "ipo"}, "'loss'"),
        ({"beta": 0}, "'beta'"),
        ({"beta": math.inf}, "'beta'"),
        ({"temprature": 1}, "temperature"),
        ({"direction": "up"}, "'direction'"),
    ):
        with pytest.raises(ConfigError, match=message):
            PreferenceConfig.parse(values)


# Two processes

WORKER = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from prismrec.sequential import losses

folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
z, weights = (torch.tensor(one, dtype=torch.float64) for one in json.loads((folder / "in.json").read_text()))

def gather(values):
    parts = [torch.empty_like(values) for _ in range(world)]
    dist.all_gather(parts, values)
    return torch.cat(parts)

dist.init_process_group("gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=world)
mine = slice(rank * len(z) // world, (rank + 1) * len(z) // world)
policy = losses.AnswerScores(
    torch.zeros(len(z[mine]), dtype=torch.float64),
    -z[mine],
    torch.ones(len(z[mine])),
    torch.ones(z[mine].shape),
)
reference = losses.AnswerScores(
    policy.chosen, torch.zeros_like(policy.rejected), policy.chosen_tokens, policy.rejected_tokens
)
policy.rejected.requires_grad_()
out = {}
for name in ("hanorec", "beta-dpo"):
    state = losses.RunningMargin(0.25, 2.0, 1)
    config = losses.PreferenceConfig(loss=name)
    terms = losses.preference_loss(config, policy, reference, weights[mine], state, gather)
    (grad,) = torch.autograd.grad(terms.loss, policy.rejected)
    out[name] = [float(terms.loss), terms.eta, terms.beta, terms.state.mean, terms.state.std, grad.tolist()]
(folder / f"out{rank}.json").write_text(json.dumps(out))
dist.destroy_process_group()
"""


def test_two_processes_agree_with_one(tmp_path):
    random = np.random.default_rng(7)
    z, weights = doubles(random.normal(1, 2, (6, 2))), doubles(random.uniform(0.5, 1.5, (6, 2)))
    (tmp_path / "in.json").write_text(json.dumps([z.tolist(), weights.tolist()]))
    (tmp_path / "worker.py").write_text(WORKER)
    workers = [
        subprocess.Popen([sys.executable, str(tmp_path / "worker.py"), str(tmp_path), str(rank), "2"])
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    made = [json.loads((tmp_path / f"out{rank}.json").read_text()) for rank in range(2)]

    policy = AnswerScores(
        torch.zeros(6, dtype=torch.float64), (-z).requires_grad_(), torch.ones(6), torch.ones(6, 2)
    )
    reference = replace(policy, rejected=torch.zeros_like(z))
    for name in ("hanorec", "beta-dpo"):
        config, state = PreferenceConfig(loss=name), RunningMargin(0.25, 2.0, 1)
        whole = preference_loss(config, policy, reference, weights, state)
        (grad,) = torch.autograd.grad(whole.loss, policy.rejected)
        first, second = (one[name] for one in made)
        # The statistics are the same on both, to the last bit, and those of the whole batch.
        assert first[1] == second[1] == pytest.approx(whole.eta, rel=1e-12)
        assert first[3:5] == second[3:5] == pytest.approx([whole.state.mean, whole.state.std], rel=1e-12)
        assert (first[2] + second[2]) / 2 == pytest.approx(whole.beta, rel=1e-12)
        # The mean over processes, which is what data-parallel training takes, is the whole batch's.
        assert (first[0] + second[0]) / 2 == pytest.approx(float(whole.loss), rel=1e-12)
        assert np.array([*first[5], *second[5]]) / 2 == pytest.approx(grad.numpy(), rel=1e-9)
    # Each half alone would have had another scale: the test can tell.
    assert float(batch_scale(0.1 * z[:3])) != pytest.approx(made[0]["hanorec"][1], rel=1e-3)
    assert losses.alone(z) is z


# TRL


def test_dpo_is_that_of_trl(tmp_path):
    """TRL has its loss inside `DPOTrainer._compute_loss`: so its trainer scores a tiny model built here."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: code for code, word in enumerate(["<pad>", "<eos>", *"abcdefghij"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    sizes = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=1.0,
    )
    torch.manual_seed(0)
    policy_model, reference_model = LlamaForCausalLM(sizes).eval(), LlamaForCausalLM(sizes).eval()
    prompts = [[2, 3, 4], [5, 6], [7, 8, 9, 10]]
    chosen, rejected = [[4, 5, 6], [7], [2, 3]], [[8], [9, 10, 11, 2], [5, 5]]

    def score(model):
        """One answer at a time, without padding."""
        sums = {}
        for side, answers in (("w", chosen), ("l", rejected)):
            sums[side] = []
            for prompt, answer in zip(prompts, answers, strict=True):
                with torch.no_grad():
                    logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
                sums[side].append(sum(float(logs[len(prompt) - 1 + i, t]) for i, t in enumerate(answer)))
        return scores(
            sums["w"], [[x] for x in sums["l"]], list(map(len, chosen)), [[len(x)] for x in rejected]
        )

    policy, reference = score(policy_model), score(reference_model)
    rows = [{"prompt": "a b", "chosen": "c", "rejected": "d"}] * 2  # it insists on data; they are not read
    for beta in (0.1, 0.7):
        trainer = trl.DPOTrainer(
            model=policy_model,
            ref_model=reference_model,
            args=trl.DPOConfig(
                str(tmp_path),
                beta=beta,
                loss_type=["sigmoid"],
                use_cpu=True,
                report_to=[],
                bf16=False,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        pairs = zip(prompts, chosen, rejected, strict=True)
        batch = trainer.data_collator(
            [{"prompt_ids": p, "chosen_ids": w, "rejected_ids": x} for p, w, x in pairs]
        )
        with torch.no_grad():
            theirs = float(trainer.compute_loss(trainer.model, batch))
        terms = preference_loss(PreferenceConfig(loss="dpo", beta=beta), policy, reference)
        assert float(terms.loss) == pytest.approx(theirs, abs=1e-5)
        logged = trainer._metrics["eval"]
        assert terms.accuracy == pytest.approx(logged["rewards/accuracies"][0], abs=1e-6)
        assert beta * terms.margin == pytest.approx(logged["rewards/margins"][0], abs=1e-5)
        # The numbers differ from those of no preference at all: the test can fail.
        assert abs(theirs - math.log(2)) > 1e-3
