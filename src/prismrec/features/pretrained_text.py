"""Pretrained encoders for texts: sentence-transformers, CLIP, SigLIP, and what else AutoModel loads."""

from typing import Any, ClassVar

import numpy as np

from prismrec.features.encoder import UndecodableError, Vectors
from prismrec.features.pretrained import PretrainedEncoder, load_model, mean_over
from prismrec.features.pretrained_source import need

# Models for long documents take far more; what an item is stands at the beginning of its text.
_MAX_TOKENS = 512

# Trained with every text filled up to the same length, and without a mask.
_FILLED_UP = ("siglip", "siglip2")


class PretrainedTextEncoder(PretrainedEncoder[str]):
    """A pretrained model's vector of a text.

    A sentence-transformers model (its folder holds ``modules.json``) pools as it was trained to. CLIP, SigLIP
    and their kin (all that have ``get_text_features``) give the vector that they compare with pictures.
    Others give the mean of their last states over the text's tokens. Vectors are as the model gives them.
    Text beyond the model's length, or 512 tokens, is cut; sentence-transformers models keep their own length.

    Parameters
    ----------
    source, device, batch_size, precision
        See `PretrainedEncoder`.

    Raises
    ------
    InputError
        If the model cannot be loaded or does not take texts.
    MissingExtraError
        If the extra ``encoders`` is not installed.
    """

    kind: ClassVar[str] = "text"

    def _sample(self) -> str:
        return "a"

    def _load(self) -> None:
        self._sentences: Any = None
        if (self.source.folder / "modules.json").is_file():
            self._load_sentences()
            return
        from transformers import AutoTokenizer

        model, _ = load_model(
            self.source, ignored=("vision_model.", "visual_projection.", "audio_model.", "audio_projection.")
        )
        self._model = model.to(self.device)
        self._tokenizer = AutoTokenizer.from_pretrained(
            self.source.folder, local_files_only=True, trust_remote_code=False
        )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._max_tokens = self._longest()

    def _load_sentences(self) -> None:
        package = need("sentence_transformers", f"The encoder {self.source.asked!r}")
        self._sentences = package.SentenceTransformer(
            str(self.source.folder), device=self.device, local_files_only=True, trust_remote_code=False
        )

    def _longest(self) -> int:
        # Tokenizers that know no limit say 10^30.
        longest = min(_MAX_TOKENS, int(self._tokenizer.model_max_length))
        config = getattr(self._model.config, "text_config", self._model.config)
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:
            longest = min(longest, positions)
        for module in self._model.modules():
            table = getattr(module, "position_embeddings", None)
            # RoBERTa and its kin count positions from behind the padding token's number.
            if table is not None and getattr(table, "padding_idx", None) is not None:
                longest = min(longest, table.num_embeddings - table.padding_idx - 1)
        return longest

    def _treatment(self) -> dict[str, Any]:
        if self._sentences is not None:
            length = self._sentences.max_seq_length
            return {"preprocessing": {"max_tokens": length}, "pooling": "sentence-transformers"}
        pooling = "get_text_features" if self._projects else "masked mean"
        return {"preprocessing": {"max_tokens": self._max_tokens}, "pooling": pooling}

    @property
    def _projects(self) -> bool:
        return hasattr(self._model, "get_text_features")

    def _prepare(self, content: str) -> str:
        if not content.strip():
            raise UndecodableError("the text is empty")
        return content

    def _forward(self, prepared: list[str]) -> Vectors:
        if self._sentences is not None:
            return self._forward_sentences(prepared)
        import torch

        filled = self._model.config.model_type in _FILLED_UP
        tokens = self._tokenizer(
            prepared,
            padding="max_length" if filled else True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        known = ("input_ids",) if filled else ("input_ids", "attention_mask")
        inputs = {key: tokens[key] for key in known if key in tokens}
        if self._projects:
            output = self._run(self._model.get_text_features, inputs)
            # Earlier versions of Transformers return the features themselves.
            features = output if isinstance(output, torch.Tensor) else output.pooler_output
            return np.asarray(features.float().cpu().numpy())
        model = self._model.get_encoder() if self._model.config.is_encoder_decoder else self._model
        mask = inputs.get("attention_mask")
        states = self._run(model, inputs).last_hidden_state
        pooled = mean_over(states, None if mask is None else mask.to(self.device))
        return np.asarray(pooled.cpu().numpy())

    def _forward_sentences(self, prepared: list[str]) -> Vectors:
        def encode() -> Any:
            return self._sentences.encode(
                prepared, batch_size=self.batch_size, show_progress_bar=False, convert_to_tensor=True
            )

        return np.asarray(self._run(encode, {}).float().cpu().numpy())
