"""The suite that every model passes."""
# ruff: noqa: D102 - the names of the tests say what they check

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from prismrec.base.errors import ConfigError, DamagedError, InputError
from prismrec.models.base import GradientModel, Model, ModelConfig, Turn
from prismrec.models.batches import ItemBatch, Modality, ModelInputs
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.models.team import ALONE, Team
from prismrec.testing.planted import TWO_MODALITIES, Planted, cold_auc, fitted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

THREE_MODALITIES = (*TWO_MODALITIES, Modality("audio", 7))


class ModelConformance:
    """Tests that pytest finds in a subclass whose name begins with ``Test``.

    The subclass sets `config`, and for a model with gradient steps mostly `plan`.
    """

    config: ClassVar[ModelConfig]
    """What is tested."""

    plan: ClassVar[TrainingPlan] = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02)
    """How it is trained on the planted data; enough for `test_learns_what_was_planted`."""

    least_auc: ClassVar[float] = 0.8
    """How well unseen items must be ranked; 0.5 is chance, about 0.94 is what there is to learn."""

    idle: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that no gradient reaches under this configuration, as it should be."""

    _source: ClassVar[Planted]
    _fitted: ClassVar[Model]

    @classmethod
    def source(cls) -> Planted:
        """Return the planted data, made once for a class."""
        if "_source" not in cls.__dict__:
            cls._source = planted()
        return cls._source

    @classmethod
    def model(cls) -> Model:
        """Return the fitted model, fitted once for a class; tests leave it as it is."""
        if "_fitted" not in cls.__dict__:
            cls._fitted = fitted(cls.config, cls.plan, cls.source())
        return cls._fitted

    @classmethod
    def briefly(cls) -> TrainingPlan:
        """Return the plan with two epochs, for what needs no good model."""
        return cls.plan.model_copy(update={"epochs": 2})

    @classmethod
    def items(cls) -> ItemBatch:
        """Return all items of the planted data, cold ones included."""
        return item_batch(cls.source().data.features, np.arange(cls.source().data.inputs.n_items))

    def test_config_survives_json(self) -> None:
        values = json.loads(self.config.model_dump_json())
        assert type(self.config).parse(values) == self.config

    def test_unknown_setting_is_an_error_that_names_the_nearest(self) -> None:
        kind = type(self.config)
        for field in list(kind.model_fields)[:1]:
            with pytest.raises(ConfigError, match=f"Did you mean '{field}'"):
                kind.parse({f"{field}_": 1})
        with pytest.raises(ConfigError, match="unknown setting 'zzzz'"):
            kind.parse({"zzzz": 1})

    def test_default_preset_builds(self) -> None:
        presets = type(self.config).presets()
        assert "default" in presets
        for preset in presets.values():
            assert isinstance(preset.model, type(self.config))
            assert preset.about

    def test_content_is_demanded_by_those_who_need_it(self) -> None:
        nothing = ModelInputs(3, 4, ())
        if self.config.uses_content:
            with pytest.raises(InputError):
                self.config.build(nothing)
        else:
            assert self.config.build(nothing) is not None

    def test_vectors_are_finite_and_of_one_size(self) -> None:
        users, items = _all_users(self.model(), self.source()), _vectors(self.model(), self.items())
        assert users.shape[0] == self.source().data.inputs.n_users
        assert items.shape[0] == self.source().data.inputs.n_items
        assert users.shape[1] == items.shape[1] > 0
        assert users.isfinite().all()
        assert items.isfinite().all()

    def test_state_survives_a_file(self, tmp_path: Path) -> None:
        save_file(self.model().state(), tmp_path / "model.safetensors")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(987)
            again = self.config.build(self.source().data.inputs).eval()
        again.load_state(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(_all_users(again, self.source()), _all_users(self.model(), self.source()))
        assert torch.equal(_vectors(again, self.items()), _vectors(self.model(), self.items()))

    def test_foreign_state_is_refused(self) -> None:
        fresh = self.config.build(self.source().data.inputs)
        with pytest.raises(DamagedError):
            fresh.load_state({"no.such.tensor": torch.zeros(1)})

    def test_unknown_user_is_nobody_else(self) -> None:
        users = _all_users(self.model(), self.source())
        with torch.no_grad():
            stranger = self.model().user_vectors(torch.tensor([-1]))
        assert stranger.shape == (1, users.shape[1])
        assert stranger.isfinite().all()
        if not torch.equal(users, users[:1].expand_as(users)):
            known = np.unique(self.source().data.pairs.users)
            assert not (users[known] == stranger).all(dim=1).any()

    def test_later_item_is_what_its_content_says(self) -> None:
        later = _vectors(self.model(), _with_codes(self.items(), -1))
        assert later.isfinite().all()
        if self.config.uses_content:
            cold = torch.from_numpy(self.source().cold.astype(np.int64))
            assert_close(later[cold], _vectors(self.model(), self.items())[cold], rtol=1e-4, atol=1e-5)

    def test_codes_of_cold_items_do_not_matter(self) -> None:
        if not self.config.uses_content:
            pytest.skip("does not use content")
        items = self.items()
        cold = torch.from_numpy(self.source().cold.astype(np.int64))
        codes = items.codes.clone()
        codes[cold] = cold.flip(0)
        moved = _vectors(self.model(), ItemBatch(codes, items.vectors, items.present))
        assert_close(moved[cold], _vectors(self.model(), items)[cold], rtol=1e-4, atol=1e-5)

    def test_nothing_shines_through_a_missing_modality(self) -> None:
        items = self.items()
        generator = torch.Generator().manual_seed(3)
        dirty = []
        for place, vectors in enumerate(items.vectors):
            garbage = 100.0 * torch.randn(vectors.shape, generator=generator)
            dirty.append(torch.where(items.present[:, place : place + 1], vectors, garbage))
        assert not items.present.all()
        after = _vectors(self.model(), ItemBatch(items.codes, tuple(dirty), items.present))
        assert_close(after, _vectors(self.model(), items))

    def test_item_without_content_has_a_finite_vector(self) -> None:
        items = _with_codes(self.items(), -1)
        bare = ItemBatch(
            items.codes, tuple(v.zero_() for v in items.vectors), torch.zeros_like(items.present)
        )
        assert _vectors(self.model(), bare).isfinite().all()

    def test_rest_of_the_batch_does_not_matter(self) -> None:
        together = _vectors(self.model(), self.items())
        scale = float(together.abs().max()) + 1e-6
        for rows in (torch.tensor([5]), torch.tensor([9, 2, 7]), torch.arange(20, 60)):
            assert_close(
                _vectors(self.model(), _rows(self.items(), rows)),
                together[rows],
                rtol=1e-4,
                atol=1e-5 * scale,
            )
        users = _all_users(self.model(), self.source())
        with torch.no_grad():
            assert_close(self.model().user_vectors(torch.tensor([4, 1])), users[[4, 1]])
        assert _vectors(self.model(), _rows(self.items(), torch.arange(0))).shape == (0, together.shape[1])

    def test_divided_batches_say_the_same(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = self.config.build(self.source().data.inputs)
            if not isinstance(model, GradientModel) or not model.divides or model.turns:
                pytest.skip("is not divided")
            plan = self.plan.model_copy(update={"sampling": "triplets", "batch_size": 33})
            model.prepare(self.source().data, None)
            # Dropout is drawn anew for each part, and would hide what is looked for.
            model.eval()
            model.start_epoch(1)
            model.start_batch(0)
            whole, first, second = (self._said(model, plan, team) for team in (ALONE, Team(0, 2), Team(1, 2)))
        for name, value in whole.items():
            assert_close((first[name] + second[name]) / 2, value, rtol=1e-5, atol=1e-6)

    def _said(self, model: GradientModel, plan: TrainingPlan, team: Team) -> dict[str, Tensor]:
        """Terms of a process's part of the first batch, as they count among those of the others."""
        batches = Batches(self.source().data, plan, 0, model.wants_catalog, model.targets, team)
        terms = model.losses(next(iter(batches.epoch(1))))
        return {name: term.detach() * batches.weight(0) for name, term in terms.items()}

    def test_gradient_reaches_every_parameter(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = self.config.build(self.source().data.inputs)
            if not isinstance(model, GradientModel):
                pytest.skip("has no gradient steps")
            reached = self._reached(model)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained - reached == set(self.idle)

    def test_validation_sees_the_last_step(self) -> None:
        """Vectors that are kept between two askings must not outlive a step of the optimiser."""
        source = planted(n_users=20, n_items=60)
        items = item_batch(source.data.features, np.arange(60))
        plan = self.briefly().model_copy(update={"row_updates": "dense", "evaluate_every": 1})

        def look(model: Model) -> dict[str, float]:
            fresh = self.config.build(source.data.inputs).eval()
            fresh.load_state(model.state())
            assert_close(_vectors(model, items), _vectors(fresh, items), rtol=1e-4, atol=1e-5)
            assert_close(_all_users(model, source), _all_users(fresh, source), rtol=1e-4, atol=1e-5)
            return {plan.metric: 0.0}

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = self.config.build(source.data.inputs)
            if not isinstance(model, GradientModel):
                pytest.skip("has no gradient steps")
            fit(model, source.data, plan, seed=5, validate=look)

    def _reached(self, model: GradientModel) -> set[str]:
        """Names of the parameters whose gradient was not 0 in one of some steps."""
        model.prepare(self.source().data, None)
        model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        batches = Batches(self.source().data, self.plan, 0, model.wants_catalog, model.targets)
        reached: set[str] = set()
        whole = Turn("", ("",))
        for epoch in (1, 2):
            model.start_epoch(epoch)
            for place, batch in enumerate(list(batches.epoch(epoch))[:4]):
                model.start_batch(place)
                for turn in model.turns or (whole,):
                    terms = model.losses(batch) if turn is whole else model.turn_losses(turn, batch)
                    assert terms
                    assert all(term.shape == () and term.isfinite() for term in terms.values())
                    optimizer.zero_grad()
                    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
                    for name, p in model.named_parameters():
                        if p.grad is not None and turn.moves(name):
                            reached |= {name} if bool((p.grad != 0).any()) else set()
                        else:
                            p.grad = None
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
        return reached

    def test_learns_what_was_planted(self) -> None:
        if not (self.config.recommends_cold_items and self.config.uses_content):
            pytest.skip("says nothing of cold items")
        assert cold_auc(self.model(), self.source().data, self.source().test) > self.least_auc

    def test_same_seed_same_result(self) -> None:
        first, second = (fitted(self.config, self.briefly(), self.source(), seed=4) for _ in range(2))
        assert_close(_vectors(first, self.items()), _vectors(second, self.items()), rtol=1e-6, atol=1e-7)
        assert_close(
            _all_users(first, self.source()), _all_users(second, self.source()), rtol=1e-6, atol=1e-7
        )

    @pytest.mark.parametrize("modalities", [1, 2, 3])
    def test_any_number_of_modalities(self, modalities: int) -> None:
        source = planted(THREE_MODALITIES[:modalities], n_users=20, n_items=60)
        model = fitted(self.config, self.briefly(), source)
        items = item_batch(source.data.features, np.arange(60))
        vectors = _vectors(model, items)
        assert vectors.shape[0] == 60
        assert vectors.isfinite().all()
        _check_explanation(model, items, modalities)

    def test_folding_in_gives_a_user(self) -> None:
        warm = torch.from_numpy(self.source().data.warm.astype(np.int64))
        vectors = _vectors(self.model(), self.items())
        catalog, liked = vectors[warm], torch.cat((vectors[warm[:3]], vectors[self.source().cold[:1]]))
        with torch.no_grad():
            folded = self.model().fold_in(liked, catalog, torch.tensor([0, 1, 2, -1]))
        if folded is not None:
            assert folded.shape == (vectors.shape[1],)
            assert folded.isfinite().all()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cpu_and_gpu_agree(self) -> None:
        model, items = self.model(), self.items()
        here = (_all_users(model, self.source()), _vectors(model, items))
        device = torch.device("cuda")
        try:
            model.to(device)
            users = torch.arange(self.source().data.inputs.n_users, device=device)
            with torch.no_grad():
                there = (model.user_vectors(users).cpu(), model.item_vectors(items.to(device)).cpu())
        finally:
            model.to("cpu")
        assert_close(here[0], there[0], rtol=1e-3, atol=1e-4)
        assert_close(here[1], there[1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def _vectors(model: Model, items: ItemBatch) -> Tensor:
    return model.item_vectors(items)


@torch.no_grad()
def _all_users(model: Model, source: Planted) -> Tensor:
    return model.user_vectors(torch.arange(source.data.inputs.n_users))


def _with_codes(items: ItemBatch, code: int) -> ItemBatch:
    return ItemBatch(torch.full_like(items.codes, code), items.vectors, items.present)


def _rows(items: ItemBatch, rows: Tensor) -> ItemBatch:
    return ItemBatch(items.codes[rows], tuple(v[rows] for v in items.vectors), items.present[rows])


@torch.no_grad()
def _check_explanation(model: Model, items: ItemBatch, modalities: int) -> None:
    explanation = model.explain(items)
    if explanation is None:
        return
    weights: Any = explanation.modality_weights
    assert weights.shape == (len(items), modalities)
    assert explanation.expert_weights.shape[:2] == (len(items), modalities)
    assert (weights[~items.present] == 0).all()
    totals = weights.sum(dim=1)
    assert_close(totals[totals > 0], torch.ones_like(totals[totals > 0]))
    assert (totals[~items.present.any(dim=1)] == 0).all()
