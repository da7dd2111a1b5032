"""The values of a template's parameters: read from `NAME=VALUE` and a YAML file, held against their declarations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ConfigDict, RootModel, ValidationError

from infra.errors import InfraError
from infra.template import Template

Scalar = str | bool | int | float


class ParameterFile(RootModel[dict[str, Scalar | list[Scalar]]]):
    """A YAML mapping of parameter names to scalars, or to lists of them (subnets)."""

    model_config = ConfigDict(frozen=True, strict=True)


def read(path: Path | None, pairs: Sequence[str]) -> dict[str, str]:
    """Return the values of the file, overridden by `NAME=VALUE` pairs; raises InfraError on a malformed one."""
    values = {name: as_text(value) for name, value in read_file(path).root.items()} if path else {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise InfraError(f"--parameter {pair!r} is not NAME=VALUE")
        values[name] = value
    return values


def read_file(path: Path) -> ParameterFile:
    """Return the content of a parameter file; raises InfraError naming the file and what is wrong with it."""
    try:
        return ParameterFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except OSError as error:
        raise InfraError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InfraError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][:1])) or "the file"
        raise InfraError(f"{path}: {where} must be a text, a number or a list of them: {first['msg']}") from error


def as_text(value: Scalar | list[Scalar]) -> str:
    """Return a value as CloudFormation takes it: lists with commas, booleans in lower case."""
    if isinstance(value, list):
        return ",".join(as_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check(template: Template, given: Mapping[str, str], deployed: Mapping[str, str]) -> None:
    """Raise InfraError on a name that the template does not declare, or on one that has no value from anywhere."""
    for name in given:
        if name not in template.parameters:
            close = difflib.get_close_matches(name, template.parameters, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it declares {', '.join(template.parameters)}"
            raise InfraError(f"the template has no parameter {name}{hint}")
    missing = [
        name
        for name, declaration in template.parameters.items()
        if "Default" not in declaration and name not in given and name not in deployed
    ]
    if missing:
        raise InfraError(f"no value for {', '.join(missing)}; give --parameter NAME=VALUE or a file with --parameters")


def effective(template: Template, given: Mapping[str, str], deployed: Mapping[str, str]) -> dict[str, str]:
    """Return the value of every parameter after the deployment: given, else as deployed, else the default."""
    return {
        name: given.get(name, deployed.get(name, str(declaration.get("Default", ""))))
        for name, declaration in template.parameters.items()
    }


def as_request(
    template: Template, given: Mapping[str, str], deployed: Mapping[str, str]
) -> list[dict[str, str | bool]]:
    """Return the parameters of a request; what is not given stays as deployed, and new ones get their defaults."""
    request: list[dict[str, str | bool]] = []
    for name, value in effective(template, given, deployed).items():
        if name in deployed and name not in given:
            request.append({"ParameterKey": name, "UsePreviousValue": True})
        else:
            request.append({"ParameterKey": name, "ParameterValue": value})
    return request
