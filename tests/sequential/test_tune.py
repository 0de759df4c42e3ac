"""The training loop: restarts to the bit, noise that lasts, references that are clean, losses worked out."""

import gc
import json
import math
from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from prismrec.base.errors import InputError  # noqa: E402
from prismrec.sequential import tune  # noqa: E402
from prismrec.sequential.backbone import Origin, adapted, load_backbone, save_merged  # noqa: E402
from prismrec.sequential.lessons import Lessons, preference_lessons, supervised_lessons  # noqa: E402
from prismrec.sequential.lora_noise import NoisyPair  # noqa: E402
from prismrec.sequential.losses import PreferenceConfig  # noqa: E402
from prismrec.sequential.noise import NoiseConfig  # noqa: E402
from prismrec.sequential.pairs import PairConfig, make_pairs  # noqa: E402
from prismrec.sequential.prepare import PrepareConfig  # noqa: E402
from prismrec.sequential.prepared import prepare  # noqa: E402
from prismrec.sequential.rows import answer_logits, log_probs  # noqa: E402
from prismrec.sequential.runs import writer_of  # noqa: E402
from prismrec.sequential.settings import tuning_of  # noqa: E402
from prismrec.sequential.states import LOG  # noqa: E402
from prismrec.sequential.tune import train_preference, train_supervised  # noqa: E402
from prismrec.testing.tiny_models import tiny_model  # noqa: E402

# Few words, so that little time goes into reading them.
WORDS = """
[top3]
prompt = "{history} Of {candidates}:"
[binary]
prompt = "{history} {target}?"
"""

QUIET = NoiseConfig(where="none")
LOUD = NoiseConfig(sigma=0.02)
PIXELS = 56 * 56


def tuning(**changes):
    """Return settings of a short training: 3 steps an epoch from 10 examples, the last of half the size."""
    return tuning_of(
        "published-sft",
        {
            "precision": "fp32",
            "checkpointing": False,
            "adapter.rank": 4,
            "adapter.dropout": 0.2,
            "learning_rate": 5e-3,
            "epochs": 2,
            "accumulation": 2,
            "max_pixels": PIXELS,
            "checkpoint_steps": 2,
            **changes,
        },
    )


def loud(backbone, folder):
    """Save a model with large weights: what a token sees then moves it by far more than the tolerance."""
    with torch.no_grad():
        for weights in backbone.model.parameters():
            if weights.dim() > 1:
                weights.mul_(4.0)
    save_merged(backbone, folder)
    return folder


class Student:
    """A tiny model with an adapter, and questions for it."""

    def __init__(self, folder, prepared, settings, *, examples=10, rejected=2, seed=0):
        self.settings, self.seed, self.prepared = settings, seed, prepared
        self.origin = Origin(str(folder))
        loaded = load_backbone(self.origin, max_pixels=settings.max_pixels)
        self.backbone = adapted(loaded, settings.adapter, seed=seed)
        self.writer = writer_of(self.prepared, self.backbone, settings)
        self.examples, self.rejected = self.prepared.train[:examples], rejected

    def supervised(self, folder, stop_after=None, **more):
        lessons = supervised_lessons(self.writer, self.examples)
        return train_supervised(
            self.backbone,
            self.writer,
            lessons,
            self.settings,
            folder,
            seed=self.seed,
            stop_after=stop_after,
            **more,
        )

    def preferring(self):
        made = make_pairs(self.examples, PairConfig(rejected=self.rejected), self.prepared.dataset)
        shape = (len(made.pairs), max(1, len(made.pairs[0].rejected)))
        weights = 1 + np.random.default_rng(0).uniform(-0.5, 0.5, size=shape)
        return preference_lessons(self.writer, self.examples, made.pairs, weights)

    def preference(self, folder, loss="hanorec", noise=QUIET, stop_after=None, **more):
        return train_preference(
            self.backbone,
            self.writer,
            self.preferring(),
            self.settings,
            PreferenceConfig(loss=loss),
            noise,
            folder,
            seed=self.seed,
            stop_after=stop_after,
            **more,
        )

    @property
    def weights(self):
        return {n: p.detach().clone() for n, p in self.backbone.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module", autouse=True)
def _without_a_long_search():
    """Keep what is imported from the garbage collector, which each training calls."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def asked(films, tmp_path_factory):
    """Return prepared questions by task."""
    home = tmp_path_factory.mktemp("asked")
    (home / "words.toml").write_text(WORDS)
    return {
        task: prepare(films, home / task, PrepareConfig.parse({"task": task}), template=home / "words.toml")
        for task in ("top3", "binary")
    }


@pytest.fixture(scope="module")
def student(asked, tiny, tmp_path_factory):
    """Return a function from settings to a fresh `Student`."""
    texts = [*asked["top3"].titles, WORDS]
    home = tmp_path_factory.mktemp("small")
    tiny_model(home / "model", "qwen2.5-vl", texts, dim=32, layers=1)
    small = loud(load_backbone(Origin(str(home / "model"))), home / "loud")

    def make(settings=None, *, task="top3", kind=None, **more):
        folder = small if kind is None else tiny(kind)
        return Student(folder, asked[task], settings or tuning(), **more)

    return make


def apart(one, two):
    assert one.keys() == two.keys()
    assert one
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def lines(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


TRAININGS = {
    "supervised": lambda student, folder, stop=None: student.supervised(folder, stop),
    "beta-dpo": lambda student, folder, stop=None: student.preference(folder, "beta-dpo", LOUD, stop),
    "hanorec": lambda student, folder, stop=None: student.preference(
        folder, "hanorec", NoiseConfig(where="logits", sigma=0.5), stop
    ),
}


@pytest.fixture(scope="module")
def unbroken(student, tmp_path_factory):
    """Return a function from a name of a training to its weights and log, made once."""
    made = {}

    def train(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            one = student()
            outcome = TRAININGS[name](one, folder)
            assert (outcome.steps, outcome.resumed) == (6, 0)
            made[name] = one.weights, outcome, lines(folder)
        return made[name]

    return train


# Steps 2 and 4 are in the middle of an epoch; a second kill strikes what has already been resumed.
@pytest.mark.parametrize("name", ["supervised", "hanorec", "beta-dpo"])
def test_a_restart_in_mid_epoch_gives_the_same_weights_to_the_bit(student, unbroken, tmp_path, name):
    weights, whole, log = unbroken(name)
    for stop, resumed in ((3, 0), (5, 2)):
        outcome = TRAININGS[name](student(), tmp_path, stop)
        assert (outcome.steps, outcome.resumed) == (stop, resumed)
    last = student()
    start = last.weights
    outcome = TRAININGS[name](last, tmp_path)
    assert (outcome.steps, outcome.resumed) == (6, 4)
    assert apart(last.weights, weights) == 0.0
    assert apart(start, weights) > 1e-3
    assert [line["step"] for line in lines(tmp_path)] == [line["step"] for line in log] == [6]
    assert math.isfinite(whole.loss)


def test_a_restart_between_two_epochs_gives_the_same_weights(student, unbroken, tmp_path):
    settings = tuning(checkpoint_steps=3)
    assert student(settings).preference(tmp_path, "beta-dpo", LOUD, 4).steps == 4
    last = student(settings)
    assert last.preference(tmp_path, "beta-dpo", LOUD).resumed == 3
    assert apart(last.weights, unbroken("beta-dpo")[0]) == 0.0


def test_the_running_margin_goes_on_where_it_stood(student, tmp_path, monkeypatch):
    seen = []
    real = tune.preference_loss

    def spied(config, policy, reference, weights, state, gather):
        seen.append(state)
        return real(config, policy, reference, weights, state, gather)

    monkeypatch.setattr(tune, "preference_loss", spied)
    student().preference(tmp_path, "beta-dpo", LOUD, 3)
    # Two passes a step, but the third has one: an epoch is 5 passes.
    assert [state.batches for state in seen] == [0, 1, 2, 3, 4]
    at_checkpoint = seen[4]
    seen.clear()
    student().preference(tmp_path, "beta-dpo", LOUD, 3)
    assert seen == [at_checkpoint]


def test_a_state_that_was_not_written_to_its_end_is_removed(student, unbroken, tmp_path):
    student().preference(tmp_path, "beta-dpo", LOUD, 5)
    states = tmp_path / "checkpoints"
    assert {path.name for path in states.iterdir()} == {"checkpoint-2", "checkpoint-4"}
    (states / "checkpoint-4" / "whole").unlink()
    (states / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"half")
    (states / "checkpoint-4" / "left over").touch()
    last = student()
    assert last.preference(tmp_path, "beta-dpo", LOUD).resumed == 2
    assert apart(last.weights, unbroken("beta-dpo")[0]) == 0.0
    assert not (states / "checkpoint-4" / "left over").exists()


def test_without_any_whole_state_a_training_begins_anew(student, unbroken, tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / LOG).write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    one = student()
    assert one.supervised(tmp_path).resumed == 0
    assert apart(one.weights, unbroken("supervised")[0]) == 0.0
    assert [line["step"] for line in lines(tmp_path)] == [6]


def test_a_training_that_was_killed_after_its_last_step_has_its_loss_and_weights(student, unbroken, tmp_path):
    first = student().supervised(tmp_path)
    one = student()
    again = one.supervised(tmp_path)
    assert (again.steps, again.resumed, again.loss) == (6, 6, first.loss)
    assert apart(one.weights, unbroken("supervised")[0]) == 0.0


def test_progress_counts_all_steps_once(student, tmp_path):
    class Counting:
        def __init__(self):
            self.total, self.done = None, 0

        def say(self, text):
            pass

        def advance(self, steps=1, note=None):
            self.done += steps

        @contextmanager
        def task(self, name, total):
            self.total = total
            yield self

    for stop, done in ((3, 3), (None, 6)):
        progress = Counting()
        student().supervised(tmp_path, stop, progress=progress)
        assert (progress.done, progress.total) == (done, 6)


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(student, unbroken, tmp_path):
    for name in ("supervised", "beta-dpo"):
        weights = unbroken(name)[0]
        for seed, same in ((0, True), (1, False)):
            one = student(seed=seed)
            TRAININGS[name](one, tmp_path / f"{name}{seed}")
            assert (apart(one.weights, weights) == 0.0) is same


def test_only_the_seed_of_order_noise_and_dropout_differs(student, unbroken, tmp_path):
    # The adapter starts from seed 0 here, so that nothing but the training can make a difference.
    one = student()
    one.seed = 1
    TRAININGS["beta-dpo"](one, tmp_path)
    assert apart(one.weights, unbroken("beta-dpo")[0]) > 1e-3


# The noise has to last for the second pass that checkpointing takes.


def layers_run(backbone, runs):
    """Count passes through the first linear layer with a gradient."""

    def count(module, inputs, output):
        runs.append(module.training)

    (first, *_) = (m for n, m in backbone.model.named_modules() if n.endswith("q_proj.lora_A.default"))
    return first.register_forward_hook(count)


@pytest.mark.parametrize("where", ["weights", "logits"])
def test_checkpointing_changes_nothing(student, tmp_path, where):
    noise = NoiseConfig(where=where, sigma=0.02)
    found, passes = {}, {}
    for checkpointing in (False, True):
        one = student(tuning(checkpointing=checkpointing, epochs=1))
        runs = []
        hook = layers_run(one.backbone, runs)
        one.preference(tmp_path / str(checkpointing), noise=noise)
        hook.remove()
        found[checkpointing], passes[checkpointing] = one.weights, len(runs)
    # Else checkpointing was not on, and this would show nothing.
    assert passes == {False: 5, True: 10}
    assert apart(found[False], found[True]) < 1e-6


def test_noise_that_is_drawn_again_in_the_second_pass_would_be_seen(student, tmp_path, monkeypatch):
    plain = student(tuning(checkpointing=True, epochs=1))
    plain.preference(tmp_path / "plain", noise=LOUD)
    real, count = NoisyPair._after_a, iter(range(10**6))

    def redrawn(self, module, inputs, output):
        self._noise = None
        self._seeds = np.random.SeedSequence(next(count))
        return real(self, module, inputs, output)

    monkeypatch.setattr(NoisyPair, "_after_a", redrawn)
    other = student(tuning(checkpointing=True, epochs=1))
    other.preference(tmp_path / "redrawn", noise=LOUD)
    assert apart(plain.weights, other.weights) > 1e-4


def test_noise_that_ends_before_the_gradient_would_be_seen(student, tmp_path, monkeypatch):
    real = tune._Preference.compute_loss

    def ending(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        self.noise.stop()
        return loss

    monkeypatch.setattr(tune._Preference, "compute_loss", ending)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        student(tuning(checkpointing=True, epochs=1)).preference(tmp_path, noise=LOUD)


def test_a_pass_is_numbered_by_step_so_that_accumulated_ones_have_their_own_noise(
    student, tmp_path, monkeypatch
):
    draws = []
    real = tune.NoDO.start

    def spied(self, index):
        draws.append(index)
        real(self, index)

    monkeypatch.setattr(tune.NoDO, "start", spied)
    student().preference(tmp_path, noise=LOUD)
    # 5 passes an epoch in steps of 2: the third step has one.
    assert draws == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


# The reference.


@pytest.fixture
def references(monkeypatch):
    """Return what the trainer's references were asked and what they gave."""
    seen = []
    real = tune._Preference._reference

    def spied(self, model, batch):
        scores = real(self, model, batch)
        seen.append((batch, scores))
        return scores

    monkeypatch.setattr(tune._Preference, "_reference", spied)
    return seen


def test_the_reference_is_the_model_before_without_noise_or_dropout(student, references, tmp_path):
    one = student(tuning(**{"adapter.dropout": 0.5, "epochs": 1}))
    for module in one.backbone.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    one.preference(tmp_path, noise=NoiseConfig(sigma=0.5))
    assert len(references) == 5
    before = load_backbone(one.origin, max_pixels=PIXELS).model
    with torch.no_grad():
        for batch, scores in references:
            sums, counts = log_probs(*answer_logits(before, batch.rows))
            sums, counts = sums.view(-1, 3), counts.view(-1, 3)
            torch.testing.assert_close(scores.chosen, sums[:, 0], rtol=0, atol=1e-5)
            torch.testing.assert_close(scores.rejected, sums[:, 1:], rtol=0, atol=1e-5)
            assert torch.equal(scores.rejected_tokens, counts[:, 1:])
        one.backbone.model.eval()
        trained = log_probs(*answer_logits(one.backbone.model, batch.rows))[0]
    # The adapter is far from nothing, so the reference cannot have had it by chance.
    assert (trained - sums.flatten()).abs().max() > 0.1


def test_the_policy_starts_at_the_reference_and_noise_moves_it(student, tmp_path):
    settings = tuning(**{"adapter.dropout": 0.0, "epochs": 1, "accumulation": 8})
    student(settings, examples=4).preference(tmp_path / "clean")
    (line,) = lines(tmp_path / "clean")
    # sigmoid(0) twice: in the loss, and in eta, which is 1 for equal margins.
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert line["margin"] == pytest.approx(0, abs=1e-5)
    assert line["eta"] == pytest.approx(1, abs=1e-2)
    assert "noise" not in line
    student(settings, examples=4).preference(tmp_path / "noisy", noise=NoiseConfig(sigma=0.1))
    (noisy,) = lines(tmp_path / "noisy")
    assert abs(noisy["margin"]) > 1e-3
    assert noisy["noise"] > 0.01


def test_simpo_asks_no_reference(student, references, tmp_path):
    student(tuning(epochs=1), examples=2).preference(tmp_path, "simpo")
    assert references == []


# Losses.


def by_hand(student, *, words):
    """Return the sum of -log p over some tokens of all examples, and their number.

    Each example goes alone and unpadded through the library's own forward pass.
    """
    plain = load_backbone(student.origin, max_pixels=PIXELS)
    total, count = 0.0, 0
    for example in student.examples:
        answer = student.writer.answer(example.positives, example.label)
        prompt = student.writer.prompt(example, len(answer))
        pictures = student.writer.pictures([prompt])
        ids = torch.cat((prompt.ids, answer))
        seen = torch.cat((prompt.seen, torch.zeros(len(answer), dtype=torch.int32)))
        shown = [pictures[item] for item in prompt.pictures]
        inputs = {}
        if shown:
            inputs = {
                "pixel_values": torch.cat([p.values for p in shown]),
                "image_grid_thw": torch.cat([p.grid for p in shown]),
                "mm_token_type_ids": seen[None],
            }
        with torch.no_grad():
            logits = plain.model(input_ids=ids[None], **inputs).logits[0].double()
        each = -torch.log_softmax(logits, dim=-1)[:-1].gather(1, ids[1:, None])[:, 0]
        of_answer = torch.arange(1, len(ids)) >= len(prompt)
        kept = ~of_answer & (seen[1:] == 0) if words else of_answer
        total, count = total + float(each[kept].sum()), count + int(kept.sum())
    return total, count


def test_the_supervised_loss_is_the_mean_over_the_answers_tokens(student, tmp_path):
    settings = tuning(**{"adapter.dropout": 0.0, "epochs": 1, "accumulation": 1, "batch_size": 5})
    one = student(settings, examples=5)
    total, count = by_hand(one, words=False)
    outcome = one.supervised(tmp_path)
    assert outcome.steps == 1
    assert outcome.loss == pytest.approx(total / count, abs=1e-5)


def test_the_prompts_words_are_added_but_neither_pictures_nor_padding(student, tmp_path):
    settings = {"adapter.dropout": 0.0, "epochs": 1, "accumulation": 1, "batch_size": 5}
    one = student(tuning(prompt_loss=0.25, **settings), examples=5)
    lengths = {len(one.writer.prompt(example, 1)) for example in one.examples}
    assert len(lengths) > 1, "without padding this would show less"
    answers, words = by_hand(one, words=False), by_hand(one, words=True)
    outcome = one.supervised(tmp_path)
    assert outcome.loss == pytest.approx(answers[0] / answers[1] + 0.25 * words[0] / words[1], abs=1e-5)


def test_accumulated_passes_are_averaged(student, tmp_path):
    # Pairs are averaged, so that two passes of 2 are one of 4; DPO knows nothing of the batch.
    both = {}
    for batch, accumulation in ((4, 1), (2, 2)):
        settings = {"adapter.dropout": 0.0, "epochs": 1, "batch_size": batch, "accumulation": accumulation}
        one = student(tuning(**settings), examples=8)
        start = one.weights
        assert one.preference(tmp_path / str(batch), "dpo").steps == 2
        both[batch] = one.weights
    assert apart(both[4], both[2]) < 1e-5
    assert apart(both[4], start) > 1e-3


def test_the_log_tells_of_every_tenth_step_and_the_last(student, tmp_path):
    one = student(tuning(epochs=6, batch_size=4, checkpoint_steps=100))
    outcome = one.preference(tmp_path, "hanorec", LOUD)
    log = lines(tmp_path)
    assert [line["step"] for line in log] == [10, 12]
    assert all({"loss", "margin", "accuracy", "beta", "eta", "noise"} <= line.keys() for line in log)
    assert all(0 <= line["accuracy"] <= 1 and 0 < line["eta"] < 1.4 for line in log)
    assert outcome.loss == log[-1]["loss"]


@pytest.mark.parametrize("kind", ["llava", "qwen3-vl"])
def test_other_families_train_with_checkpointing_and_noise(student, tmp_path, kind):
    one = student(tuning(checkpointing=True, epochs=1), kind=kind, examples=4)
    before = one.weights
    assert math.isfinite(one.preference(tmp_path, noise=LOUD).loss)
    assert apart(before, one.weights) > 1e-4


def test_all_weights_are_trained_where_the_rank_is_zero(student, tmp_path):
    one = student(tuning(**{"adapter.rank": 0, "epochs": 1}))
    before = one.weights
    one.supervised(tmp_path)
    after = one.weights
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("visual" in name for name in moved)
    assert any("embed_tokens" in name for name in moved)


@pytest.mark.parametrize("training", ["supervised", "hanorec"])
def test_bf16_runs_on_the_processor(student, tmp_path, training):
    losses, used = {}, []
    for precision in ("fp32", "bf16"):
        one = student(tuning(**{"precision": precision, "adapter.dropout": 0.0, "epochs": 1}), examples=4)
        for module in one.backbone.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda m, i, out: used.append(out.dtype))
        losses[precision] = TRAININGS[training](one, tmp_path / precision).loss
        assert (torch.bfloat16 in used) is (precision == "bf16")
        assert all(weight.dtype == torch.float32 for weight in one.weights.values())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


# Lessons.


def test_a_preference_lesson_has_the_right_answer_first(student):
    one = student(examples=3)
    lessons = one.preferring()
    made = make_pairs(one.examples, PairConfig(rejected=2), one.prepared.dataset)
    assert len(lessons) == 3
    for lesson, pair in zip(lessons.lessons, made.pairs, strict=True):
        said = [one.writer.processor.read(answer.tolist()) for answer in lesson.answers]
        assert said == [one.writer.text(items) for items in (pair.chosen, *pair.rejected)]
        assert lesson.weights.shape == (2,)


def test_a_binary_lesson_has_both_words(student):
    one = student(task="binary", examples=6, rejected=1)
    lessons = one.preferring()
    labels = [lesson.example.label for lesson in lessons.lessons]
    assert set(labels) == {True, False}
    for lesson in lessons.lessons:
        said = [one.writer.processor.read(answer.tolist()) for answer in lesson.answers]
        assert said == (["Yes", "No"] if lesson.example.label else ["No", "Yes"])


def test_lessons_without_enough_examples_for_a_step_are_an_error(student, tmp_path):
    one = student(tuning(whole_batches=True, batch_size=4), examples=3)
    with pytest.raises(InputError, match=r"3 examples.*needs 4(.|\n)*whole_batches"):
        one.supervised(tmp_path)
    with pytest.raises(InputError, match="3 examples"):
        one.preference(tmp_path)
    nobody = student(examples=0)
    with pytest.raises(InputError, match="0 examples"):
        nobody.supervised(tmp_path)
    settings = tuning(whole_batches=True, batch_size=4, epochs=1)
    assert student(settings, examples=4, kind="text").supervised(tmp_path / "enough").steps == 1


def test_whole_batches_leave_the_last_examples_of_an_epoch_out(student, tmp_path):
    for whole, steps in ((True, 2), (False, 3)):
        settings = tuning(whole_batches=whole, batch_size=4, epochs=1, accumulation=1)
        one = student(settings, examples=10, kind="text")
        assert one.supervised(tmp_path / str(whole)).steps == steps


def test_a_loss_that_is_no_number_ends_the_training(student, tmp_path):
    one = student(tuning(epochs=1), kind="text")
    with torch.no_grad():
        next(p for p in one.backbone.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(InputError, match="diverged"):
        one.supervised(tmp_path)
    assert not (tmp_path / LOG).exists()


def test_an_empty_list_of_lessons_is_empty():
    assert len(Lessons([])) == 0
