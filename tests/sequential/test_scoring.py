"""Scores against a model that reads prompt and answer in one pass, as its own library feeds it."""

from itertools import permutations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prismrec.sequential import scoring  # noqa: E402
from prismrec.sequential.backbone import Backbone, Origin, load_backbone  # noqa: E402
from prismrec.sequential.examples import Example, Task  # noqa: E402
from prismrec.sequential.scoring import score_examples, write_choices  # noqa: E402
from prismrec.sequential.template import Template  # noqa: E402
from prismrec.sequential.titles import display_titles  # noqa: E402
from prismrec.sequential.writer import Shelf, Writer  # noqa: E402

KINDS = ("qwen2.5-vl", "qwen3-vl", "llava", "text")

# Histories and candidates of different lengths: 7, 21 and 30 have no picture, the one of 13 is broken, 11 has
# a title of 120 characters, 4 and 5 ones that look like markers.
QUESTIONS = [
    ((20, 14, 2, 13, 16), (3, 11, 25, 8, 4)),
    ((7,), (6, 9)),
    ((30, 21, 7), (26, 27, 5, 10)),
    ((17, 17, 18), (33, 12, 0)),
    ((15, 22), (28, 29, 31, 32, 34, 35)),
]
EXAMPLES = [Example(f"u{n}", h, c[:1], c) for n, (h, c) in enumerate(QUESTIONS)]
ABOUT_ONE = [Example(f"u{n}", h, c[:1], listed=c[1:], label=n % 2 == 0) for n, (h, c) in enumerate(QUESTIONS)]


def loud(backbone: Backbone) -> Backbone:
    """Make the weights large: what a token sees then moves it by far more than the tolerance."""
    with torch.no_grad():
        for weights in backbone.model.parameters():
            if weights.dim() > 1:
                weights.mul_(4.0)
    return backbone


@pytest.fixture(scope="module")
def shelf(films):
    items = films.catalog.items
    titles, _ = display_titles(items["title"].to_list(), films.items.ids, "film", items["year"].to_list())
    return Shelf(films.items.ids, titles, films.catalog.media["image"])


@pytest.fixture(scope="module")
def backbones(tiny):
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = loud(load_backbone(Origin(str(tiny(kind))), max_pixels=56 * 56))
        return made[kind]

    return get


@pytest.fixture
def writer(backbones, shelf):
    def make(kind, task=Task.NEXT, template=None, max_tokens=2048):
        words = template or Template.default()
        return Writer(task, words, "film", "films", shelf, backbones(kind).processor, max_tokens)

    return make


def one_pass(backbone, writer, example, answer):
    """Log-probabilities of an answer's tokens, read by the model itself: no padding, cache or positions."""
    prompt = writer.prompt(example, len(answer))
    ids = torch.cat((prompt.ids, answer))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if prompt.pictures:
        pixels = writer.pictures([prompt])
        inputs["pixel_values"] = torch.cat([pixels[item].values for item in prompt.pictures])
        if pixels[prompt.pictures[0]].grid is not None:
            inputs["image_grid_thw"] = torch.cat([pixels[item].grid for item in prompt.pictures])
            seen = torch.cat((prompt.seen, torch.zeros(len(answer), dtype=torch.int32)))
            inputs["mm_token_type_ids"] = seen[None]
    with torch.inference_mode():
        logits = backbone.model(**inputs).logits[0].float()
    log_probs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return log_probs.gather(1, answer[:, None])[:, 0].double().numpy()


def of_titles(backbone, writer, example):
    """Mean and sum of the log-probabilities of each candidate's title."""
    titles = [f'"{writer.shelf.titles[item]}"' for item in example.candidates]
    each = [one_pass(backbone, writer, example, writer.processor.answer(t, ends=False)) for t in titles]
    return np.array([e.mean() for e in each]), np.array([e.sum() for e in each])


@pytest.mark.parametrize("kind", KINDS)
def test_titles_are_scored_as_in_one_pass(kind, backbones, writer) -> None:
    backbone, its = backbones(kind), writer(kind)
    # Seven titles at once: a block ends within an example, and holds titles of several.
    means = score_examples(backbone, its, EXAMPLES, batch_size=3, rows=7)
    sums = score_examples(backbone, its, EXAMPLES, batch_size=5, rows=4, normalised=False)
    assert its.remarks.prompts == 10
    assert (its.remarks.unreadable == {"i13"}) is (kind != "text")
    for example, mean, total in zip(EXAMPLES, means, sums, strict=True):
        expected_mean, expected_sum = of_titles(backbone, its, example)
        assert mean.dtype == np.float64
        np.testing.assert_allclose(mean, expected_mean, atol=1e-4)
        np.testing.assert_allclose(total, expected_sum, atol=1e-3)
    # Titles have different lengths, so that the one is not the other times a number.
    assert len({round(x) for t, m in zip(sums, means, strict=True) for x in (t / m).tolist()}) > 5
    # The check is worth something: another history gives other scores.
    other = Example("u", (33, 12), (3,), EXAMPLES[0].candidates)
    assert abs(of_titles(backbone, its, other)[0] - means[0]).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_yes_and_no_are_scored_as_in_one_pass(kind, backbones, writer) -> None:
    backbone, its = backbones(kind), writer(kind, Task.BINARY)
    found = score_examples(backbone, its, ABOUT_ONE, batch_size=2, rows=3)
    for example, score in zip(ABOUT_ONE, found, strict=True):
        yes, no = (
            one_pass(backbone, its, example, its.processor.answer(word)).sum() for word in ("Yes", "No")
        )
        np.testing.assert_allclose(score, [yes - no], atol=1e-4)
    assert len({round(float(score[0]), 3) for score in found}) > 3


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "text"])
def test_blocks_and_batches_do_not_matter_nor_does_a_second_time(kind, backbones, writer) -> None:
    backbone, its = backbones(kind), writer(kind)
    first = score_examples(backbone, its, EXAMPLES)
    again = score_examples(backbone, its, EXAMPLES)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for batch_size, rows in ((1, 1), (2, 3), (5, 1000)):
        other = score_examples(backbone, its, EXAMPLES, batch_size=batch_size, rows=rows)
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_of_the_prompts_outlives_a_block(kind, backbones, writer) -> None:
    backbone, its = backbones(kind), writer(kind)
    prompts = [its.prompt(example, 60) for example in EXAMPLES[:2]]
    answers = [its.processor.answer(f'"{its.shelf.titles[item]}"') for item in (3, 11, 25)]
    owner = torch.tensor([1, 0, 1])
    with torch.inference_mode():
        read = scoring._read(backbone, its, prompts)
        length = read.cache.get_seq_length()
        before = [layer.keys.clone() for layer in read.cache.layers]
        first = scoring._block(backbone, read, owner, answers)
        second = scoring._block(backbone, read, owner, answers)
    assert torch.equal(first, second)
    assert read.cache.get_seq_length() == length == max(map(len, prompts))
    assert all(torch.equal(b, layer.keys) for b, layer in zip(before, read.cache.layers, strict=True))


def test_prompts_are_read_once_and_titles_without_them(backbones, writer) -> None:
    backbone, its = backbones("qwen2.5-vl"), writer("qwen2.5-vl")
    shapes = []

    def note(module, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    hook = backbone.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        score_examples(backbone, its, EXAMPLES, batch_size=5, rows=8)
    finally:
        hook.remove()
    (prompts, width), *blocks = shapes
    assert (prompts, width) == (5, its.remarks.most_tokens)
    # 20 candidates, and no block as long as a prompt.
    assert [rows for rows, _ in blocks] == [8, 8, 4]
    assert all(columns < width / 2 for _, columns in blocks)


def test_nothing_gives_nothing(backbones, writer) -> None:
    assert score_examples(backbones("text"), writer("text"), []) == []
    assert write_choices(backbones("text"), writer("text"), []) == []


def test_a_history_that_does_not_fit_is_cut_and_counted(backbones, writer) -> None:
    backbone, whole = backbones("text"), writer("text")
    (score,) = score_examples(backbone, whole, EXAMPLES[:1])
    tight = writer("text", max_tokens=whole.remarks.most_tokens + 20)
    (cut,) = score_examples(backbone, tight, EXAMPLES[:1])
    assert tight.remarks.shortened == 1
    assert tight.remarks.most_tokens < whole.remarks.most_tokens
    shown = next(n for n in range(4, 0, -1) if _fits(tight, EXAMPLES[0], n, whole.remarks.most_tokens + 20))
    short = Example("u0", EXAMPLES[0].history[-shown:], (3,), EXAMPLES[0].candidates)
    np.testing.assert_allclose(cut, score_examples(backbone, whole, [short])[0], atol=1e-6)
    assert abs(cut - score).max() > 1e-3


def _fits(its, example, shown, most):
    longest = max(
        len(its.processor.answer(f'"{its.shelf.titles[i]}"', ends=False)) for i in example.candidates
    )
    return len(its._written(example, shown)) + longest <= most


def test_a_model_in_training_is_scored_without_dropout(backbones, writer) -> None:
    backbone, its = backbones("text"), writer("text")
    expected = score_examples(backbone, its, EXAMPLES[:2])
    backbone.model.train()
    found = score_examples(backbone, its, EXAMPLES[:2])
    assert not backbone.model.training
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))


# --- titles within a longer answer ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comma(tmp_path_factory, films, shelf):
    """A model whose tokenizer has one token for a quotation mark and the comma behind it, as Qwen's has."""
    from prismrec.testing.tiny_models import tiny_model

    lists = [", ".join(f'"{title}"' for title in shelf.titles)] * 3
    folder = tmp_path_factory.mktemp("comma") / "model"
    backbone = loud(load_backbone(Origin(str(tiny_model(folder, "text", lists, vocabulary=500)))))
    assert '",' in backbone.processor.tokenizer.get_vocab()
    return backbone


def writer_of(backbone, shelf, separator=", ", task=Task.TOP3):
    from dataclasses import replace

    words = replace(Template.default(), answer_separator=separator)
    return Writer(task, words, "film", "films", shelf, backbone.processor, 2048)


SEPARATORS = (", ", ",", "\n", " and then ", "; ")
TOP3 = Example("u0", (20, 14, 2), (3, 25, 8), (25, 3, 11, 8, 4))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_the_pieces_of_an_answer_are_the_tokens_that_it_was_taught_with(comma, shelf, separator) -> None:
    its = writer_of(comma, shelf, separator)
    pieces = [scoring._pieces(its, TOP3, place) for place in range(3)]
    for chosen in permutations(range(5), 3):
        said = [token for place, c in enumerate(chosen) for token in pieces[place][c].tolist()]
        taught = its.answer([TOP3.candidates[c] for c in chosen]).tolist()
        assert said == taught[:-1]


def test_for_top3_a_title_is_scored_as_the_first_of_the_answer(comma, shelf) -> None:
    its = writer_of(comma, shelf)
    (found,) = score_examples(comma, its, [TOP3])
    for item, score in zip(TOP3.candidates, found, strict=True):
        others = [c for c in TOP3.candidates if c != item][:2]
        taught = its.answer([item, *others])
        first = its.processor.answer(f'"{shelf.titles[item]}",', ends=False)
        assert taught.tolist()[: len(first)] == first.tolist()
        each = one_pass(comma, its, TOP3, taught)
        np.testing.assert_allclose(score, each[: len(first)].mean(), atol=1e-4)
    # Where one title is the whole answer, the mark stands alone.
    (alone,) = score_examples(comma, writer_of(comma, shelf, task=Task.NEXT), [TOP3])
    assert abs(alone - found).max() > 1e-3


# --- written choices --------------------------------------------------------------------------------------


def walked(backbone, writer, example, places):
    """Write by brute force: a full pass over prompt and all that was said, for each single token."""
    said, chosen = [], []
    for place in range(places):
        titles = {
            code: writer.processor.answer(text, ends=False).tolist()
            for code, text in enumerate(texts(writer, example, place, places))
            if code not in chosen
        }
        written = []
        while written not in titles.values():
            nexts = {t[len(written)] for t in titles.values() if t[: len(written)] == written}
            start = torch.tensor([*said, *written, 0])
            scores = {}
            for token in nexts:
                start[-1] = token
                scores[token] = one_pass(backbone, writer, example, start.clone())[-1]
            written.append(max(scores, key=scores.get))
        chosen.append(next(code for code, title in titles.items() if title == written))
        said += written
    return chosen


def texts(writer, example, place, places):
    """Each candidate's title as it stands in an answer of three; the comma belongs to the title before."""
    before = " " if place else ""
    after = "," if places == 3 and place < 2 else ""
    return [f'{before}"{writer.shelf.titles[item]}"{after}' for item in example.candidates]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_brute_force_writes(kind, backbones, writer) -> None:
    backbone, its = backbones(kind), writer(kind, Task.RERANK)
    found = write_choices(backbone, its, EXAMPLES[:3])
    for example, scores in zip(EXAMPLES[:3], found, strict=True):
        (chosen,) = walked(backbone, its, example, 1)
        assert scores.tolist() == [float(code == chosen) for code in range(len(example.candidates))]


def test_three_different_titles_are_written_each_after_the_others(comma, shelf) -> None:
    its = writer_of(comma, shelf)
    asked = [TOP3, *(Example(e.user, e.history, e.candidates[:3], e.candidates) for e in EXAMPLES[2:])]
    found = write_choices(comma, its, asked)
    firsts = []
    for example, scores in zip(asked, found, strict=True):
        assert sorted(scores.tolist(), reverse=True)[:3] == [3, 2, 1]
        assert (scores == 0).sum() == len(example.candidates) - 3
        chosen = walked(comma, its, example, 3)
        assert [scores.tolist().index(rank) for rank in (3, 2, 1)] == chosen
        firsts.append(chosen[0])
    assert len(set(firsts)) > 1
    again = write_choices(comma, its, asked)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


def test_each_token_is_asked_for_after_all_that_was_said(comma, shelf, monkeypatch) -> None:
    its = writer_of(comma, shelf)
    asked, real = [], scoring._next_logits

    def note(backbone, read, said):
        asked.append(list(said))
        return real(backbone, read, said)

    monkeypatch.setattr(scoring, "_next_logits", note)
    (scores,) = write_choices(comma, its, [TOP3])
    chosen = [TOP3.candidates[scores.tolist().index(rank)] for rank in (3, 2, 1)]
    answer = its.answer(chosen).tolist()
    assert all(said == answer[: len(said)] for said in asked)
    # Something was open at the third title, too.
    two = ", ".join(f'"{shelf.titles[item]}"' for item in chosen[:2])
    assert len(asked[-1]) >= len(its.processor.answer(f"{two},", ends=False))


def test_a_list_of_two_is_written_whole(comma, shelf) -> None:
    two = Example("u", (20, 14), (3, 25), (3, 25))
    (scores,) = write_choices(comma, writer_of(comma, shelf), [two])
    assert sorted(scores.tolist()) == [2, 3]
    (one,) = write_choices(comma, writer_of(comma, shelf, task=Task.NEXT), [Example("u", (20,), (3,), (3,))])
    assert one.tolist() == [1]


def test_the_likeliest_token_is_taken_and_not_the_likeliest_title(comma, shelf, monkeypatch) -> None:
    """Titles a1, a2, b: at the first token a is ahead, though b's title as a whole is the likeliest."""
    a, b, one, two = 7, 3, 5, 6
    said_before = []

    def logits(backbone, read, said):
        said_before.append(list(said))
        scores = torch.full((20,), -5.0)
        scores[a], scores[b] = 1.0, 0.9
        scores[one], scores[two] = 0.1, 0.2
        # Likelier than all, and no title goes on with it.
        scores[19] = 99.0
        return scores

    monkeypatch.setattr(scoring, "_next_logits", logits)
    choice, tokens = scoring._likeliest(None, None, [1], {4: [a, a, one], 5: [a, a, two, 9], 6: [b]})
    assert (choice, tokens) == (5, [a, a, two, 9])
    # Nothing is asked where all titles go on alike, nor when one is left.
    assert said_before == [[1], [1, a, a]]
