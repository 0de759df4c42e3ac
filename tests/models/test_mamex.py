import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.models.base import ModelConfig
from prismrec.models.batches import ItemBatch, Modality
from prismrec.models.layers.content import item_batch
from prismrec.models.mamex import MAMEX, MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, planted

PRESETS = MAMEXConfig.presets()


def config(preset: str, **changes: object) -> MAMEXConfig:
    return MAMEXConfig.model_validate({**PRESETS[preset].model.model_dump(), "dim": 16, **changes})


def plan(preset: str) -> TrainingPlan:
    small = {"batch_size": 256, "epochs": 12, "learning_rate": 0.02}
    return PRESETS[preset].training.model_copy(update=small)


# The ablations go without the L2 term: it gives every parameter a gradient, useful or not.


class Tuned(ModelConformance):
    plan = plan("tuned")


class Paper(ModelConformance):
    plan = plan("paper")


class TestTuned(Tuned):
    config: ModelConfig = config("tuned")


class TestPaper(Paper):
    config: ModelConfig = config("paper")


class TestAsReleased(ModelConformance):
    config: ModelConfig = config("as_released")
    plan = plan("as_released")


class TestGenerated(Paper):
    config: ModelConfig = config("paper", l2=0.0, generate=True)


class TestGeneratedFromKernel(Tuned):
    config: ModelConfig = config("tuned", generate=True)


class TestSharedExperts(Paper):
    config: ModelConfig = config("paper", l2=0.0, router="modality")


class TestSharedExpertsFromKernel(Tuned):
    config: ModelConfig = config("tuned", router="modality")


class TestJointRouter(Paper):
    config: ModelConfig = config("paper", l2=0.0, router="joint")


class TestJointConcatenated(Paper):
    config: ModelConfig = config("paper", l2=0.0, router="joint-concat")


class TestWithoutExperts(Paper):
    config: ModelConfig = config("paper", l2=0.0, experts=1, top_k=1)
    # A softmax over one expert is 1 whatever the router says.
    idle = ("routers.0.weight", "routers.0.bias", "routers.1.weight", "routers.1.bias")


class TestWithoutAlignment(Paper):
    config: ModelConfig = config("paper", l2=0.0, align=0.0)


class TestWithoutFusion(Tuned):
    config: ModelConfig = config("tuned", fusion="mean", start="random")


class TestSingleModality(Paper):
    config: ModelConfig = config("paper", l2=0.0, modalities=("image",))


class TestItemBias(Tuned):
    config: ModelConfig = config("tuned", item_bias=True)


def test_one_expert_and_no_gate_is_the_mean_of_affine_maps() -> None:
    source = planted(missing=0.0)
    model = MAMEX(config("paper", experts=1, top_k=1, fusion="mean"), source.data.inputs).eval()
    items = item_batch(source.data.features, source.data.warm[2:30])
    there = items.present.all(dim=1)
    assert there.any()
    maps = [experts.maps for experts in model.experts]
    units = [v / v.norm(dim=1, keepdim=True) for v in items.vectors]
    expected = sum(affine(unit) for affine, unit in zip(maps, units, strict=True)) / 2
    with torch.no_grad():
        assert_close(model.item_vectors(items)[there], expected[there])


def test_begins_as_its_kernel_regression() -> None:
    source = planted()
    model = MAMEX(config("tuned"), source.data.inputs)
    model.prepare(source.data, None)
    model.eval()
    items = item_batch(source.data.features, source.cold)
    with torch.no_grad():
        contents, _ = model._contents(items)
        assert model.start is not None
        assert_close(model.item_vectors(items), torch.stack(model.start.map(contents)).sum(dim=0))


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize(("meaning", "spread"), [("spread", 1.0), ("lapse", 0.0)])
def test_what_a_missing_modality_means_can_be_set(validated: bool, meaning: str, spread: float) -> None:
    source = planted(missing=0.3)
    model = MAMEX(config("tuned", start_missing=meaning), source.data.inputs)

    def against() -> float:
        assert model.start is not None
        return -1.0 if float(model.start.map.spread) == spread else 1.0

    chosen = model.prepare(source.data, against if validated else None)
    assert chosen["spread"] == spread
    assert model.start is not None
    assert float(model.start.map.spread) == spread


@pytest.mark.parametrize("codes", ["training items", "all items"])
def test_training_and_evaluation_see_the_same_items(codes: str) -> None:
    source = planted()
    # Cold items are in training's batches with scope='catalog' and with negatives from all items.
    model = MAMEX(config("tuned", loss="bpr", scope="catalog", gate_dropout=0.0), source.data.inputs)
    model.prepare(source.data, None)
    chosen = source.data.warm if codes == "training items" else np.arange(source.data.inputs.n_items)
    items = item_batch(source.data.features, chosen)
    with torch.no_grad():
        training = model.train().item_vectors(items)
        assert_close(model.eval().item_vectors(items), training, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", ["shrink", "renormalise"])
def test_an_even_gate_is_balanced_whatever_is_missing(missing: str) -> None:
    source = planted([Modality(name, 5) for name in "abc"], missing=0.3)
    model = MAMEX(config("tuned", missing=missing), source.data.inputs).eval()
    assert isinstance(model.gate, torch.nn.Sequential)
    with torch.no_grad():
        encoded = model.encode(item_batch(source.data.features, source.data.warm))
        assert float(model._fusion_balance(encoded)) == pytest.approx(0, abs=1e-6)
        model.gate[-1].bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
        encoded = model.encode(item_batch(source.data.features, source.data.warm))
        assert float(model._fusion_balance(encoded)) > 0.1


def test_explanation_weighs_what_is_there() -> None:
    source = planted()
    model = MAMEX(config("paper"), source.data.inputs).eval()
    items = item_batch(source.data.features, source.data.warm)
    with torch.no_grad():
        explanation = model.explain(items)
        encoded = model.encode(items)
    assert_close(explanation.modality_weights, encoded.weights)
    single = items.present.sum(dim=1) == 1
    assert single.any()
    assert_close(explanation.modality_weights[single], items.present[single].float())
    experts = explanation.expert_weights
    assert ((experts > 0).sum(dim=2) == model.config.top_k * items.present).all()
    assert_close(experts.sum(dim=2), items.present.float())


def test_a_generated_modality_is_near_the_true_one() -> None:
    """Without generation an item without text is read by its picture alone; with it the experts see both."""
    found, source = {}, planted()
    for generate in (False, True):
        torch.manual_seed(3)
        model = MAMEX(MAMEXConfig(dim=16, start="random", generate=generate), source.data.inputs)
        told = model.prepare(source.data, None)
        assert ("cosine of generated text" in told) == generate
        model.eval()
        whole = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
        kept = whole.present.all(dim=1)
        whole = ItemBatch(whole.codes[kept], tuple(v[kept] for v in whole.vectors), whole.present[kept])
        present = whole.present.clone()
        present[:, 1] = False
        torn = ItemBatch(whole.codes, (whole.vectors[0], torch.zeros_like(whole.vectors[1])), present)
        with torch.no_grad():
            found[generate] = torch.cosine_similarity(
                model.item_vectors(whole), model.item_vectors(torn), dim=1
            )
            weights = model.explain(torn).modality_weights
        assert not weights[:, 1].any()
        assert torch.allclose(weights[:, 0], torch.ones(len(weights)))
    assert found[True].mean() > found[False].mean() + 0.02
