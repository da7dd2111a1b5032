"""A rule: a question about the parsed template, answered with evidence or with a TemplateFault.

Rules prove what neither a linter knows (what we want) nor moto executes (it drops scaling, alarms and how a service is
attached and deployed). The rules themselves are in `service_rules`, `scaling_rules` and `access_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from infra.checks import Check
from infra.errors import TemplateFault
from infra.template import Template

Rule = Callable[[Template], str]

SERVER = "server"
PORT = 3000


def run(rules: Iterable[Rule], template: Template) -> list[Check]:
    """Ask each rule; its name is the function's, its evidence what it returned or the fault that it raised."""
    checks = []
    for rule in rules:
        name = "template/" + rule.__name__.replace("_", "-")
        try:
            checks.append(Check(name, True, rule(template)))
        except TemplateFault as fault:
            checks.append(Check(name, False, str(fault)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # A template can be broken in more ways than rules foresee; whatever a rule cannot read has not passed.
            checks.append(Check(name, False, f"the template is not shaped as the rule expects: {error!r}"))
    return checks


def require(condition: object, message: str) -> None:
    """Raise TemplateFault with the message unless the condition holds."""
    if not condition:
        raise TemplateFault(message)


def ref(value: Any) -> str | None:
    """Return the name in {"Ref": name} or the logical id in {"Fn::GetAtt": [id, …]}, None for anything else."""
    if isinstance(value, dict) and len(value) == 1:
        if "Ref" in value:
            return str(value["Ref"])
        if "Fn::GetAtt" in value:
            return str(value["Fn::GetAtt"][0])
    return None


def substituted(value: Any) -> str:
    """Return the text of a string or an Fn::Sub with `${Name}` as `<Name>`; raises TemplateFault on anything else."""
    text = value.get("Fn::Sub") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TemplateFault(f"expected a text or Fn::Sub, found {value!r}")
    return re.sub(r"\$\{([^}]+)\}", r"<\1>", text)


def branches(value: Any) -> list[Any]:
    """Return both outcomes of an Fn::If (nested ones too) without AWS::NoValue, or the value alone."""
    if isinstance(value, dict) and "Fn::If" in value:
        _, yes, no = value["Fn::If"]
        return [*branches(yes), *branches(no)]
    return [] if value == {"Ref": "AWS::NoValue"} else [value]


def default(template: Template, value: Any) -> Any:
    """Return the default of the parameter that a value refers to, or the value itself."""
    name = ref(value)
    if name is None:
        return value
    require(name in template.parameters, f"{name} is not a parameter")
    return template.parameters[name].get("Default")


def container(template: Template, name: str) -> Any:
    """Return the definition of a container of the task; raises TemplateFault if there is none of that name."""
    task = template.only("AWS::ECS::TaskDefinition")
    definitions = template.property(task, "ContainerDefinitions")
    found = [definition for definition in definitions if definition.get("Name") == name]
    require(len(found) == 1, f"{task} has {len(found)} containers named {name!r}, not one")
    return found[0]


def attributes(pairs: Any) -> dict[str, Any]:
    """Return a list of {Key, Value} or {Name, Value} as a dict."""
    return {pair.get("Key", pair.get("Name")): pair["Value"] for pair in pairs}


def dimensions(pairs: Any) -> dict[str, str]:
    """Return a metric's dimensions as name -> what the value refers to, or the value."""
    return {pair["Name"]: ref(pair["Value"]) or str(pair["Value"]) for pair in pairs}
