"""A CloudFormation template as plain data, with the questions that checks ask of it.

Reading is cfn-lint's; nothing is resolved except conditions, which decide what is declared for given parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InfraError, TemplateFault

SERVICE_TEMPLATE = Path(__file__).parent / "templates" / "service.yaml"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: short tags such as `!Ref` have become {"Ref": …}."""

    path: Path
    text: str
    body: Mapping[str, Any]

    @property
    def resources(self) -> Mapping[str, Any]:
        """Logical id -> resource."""
        return section(self.body, "Resources")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameter name -> its declaration."""
        return section(self.body, "Parameters")

    def of_type(self, resource_type: str) -> dict[str, Any]:
        """Return the resources of one type by their logical ids."""
        return {name: value for name, value in self.resources.items() if value.get("Type") == resource_type}

    def only(self, resource_type: str) -> str:
        """Return the logical id of the one resource of a type; raises TemplateFault if there are none or several."""
        found = sorted(self.of_type(resource_type))
        if len(found) != 1:
            raise TemplateFault(f"expected one {resource_type}, found {len(found)}: {found}")
        return found[0]

    def property(self, logical_id: str, *path: str | int) -> Any:
        """Return a property of a resource; raises TemplateFault naming the first part of the path that is missing."""
        value: Any = self.resources.get(logical_id, {}).get("Properties", {})
        for depth, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                missing = ".".join(str(step) for step in path[: depth + 1])
                raise TemplateFault(f"{logical_id} has no {missing}") from None
        return value

    def declared(self, parameters: Mapping[str, str]) -> dict[str, str]:
        """Return logical id -> type of what exists for these parameter values (defaults fill the rest)."""
        values = {name: declaration.get("Default") for name, declaration in self.parameters.items()} | dict(parameters)
        conditions = section(self.body, "Conditions")
        return {
            name: resource["Type"]
            for name, resource in self.resources.items()
            if "Condition" not in resource or holds({"Condition": resource["Condition"]}, conditions, values)
        }


def load(path: Path) -> Template:
    """Read a template; raises InfraError if the file is missing or is not a CloudFormation template."""
    # A slow import that only reading needs.
    from cfnlint.decode.decode import decode_str  # type: ignore[import-untyped]

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InfraError(f"cannot read the template {path}: {error.strerror}") from error
    body, problems = decode_str(text)
    if problems or not isinstance(body, dict) or not body:
        reasons = "; ".join(f"line {problem.linenumber}: {problem.message}" for problem in problems)
        raise InfraError(f"{path} is not a template: {reasons or 'the file holds no mapping'}")
    return Template(path, text, plain(body))


def section(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a top-level section, empty if it is missing; raises TemplateFault if it is not a mapping."""
    value = body.get(name) or {}
    if not isinstance(value, Mapping):
        raise TemplateFault(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def plain(value: Any) -> Any:
    """Return the reader's nodes, which carry line numbers, as dicts, lists and scalars."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def holds(expression: Any, conditions: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Evaluate a condition: Condition, Equals, Not, And, Or over parameters; raises TemplateFault on anything else."""
    (function, argument), *rest = expression.items()
    if not rest:
        match function:
            case "Condition" if argument in conditions:
                return holds(conditions[argument], conditions, values)
            case "Fn::Equals":
                left, right = (values.get(side["Ref"]) if isinstance(side, dict) else side for side in argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not holds(argument[0], conditions, values)
            case "Fn::And":
                return all(holds(item, conditions, values) for item in argument)
            case "Fn::Or":
                return any(holds(item, conditions, values) for item in argument)
    raise TemplateFault(f"cannot evaluate the condition {expression}")


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every value inside with its path, the value itself first."""
    yield path, value
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from walk(child, (*path, key))
