"""Pretrained encoders for sounds: wav2vec2, CLAP, and whatever else AutoModel loads with sound as input."""

import io
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prismrec.data.sounds import decode_sound
from prismrec.features.encoder import Vectors
from prismrec.features.pretrained import PretrainedEncoder, load_model, mean_over

Samples = npt.NDArray[np.float32]

# Convolutions over the waveform need some hundred samples; shorter sounds are filled up with silence.
_SHORTEST_SECONDS = 0.1
# What is left over after whole windows counts from here on.
_REST_SECONDS = 1.0


class PretrainedAudioEncoder(PretrainedEncoder[bytes]):
    """A pretrained model's vector of a sound's first 30 seconds.

    CLAP and its kin (all that have ``get_audio_features``) give the vector that they compare with texts,
    averaged over consecutive windows of the length that the model takes; nothing is cropped at random. Others
    give the mean of their last states over time. Sounds of different length never share a batch, so none is
    filled up because of another. Vectors are as the model gives them.

    Parameters
    ----------
    source, device, batch_size, precision
        See `PretrainedEncoder`.

    Raises
    ------
    InputError
        If the model cannot be loaded or does not take sounds.
    MissingExtraError
        If the extra ``encoders`` is not installed.
    """

    kind: ClassVar[str] = "audio"

    def _sample(self) -> bytes:
        import soundfile

        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(16_000, dtype=np.float32), 16_000, format="WAV")
        return buffer.getvalue()

    def _load(self) -> None:
        from transformers import AutoFeatureExtractor

        model, _ = load_model(self.source, ignored=("text_model.", "text_projection."))
        self._model = model.to(self.device)
        self._extractor = AutoFeatureExtractor.from_pretrained(
            self.source.folder, local_files_only=True, trust_remote_code=False
        )
        self._rate = int(self._extractor.sampling_rate)
        window = getattr(self._extractor, "nb_max_samples", None)
        self._window = int(window) if window and self._projects else None

    @property
    def _projects(self) -> bool:
        return hasattr(self._model, "get_audio_features")

    def _treatment(self) -> dict[str, Any]:
        preprocessing = {"name": type(self._extractor).__name__, "rate": self._rate, "window": self._window}
        pooling = "get_audio_features" if self._projects else "mean over time"
        return {"preprocessing": preprocessing, "pooling": pooling}

    def _prepare(self, content: bytes) -> list[Samples]:
        """Decode to windows."""
        samples = decode_sound(content, rate=self._rate)
        shortest = int(_SHORTEST_SECONDS * self._rate)
        if len(samples) < shortest:
            samples = np.pad(samples, (0, shortest - len(samples)))
        if self._window is None:
            return [samples]
        windows = [samples[start : start + self._window] for start in range(0, len(samples), self._window)]
        rest = min(int(_REST_SECONDS * self._rate), self._window)
        return [window for window in windows[1:] if len(window) >= rest] + windows[:1]

    def _forward(self, prepared: list[list[Samples]]) -> Vectors:
        owners = np.array([row for row, windows in enumerate(prepared) for _ in windows])
        windows = [window for of_one in prepared for window in of_one]
        lengths = np.array([len(window) for window in windows])
        vectors: list[Vectors | None] = [None] * len(windows)
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length)
            for start in range(0, len(same), self.batch_size):
                rows = same[start : start + self.batch_size].tolist()
                for row, vector in zip(rows, self._of_equal_length([windows[r] for r in rows]), strict=True):
                    vectors[row] = vector
        stacked = np.stack([vector for vector in vectors if vector is not None])
        return np.stack([stacked[owners == row].mean(axis=0) for row in range(len(prepared))])

    def _of_equal_length(self, windows: list[Samples]) -> Vectors:
        import torch

        inputs = dict(self._extractor(windows, sampling_rate=self._rate, return_tensors="pt"))
        if "is_longer" in inputs:
            # CLAP's extractor calls one sound of every batch long, drawn by chance. No window is.
            inputs["is_longer"] = torch.zeros_like(torch.as_tensor(inputs["is_longer"]))
        if self._projects:
            output = self._run(self._model.get_audio_features, inputs)
            # Earlier versions of Transformers return the features themselves.
            features = output if isinstance(output, torch.Tensor) else output.pooler_output
            return np.asarray(features.float().cpu().numpy())
        model = self._model.get_encoder() if self._model.config.is_encoder_decoder else self._model
        return np.asarray(mean_over(self._run(model, inputs).last_hidden_state).cpu().numpy())
