"""Which models this worker serves: settings and the store (or a bento's own models) -> loaded, warmed-up engines.

A request names a model by its id, which is the reference as the operator wrote it, or by its tag.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.contract import Observer, TextEngine
from runtime.encoder import EncoderEngine
from runtime.errors import ArtifactRefused, ModelNotFound, SluiceError
from runtime.load import load_engine
from runtime.manifest import Kind, read_manifest
from runtime.store import STAGES, Entry, ModelStore
from serving.errors import WrongKind
from serving.lease import Leases
from serving.settings import Settings, variable

if TYPE_CHECKING:
    from serving.prompts import Prompts

logger = logging.getLogger(__name__)
REMEDY = (
    "Make one with `make demo`, or publish your own with `python -m training publish FOLDER --name {name}`, "
    "or name another in {variable}."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model to serve and the id it is served under."""

    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model. `labels`: what a score below and from the threshold on is called; `prompts`: the text side of a
    generation model; `leases`: of its engine."""

    id: str
    tag: str
    kind: Kind
    threshold: float
    labels: tuple[str, str]
    card: dict[str, Any]
    engine: EncoderEngine | TextEngine
    prompts: Prompts | None = None
    leases: Leases = field(default_factory=Leases)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A reference of the settings, or a name in the store, that leads to no model, and why."""

    name: str
    error: SluiceError


def choose(settings: Settings, kinds: Sequence[Kind], store: ModelStore) -> list[Choice]:
    """The models to serve of `kinds`, from the store, not loaded yet: those that the settings name, else all that are
    in production.

    A kind that has none in production is left out while another can be served. Raises ModelNotFound, saying how to
    make a model; ArtifactRefused on an unreadable manifest, a wrong kind or an id that is given twice.
    """
    chosen: list[Choice] = []
    missing: list[str] = []
    for kind in kinds:
        found = look_up(settings, [kind], store)
        for each in found:
            if isinstance(each, Unresolved):
                raise each.error
            chosen.append(each)
        if not found:
            remedy = REMEDY.format(name=kind, variable=variable(f"{kind}_model"))
            missing.append(f"No {kind} model is in production in the store {store.home}. {remedy}")
    if not chosen:
        raise ModelNotFound("\n".join(missing))
    for line in missing:
        logger.warning("%s Its routes answer 400.", line)
    return _distinct(chosen)


def look_up(settings: Settings, kinds: Sequence[Kind], store: ModelStore) -> list[Choice | Unresolved]:
    """What the settings name and the stage pointers mean now, a reference at a time: one that is broken does not hide
    the others."""
    found: list[Choice | Unresolved] = []
    for kind in kinds:
        references = getattr(settings, f"{kind}_model")
        if references is None:
            found += _in_production(kind, store)
            continue
        for reference in references:
            try:
                found.append(_named(reference, kind, f"{kind}_model", store))
            except SluiceError as error:
                found.append(Unresolved(reference, error))
    return found


def _named(reference: str, kind: Kind, field: str, store: ModelStore) -> Choice:
    try:
        entry = store.resolve(reference, kind)
    except ModelNotFound as error:
        remedy = REMEDY.format(name=reference.partition(":")[0], variable=variable(field))
        raise ModelNotFound(f"{error.message} {remedy}") from None
    if entry.manifest.kind != kind:
        raise ArtifactRefused(
            f"{variable(field)} names {entry.tag}, which is of kind {entry.manifest.kind}, not {kind}."
        )
    return Choice(entry.name if reference in STAGES else reference, entry)


def _in_production(kind: Kind, store: ModelStore) -> Iterator[Choice | Unresolved]:
    """Every production version of `kind`; the one named like the kind comes first and is the default."""
    for name in sorted(store.names(), key=lambda name: (name != kind, name)):
        try:
            if "production" not in store.pointers(name).stages:
                continue
            entry = store.resolve(f"{name}:production")
        except SluiceError as error:
            yield Unresolved(name, error)
            continue
        if entry.manifest.kind == kind:
            yield Choice(name, entry)


def choose_packed(
    settings: Settings, kinds: Sequence[Kind], packed: Iterable[tuple[str, Path]], store: ModelStore
) -> list[Choice]:
    """The models of a bento (tag, directory) for `kinds`; a setting given by hand may only choose among them.

    Raises ModelNotFound listing what is packed.
    """
    entries = [_packed_entry(tag, path, store) for tag, path in packed]
    inventory = ", ".join(f"{entry.tag} ({entry.manifest.kind})" for entry in entries) or "nothing"
    chosen: list[Choice] = []
    for kind in kinds:
        field = f"{kind}_model"
        fitting = [entry for entry in entries if entry.manifest.kind == kind]
        if field not in settings.model_fields_set:
            names = [entry.name for entry in fitting]
            chosen += [Choice(e.tag if names.count(e.name) > 1 else e.name, e) for e in fitting]
            continue
        for reference in getattr(settings, field):
            matches = [entry for entry in fitting if reference in (entry.name, entry.tag)]
            if not matches:
                raise ModelNotFound(
                    f"{variable(field)} names {reference!r}, which is not packed in this bento; it holds {inventory}. "
                    "Name one of those by name or tag, or build a bento with that model."
                )
            chosen.append(Choice(reference, matches[0]))
    if not chosen:
        raise ModelNotFound(f"This bento holds {inventory}; the service needs a model of kind {' or '.join(kinds)}.")
    return _distinct(chosen)


def _packed_entry(tag: str, path: Path, store: ModelStore) -> Entry:
    held = store.pointers(tag.partition(":")[0]).stages
    return Entry(tag, path, read_manifest(path), tuple(stage for stage, holder in held.items() if holder == tag))


def _distinct(chosen: list[Choice]) -> list[Choice]:
    ids = [choice.id for choice in chosen]
    twice = next((each for each in ids if ids.count(each) > 1), None)
    if twice is not None:
        raise ArtifactRefused(f"Model {twice!r} is named twice in the settings; name each model once.")
    return chosen


def load(choice: Choice, settings: Settings, observer: Observer) -> Served:
    """Verify, load and warm up one model. Raises ArtifactRefused, also when it fails on its first batch."""
    begun = time.monotonic()
    manifest = choice.entry.manifest
    limits = settings.generation_limits() if manifest.kind == "generation" else settings.encoder_limits()
    engine = load_engine(
        choice.entry.path,
        limits=limits,
        threads=settings.engine_threads(),
        slots=settings.generation_slots,
        kv_bytes=settings.generation_kv_bytes,
        observer=observer,
        device=settings.device,
        generation_engine=settings.generation_engine,
    )
    loaded = time.monotonic()
    prompts: Prompts | None = None
    try:
        if not isinstance(engine, EncoderEngine):
            from serving.prompts import Prompts

            prompts = Prompts(engine, manifest, choice.entry.path)
        engine.warm_up()
    except ArtifactRefused:
        engine.close()
        raise
    except Exception as error:
        engine.close()
        raise ArtifactRefused(
            f"{choice.entry.tag} fails at its warm-up: {error!r}. Publish the model again."
        ) from error
    what = f"{choice.entry.tag} ({manifest.kind}, {manifest.precision}, {settings.device})"
    logger.info("%s: loaded in %.2f s, warmed up in %.2f s", what, loaded - begun, time.monotonic() - loaded)
    threshold = manifest.decision_threshold
    return Served(
        id=choice.id,
        tag=choice.entry.tag,
        kind=manifest.kind,
        threshold=threshold,
        labels=manifest.match_labels,
        card={
            "id": choice.id,
            "object": "model",
            "created": int(manifest.created.timestamp()),
            "owned_by": "sluice",
            "tag": choice.entry.tag,
            "kind": manifest.kind,
            "architecture": manifest.architecture,
            "precision": manifest.precision,
            "stage": shown_stage(choice.entry.stages),
            "pending": None,
            "threshold": None if manifest.kind == "generation" else threshold,
            "dimensions": manifest.dimensions,
            "digest": manifest.digest,
            "limits": {
                "max_tokens": manifest.max_tokens if isinstance(engine, EncoderEngine) else engine.context,
                "max_items": None if manifest.kind == "generation" else settings.max_items,
            },
        },
        engine=engine,
        prompts=prompts,
    )


def shown_stage(stages: Sequence[str]) -> str | None:
    """The stage that a card tells; a version may hold several."""
    return "production" if "production" in stages else next(iter(stages), None)


class Catalogue:
    """The served models, found by kind and name. Never changed: a swap puts another one in its place."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = tuple(served)
        self._found = {name: model for model in served for name in (model.tag, model.id)}

    @classmethod
    def open(cls, choices: Sequence[Choice], settings: Settings, observers: Mapping[str, Observer]) -> Catalogue:
        """Load every choice, each with the observer of its id. Raises ArtifactRefused."""
        return cls([load(choice, settings, observers[choice.id]) for choice in choices])

    def get(self, name: str) -> Served:
        """By id or tag, any kind. Raises ModelNotFound listing what is served."""
        found = self._found.get(name)
        if found is None:
            raise ModelNotFound(f"No model {name[:200]!r} is served here; {self._inventory()}.", param="model")
        return found

    def find(self, kinds: Sequence[Kind], name: str | None) -> Served:
        """The named model; without a name the first of the first of `kinds` that is served.

        Raises ModelNotFound, and WrongKind for a model, or a server, that is of no such kind.
        """
        if name is None:
            for kind in kinds:
                for model in self.served:
                    if model.kind == kind:
                        return model
            raise WrongKind(f"This route needs a model of kind {' or '.join(kinds)}; {self._inventory()}.")
        found = self.get(name)
        if found.kind not in kinds:
            raise WrongKind(
                f"Model {name!r} is of kind {found.kind}; this route needs kind {' or '.join(kinds)}; "
                f"{self._inventory()}.",
                param="model",
            )
        return found

    def of(self, kinds: Sequence[Kind]) -> list[Served]:
        """All models of `kinds`."""
        return [model for model in self.served if model.kind in kinds]

    def _inventory(self) -> str:
        return "served: " + ", ".join(f"{model.id} ({model.kind})" for model in self.served)
