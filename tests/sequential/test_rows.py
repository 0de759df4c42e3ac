"""Rows side by side: what a model says of one does not depend on the others, or on how pictures reach it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prismrec.sequential.processor import Pixels, Tokens
from prismrec.sequential.prompts import Picture, Prompt, Text
from prismrec.sequential.rows import (
    Rows,
    answer_logits,
    bare,
    collate,
    log_probs,
    picture_inputs,
    positions,
)

pytest.importorskip("transformers")

QWEN = ("qwen2.5-vl", "qwen3-vl")
SEEING = (*QWEN, "llava")
KINDS = (*SEEING, "text")

# Pictures and words, short and long; one picture in several rows, and twice in one.
PROMPTS = (
    ("Took ", 1, " and ", 2, " what now?"),
    ("Nothing seen.",),
    ("First ", 2, " then ", 3, " then ", 2, " and then a good many words more, so that the row is long."),
    (3, " alone"),
    ("A reader", 1),
)
ANSWERS = ("Yes", '"Red River 12", "Blue Night 3", "Heat"', '"Heat"', "No", '"The Quoted"')
SIZES = {1: (56, 56), 2: (90, 45), 3: (28, 70)}


class Asked:
    """A model, double precision and with large weights, so that all it reads counts; and what it is asked."""

    def __init__(self, backbone: Any) -> None:
        from PIL import Image

        self.model, self.processor = backbone.model.double(), backbone.processor
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.mul_(4 if weight.dim() > 1 else 1)
        random = np.random.default_rng(1)
        self.pixels: dict[int, Pixels] = {}
        for item, (width, height) in SIZES.items():
            values = random.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
            if self.processor.sees:
                made = self.processor.pixels(Image.fromarray(values))
                self.pixels[item] = Pixels(made.values.double(), made.grid, made.tokens)
        self.prompts = [
            self.processor.prompt(
                Prompt(tuple(Picture(p) if isinstance(p, int) else Text(p) for p in parts), ""), self.pixels
            )
            for parts in PROMPTS
        ]
        self.answers = [self.processor.answer(text) for text in ANSWERS]

    def rows(self, which: list[int] | None = None) -> Rows:
        which = list(range(len(PROMPTS))) if which is None else which
        return collate(
            [self.prompts[i] for i in which],
            [self.answers[i] for i in which],
            self.pixels,
            self.processor.pad,
        )

    def scores(self, rows: Rows) -> Tensor:
        with torch.inference_mode():
            return log_probs(*answer_logits(self.model, rows))[0]

    def plainly(self, row: int, **other: Any) -> Tensor:
        """Logits of one row as anybody would ask for them: no padding, pictures as pixels."""
        prompt, answer = self.prompts[row], self.answers[row]
        shown = [self.pixels[item] for item in prompt.pictures]
        inputs: dict[str, Any] = {"input_ids": torch.cat((prompt.ids, answer))[None]}
        if shown:
            inputs["pixel_values"] = torch.cat([p.values for p in shown])
        if shown and shown[0].grid is not None:
            inputs["image_grid_thw"] = torch.cat([p.grid for p in shown if p.grid is not None])
            inputs["mm_token_type_ids"] = torch.cat((prompt.seen, torch.zeros(len(answer)).int()))[None]
        with torch.inference_mode():
            logits: Tensor = self.model(**inputs, **other).logits
        return logits[0]

    def oracle(self, row: int) -> tuple[float, int]:
        """Sum, token by token, of the log-softmax at the answer."""
        logits, answer = self.plainly(row), self.answers[row].tolist()
        at = len(self.prompts[row]) - 1
        said = [torch.log_softmax(logits[at + k], dim=0)[token].item() for k, token in enumerate(answer)]
        return sum(said), len(said)


@pytest.fixture(scope="module")
def asked(tiny):
    """Return a function from a kind to a model of its own and questions to it, made once."""
    from prismrec.sequential.backbone import Origin, load_backbone

    made: dict[str, Asked] = {}

    def of(kind: str) -> Asked:
        if kind not in made:
            made[kind] = Asked(load_backbone(Origin(str(tiny(kind)))))
        return made[kind]

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_plain_pass(asked, kind):
    one = asked(kind)
    with torch.inference_mode():
        sums, counts = log_probs(*answer_logits(one.model, one.rows()))
    expected = [one.oracle(row) for row in range(len(PROMPTS))]
    np.testing.assert_array_equal(counts, [count for _, count in expected])
    # Sums of up to 60 summands that are rounded to single precision.
    np.testing.assert_allclose(sums, [total for total, _ in expected], rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_the_row_among_others(asked, kind):
    one = asked(kind)
    together = one.scores(one.rows())
    for row in range(len(PROMPTS)):
        torch.testing.assert_close(one.scores(one.rows([row]))[0], together[row], rtol=0, atol=1e-5)
    backwards = list(range(len(PROMPTS)))[::-1]
    torch.testing.assert_close(one.scores(one.rows(backwards)).flip(0), together, rtol=0, atol=1e-5)


def test_a_model_with_learnt_positions_is_not_moved_by_padding_either():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=32, n_layer=1, n_head=2, n_positions=64)).eval()
    prompts = [Tokens(torch.arange(1, n), torch.zeros(n - 1).int(), ()) for n in (4, 9)]
    answers = [torch.tensor([20, 21]), torch.tensor([22])]
    with torch.inference_mode():
        together = log_probs(*answer_logits(model, collate(prompts, answers, {}, 0)))[0]
        alone = [
            log_probs(*answer_logits(model, collate([p], [a], {}, 0)))[0]
            for p, a in zip(prompts, answers, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_logits_of_a_padded_row_are_those_of_a_plain_pass(asked, kind):
    one = asked(kind)
    rows = one.rows()
    with torch.inference_mode():
        logits, targets, mask = answer_logits(one.model, rows, longest=rows.ids.shape[1] - 1)
    assert logits.dtype == torch.float32
    assert logits.shape[:2] == targets.shape == mask.shape
    for row in range(len(PROMPTS)):
        plain = one.plainly(row).float()
        # Each but the last foretells the next token; what pads is not looked at.
        torch.testing.assert_close(logits[row, 1 - len(plain) :], plain[:-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SEEING)
def test_pictures_seen_once_are_pictures_passed_as_pixels(asked, kind):
    one = asked(kind)
    rows = one.rows()
    looks = []
    hook = (
        one.model.model.visual if kind != "llava" else one.model.model.vision_tower
    ).register_forward_hook(lambda *_: looks.append(1))
    with torch.inference_mode():
        ours = answer_logits(one.model, rows)[0]
    hook.remove()
    assert len(looks) == 1
    # Three pictures are seen though they stand at seven places.
    assert (len(rows.shown), int(rows.shown.max()) + 1) == (7, 3)
    inputs: dict[str, Any] = {
        "input_ids": rows.ids,
        "attention_mask": rows.mask,
        "position_ids": positions(one.model, rows)[0],
        "pixel_values": torch.cat([one.pixels[i].values for p in one.prompts for i in p.pictures]),
    }
    if rows.grids is not None:
        inputs["image_grid_thw"] = rows.grids[rows.shown]
        inputs["mm_token_type_ids"] = rows.seen
    with torch.inference_mode():
        logits = one.model(**inputs).logits
    torch.testing.assert_close(ours, logits[:, -ours.shape[1] - 1 : -1].float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SEEING)
def test_which_picture_stands_where_matters(asked, kind):
    one = asked(kind)
    rows = one.rows([0])
    # Of one size, so that nothing else changes.
    pixels = {**one.pixels, 1: Pixels(one.pixels[1].values * 0 + 1, one.pixels[1].grid, one.pixels[1].tokens)}
    other = collate([one.prompts[0]], [one.answers[0]], pixels, one.processor.pad)
    assert (one.scores(rows) - one.scores(other)).abs().item() > 1e-3


@pytest.mark.parametrize("kind", QWEN)
def test_positions_are_those_that_the_model_takes_itself(asked, kind):
    one = asked(kind)
    rows = one.rows()
    taken: list[Tensor] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        taken.append(given["position_ids"])

    hook = one.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.inference_mode():
            # Without position_ids; rope deltas of an earlier pass must not be used.
            one.model.model.rope_deltas = None
            one.model(
                input_ids=rows.ids,
                attention_mask=rows.mask,
                pixel_values=torch.cat([one.pixels[i].values for p in one.prompts for i in p.pictures]),
                image_grid_thw=rows.grids[rows.shown],
                mm_token_type_ids=rows.seen,
            )
    finally:
        hook.remove()
    found, shift = positions(one.model, rows)
    stands = rows.mask.bool()
    # The model may put the places in the text before those in time, height and width.
    assert torch.equal(found[:, stands], taken[0][-3:][:, stands])
    # The next word goes on after the furthest place.
    following = found.amax(dim=(0, 2)) + 1
    assert torch.equal(rows.mask.sum(dim=1) + shift[:, 0], following)
    # A square of two by two takes two places; a strip of two tokens as many as it has tokens.
    assert shift[:, 0].tolist() == [-2, 0, 0, 0, -2]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_without_pictures_count_from_the_first_token(asked, kind):
    one = asked(kind)
    prompts = [Tokens(torch.arange(n), torch.zeros(n).int(), ()) for n in (3, 5)]
    rows = collate(prompts, [torch.tensor([7])] * 2, {}, 0)
    found, shift = positions(one.model, rows)
    expected = torch.tensor([[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    assert torch.equal(found, expected.expand(3, -1, -1) if kind in QWEN else expected)
    assert torch.equal(shift, torch.zeros(2, 1).long())


@pytest.mark.parametrize("kind", QWEN)
def test_positions_with_and_without_a_picture_agree_where_there_is_none(asked, kind):
    one = asked(kind)
    together = positions(one.model, one.rows([0, 1]))[0]
    alone = positions(one.model, one.rows([1]))[0]
    assert torch.equal(together[:, 1, -alone.shape[2] :], alone[:, 0])


def tokens(draw: st.DrawFn, item: int) -> tuple[Tokens, Tensor]:
    length, ends = draw(st.integers(1, 6)), draw(st.integers(0, 4))
    shown = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    seen = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))).int()
    return Tokens(torch.full((length,), item), seen, shown), torch.full((ends,), 100 + item)


@st.composite
def blocks(draw: st.DrawFn) -> list[tuple[Tokens, Tensor]]:
    return [tokens(draw, item) for item in range(1, 1 + draw(st.integers(1, 5)))]


@given(block=blocks(), gridded=st.booleans())
def test_rows_hold_everything_once_and_end_together(block, gridded):
    pixels = {
        i: Pixels(torch.full((i, 2), i), torch.tensor([[1, i, 2]]) if gridded else None, i)
        for i in range(1, 5)
    }
    rows = collate([p for p, _ in block], [a for _, a in block], pixels, pad=-1)
    assert len(rows) == len(block)
    for row, (prompt, answer) in enumerate(block):
        stands = rows.mask[row].bool()
        count = len(prompt) + len(answer)
        assert stands[len(stands) - count :].all()
        assert int(stands.sum()) == count
        assert rows.ids[row, stands].tolist() == [*prompt.ids.tolist(), *answer.tolist()]
        assert (rows.ids[row, ~stands] == -1).all()
        assert rows.seen[row, stands].tolist() == [*prompt.seen.tolist(), *[0] * len(answer)]
        assert not rows.seen[row, ~stands].any()
        assert rows.ids[row, rows.answer[row]].tolist() == answer.tolist()
    assert rows.mask.all(dim=1).any()
    places = [item for prompt, _ in block for item in prompt.pictures]
    assert (rows.pixels is None) == (not places)
    assert (rows.grids is None) == (not places or not gridded)
    if rows.pixels is not None:
        order = list(dict.fromkeys(places))
        assert rows.pixels[:, 0].tolist() == [item for item in order for _ in range(item)]
        assert [order[i] for i in rows.shown.tolist()] == places
    if rows.grids is not None:
        assert rows.grids[rows.shown][:, 1].tolist() == places


def test_rows_move_whole():
    prompt = Tokens(torch.tensor([1, 2]), torch.tensor([0, 1]).int(), (4,))
    pixels = {4: Pixels(torch.ones(2, 2), torch.tensor([[1, 1, 2]]), 1)}
    for shown in (pixels, {}):
        given = prompt if shown else Tokens(prompt.ids, prompt.seen, ())
        moved = collate([given], [torch.tensor([3])], shown, 0).to("meta")
        present = [v for v in vars(moved).values() if v is not None]
        assert len(present) == (7 if shown else 5)
        assert all(value.device.type == "meta" for value in present)


def test_log_probs_of_two_tokens_by_hand():
    # Over three words with the probabilities 1/2, 1/4, 1/4; the second row's first token is not asked for.
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).expand(2, 2, 3) + 7.0
    sums, counts = log_probs(
        logits, torch.tensor([[0, 1], [2, 0]]), torch.tensor([[True, True], [False, True]])
    )
    np.testing.assert_allclose(sums, [np.log(1 / 8), np.log(1 / 2)], rtol=1e-6)
    assert counts.tolist() == [2, 1]


def test_no_answer_has_the_log_probability_nothing(asked):
    one = asked("text")
    empty = torch.zeros(0, dtype=torch.int64)
    rows = collate([one.prompts[0], one.prompts[1]], [empty, one.answers[1]], {}, one.processor.pad)
    with torch.inference_mode():
        sums, counts = log_probs(*answer_logits(one.model, rows))
        alone = log_probs(*answer_logits(one.model, collate([one.prompts[0]], [empty], {}, 0)))
    assert (sums[0].item(), counts[0].item()) == (0.0, 0)
    assert (alone[0].item(), alone[1].item()) == (0.0, 0)
    torch.testing.assert_close(sums[1], one.scores(one.rows([1]))[0], rtol=0, atol=1e-5)


def test_without_pictures_nothing_is_seen(asked):
    one = asked("qwen2.5-vl")
    assert picture_inputs(one.model, one.rows([1])) == {}


def test_a_model_is_found_under_what_is_put_around_it(tiny):
    peft = pytest.importorskip("peft")
    from prismrec.sequential.backbone import Origin, load_backbone

    model = load_backbone(Origin(str(tiny("text")))).model
    assert bare(model) is model
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    assert bare(wrapped) is model
    assert bare(torch.nn.DataParallel(wrapped)) is model
