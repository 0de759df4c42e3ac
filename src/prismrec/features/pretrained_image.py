"""Pretrained encoders for pictures: CLIP, SigLIP, and what else AutoModel loads for pictures."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from prismrec.data.pictures import decode_image
from prismrec.features.encoder import Vectors
from prismrec.features.pretrained import PretrainedEncoder, load_model, mean_over

if TYPE_CHECKING:
    import torch

# Processors scale the shorter side first: an endless strip would become gigabytes. Its middle stands for it.
_MAX_RATIO = 16


class PretrainedImageEncoder(PretrainedEncoder[bytes]):
    """A pretrained model's vector of a picture.

    CLIP, SigLIP and their kin (all that have ``get_image_features``) give the vector that they compare with
    texts. Others give their pooled state or, where the files hold no pooler, the mean over patches. Vectors
    are as the model gives them, not normalised. Pictures are prepared by the model's own image processor in
    its Pillow version; of pictures more than 16 times as long as wide, the middle.

    Parameters
    ----------
    source, device, batch_size, precision
        See `PretrainedEncoder`.

    Raises
    ------
    InputError
        If the model cannot be loaded or does not take pictures.
    MissingExtraError
        If the extra ``encoders`` is not installed.
    """

    kind: ClassVar[str] = "image"

    def _sample(self) -> bytes:
        import io

        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, "PNG")
        return buffer.getvalue()

    def _load(self) -> None:
        from transformers import AutoImageProcessor

        model, self._has_pooler = load_model(self.source, ignored=("text_model.", "text_projection."))
        self._model = model.to(self.device)
        # Transformers 5 chooses by `backend`, earlier ones by `use_fast`; the fast ones need torchvision.
        choice: dict[str, Any] = {"use_fast": False}
        if find_spec("transformers.image_processing_backends") is not None:
            choice = {"backend": "pil"}
        self._processor = AutoImageProcessor.from_pretrained(
            self.source.folder, local_files_only=True, trust_remote_code=False, **choice
        )

    def _treatment(self) -> dict[str, Any]:
        processor = self._processor.to_dict()
        name = type(self._processor).__name__.removesuffix("Pil").removesuffix("Fast")
        sizes = {key: processor[key] for key in ("size", "crop_size") if processor.get(key) is not None}
        return {"preprocessing": {"name": name, **sizes}, "pooling": self._pooling()}

    def _pooling(self) -> str:
        if hasattr(self._model, "get_image_features"):
            return "get_image_features"
        return "pooler" if self._has_pooler else "mean"

    def _prepare(self, content: bytes) -> "dict[str, torch.Tensor]":
        picture = np.asarray(_without_extremes(decode_image(content)))
        # Told rather than guessed: a picture of three pixels' width looks like one with channels first.
        prepared = self._processor(images=[picture], return_tensors="pt", input_data_format="channels_last")
        return dict(prepared)

    def _forward(self, prepared: "list[dict[str, torch.Tensor]]") -> Vectors:
        import torch

        inputs = {key: torch.cat([one[key] for one in prepared]) for key in prepared[0]}
        if hasattr(self._model, "get_image_features"):
            output = self._run(self._model.get_image_features, inputs)
        else:
            output = self._run(self._model, inputs)
        return np.asarray(self._pooled(output).float().cpu().numpy())

    def _pooled(self, output: Any) -> "torch.Tensor":
        import torch

        # Earlier versions of Transformers return the features themselves.
        if isinstance(output, torch.Tensor):
            return output
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and self._has_pooler:
            flat: torch.Tensor = pooled.flatten(1)
            return flat
        states: torch.Tensor = output.last_hidden_state
        # Tokens (B, T, D), or maps of a convolutional network (B, D, H, W).
        return mean_over(states) if states.ndim == 3 else states.float().flatten(2).mean(dim=2)


def _without_extremes(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    wide, high = min(width, _MAX_RATIO * height), min(height, _MAX_RATIO * width)
    left, top = (width - wide) // 2, (height - high) // 2
    return picture.crop((left, top, left + wide, top + high))
