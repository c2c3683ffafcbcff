"""A visit after a restore reads the newest image that there is, also behind many reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from loading import load
from project import ROOT

platform_visit = load(ROOT / "library/platform_visit.py")
URL = "https://imaging.example.org"


class Session:
    """Answers as the platform does: the newest study first, with an image only in the one of this number."""

    def __init__(self, with_image: int | None) -> None:
        self.with_image = with_image

    def get(self, address: str, **_: object) -> SimpleNamespace:
        if address.endswith("/frames/1"):
            return SimpleNamespace(status_code=200, content=b"x" * 1234)
        uid = address.split("/")[-2]
        instance = {tag: {"Value": [f"1.{tag}"]} for tag in ("0020000E", "00080018")}
        if uid == f"1.2.{self.with_image}":
            instance["00280010"] = {"Value": [512]}
        return SimpleNamespace(status_code=200, json=lambda: [instance])


@pytest.mark.parametrize(("with_image", "size"), [(0, 1234), (57, 1234), (None, 0)])
def test_the_newest_study_with_an_image_is_read(with_image, size):
    studies = [{"0020000D": {"Value": [f"1.2.{number}"]}} for number in range(platform_visit.STUDIES)]
    assert platform_visit.read_image(Session(with_image), URL, studies) == size
