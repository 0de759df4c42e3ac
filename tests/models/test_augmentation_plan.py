import json

import pytest

from prismrec.base.errors import ConfigError
from prismrec.models.augmentation_plan import Augmentation
from prismrec.models.settings import parse_settings


def test_nothing_is_changed_by_default():
    assert set(Augmentation().model_dump().values()) == {0.0}
    assert not Augmentation().changes_content
    assert not Augmentation(edge_dropout=0.5).changes_content


@pytest.mark.parametrize("field", ["modality_dropout", "feature_noise", "modality_mixup"])
def test_content_is_changed_by_each_of_its_settings(field):
    assert Augmentation(**{field: 0.1}).changes_content


@pytest.mark.parametrize("field", list(Augmentation.model_fields))
@pytest.mark.parametrize("value", [-0.1, 101.0, float("nan"), "much"])
def test_bounds(field, value):
    assert Augmentation.model_fields[field].description
    with pytest.raises(ConfigError, match=field):
        parse_settings(Augmentation, {field: value}, "augmentation")


def test_every_edge_cannot_be_left_out():
    with pytest.raises(ConfigError, match="edge_dropout"):
        parse_settings(Augmentation, {"edge_dropout": 1.0}, "augmentation")
    assert Augmentation(modality_dropout=1.0).changes_content


def test_survives_json():
    settings = Augmentation(modality_dropout=0.1, feature_noise=0.2, edge_dropout=0.3, modality_mixup=0.4)
    assert Augmentation(**json.loads(settings.model_dump_json())) == settings
