"""`python -m training COMMAND …`: one module a command, imported only when it is asked for (torch takes seconds)."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

# command -> (module with `main(arguments) -> exit code`, what it does)
COMMANDS = {
    "train": ("training.train", "fine-tune or train a model: recipe -> checkpoint"),
    "tune": ("training.tune", "search the recipe's space for the settings that train best"),
    "compress": ("training.compression.command", "export, fuse and quantise: checkpoint -> fp32 and int8 artifacts"),
    "evaluate": ("training.evaluate", "quality of an artifact through the runtime that serves it"),
    "review": ("training.review.command", "wrong labels, near-duplicates, contradictions -> a sheet -> the next data"),
    "explain": ("training.explain.command", "where a model is wrong, and why: one page and JSON"),
    "runs": ("training.runs_command", "list and compare what was trained"),
    "publish": ("training.publish", "an artifact, a recipe's result or a Hugging Face folder -> model store"),
    "models": ("training.models_command", "list, show, verify, promote, roll back published models"),
}


def main(arguments: list[str]) -> int:
    """Run one command. Exit codes: 0 done, 1 failed as described, 2 wrong usage or configuration."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        width = max(map(len, COMMANDS))
        print("usage: python -m training COMMAND …   (COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}."
        print(f"training: unknown command {command!r}; {hint}", file=sys.stderr)
        return 2
    # Loading a model is one line of its own; the libraries' bars for it would break up the command's log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return int(importlib.import_module(COMMANDS[command][0]).main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
