from typing import Annotated, Literal

from pydantic import BaseModel, Field

from prismrec.models.catalogue import MODELS
from prismrec.models.describe import FieldCard, describe_fields
from prismrec.models.plan import TrainingPlan


class Settings(BaseModel):
    size: int = Field(4, ge=1, le=9, description="How large.")
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    loss: Literal["bpr", "softmax"] = "bpr"
    names: tuple[str, ...] | None = None
    often: int | Literal["auto"] = "auto"


def test_fields_are_told_as_a_person_would() -> None:
    assert describe_fields(Settings, Settings(size=7)) == [
        FieldCard("size", "int", 7, ">= 1, <= 9", "How large."),
        FieldCard("share", "float", 0.5, ">= 0, < 1", ""),
        FieldCard("loss", "bpr | softmax", "bpr", "", ""),
        FieldCard("names", "list of str | none", None, "", ""),
        FieldCard("often", "int | auto", "auto", "", ""),
    ]


def test_every_setting_of_every_model_can_be_told() -> None:
    for model in MODELS:
        preset = model.presets()["default"]
        assert [c.name for c in describe_fields(model, preset.model)] == list(model.model_fields)
        assert all(c.description for c in describe_fields(model, preset.model))
    assert len(describe_fields(TrainingPlan, TrainingPlan())) == len(TrainingPlan.model_fields)
