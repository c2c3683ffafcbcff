"""Writes docs/CONFORMANCE.md from conformance.md.j2 and the code of gateway and importer: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import jinja2
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID

FILES = Path(__file__).parents[1] / "files"
sys.path[:0] = [str(FILES / "gateway/src"), str(FILES / "importer/src")]

from imaging_gateway import allowlist, request_line, search  # noqa: E402
from imaging_importer import reasons  # noqa: E402
from imaging_importer.dicom import display, instance  # noqa: E402

TEMPLATE = Path(__file__).with_name("conformance.md.j2")
# Level -> its matching keys, beside those of the levels above it, and the fields that are always returned.
LEVELS = {
    "studies": (search.MATCHABLE, search.ALWAYS),
    "series": (search.SERIES_MATCHABLE, search.SERIES_ALWAYS),
    "instances": (search.INSTANCE_MATCHABLE, search.INSTANCE_ALWAYS),
}
MATCHING = {
    search.UID_LIST: "list of UIDs",
    search.CODE_LIST: "list",
    search.DATE: "range",
    search.TIME: "range",
    search.TEXT: "wild card",
}


def retrievals() -> Iterator[tuple[str, str]]:
    for rule in allowlist.RULES:
        if rule.forms is allowlist.JSON and not rule.path.endswith("/metadata"):
            continue  # a search
        kinds = {f'{form.media_type}; type="{form.part}"' if form.part else form.media_type for form in rule.forms}
        if kinds:
            yield f"`{rule.path}`", ", ".join(f"`{kind}`" for kind in sorted(kinds))


def searches() -> Iterator[tuple[str, str]]:
    for rule in allowlist.RULES:
        if rule.method == "GET" and rule.path.startswith("/dicom-web/") and rule.path.endswith(tuple(LEVELS)):
            places = {"{series}": "a series", "{study}": "a study"}
            yield (
                f"`{rule.path}`",
                next((of for place, of in places.items() if place in rule.path), "all one's studies"),
            )


def keys() -> Iterator[tuple[str, str, str, str]]:
    for level, (matchable, _) in LEVELS.items():
        for keyword, tag, form in matchable:
            yield level, f"`{keyword}`", f"({tag[:4]},{tag[4:]})", MATCHING.get(form, "single value")


def attributes() -> Iterator[tuple[str, str]]:
    for level, (_, always) in LEVELS.items():
        named = (f"`{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]})`" for tag in sorted(always))
        yield level, ", ".join(named)


def transfer_syntaxes() -> Iterator[tuple[str, ...]]:
    """UID, name, whether it is stored, and displayed."""
    known = [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
    for uid in sorted(known, key=lambda uid: [int(part) for part in uid.split(".")]):
        native = uid in instance.NATIVE or uid == instance.DEFLATED_UID
        stored = native or bool(instance.ENCAPSULATED.fullmatch(uid))
        shown = stored and (native or uid in display.DECODED or bool(display.VIDEO.fullmatch(uid)))
        yield f"`{uid}`", UID(uid).name, *("yes" if mark else "no" for mark in (stored, shown))


def sentences(of: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"`{code}`", sentence) for code, sentence in sorted(of.items())]


def table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render() -> str:
    """The document."""
    template = jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text: str = template.render(
        retrievals=table(("Resource", "Media types"), retrievals()),
        searches=table(("Resource", "Searches in"), searches()),
        keys=table(("Level", "Matching key", "Tag", "Matching (PS3.4 C.2.2.2)"), keys()),
        attributes=table(("Level", "Returned always, where there is a value"), attributes()),
        transfer_syntaxes=table(("UID", "Name", "Stored", "Displayed"), transfer_syntaxes()),
        refusals=table(("Reason", "What the sender reads"), sentences(reasons.SENTENCES)),
        notes=table(("Note", "Means"), sentences(reasons.NOTES)),
        neutral=reasons.NEUTRAL,
        untold=", ".join(f"`{code}`" for code in sorted(reasons.UNTOLD)),
        longest_uri=request_line.LONGEST_URI,
        largest_page=search.LARGEST_PAGE,
        deepest_offset=search.DEEPEST_OFFSET,
    )
    return text


if __name__ == "__main__":
    sys.stdout.write(render())
