"""Where a pretrained model's files lie, and which state they are in.

A model is named by its id on the Hugging Face hub or by a local folder. Either way its files end up in one
folder, and everything else is loaded from there without asking the network again.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError, MissingExtraError
from prismrec.base.files import digest, digest_file, read_json, storage_errors

# One try at the hub, no longer than a person waits without wondering.
_PATIENCE_SECONDS = 5.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_USED = ("*.json", "*.txt", "*.model", "*.jinja")
_NOT_USED = ("onnx/*", "openvino/*", "*.onnx", "original/*", "*.msgpack", "*.h5", "runs/*")


@dataclass(frozen=True)
class Source:
    """Where a model's files lie.

    Parameters
    ----------
    name
        What it is called: hub id, or the folder's own name.
    revision
        Commit on the hub, or a digest of the folder's files (``files-...``).
    folder
        The files.
    asked
        What finds it again: hub id, or the folder's absolute path.
    """

    name: str
    revision: str
    folder: Path
    asked: str


def find_source(asked: str, revision: str | None = None) -> Source:
    """Find a model's files: a local folder, the cache, or the hub.

    Parameters
    ----------
    asked
        Local folder or hub id.
    revision
        Branch, tag or commit on the hub; None: the main branch. Of a folder, the digest that it should have.

    Returns
    -------
    Source
        With the files in place.

    Raises
    ------
    InputError
        If there is no such folder or model, the hub cannot be reached and nothing is cached, or the folder
        is not the one that `revision` names.
    MissingExtraError
        If the extra ``encoders`` is not installed.
    """
    folder = Path(asked).expanduser()
    if folder.is_dir():
        return _local(folder.absolute(), revision)
    if asked.count("/") > 1 or asked.startswith(("/", ".", "~")) or "\\" in asked:
        raise unusable(asked, "there is no such folder")
    if revision is not None and revision.startswith("files-"):
        raise unusable(asked, "the folder that it was loaded from is gone")
    return _from_hub(asked, revision)


def need(package: str, needed_for: str, extra: str = "encoders") -> Any:
    """Import a package of an extra.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, extra, needed_for) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and hints of transformers away; it must be installed."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def unusable(asked: str, reason: str) -> InputError:
    """Return the error for a model that cannot be used, with what to do instead."""
    return InputError(
        f"The encoder {asked!r} cannot be used: {reason}.",
        "Use 'default', which needs no download, or name a local folder that holds the model "
        "(config.json, weights, preprocessing), e.g. --image ./models/clip.",
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _local(folder: Path, revision: str | None) -> Source:
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise unusable(str(folder), "the folder holds no config.json")
    patterns = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
    files = sorted(path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    parts = [f"{path.relative_to(folder).as_posix()} {digest_file(path)}".encode() for path in files]
    found = f"files-{digest(*parts)}"
    if revision is not None and revision != found:
        raise InputError(
            f"{folder}: the model in this folder is not the one that is asked for "
            f"(digest {found}, expected {revision}).",
            "Put the same files back, or encode again with the model as it is now.",
        )
    return Source(folder.name, found, folder, str(folder))


def _from_hub(name: str, revision: str | None) -> Source:
    need("transformers", f"The encoder {name!r}")
    hub = need("huggingface_hub", f"The encoder {name!r}")
    # A commit never changes: if it is here, there is nothing to ask.
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    found = _cached(name, revision) if pinned or hub.constants.HF_HUB_OFFLINE else None
    if found is None and not hub.constants.HF_HUB_OFFLINE:
        files = _listed(name, revision)
        found = _cached(name, revision) if files is None else _downloaded(name, revision, files)
    if found is None:
        raise unusable(name, "the hub cannot be reached and the model is not in the local cache")
    return found


def _listed(name: str, revision: str | None) -> list[str] | None:
    """Ask the hub once for the model's files; None if the hub does not answer."""
    import huggingface_hub as hub

    errors = hub.errors
    try:
        info = hub.HfApi().model_info(name, revision=revision, timeout=_PATIENCE_SECONDS)
    except errors.HFValidationError:
        raise unusable(name, "this is neither a folder nor a possible id on the hub") from None
    except errors.RevisionNotFoundError:
        raise unusable(name, f"it has no revision {revision!r} on the hub") from None
    except errors.GatedRepoError:
        raise unusable(name, "the hub gives it to registered users only") from None
    except errors.RepositoryNotFoundError:
        raise unusable(name, "the hub does not know it") from None
    except Exception:  # Connection, time-out, proxy, certificate: the client's exceptions vary by version.
        return None
    return [entry.rfilename for entry in info.siblings or []]


def _downloaded(name: str, revision: str | None, files: list[str]) -> Source:
    import huggingface_hub as hub

    safe = any(file.endswith(".safetensors") and "/" not in file for file in files)
    wanted = [*_USED, "*.safetensors" if safe else "*.bin"]
    with storage_errors(Path(hub.constants.HF_HUB_CACHE)):
        try:
            folder = hub.snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=list(_NOT_USED)
            )
        except OSError as error:
            if error.errno is not None:  # The disk's refusal, not the network's.
                raise
            raise unusable(name, f"the download failed ({first_line(error)})") from error
    return Source(name, Path(folder).name, Path(folder), name)


def _cached(name: str, revision: str | None) -> Source | None:
    import huggingface_hub as hub

    try:
        folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except hub.errors.HFValidationError:
        raise unusable(name, "this is neither a folder nor a possible id on the hub") from None
    except (OSError, ValueError) as error:
        # Newer clients tell of files that are listed and not here; we never fetch all of them.
        partial = getattr(error, "snapshot_path", None)
        if partial is None:
            return None
        folder = Path(partial)
    return Source(name, folder.name, folder, name) if _has_weights(folder) else None


def _has_weights(folder: Path) -> bool:
    """Whether weights are there, all parts of them: a download that was cut short leaves fewer."""
    for index in folder.glob("*.index.json"):
        shards = set(read_json(index, "a model").get("weight_map", {}).values())
        if not index.name.startswith("pytorch") and not all((folder / shard).exists() for shard in shards):
            return False
    return any(folder.rglob("*.safetensors")) or any(folder.rglob("*.bin"))
