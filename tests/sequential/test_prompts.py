"""Prompts against texts written out by hand, answers read back, and templates that are wrong."""

import dataclasses
import re
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.prompts import Picture, Prompt, Template, Text, answer, build_prompt, read_answer
from prismrec.sequential.titles import display_titles

TITLES = ["Alien", "Brazil", "Casablanca", "Diva", "Eraserhead", "Fargo"]
PICTURES = [True, False, True, True, True, True]
DEFAULT = Template.default()
PLAIN = dataclasses.replace(
    DEFAULT,
    binary="{history} | {listed} | {target} {yes}/{no}",
    top3="{plural}: {history}; {candidates}",
    next="{history}",
    rerank="{{{noun}}} {history} of {candidates}!",
)
nasty = st.lists(
    st.sampled_from(
        [
            "{history}",
            "{{",
            "}",
            '"',
            "\u201d",
            "\n",
            "\n\n",
            "<|im_end|>",
            "<image>",
            ", ",
            "a",
            " ",
            "\u200b",
        ]
    )
).map("".join)
any_title = st.one_of(st.none(), st.text(max_size=140), nasty)
six_titles = st.lists(any_title, min_size=6, max_size=6).map(
    lambda raw: display_titles(raw, [f"id {i}" for i in range(6)])[0]
)


def build(template, task, example, titles=TITLES, pictures=PICTURES, **more) -> Prompt:
    return build_prompt(template, task, example, titles, pictures, "movie", "movies", **more)


def as_text(prompt: Prompt) -> str:
    return "".join(p.text if isinstance(p, Text) else f"[{p.item}]" for p in prompt.parts)


def test_binary_by_hand():
    prompt = build(DEFAULT, Task.BINARY, Example("u", (0, 1, 2), (3,), listed=(4, 5), label=True))
    assert prompt == Prompt(
        (
            Text('A user has chosen these movies, the oldest first:\n"Alien" '),
            Picture(0),
            Text('\n"Brazil"\n"Casablanca" '),
            Picture(2),
            Text(
                '\n\nThe same user has left these movies aside: "Eraserhead", "Fargo"\n\n'
                'Is "Diva" a movie that this user will choose? Answer with Yes or No and nothing else.'
            ),
        ),
        "",
    )


def test_candidates_by_hand():
    example = Example("u", (2, 0), (3, 4, 5), candidates=(5, 1, 3, 4))
    assert as_text(build(PLAIN, Task.TOP3, example)) == (
        'movies: "Casablanca" [2]\n"Alien" [0]; "Fargo", "Brazil", "Diva", "Eraserhead"'
    )
    rows = dataclasses.replace(PLAIN, title_separator="\n", history_separator=" > ", system="For {plural}.")
    prompt = build(rows, Task.RERANK, Example("u", (1, 0), (3,), candidates=(3, 4)))
    assert as_text(prompt) == '{movie} "Brazil" > "Alien" [0] of "Diva"\n"Eraserhead"!'
    assert prompt.system == "For movies."


def test_a_paragraph_with_nothing_to_list_is_left_out():
    example = Example("u", (1,), (3,))
    assert as_text(build(DEFAULT, Task.NEXT, example)) == (
        'A user has chosen these movies, the oldest first:\n"Brazil"\n\n'
        "Which movie does this user choose next? Write its title in double quotes."
    )
    shown = as_text(build(DEFAULT, Task.NEXT, dataclasses.replace(example, candidates=(3, 4))))
    assert '\n\nThe candidate movies are: "Diva", "Eraserhead"\n\n' in shown
    assert "aside" not in as_text(build(DEFAULT, Task.BINARY, example))
    with pytest.raises(InputError, match=r"binary\.prompt: \{listed\} has nothing to show"):
        build(PLAIN, Task.BINARY, example)


def test_only_the_latest_of_a_history_are_kept():
    example = Example("u", (0, 1, 2, 3), (4,))
    assert as_text(build(PLAIN, Task.NEXT, example, history=2)) == '"Casablanca" [2]\n"Diva" [3]'
    assert build(PLAIN, Task.NEXT, example, history=9) == build(PLAIN, Task.NEXT, example)
    with pytest.raises(InputError, match="A history of 0 items"):
        build(PLAIN, Task.NEXT, example, history=0)


@pytest.mark.parametrize(
    ("entry", "with_picture", "without"),
    [
        ("{title} {picture}", "Alien [0]", "Brazil"),
        ("{picture} {title}", "[0] Alien", "Brazil"),
        ("{title} {picture} (seen)", "Alien [0] (seen)", "Brazil (seen)"),
        ("{title}{picture} (seen)", "Alien[0] (seen)", "Brazil (seen)"),
        ("{picture}\n{title}.", "[0]\nAlien.", "Brazil."),
        ("- {title}", "- Alien", "- Brazil"),
    ],
)
def test_a_missing_picture_leaves_no_gap(entry, with_picture, without):
    template = dataclasses.replace(PLAIN, entry=entry, history_separator=" / ")
    example = Example("u", (0, 1), (4,))
    pictures = np.array(PICTURES)
    assert as_text(build(template, Task.NEXT, example, pictures=pictures)) == f"{with_picture} / {without}"


@settings(max_examples=150, deadline=None)
@given(six_titles, st.lists(st.booleans(), min_size=6, max_size=6), st.sampled_from(Task))
def test_no_title_changes_the_shape_of_a_prompt(titles, pictures, task):
    example = Example("u", (0, 1, 2), (3, 4, 5), candidates=(5, 3, 4), listed=(4,), label=False)
    prompt = build(DEFAULT, task, example, titles, pictures)
    plain = build(DEFAULT, task, example, TITLES, pictures)
    assert [type(part) for part in prompt.parts] == [type(part) for part in plain.parts]
    assert [p.item for p in prompt.parts if isinstance(p, Picture)] == [i for i in range(3) if pictures[i]]
    ours, theirs = as_text(prompt), as_text(plain)
    assert ours.count('"') == theirs.count('"')
    assert len(ours.splitlines()) == len(theirs.splitlines())
    # Titles stand there as they are, whatever braces they hold: with plain ones back it is the plain prompt.
    quoted = iter(re.findall(r'"([^"]*)"', theirs))
    assert re.sub(r'"[^"]*"', lambda _: f'"{next(quoted)}"', ours) == theirs
    assert set(re.findall(r'"([^"]*)"', ours)) <= set(titles)


@settings(max_examples=200, deadline=None)
@given(six_titles, st.permutations(range(6)), st.sampled_from([", ", "\n", "; ", " and "]), nasty)
def test_any_title_comes_back_from_an_answer(titles, order, separator, extra):
    template = dataclasses.replace(DEFAULT, answer_separator=separator)
    three = answer(template, Task.TOP3, order[:3], titles)
    assert read_answer(three, titles) == list(order[:3])
    one = answer(template, Task.NEXT, order[:1], titles)
    assert read_answer(f"{extra}\n{one}\n", titles, order[:1]) == list(order[:1])
    assert read_answer(one, titles, order[1:]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"Diva", "Alien"', [3, 0]),
        ('I think "Brazil" fits best, then \u201cFargo\u201d.', [1, 5]),
        ('"  Diva\u200b "', [3]),
        ('"Diva", "Diva", "Nobody", "Alien"', [3, 0]),
        ('A 12" disc\n"Diva"', [3]),
        ('"Diva", "Alie', [3]),
        ("Diva", []),
        ('"diva"', []),
        ('""', []),
        ("", []),
    ],
)
def test_generated_answers_are_read(text, found):
    assert read_answer(text, TITLES) == found
    assert read_answer(text, TITLES, (1, 2)) == [code for code in found if code in (1, 2)]


def test_answers_by_hand():
    assert answer(DEFAULT, Task.BINARY, (), TITLES, True) == "Yes"
    assert answer(DEFAULT, Task.BINARY, (3,), TITLES, False) == "No"
    assert answer(DEFAULT, Task.TOP3, (3, 0, 1), TITLES) == '"Diva", "Alien", "Brazil"'
    assert answer(DEFAULT, Task.RERANK, (5,), TITLES) == '"Fargo"'
    with pytest.raises(InputError, match="needs a label"):
        answer(DEFAULT, Task.BINARY, (), TITLES)
    with pytest.raises(InputError, match="'top3' of 2 items"):
        answer(DEFAULT, Task.TOP3, (3, 0), TITLES)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InputError, match="no candidates"):
        build(DEFAULT, Task.RERANK, Example("u", (0,), (1,)))
    with pytest.raises(InputError, match="user 'u': no history and no positives"):
        build(DEFAULT, Task.BINARY, Example("u", (), ()))
    with pytest.raises(InputError, match="item 1 cannot be quoted"):
        build(DEFAULT, Task.NEXT, Example("u", (1,), (0,)), titles=["a", 'b"c'], pictures=[False, False])
    with pytest.raises(InputError, match="item 1 cannot be quoted"):
        answer(DEFAULT, Task.NEXT, (1,), ["a", "b\nc"])
    with pytest.raises(InputError, match="no title of item -1"):
        answer(DEFAULT, Task.NEXT, (-1,), TITLES)
    with pytest.raises(InputError, match="6 titles, but 1 pictures"):
        build(DEFAULT, Task.NEXT, Example("u", (0,), (1,)), pictures=[True])


def test_a_template_file_overrides_the_shipped_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('yes = "Ja"\r\n[next]\r\nprompt = """\r\nSah {history}?\r\n"""\r\n', encoding="utf-8-sig")
    mine = Template.read(path)
    assert (mine.yes, mine.no, mine.next, mine.top3) == ("Ja", "No", "Sah {history}?", DEFAULT.top3)
    assert mine.digest != DEFAULT.digest
    copy = tmp_path / "copy.toml"
    copy.write_bytes(files("prismrec.sequential").joinpath("template.toml").read_bytes())
    assert Template.read(copy).digest == DEFAULT.digest
    assert Template.read(copy) == DEFAULT


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_a_written_template_is_complete_and_reads_back(tmp_path_factory, words, spoken):
    escaped = words.replace("{", "{{").replace("}", "}}")
    template = dataclasses.replace(
        DEFAULT, next=f"Q{escaped}{{history}}.", yes=f"Y{spoken}\x7f", no="N", system=escaped
    )
    path = tmp_path_factory.mktemp("t") / "template.toml"
    template.write(path)
    assert Template.read(path) == template
    assert path.read_text(encoding="utf-8").count(" = ") >= 11


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ('[next]\nprompt = "{histroy}"', r"next\.prompt: unknown placeholder \{histroy\}", "mean {history}?"),
        (
            '[next]\nprompt = "{history} {target}"',
            r"next\.prompt: unknown placeholder \{target\}",
            "{candidates}",
        ),
        ('[next]\nprompt = "{history!r}"', r"next\.prompt: unknown placeholder \{history!r\}", "{history}"),
        (
            '[next]\nprompt = "{candidates}"',
            r"next\.prompt: the placeholder \{history\} is missing",
            "{noun}",
        ),
        ('[top3]\nprompt = "{history}"', r"top3\.prompt: the placeholder \{candidates\} is missing", ""),
        ('[rerank]\nprompt = "{history}"', r"rerank\.prompt: the placeholder \{candidates\} is missing", ""),
        ('[binary]\nprompt = "{history}"', r"binary\.prompt: the placeholder \{target\} is missing", ""),
        ('[next]\nprompt = "{history} {history}"', r"next\.prompt: \{history\} stands twice", ""),
        ('[next]\nprompt = "{history} }"', r"next\.prompt: a brace stands alone", "{{"),
        ('entry = "{picture}"', r"entry: the placeholder \{title\} is missing", ""),
        ('entry = "{titel}"', r"entry: unknown placeholder \{titel\}", "mean {title}?"),
        ('system = "{history}"', r"system: unknown placeholder \{history\}", "{noun}"),
        ('entri = "{title}"', "unknown key 'entri'", "mean 'entry'?"),
        ('[nxt]\nprompt = "{history}"', "unknown key 'nxt'", "mean 'next'?"),
        ('[next]\npromt = "{history}"', r"unknown key 'next\.promt'", r"mean 'next.prompt'?"),
        ('[next]\nprompt = "{history}"\nyes = "Ja"', r"unknown key 'next\.yes'", "above the first [table]"),
        ("[next]\nprompt = 3", r"next\.prompt is 3", "text in quotes"),
        ('next = "{history}"', "next is not a table", "[next]"),
        ("yes = true", "yes is true", "text in quotes"),
        ('yes = " "', "yes is empty", "'Yes'"),
        ('yes = "no"', "yes and no are both 'no'", "different"),
        ('title_separator = ""', "title_separator cannot be ''", "at least one"),
        ("answer_separator = '\"'", "answer_separator cannot be", "double quote"),
        ("[next", "is not TOML", "[next]"),
    ],
)
def test_a_wrong_template_is_refused_by_file_key_and_placeholder(tmp_path, text, problem, hint):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"mine\.toml: {problem}") as caught:
        Template.read(path)
    assert hint in (caught.value.hint or "")


def test_a_template_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Template.read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'yes = "\xe9"')
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        Template.read(tmp_path / "latin.toml")
    with pytest.raises(InputError, match="cannot be read"):
        Template.read(tmp_path)
