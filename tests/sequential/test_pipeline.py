"""All steps one after the other, for two families that see: from a log to lists that a service gives."""

from pathlib import Path

import pytest

from prismrec.data.splits import LeaveLast, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.linear_map import LinearMapConfig
from prismrec.recommender.train import train

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def first_stage(films, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("first")
    contents = Contents.of(films.catalog, "text")
    store = extract(contents, TfidfSvdEncoder(8), home / "text", name="text")
    train(LinearMapConfig(), make_split(films, LeaveLast(n=2)), features=[store], out=home / "run")
    return home / "run"


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava"])
def test_from_a_log_to_what_the_service_answers(kind, tiny, questions, first_stage, tmp_path):
    from prismrec.sequential.backbone import Origin
    from prismrec.sequential.evaluate import evaluate_run
    from prismrec.sequential.runs import align_config
    from prismrec.sequential.settings import tuning_of
    from prismrec.sequential.steps import align, supervise

    prepared = questions("next")
    small = tuning_of("small", {"epochs": 1, "batch_size": 8, "max_tokens": 2048})
    sft = supervise(prepared, Origin(str(tiny(kind))), tmp_path / "sft", small, most=16)
    changes = {
        "tuning.adapter.rank": 4,
        "tuning.epochs": 1,
        "tuning.batch_size": 4,
        "tuning.max_tokens": 2048,
    }
    done = align(sft.path, tmp_path / "aligned", align_config("hanorec", "small", changes), most=12)
    assert done.manifest.steps == 3
    result = evaluate_run(done.path, part="test", before=[sft.path], most=8)
    assert [one.name for one in result.measured] == ["popularity", "sft", "aligned"]
    assert result.costs.prompt_tokens > 0
    _check_service(first_stage, done.path)


def _check_service(first_stage: Path, aligned: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("lancedb")
    from prismrec.serving.compose import open_service
    from prismrec.serving.types import NewItem, Wish

    plain = open_service(first_stage)
    service = open_service(first_stage, rerank=aligned, rerank_seconds=60)
    try:
        service.put([NewItem("later", {"title": "A Quite New Film", "year": 2020})])
        plain.put([NewItem("later", {"title": "A Quite New Film", "year": 2020})])
        wish = Wish(k=12)
        again, before = service.recommend("u3", wish), plain.recommend("u3", wish)
        assert again.reranked
        assert not before.reranked
        found = {one.item.item_id for one in again.items}
        assert found <= {one.item.item_id for one in plain.recommend("u3", Wish(k=40)).items}
        assert [one.item.item_id for one in again.items] != [one.item.item_id for one in before.items]
    finally:
        service.close()
        plain.close()
