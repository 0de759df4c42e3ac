import pytest

from prismrec.base.errors import ConfigError
from prismrec.models.catalogue import MODELS, config_of
from prismrec.models.mamex import MAMEXConfig


def test_names_stand_once_and_lead_to_their_model() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    for model in MODELS:
        assert config_of(model.name) is model
        assert model.summary.endswith(".")
        assert type(model.presets()["default"].model) is model


def test_unknown_name_suggests_the_nearest() -> None:
    assert config_of("mamex") is MAMEXConfig
    for typed, meant in (("mamx", "mamex"), ("kernel_ridge", "kernel-ridge"), ("Linear-Map", "linear-map")):
        with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
            config_of(typed)
    with pytest.raises(ConfigError, match="There are: random"):
        config_of("xyzzy-12345")
