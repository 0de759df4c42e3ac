"""Settings of the training: bounds, presets, and changes laid over them."""

import pytest

from prismrec.base.errors import ConfigError
from prismrec.sequential.settings import Adapter, Tuning, tuning_of


def test_the_published_settings():
    for name, batch, whole in (("published-sft", 2, False), ("published-align", 4, True)):
        settings = Tuning.presets()[name]
        assert settings.adapter == Adapter(rank=8, alpha=32.0, dropout=0.05)
        assert (settings.learning_rate, settings.schedule, settings.warmup) == (1e-4, "cosine", 0.0)
        assert (settings.epochs, settings.clip_norm, settings.precision) == (5, 1.0, "bf16")
        assert (settings.batch_size, settings.accumulation, settings.whole_batches) == (batch, 8, whole)
        assert (settings.max_tokens, settings.max_pixels, settings.prompt_loss) == (4096, 262_144, 0.0)


def test_every_preset_survives_being_written_and_read():
    for settings in Tuning.presets().values():
        assert Tuning.parse(settings.model_dump(mode="json")) == settings


def test_a_small_model_is_trained_whole():
    assert Tuning.presets()["small"].adapter.rank == 0


def test_changes_leave_the_rest_of_a_preset_as_it_was():
    changed = tuning_of("published-align", {"adapter.rank": 2, "epochs": 1})
    before = Tuning.presets()["published-align"]
    assert changed.adapter == Adapter(rank=2)
    assert changed == before.model_copy(update={"adapter": Adapter(rank=2), "epochs": 1.0})
    assert Tuning.presets()["published-align"] == before


def test_an_unknown_preset_is_an_error_that_lists_them():
    with pytest.raises(ConfigError, match=r"'huge'.*\n.*published-sft, published-align, small"):
        tuning_of("huge", {})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rates": 1}, "Did you mean 'learning_rate'"),
        ({"adapter.rnak": 1}, r"'adapter.rnak'(.|\n)*'adapter.rank'"),
        ({"adapter.rank": -1}, "'adapter.rank'"),
        ({"adapter.dropout": 1.0}, "'adapter.dropout'"),
        ({"learning_rate": 0}, "'learning_rate'"),
        ({"schedule": "cosinus"}, "'schedule'"),
        ({"warmup": 1.0}, "'warmup'"),
        ({"epochs": 0}, "'epochs'"),
        ({"batch_size": 0}, "'batch_size'"),
        ({"accumulation": 0}, "'accumulation'"),
        ({"prompt_loss": -0.1}, "'prompt_loss'"),
        ({"max_tokens": 15}, "'max_tokens'"),
        ({"max_pixels": 783}, "'max_pixels'"),
        ({"precision": "fp16"}, "'precision'"),
        ({"checkpoint_steps": 0}, "'checkpoint_steps'"),
        ({"four_bit": True, "adapter.rank": 0}, r"4 bits.*adapter\.rank"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        tuning_of("published-sft", changes)
