"""Writes docs/ACCESS.md from the gateway's allow-list: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "files/gateway/src"))

from imaging_gateway import allowlist, audit, search

ROLES = ("physician", "technician", "auditor", "admin")
# The paths that the gateway answers itself read the query in their own way.
READERS = {
    **{
        path: [*(keyword for keyword, _, _ in level.matchable), "limit", "offset", "includefield", "fuzzymatching"]
        for path, level in search.LEVELS.items()
    },
    "/audit/entries": list(audit.FILTERS),
}
HEAD = """\
# Who may ask for what

This is the gateway's allow-list. `make docs` writes it from `files/gateway/src/imaging_gateway/allowlist.py`. A test
fails when the two differ. A path that no row names does not exist. A live test (`tests/host/platform/test_matrix.py`)
asks for every row as every role, and for every other route that Orthanc offers.

A row opens a path to a role. It does not say which **studies** the role may see: the registry says that. They are the
studies of the clinics in the token.

| Asked with a token of | Answer |
|---|---|
| the study's clinic | as the row says |
| another clinic, or of none | 404, the same to the last byte as for a study that does not exist |
| the role `admin` | as the row says, for all clinics |
| a role that the row does not name | 404 |
| nobody: no token, or a token that is not accepted | 401 |

Where a row below `/dicom-web` has `GET`, the gateway answers `HEAD` too. It has the same rights and is recorded in the
same way. `OPTIONS` on such a path names the methods of the caller's roles. The answer is the same for every study.

Each path has one spelling. A parameter answers 404 if the row does not name it, if it is doubled or if it has another
form. For the searches of all studies and the access log, the answer is a 400 that names the parameter. Series and
instances below a study must belong to that study. Otherwise the answer is 404.

"""


def parameters(rule: allowlist.Rule) -> str:
    """The names of a rule's parameters, without the tags that stand for keywords."""
    names = READERS[rule.path] if rule.upstream is allowlist.Upstream.GATEWAY else list(rule.parameters)
    return ", ".join(f"`{name}`" for name in names if not name[0].isdigit()) or "-"


def render() -> str:
    """The document."""
    lines = [
        "## Rows",
        "",
        f"| Method | Path | Parameters | {' | '.join(ROLES)} | On record as |",
        "|" + "---|" * (len(ROLES) + 4),
    ]
    for rule in allowlist.RULES:
        marks = " | ".join("yes" if role in rule.roles else "" for role in ROLES)
        lines.append(f"| {rule.method} | `{rule.path}` | {parameters(rule)} | {marks} | {rule.action or '-'} |")
    used = "".join(rule.path for rule in allowlist.RULES)
    lines += ["", "## The names in braces", "", "| Name | Form |", "|---|---|"]
    forms = {name: form.replace("|", "\\|") for name, form in allowlist.PLACES.items() if f"{{{name}}}" in used}
    lines += [f"| `{{{name}}}` | `{form}` |" for name, form in forms.items()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
