"""Requests for images as no viewer makes them: every route of the allow-list with odd values in every place."""

from __future__ import annotations

import random
import sys

from project import ROOT

sys.path.insert(0, str(ROOT / "files/gateway/src"))
from imaging_gateway.allowlist import RULES

Headers = dict[str, str | bytes | None]

SYNTAXES = [f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".5", ".1.99", *(f".4.{n}" for n in range(50, 116)))]
TYPES = [
    *("application/dicom", "application/octet-stream", "application/dicom+json", "application/json", "image/jpeg"),
    *("image/png", "image/jp2", "image/jls", "image/jphc", "image/dicom-rle", "video/mp4", "application/pdf", "*/*"),
    *("application/dicom+xml", "application/zip", "text/html", "image/*", "multipart/*", "x", "*", "", "a/b/c"),
]
TAGS = [
    "7FE00010",
    "00420011",
    "00100010",
    "54000100/1/54001010",
    "00281201",
    "00081140",
    "0040A730/1/0040A168",
    "7fe00008",
]
NUMBERS = ["0", "1", "2", "7", "512", "4096", "4097", "30000", "-1", "-512", "0.5", "1e9", "99999999", "", "nan", "-0"]


class Asker:
    """Makes one request after another, of one source of chance."""

    def __init__(self, chance: random.Random, paths: list[str], ids: dict[str, list[str]]) -> None:
        self.chance = chance
        self.paths = paths
        self.ids = ids
        self.rules = [rule for rule in RULES if rule.forms]

    def physicians(self) -> tuple[str, Headers]:
        rule = self.chance.choice(self.rules)
        words = self.chance.choice(self.paths).split("/")
        frames = ",".join(self.chance.choice(["1", "1", "2", "3", "9", "99999"]) for _ in range(self.length(300)))
        places = {"study": words[3], "series": words[5], "instance": words[7], "frames": frames}
        path = rule.path.format(**places, bulk=self.chance.choice(TAGS))
        return path + self.query(list(rule.parameters)), self.headers()

    def administrators(self) -> tuple[str, Headers]:
        level = self.chance.choice(["instances", "instances", "studies"])
        below = ["", "/metadata", "/statistics", "/shared-tags", "/archive", "/labels"]
        if level == "instances":
            below = ["/preview", "/preview", "/file", "/tags", "/simplified-tags", "/metadata", ""]
        path = f"/orthanc/{level}/{self.chance.choice(self.ids[level])}{self.chance.choice(below)}"
        return path + self.query(["expand", "short", "full", "since", "limit"]), self.headers()

    def length(self, most: int) -> int:
        """Mostly short."""
        return 1 if self.chance.random() < 0.8 else self.chance.randint(1, most)

    def query(self, names: list[str]) -> str:
        if self.chance.random() < 0.5:
            return ""
        names = [*names, *(["accept", "transferSyntax", "frameNumber"] if self.chance.random() < 0.2 else [])]
        return "?" + "&".join(f"{name}={self.value(name)}" for name in self.chance.sample(names, min(len(names), 2)))

    def value(self, name: str) -> str:
        numbers = [self.chance.choice(NUMBERS) for _ in range(self.chance.randint(1, 6))]
        if name == "viewport" and self.chance.random() < 0.7:
            return ",".join(["64", "4096", *numbers][: self.chance.randint(2, 6)])
        if name == "window" and self.chance.random() < 0.7:
            return ",".join([*self.chance.choices(NUMBERS, k=2), self.chance.choice(["linear", "sigmoid"])])
        if name == "includefield":
            return self.chance.choice(["all", "00080060", "7FE00010", "PatientName", "x" * 2001])
        return self.chance.choice([",".join(numbers), numbers[0], "1.2.3", "%00", "%ff", "true", "application/dicom"])

    def headers(self) -> Headers:
        headers: Headers = {"Accept": self.accept()}
        if self.chance.random() < 0.3:
            ranges = [f"{self.chance.choice(NUMBERS)}-{self.chance.choice(NUMBERS)}" for _ in range(self.length(200))]
            headers["Range"] = self.chance.choice(["bytes=", "bytes=", "items="]) + ",".join(ranges)
        if self.chance.random() < 0.3:
            choices = ["gzip", "br", "identity;q=0", "*;q=0", "deflate, gzip;q=0.5", "x" * 2000, ""]
            headers["Accept-Encoding"] = self.chance.choice(choices)
        if self.chance.random() < 0.1:
            headers["X-Clinic"] = self.chance.choice(["\x01", "a" * 3000, "denscan-almaty"])
        return headers

    def accept(self) -> bytes | None:
        """Often a good one, so that Orthanc is reached."""
        if self.chance.random() < 0.4:
            return self.chance.choice([None, b"*/*"])
        text = ", ".join(self.media_range() for _ in range(self.length(40)))
        if self.chance.random() < 0.1:
            at = self.chance.randint(0, len(text))
            text = text[:at] + self.chance.choice(['"', "\\", "\x01", ";", ",", "=", "\xff", "\t"]) + text[at:]
        return text.strip().encode("latin-1")

    def media_range(self) -> str:
        kind = self.chance.choice(TYPES)
        quote = self.chance.choice(['"', ""])
        if self.chance.random() < 0.6:
            kind = f"multipart/related; type={quote}{kind}{quote}"
        if self.chance.random() < 0.5:
            kind += f"; transfer-syntax={self.chance.choice(['*', '*', *SYNTAXES])}"
        if self.chance.random() < 0.3:
            kind += f";q={self.chance.choice(['0', '1', '0.5', '2', 'x', '', '0.0001'])}"
        return kind.upper() if self.chance.random() < 0.1 else kind
