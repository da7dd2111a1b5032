"""`python -m training publish`: an artifact, a recipe's result or a transformers folder -> BentoML's model store.

The only module of this room that imports BentoML. The directory in the store is the artifact, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import get_args

from records.document import DocumentError, read_document
from runtime.errors import InvalidInput, SluiceError
from runtime.manifest import MANIFEST_FILE, Kind, Precision, verify
from runtime.store import Entry, ModelStore, store_home
from training.bases import SCHEME, packaged
from training.compression.settings import Compress
from training.recipe import Recipe

# BentoML's own rule, checked before it has written anything.
NAME = r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?"


def publish_artifact(directory: Path, name: str, home: Path, kind: str | None = None) -> Entry:
    """Copy a verified artifact into the store below `home` as `name`, version = time and digest.

    Publishing the same artifact twice gives the entry that is there. Raises ArtifactRefused, and InvalidInput for a
    bad name or a `kind` that is not the artifact's.
    """
    if not re.fullmatch(NAME, name):
        raise InvalidInput(f"{name!r} is not a name; use lower-case letters, digits, '-', '_' and '.', at most 63.")
    manifest = verify(directory)
    if kind and manifest.kind != kind:
        raise InvalidInput(f"{directory} is of kind {manifest.kind}, not {kind}.")
    store = ModelStore(home)
    for entry in store.entries(name) if name in store.names() else []:
        if entry.manifest.digest == manifest.digest and entry.manifest.kind == manifest.kind:
            return entry
    # BentoML makes the folders of its home when it is first imported, and knows that home alone from then on: this is
    # the one place where it is set from an argument, and the store is named besides.
    os.environ["BENTOML_HOME"] = str(home)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from bentoml._internal.models import ModelStore as BentoStore
    from bentoml.exceptions import BentoMLException

    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)

    version = f"{manifest.created:%Y%m%d%H%M%S}-{manifest.precision}-{manifest.digest[:8]}"
    data = "+".join(f"{split}-{sha[:12]}" for split, sha in sorted(manifest.datasets.items()))
    try:
        with bentoml.models.create(
            f"{name}:{version}",
            labels={
                "kind": manifest.kind,
                "precision": manifest.precision,
                "data": hashlib.sha256(data.encode()).hexdigest()[:16] if data else "none",
            },
            metadata={"digest": manifest.digest, "architecture": manifest.architecture},
            _model_store=BentoStore(models),
        ) as model:
            shutil.copytree(directory, model.path, dirs_exist_ok=True)
    except (BentoMLException, ValueError) as error:
        raise InvalidInput(f"{name!r} cannot be published: {error}") from None
    return store.resolve(f"{name}:{version}")


def publish_folder(folder: Path, name: str, home: Path, options: argparse.Namespace) -> Entry:
    """Export a transformers or sentence-transformers folder, bring it to `options.precision`, and publish the result.

    Raises InvalidInput as publish_artifact does, and for a generation model in fp16.
    """
    # torch and the exporter take seconds to import; publishing a finished artifact needs neither.
    from training.compression.command import compress_folder

    precision = options.precision or "fp32"
    with tempfile.TemporaryDirectory(prefix="sluice-") as work:
        made = compress_folder(
            folder,
            Path(work),
            Compress(precisions=(precision,)),
            lambda line: print(line, flush=True),
            kind=options.kind,
            pooling=options.pooling,
            positive=options.positive,
        )
        return publish_artifact(made[precision], name, home, options.kind)


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 published, 1 refused as described, 2 wrong usage or recipe."""
    parser = argparse.ArgumentParser(prog="python -m training publish", description=__doc__.splitlines()[0])
    parser.add_argument(
        "source",
        help="artifact folder, transformers or sentence-transformers folder, packaged:minilm, or recipe (YAML)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--name", help="name in the model store (default: the recipe's)")
    parser.add_argument(
        "--kind",
        choices=get_args(Kind),
        help="refuse another kind; embedding makes a bi-encoder of an encoder without a head",
    )
    parser.add_argument("--pooling", choices=["mean", "cls"], help="of such a bi-encoder; default mean")
    parser.add_argument("--precision", choices=get_args(Precision), help="of a folder: default fp32; of a recipe: int8")
    parser.add_argument("--positive", help="of a classifier with more than two labels: the one that means a match")
    parser.add_argument("--promote", action="store_true", help="make it the production version of its name")
    options = parser.parse_intermixed_args(arguments)
    home = store_home(os.environ)
    try:
        entry = _publish(options, home)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, ValueError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    print(f"published {entry.tag} ({entry.manifest.kind}, {entry.manifest.precision}) in {home}")
    first = ModelStore(home).pointers(entry.name).stages.get("production") is None
    if options.promote or first:
        # The first version of a name has nobody to replace: a published model is a served model in one command.
        ModelStore(home).promote(entry.tag, why="first version" if first else "published with --promote")
        print(f"{entry.tag} is production of {entry.name}")
    return 0


def _publish(options: argparse.Namespace, home: Path) -> Entry:
    source = packaged(options.source) if options.source.startswith(SCHEME) else Path(options.source)
    is_recipe = source.suffix in {".yaml", ".yml"}
    is_artifact = (source / MANIFEST_FILE).is_file()
    if options.pooling and (is_recipe or is_artifact):
        raise InvalidInput(f"--pooling is for an encoder without a head; {source} says what it has.")
    if is_recipe:
        recipe = read_document(source, Recipe, options.overrides)
        made = recipe.run / (options.precision or "int8")
        return publish_artifact(made, options.name or recipe.name, home, options.kind)
    if not source.is_dir():
        raise InvalidInput(f"{source} is neither a folder nor a recipe (.yaml).")
    if not options.name:
        raise InvalidInput("A folder needs --name: the name it is published under.")
    if is_artifact:
        return publish_artifact(source, options.name, home, options.kind)
    return publish_folder(source, options.name, home, options)
