"""Examples to tokens: what does not fit is cut and counted, what cannot be shown is counted too."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.data.media import MemoryMedia
from prismrec.sequential import writer as writer_module
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.template import Template
from prismrec.sequential.writer import Remarks, Shelf, Writer

pytest.importorskip("transformers")

TITLES = ["Red River", "Blue Night", "Heat", "Stone Fire", "Sea Road", "Broken Glass", "King"]
BROKEN, BARE = 5, 6
EXAMPLE = Example("u1", (0, 1, 2, 3), (4,), (4, 3, 6))


def png(seed: int, width: int = 40, height: int = 40) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


class Counted(MemoryMedia):
    """Pictures that count how often each is read."""

    def __init__(self, contents) -> None:
        super().__init__(contents)
        self.reads: list[str] = []

    def read(self, item_id: str) -> bytes | None:
        self.reads.append(item_id)
        return super().read(item_id)


@pytest.fixture
def media() -> Counted:
    pictures = {f"i{n}": png(n) for n in range(len(TITLES)) if n != BARE}
    return Counted({**pictures, f"i{BROKEN}": b"no picture"})


@pytest.fixture
def make(loaded, media):
    def writer(kind: str = "qwen2.5-vl", task: Task = Task.NEXT, max_tokens: int = 2048, pictures=media):
        shelf = Shelf([f"i{n}" for n in range(len(TITLES))], TITLES, pictures)
        return Writer(task, Template.default(), "film", "films", shelf, loaded(kind).processor, max_tokens)

    return writer


def said(writer: Writer, tokens) -> str:
    return writer.processor.read(tokens.ids.tolist())


def test_a_prompt_shows_titles_and_pictures(make):
    writer = make()
    tokens = writer.prompt(EXAMPLE, room=10)
    text = said(writer, tokens)
    for title in (*TITLES[:5], "King"):
        assert f'"{title}"' in text
    assert "Broken Glass" not in text
    assert tokens.pictures == (0, 1, 2, 3)
    assert text.index("Red River") < text.index("Blue Night") < text.index("Heat")
    # The history has pictures, the candidates have none; one token stands for each 28 x 28 pixels.
    assert int(tokens.seen.sum()) == 4 * next(iter(writer.pictures([tokens]).values())).tokens
    assert writer.remarks == Remarks(prompts=1, tokens=len(tokens), most_tokens=len(tokens))


def test_the_answer_is_the_quoted_title_and_an_end(make):
    writer = make(task=Task.TOP3)
    answer = writer.answer((4, 3, 0))
    assert writer.text((4, 3, 0)) == '"Sea Road", "Stone Fire", "Red River"'
    assert writer.processor.read(answer.tolist()) == writer.text((4, 3, 0))
    assert answer[-1] == writer.processor.end
    yes_or_no = make(task=Task.BINARY)
    assert [yes_or_no.text((), label) for label in (True, False)] == ["Yes", "No"]
    assert yes_or_no.processor.read(yes_or_no.answer((), True).tolist()) == "Yes"


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava", "text"])
def test_the_longest_history_that_fits_is_shown(make, kind):
    whole = make(kind)
    lengths = {}
    for shown in range(1, 5):
        cut = Example("u1", EXAMPLE.history[-shown:], (4,), EXAMPLE.candidates)
        lengths[shown] = len(whole.prompt(cut, 0))
    assert sorted(lengths.values()) == list(lengths.values())
    for shown in range(1, 5):
        for room in (0, 9):
            writer = make(kind, max_tokens=lengths[shown] + room)
            tokens = writer.prompt(EXAMPLE, room)
            assert len(tokens) == lengths[shown]
            # The earliest go first.
            text = said(writer, tokens)
            assert [title in text for title in TITLES[:3]] == [4 - shown <= n for n in range(3)]
            assert writer.remarks.shortened == (shown < 4)
            if shown < 4:
                assert len(make(kind, max_tokens=lengths[shown + 1] + room - 1).prompt(EXAMPLE, room)) == len(
                    tokens
                )


def test_shortened_prompts_are_counted(make):
    writer = make()
    length = len(writer.prompt(EXAMPLE, 0))
    short = Example("u2", (0,), (4,), EXAMPLE.candidates)
    less = make(max_tokens=length - 1)
    made = [less.prompt(one, 0) for one in (EXAMPLE, short, EXAMPLE)]
    assert less.remarks.shortened == 2
    assert less.remarks.prompts == 3
    assert less.remarks.tokens == sum(map(len, made))
    assert less.remarks.most_tokens == len(made[0])


def test_a_user_whose_prompt_cannot_fit_is_named(make):
    writer = make()
    least = len(writer.prompt(Example("u1", (3,), (4,), EXAMPLE.candidates), 0))
    tight = make(max_tokens=least + 4)
    with pytest.raises(InputError, match=f"user 'u1' takes {least + 5} tokens.*max_tokens is {least + 4}"):
        tight.prompt(EXAMPLE, room=5)
    assert tight.remarks.prompts == 0
    assert len(tight.prompt(EXAMPLE, room=4)) == least


def test_a_picture_that_cannot_be_read_is_counted_and_its_title_stands(make, media):
    writer = make()
    example = Example("u1", (BROKEN, BARE, 1), (4,), (4, 3))
    tokens = writer.prompt(example, 0)
    again = writer.prompt(example, 0)
    assert torch.equal(tokens.ids, again.ids)
    assert tokens.pictures == (1,)
    assert writer.remarks.unreadable == {"i5"}
    # As if there were none: not even a space is left where it would stand.
    assert '"Broken Glass"\n"King"\n"Blue Night"' in said(writer, tokens)
    assert set(writer.pictures([tokens])) == {1}
    assert media.reads.count("i5") == 1
    assert "i6" not in media.reads


def test_a_picture_that_the_model_does_not_take_is_counted_too(make):
    strip = MemoryMedia({"i0": png(0, 500, 1), "i1": png(1)})
    writer = make(pictures=strip)
    tokens = writer.prompt(EXAMPLE, 0)
    assert tokens.pictures == (1,)
    assert writer.remarks.unreadable == {"i0"}


def test_a_reader_of_text_says_which_pictures_it_was_not_shown(make, media):
    writer = make("text")
    tokens = writer.prompt(Example("u1", (BROKEN, BARE, 1, 2), (4,), (4, 3)), 0)
    assert tokens.pictures == ()
    assert writer.remarks.without_eyes == 3
    assert writer.remarks.unreadable == set()
    assert media.reads == []
    assert '"Heat"\n' in said(writer, tokens)
    writer.prompt(EXAMPLE, 0)
    assert writer.remarks.without_eyes == 7
    # What is cut off has no picture to leave out.
    tight = make("text", max_tokens=len(make("text").prompt(EXAMPLE, 0)) - 1)
    tight.prompt(EXAMPLE, 0)
    assert (tight.remarks.shortened, tight.remarks.without_eyes) == (1, 3)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "text"])
def test_without_pictures_nothing_is_left_out(make, kind):
    writer = make(kind, pictures=None)
    tokens = writer.prompt(EXAMPLE, 0)
    assert tokens.pictures == ()
    assert writer.pictures([tokens]) == {}
    assert (writer.remarks.without_eyes, writer.remarks.unreadable) == (0, set())


def test_pictures_are_those_of_the_prompts(make):
    writer = make()
    prompts = [writer.prompt(Example("u", history, (4,), (4, 3)), 0) for history in ((0, 1), (1, 2), (BARE,))]
    found = writer.pictures(prompts)
    assert sorted(found) == [0, 1, 2]
    for item, pixels in found.items():
        picture = Image.open(io.BytesIO(png(item)))
        assert torch.equal(pixels.values, writer.processor.pixels(picture).values)


def test_a_picture_is_decoded_once_as_long_as_it_is_kept(make, media, monkeypatch):
    writer = make()
    for _ in range(3):
        writer.pictures([writer.prompt(EXAMPLE, 0)])
    assert sorted(media.reads) == ["i0", "i1", "i2", "i3"]
    # With room for two they are decoded again and are the same.
    monkeypatch.setattr(writer_module, "_KEPT_PICTURES", 2)
    forgetful = make()
    tokens = forgetful.prompt(EXAMPLE, 0)
    assert torch.equal(tokens.ids, writer.prompt(EXAMPLE, 0).ids)
    whole, found = writer.pictures([tokens]), forgetful.pictures([tokens])
    assert set(found) == {0, 1, 2, 3}
    assert all(torch.equal(found[i].values, whole[i].values) for i in found)
    assert len(forgetful._pixels) <= 2


def test_every_question_about_the_films_is_written(questions, loaded):
    for task in Task:
        if task is Task.RERANK:
            continue
        prepared = questions(task.value)
        writer = Writer(
            task,
            prepared.template,
            "film",
            "films",
            prepared.shelf,
            loaded("qwen3-vl").processor,
            2048,
        )
        examples = [e for part in ("train", "valid", "test") for e in prepared.part(part)]
        made = [writer.prompt(example, 60) for example in examples]
        assert writer.remarks.prompts == len(examples) > 80
        assert writer.remarks.unreadable == {"i13"}
        # The template writes three markers, whatever films are called: two turns begin and one ends.
        markers = {
            writer.processor.tokenizer.convert_tokens_to_ids(m) for m in ("<|im_start|>", "<|im_end|>")
        }
        assert {sum(i in markers for i in tokens.ids.tolist()) for tokens in made} == {3}
        for example, tokens in zip(examples, made, strict=True):
            bare = {writer.shelf.ids.index(name) for name in ("i7", "i13", "i21", "i30")}
            assert list(tokens.pictures) == [item for item in example.history if item not in bare]
