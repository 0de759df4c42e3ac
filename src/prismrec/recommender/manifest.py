"""What is written about a run: enough to say how it came about and to do it again."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prismrec.models.plan import TrainingPlan
from prismrec.training.history import FitHistory

FORMAT = "prismrec-run"
FORMAT_VERSION = 1


class FeatureNote(BaseModel):
    """Where a modality's vectors came from."""

    model_config = ConfigDict(extra="forbid")

    name: str
    dim: int
    content_hash: str
    encoder: dict[str, Any]


class RunManifest(BaseModel):
    """A run's manifest (``run.json``)."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    model: str = Field(description="Name of the model.")
    preset: str | None = Field(None, description="The preset that the settings started from.")
    config: dict[str, Any] = Field(description="Hyper-parameters.")
    training: TrainingPlan
    seed: int
    split: dict[str, Any] = Field(description="Plan of the split.")
    split_hash: str
    dataset: str = Field(description="Name of the data set.")
    dataset_path: str | None = None
    dataset_hash: str
    min_rating: float | None = None
    dataset_notes: dict[str, Any] = {}
    features: list[FeatureNote]
    history: FitHistory
    machine: dict[str, Any]
    started: str
    seconds: dict[str, float] = Field(description="Wall time of each phase.")
    test_openings: list[dict[str, Any]] = Field(
        [], description="When the sealed test part was opened through this run, and for what."
    )
    checksums: dict[str, str] = Field({}, description="Digest of each file of the run.")
