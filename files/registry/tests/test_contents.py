"""Series and instances across studies: matched with their studies' attributes, replaced as a whole, and kept apart."""

from __future__ import annotations

import json
import random
import string

import psycopg
import pytest

from ...conftest import instance_attributes

HOSTILE = [
    "%",
    "_",
    "\\",
    "*",
    "'",
    "''",
    "' OR true --",
    "\\' OR true --",
    "$$",
    "%L",
    "%1$s",
    "(.*)*",
    "[[:<:]]",
    "(a+)+$",
    "^=^",
    "===",
    "*=*",
    "\u2028*\u0130",
    "*" * 324,
    "?" * 324,
    "*a" * 160,
    "%" * 324,
]


@pytest.fixture
def archive(importer):
    importer.add("1.1", "north", name="Иванова^Мария", date="20240102", patient="P1", modalities=["CT", "SR"])
    importer.record_contents(
        *("1.1", "north"),
        instance_attributes("2.1", "3.1", number=2, instance=2),
        instance_attributes("2.1", "3.2", number=2, instance=1, started=("20240102", "1015")),
        instance_attributes("2.2", "3.3", modality="SR", number=1),
    )
    importer.add("1.2", "north", name="Other^One", date="20240101", patient="P2", modalities=["MR"])
    importer.record_contents(
        "1.2", "north", instance_attributes("2.3", "3.4", modality="MR", number=7, started=("20240101", "235959"))
    )
    importer.add("1.3", "south", name="Secret^Name", date="20240103", patient="S1", modalities=["CT"])
    importer.record_contents("1.3", "south", instance_attributes("2.4", "3.5"))
    importer.claim("1.4", "north")
    importer.record_contents("1.4", "north", instance_attributes("2.5", "3.6"))


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("level", "match", "found"),
    [
        # Newest study first, then by number.
        ("series", {}, ["2.2", "2.1", "2.3"]),
        ("instances", {}, ["3.3", "3.2", "3.1", "3.4"]),
        ("series", {"00080060": ["ct"]}, ["2.1"]),
        ("series", {"00080060": ["S*", "MR"]}, ["2.2", "2.3"]),
        ("series", {"00080061": ["SR"]}, ["2.2", "2.1"]),
        ("series", {"0020000E": ["2.3", "2.4", "2.2"]}, ["2.2", "2.3"]),
        ("series", {"00200011": "02"}, ["2.1"]),
        ("series", {"00100010": "*иванова, мар*"}, ["2.2", "2.1"]),
        ("series", {"0020000D": ["1.2", "1.3"]}, ["2.3"]),
        ("series", {"00400244": "20240101-20240102", "00400245": "235959-1015"}, ["2.1", "2.3"]),
        ("series", {"00400245": "1015"}, ["2.1"]),
        ("instances", {"00080018": ["3.4", "3.5"]}, ["3.4"]),
        ("instances", {"00080016": ["1.2.840.10008.5.1.4.1.1.2"], "00200013": "2"}, ["3.1"]),
        ("instances", {"00080060": ["MR"], "00100020": "P2"}, ["3.4"]),
        ("instances", {"00080060": ["MR"], "00100020": "P1"}, []),
    ],
)
def test_matching_of_every_level(gateway, level, match, found):
    assert gateway.find(level, "north", match) == found


@pytest.mark.usefixtures("archive")
def test_pages_go_over_studies(gateway):
    pages = [gateway.find("instances", "north,south", {}, 2, skip) for skip in (0, 2, 4, 6)]
    assert pages == [["3.5", "3.3"], ["3.2", "3.1"], ["3.4"], []]


@pytest.mark.usefixtures("archive")
def test_what_belongs_to_a_lower_level_cannot_be_asked_of_a_higher(gateway):
    for level, tag in (("studies", "00080060"), ("series", "00080018"), ("instances", "00280010")):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"cannot be searched by {tag}"):
            gateway.find(level, "north", {tag: ["x"]})


@pytest.mark.usefixtures("archive")
def test_contents_are_replaced_as_a_whole_and_go_with_their_study(importer, gateway):
    importer.record_contents("1.1", "north", instance_attributes("2.1", "3.1", instance=9))
    assert gateway.find("instances", "north", {"0020000D": ["1.1"]}) == ["3.1"]
    assert gateway.find("instances", "north", {"00200013": "9"}) == ["3.1"]
    importer.record("1.1", "north", name="Иванова^Мария")
    assert gateway.find("series", "north", {"0020000D": ["1.1"]}) == ["2.1"], "recorded alone, it keeps them"
    importer.forget("1.1")
    assert gateway.find("instances", "north") == ["3.4"]


@pytest.mark.usefixtures("archive")
def test_odd_contents_keep_no_study_from_being_shown(importer, gateway):
    odd = [
        instance_attributes("2.9", "3.9", modality="x" * 5000, number="1.5", instance="9" * 40),
        instance_attributes("2.9", "3.9"),  # twice
        instance_attributes("2." * 60, "3.10"),
        instance_attributes("2.9", "no uid"),
        {"0020000E": {"vr": "UI"}},
    ]
    arguments = ("1.2", "north", json.dumps(odd), json.dumps(odd))
    importer.connection.execute("SELECT registry.record_contents(%s, %s, %s, %s)", arguments)
    assert gateway.find("instances", "north", {"0020000D": ["1.2"]}) == ["3.9"]


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("scope", "series"), [(None, []), ("", []), ("nowhere", []), ("north%", []), ("south", ["2.4"])]
)
def test_a_search_finds_what_the_setting_names(gateway, scope, series):
    assert gateway.find("series", scope) == series
    assert gateway.find("instances", scope, {"00080018": ["3.1", "3.6"]}) == []


@pytest.mark.usefixtures("archive")
def test_no_value_reaches_beyond_its_condition(gateway):
    """Each hostile text in each key of each level: nothing of another clinic, and no error of PostgreSQL's."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    texts = ["00080050", "00080090", "00081030", "00100010", "00100020", "00200010", "00100040"]
    values = HOSTILE + [
        "".join(draw.choices(string.printable[:95] + "ёҚ\u0301", k=draw.randint(1, 60))) for _ in range(60)
    ]
    for value in values:
        for tag in texts:
            for level, own in (("studies", {"1.1", "1.2"}), ("instances", {"3.1", "3.2", "3.3", "3.4"})):
                assert set(gateway.find(level, "north", {tag: value})) <= own, (tag, value)
        for tag in ("00080061", "00080060", "0020000D", "0020000E", "00080018", "00080016"):
            assert set(gateway.find("instances", "north", {tag: [value]})) <= {"3.1", "3.2", "3.3", "3.4"}, (tag, value)
    everything = dict.fromkeys(texts, "*") | {
        "00080061": ["*"],
        "00080060": ["*"],
        "00080020": "0-9",
        "00080030": "0-9",
    }
    assert "3.5" not in gateway.find("instances", "north", everything)


def test_contents_are_recorded_by_the_owner_alone(importer):
    importer.add("1.1", "north")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        importer.record_contents("1.1", "south", instance_attributes("2.1", "3.1"))
