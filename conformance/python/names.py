"""Which names of the published package, of its commands and of their options are
there: {"names": ["ServiceClient.close", "types.Datum"], "commands": [["checkpoint",
"list"], ["checkpoint", "list", "--limit"]]} gives {"missing": [...], "unnamed":
[...]}, the latter being the calls of the clients that are not among the names."""

import click

from tinker.cli.__main__ import main_cli

from scenario import *


def has_name(name: str) -> bool:
    at = tinker
    for part in name.split("."):
        fields = getattr(at, "model_fields", {})
        if not hasattr(at, part) and part not in fields:
            return False
        at = getattr(at, part, None)
    return True


def has_command(words: list[str]) -> bool:
    at, context = main_cli, click.Context(main_cli)
    for word in words:
        if word.startswith("-"):
            return any(word in p.opts for p in at.params)
        at = at.get_command(context, word) if isinstance(at, click.Group) else None
        if at is None:
            return False
    return True


# Public by their names only.
INTERNAL = {"get_telemetry", "holder", "on_queue_state_change"}


def calls() -> list[str]:
    return [
        f"{client}.{name}"
        for client in ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient")
        for name in dir(getattr(tinker, client))
        if not name.startswith("_") and not name.endswith("_async") and name not in INTERNAL
    ]


asked = arguments()
emit({
    "unnamed": [n for n in calls() if n not in asked["names"]],
    "missing": [n for n in asked["names"] if not has_name(n)]
    + [" ".join(c) for c in asked["commands"] if not has_command(c)]
})
