"""All topics of a subject: findings as one JSON document, and the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, field_validator

from runtime.errors import InvalidInput
from runtime.manifest import read_manifest
from training.explain.contract import Findings, Subject, Topic
from training.explain.words import Words
from training.pages.page import Page

ENCODERS, DECODERS = frozenset({"matching", "embedding"}), frozenset({"generation"})
# In the page's order. A module is imported when its topic is asked for.
_TOPICS: Mapping[str, tuple[str, frozenset[str], str]] = {  # name -> title, kinds, module:class of its findings
    "quality": ("Quality", ENCODERS, "quality:QualityFindings"),
    "language": ("Quality", DECODERS, "language:LanguageFindings"),
    "errors": ("Model errors", ENCODERS, "errors:ErrorFindings"),
    "behaviours": ("Behaviour", ENCODERS, "behaviours:BehaviourFindings"),
    "samples": ("Sample errors", ENCODERS, "samples:SampleFindings"),
    "flips": ("Compression errors", ENCODERS, "flips:FlipFindings"),
    "drift": ("Compression errors", DECODERS, "drift:DriftFindings"),
    "training": ("Training", ENCODERS | DECODERS, "course:CourseFindings"),
    "inference": ("Inference", ENCODERS | DECODERS, "speed:SpeedFindings"),
}
NAMES = tuple(_TOPICS)


class Explanation(BaseModel):
    """The JSON document. `topics`: name -> findings of that topic's class."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    artifact: str
    digest: str
    kind: str
    precision: str
    recipe: str
    split: str
    rows_sha256: str
    same_rows_as_training: bool | None  # None: the manifest does not say
    created: datetime
    topics: dict[str, SerializeAsAny[Findings]]

    @field_validator("topics", mode="before")
    @classmethod
    def _by_topic(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value.keys() <= set(NAMES):
            raise ValueError(f"topics are {', '.join(NAMES)}")
        return {name: topic(name).findings.model_validate(found) for name, found in value.items()}


def topic(name: str) -> Topic:
    """A topic by its name."""
    title, kinds, place = _TOPICS[name]
    module, _, findings = place.partition(":")
    found = import_module(f"training.explain.{module}")
    return Topic(title, kinds, getattr(found, findings), found.find, found.show)


def read_explanation(path: Path) -> Explanation:
    """The JSON that an earlier explanation left. Raises InvalidInput for another file."""
    try:
        return Explanation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(
            f"{path} is no explanation ({'.'.join(map(str, first['loc']))}: {first['msg']}); give a run folder, an "
            "artifact, a recipe, or the JSON that explain wrote."
        ) from None


def explain(subject: Subject, skip: Sequence[str] = ()) -> Explanation:
    """Findings of every topic that is for the subject's kind, but those to skip."""
    manifest = read_manifest(subject.artifact)
    topics: dict[str, Any] = {}
    for name in NAMES:
        each = topic(name)
        if name in skip or manifest.kind not in each.kinds:
            continue
        subject.log(f"topic {name}")
        found = each.find(subject)
        if found is not None:
            topics[name] = found
    trained_on = manifest.datasets.get(subject.split)
    rows = subject.splits.sha256(subject.split)
    return Explanation(
        artifact=str(subject.artifact),
        digest=manifest.digest,
        kind=manifest.kind,
        precision=manifest.precision,
        recipe=subject.recipe.name,
        split=subject.split,
        rows_sha256=rows,
        same_rows_as_training=None if trained_on is None else trained_on == rows,
        created=datetime.now(UTC).replace(microsecond=0),
        topics=topics,
    )


def page(found: Explanation, language: str) -> Page:
    """The explanation as a page with its own words in `language`."""
    word = Words(language)
    subtitle = word(
        "{artifact}, {precision}, explained on {split}, {created}",
        artifact=found.artifact,
        precision=found.precision,
        split=found.split,
        created=f"{found.created:%Y-%m-%d %H:%M} UTC",
    )
    made = Page(word("What {name} does, and where it is wrong", name=found.recipe), subtitle, language=word.language)
    for name, findings in found.topics.items():
        each = topic(name)
        section = made.section(word(each.title))
        if section is made.sections[0] and found.same_rows_as_training is False:
            section.notice(word("These are other rows than those of {split} at training.", split=found.split))
        each.show(findings, section, word)
    return made
