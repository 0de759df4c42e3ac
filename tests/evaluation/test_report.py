"""The report: what it holds, that data cannot break out of it, and how a browser takes it."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.evaluation.report import write_report
from prismrec.evaluation.report_inputs import Epoch, ExpertLoad, ItemCard, ModalityWeights, UserExample
from prismrec.evaluation.result import Beyond, EvaluationResult, Interval, PartResult, SliceRow

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png>"


def part(candidates: str = "strict", hit_rate: float = 0.42) -> PartResult:
    means = {"hit_rate@10": hit_rate, "ndcg@10": 0.12, "ndcg@20": 0.2}
    return PartResult(
        part="test",
        candidates=candidates,
        n_candidates=1234,
        users_counted=6040,
        users_without_history=17,
        n_positives=51234,
        metrics={name: Interval(mean=m, low=m - 0.01, high=m + 0.01) for name, m in means.items()},
        random_floor={"hit_rate@10": 0.05, "ndcg@10": 0.01},
        slices=[
            SliceRow(
                kind="cold or warm item",
                value=EVIL,
                users=5,
                positives=9,
                metrics={"ndcg@10": Interval(mean=0.1)},
            )
        ],
        beyond=Beyond(k=10, coverage=0.43, gini=0.81, novelty=11.3, popularity=154.2, diversity=0.62),
    )


def result(run: str = "mamex-0", hit_rate: float = 0.42) -> EvaluationResult:
    return EvaluationResult(
        run=run,
        model=f"model {EVIL}",
        config={"experts": 4, EVIL: EVIL},
        dataset=f"data {EVIL}",
        split={"kind": "item-cold-start"},
        parts=[part(hit_rate=hit_rate), part("all_items", hit_rate / 2)],
        notes=[EVIL],
        test_openings_before=2,
    )


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 500), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def full(path):
    weights = np.random.default_rng(0).dirichlet((2, 3), 50)
    weights[:7, 1] = np.nan
    cards = [
        ItemCard(EVIL, picture(), EVIL, hit=True, weights={"text": 0.7, EVIL: 0.3}, because=[EVIL, "Heat"]),
        ItemCard(
            "A title without a single space that is much longer than any card is wide".replace(" ", "_")
        ),
        ItemCard("Junk", b"no picture"),
    ]
    write_report(
        path,
        result(),
        learning_curve=[
            Epoch(e, 2.0, {"total": 1 / e, EVIL: 0.1}, {"ndcg@10": 0.1 - abs(e - 3)}) for e in range(1, 6)
        ],
        baselines=[result("other", 0.3), result(EVIL, 0.5)],
        examples=[UserExample(EVIL, cards, cards, history_size=40), UserExample("new", [], cards)],
        modality_weights=ModalityWeights(["text", EVIL], weights, [["Drama", EVIL]] * 50),
        expert_load=ExpertLoad(["text", EVIL], np.array([[0.5, 0.5], [1.0, 0.0]])),
    )
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """All elements with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_no_data_become_markup(tmp_path):
    elements = Elements(full(tmp_path / "report.html"))
    assert not [tag for tag, _ in elements.found if tag in {"script", "iframe", "object", "form"}]
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if attributes.get(name) is not None:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)
    assert elements.text.count("<script>alert(1)</script>") > 15
    assert "url(" not in full(tmp_path / "report.html")


def test_it_says_what_was_measured(tmp_path):
    page = full(tmp_path / "report.html")
    text = re.sub(r"\s+", " ", Elements(page).text)
    assert "42.0 %" in text
    assert "at least one item that they really liked among the first 10 suggestions out of 1,234" in text
    assert "Chance alone would reach 5.0 %: this is 8.4 times as much." in text
    for figure in ("6,040", "51,234", "0.410 \u2013 0.430", "random 0.0500", "43.0 %", "11.3 bits"):
        assert figure in text, figure
    assert "the model kept is that of epoch 3" in text
    assert "1 of the 3 suggestions shown is right" in text
    assert "had been opened 2 times before" in text
    assert "1.0 of 2 experts at work" in text
    assert "2.0 of 2 experts at work" in text


def test_runs_are_compared_best_first_with_chance(tmp_path):
    page = full(tmp_path / "report.html")
    table = page[page.index('id="comparison"') :]
    rows = re.findall(
        r"<tr( class=\"own\")?>.*?<td class=\"num\">([\d.]+)", table[: table.index("</table>")], re.S
    )
    assert [float(value) for _, value in rows] == [0.5, 0.42, 0.3, 0.05]
    assert [bool(own) for own, _ in rows] == [False, True, False, False]


def test_pictures_are_small_and_described(tmp_path):
    elements = Elements(full(tmp_path / "report.html"))
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(images) == 3
    assert all(image["alt"] == f"Picture of {EVIL}" for image in images)
    assert all(len(image["src"]) < 20_000 for image in images)
    drawings = [attributes for tag, attributes in elements.found if tag == "svg"]
    assert len(drawings) == 4
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def test_the_least_that_can_be_reported(tmp_path):
    least = PartResult(
        part="valid",
        candidates="strict",
        n_candidates=3,
        users_counted=1,
        n_positives=1,
        metrics={"mrr@3": Interval(mean=0.0)},
    )
    write_report(tmp_path / "r.html", EvaluationResult(run="r", model="m", dataset="d", parts=[least]))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for section in ("comparison", "slices", "beyond", "people", "modalities", "experts", "training"):
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page
    assert list(tmp_path.iterdir()) == [tmp_path / "r.html"]


def test_the_key_figure_can_be_chosen(tmp_path):
    write_report(tmp_path / "r.html", result(), headline="ndcg@10")
    text = Elements((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "12.0 %" in text
    assert "of what a perfect list would score" in text
    with pytest.raises(InputError, match=r"hit_rate@10, ndcg@10, ndcg@20"):
        write_report(tmp_path / "r.html", result(), headline="ndcg@7")


def test_nothing_to_report_is_refused(tmp_path):
    empty = EvaluationResult(run="r", model="m", dataset="d", parts=[])
    with pytest.raises(InputError, match="nothing to report"):
        write_report(tmp_path / "r.html", empty)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_asking_for_anything(tmp_path, chromium, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "report.html"
    full(path)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == []
        for width in (390, 1200):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
        assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption)")
        paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (paper, ink)]
        assert (brightness[0] > brightness[1]) == (scheme == "light")
        browser.close()
