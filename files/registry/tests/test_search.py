"""The study list's semantics: PS3.4 C.2.2.2 matching as physicians expect it, newest first, over several clinics."""

# ruff: noqa: RUF001

from __future__ import annotations

import random

import psycopg
import pytest

from ...conftest import person

STUDIES = {
    "1.1": {
        "date": "20240131",
        "time": "101500",
        "name": "Müller^Jürgen^^Dr.",
        "patient": "P-001",
        "accession": "A100",
        "modalities": ["MR"],
        "description": "MRI Knee 50% left",
        "physician": "House^Gregory",
        "birth": "19700215",
        "sex": "M",
        "study_id": "S1",
    },
    "1.2": {
        "date": "20240201",
        "time": "0930",
        "name": "MULLER^ANNA",
        "patient": "p-001",
        "accession": "A1000",
        "modalities": ["CT", "SR"],
        "description": "CT_Head",
        "sex": "F",
    },
    "1.3": {
        "date": "2023.12.31",
        "time": "235959.5",
        "name": person("Yamada^Tarou", "山田^太郎"),
        "patient": "Q-7",
        "modalities": ["US"],
    },
    "1.4": {"name": "Ёлкина^Алия", "patient": "Q-77", "date": "20240201", "time": "093000.000001"},
    "1.5": {},
    "1.6": {
        "name": "ҚАЙРАТ^Үміт^Әлиұлы",
        "patient": "Иванов  01",
        "accession": "Қ-7",
        "study_id": "Студия 1",
        "description": "Бас миы,  МРТ",
        "date": "20230101",
    },
    "1.7": {"name": "O’Brien  van der Berg ^Seán", "date": "20220101"},
}
NEWEST_FIRST = ["1.4", "1.2", "1.1", "1.3", "1.6", "1.7", "1.5"]


@pytest.fixture
def archive(importer):
    for study, values in STUDIES.items():
        importer.add(study, "north", **values)


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("tag", "value", "found"),
    [
        # PatientName by components: folded; those left out at the end match anything; every group is tried.
        ("00100010", "muller*", ["1.2", "1.1"]),
        ("00100010", "MÜLLER", ["1.2", "1.1"]),
        ("00100010", "müller^a*", ["1.2"]),
        ("00100010", "*anna*", ["1.2"]),
        ("00100010", "^anna", []),
        ("00100010", "mulle", []),
        ("00100010", "mulle^*", []),
        ("00100010", "m?ller^*gen", ["1.1"]),
        ("00100010", "muller^jurgen^^dr.", ["1.1"]),
        ("00100010", "Muller^^^", ["1.2", "1.1"]),
        ("00100010", "山田*", ["1.3"]),
        ("00100010", "*太郎", ["1.3"]),
        ("00100010", "yamada^tarou", ["1.3"]),
        ("00100010", "елкина*", ["1.4"]),
        ("00100010", "*АЛИЯ*", ["1.4"]),
        ("00100010", "yamada^tarou=山田^太郎", ["1.3"]),
        ("00100010", "yamada^tarou=鈴木^太郎", []),
        # As a list shows it: whole words in their order, with whatever stands between them; a part of it in wildcards.
        ("00100010", "anna", ["1.2"]),
        ("00100010", "Müller, Jürgen  Dr.", ["1.1"]),
        ("00100010", "jurgen muller", []),
        ("00100010", "*ller, jür*", ["1.1"]),
        ("00100010", "*ёлкина, а*", ["1.4"]),
        ("00100010", "*'*", ["1.7"]),
        ("00100010", "*,*", []),
        ("00100010", "*Қайрат*", ["1.6"]),
        ("00100010", "кайрат", ["1.6"]),
        ("00100010", "*умит*", ["1.6"]),
        ("00100010", "*Үміт Ә*", ["1.6"]),
        ("00100010", "Кайрат^Умит^А*", ["1.6"]),
        ("00100010", "O'Brien van der Berg, Seán", ["1.7"]),
        ("00100010", "o brien", ["1.7"]),
        ("00100010", "*brien van*", ["1.7"]),
        ("00100010", "O'Brien  van der Berg ^ Sean", ["1.7"]),
        ("00100010", "*brien*berg*", ["1.7"]),
        ("00100010", "*berg*brien*", []),
        ("00100010", "??llo*", []),
        ("00100010", "%", []),
        ("00100010", "_uller*", []),
        # Identifiers: exact as written if anybody has it so; else, and with wildcards, folded.
        ("00100020", "P-001", ["1.1"]),
        ("00100020", "иванов 01", ["1.6"]),
        ("00100020", "*ИВАНОВ*", ["1.6"]),
        ("00100020", "P-00", []),
        ("00080050", "қ-7", ["1.6"]),
        ("00080050", "*к-7*", ["1.6"]),
        ("00200010", "ст?дия*", ["1.6"]),
        ("00200010", "СТУДИЯ 1", ["1.6"]),
        ("00100020", "p-00?", ["1.2", "1.1"]),
        ("00100020", "Q-7", ["1.3"]),
        ("00100020", "Q-7*", ["1.4", "1.3"]),
        ("00080050", "A100", ["1.1"]),
        ("00080050", "*100*", ["1.2", "1.1"]),
        ("00200010", "S1", ["1.1"]),
        ("00200010", "s?", ["1.1"]),
        # Texts: folded; LIKE's own signs are only signs.
        ("00081030", "*knee*", ["1.1"]),
        ("00081030", "ct_head", ["1.2"]),
        ("00081030", "ct?head", ["1.2"]),
        ("00081030", "*50%*", ["1.1"]),
        ("00081030", "mri_knee*", []),
        ("00081030", "*\\*", []),
        ("00080090", "house^g*", ["1.1"]),
        ("00080090", "*House, Greg*", ["1.1"]),
        ("00081030", "*бас миы, мрт*", ["1.6"]),
        # Dates and times: single, ranges open at either end; an end of lower precision reaches to its own end.
        ("00080020", "20240201", ["1.4", "1.2"]),
        ("00080020", "20240131-20240201", ["1.4", "1.2", "1.1"]),
        ("00080020", "20240201-", ["1.4", "1.2"]),
        ("00080020", "-20240131", ["1.1", "1.3", "1.6", "1.7"]),
        ("00080020", "20231231", ["1.3"]),
        ("00080030", "0930", ["1.4", "1.2"]),
        ("00080030", "093000", ["1.4", "1.2"]),
        ("00080030", "1015", ["1.1"]),
        ("00080030", "235959.5", ["1.3"]),
        ("00080030", "09-10", ["1.4", "1.2", "1.1"]),
        ("00080030", "235959-", ["1.3"]),
        ("00100030", "19700101-19701231", ["1.1"]),
        # Lists.
        ("00080061", ["CT", "MR"], ["1.2", "1.1"]),
        ("00080061", ["SR"], ["1.2"]),
        ("00080061", ["C"], []),
        ("00080061", ["c*", "u?"], ["1.2", "1.3"]),
        ("00080061", ["mr"], ["1.1"]),
        ("00080061", ["%R"], []),
        ("00080061", ["sr", "XA"], ["1.2"]),
        ("0020000D", ["1.3", "1.1", "9.9"], ["1.1", "1.3"]),
        ("00100040", "F", ["1.2"]),
        ("00100040", "m", ["1.1"]),
    ],
)
def test_matching(gateway, tag, value, found):
    assert gateway.search("north", {tag: value}) == found


@pytest.mark.usefixtures("archive")
def test_all_conditions_must_hold(gateway):
    assert gateway.search("north", {"00100010": "muller*", "00080061": ["CT"], "00080020": "2024-"}) == ["1.2"]
    assert gateway.search("north", {"00100010": "muller*", "00080061": ["US"]}) == []


@pytest.mark.parametrize(
    ("value", "folded"),
    [
        ("ӘІҢҒҮҰҚӨҺ әіңғүұқөһ", "аингуукох аингуукох"),
        ("Ҳ Ҷ Җ Ӣ Ӯ Ў Ґ Є Ї Ё Ѓ Ќ", "х ч ж и у у г е и е г к"),
        ("Й й И\u0306", "й й й"),
        ("А\u0301нна", "анна"),
        ("ΜΑΡΙΑΣ Σ", "μαριασ σ"),
        ("Straße Ñandú Łódź ﬁ ＡＢ", "strasse nandu lodz fi ab"),
        (" a\u00a0 b\tc ", "a b c"),
        ("(50%)_*?", "(50%)_*?"),
    ],
)
def test_letters_are_folded(registry, value, folded):
    with registry.connect("postgres") as administrator:
        assert administrator.execute("SELECT registry.fold(%s)", (value,)).fetchone() == (folded,)


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("dates", "times", "found"),
    [
        # PS3.4 C.2.2.2.5.4: one form of range is one stretch of time, not the same hours of each day.
        ("20231231-20240201", "2359-0929", ["1.1", "1.3"]),
        ("20240131-20240201", "1016-09", ["1.4", "1.2"]),
        ("20240131-", "101501-", ["1.4", "1.2"]),
        ("-20240131", "-1014", ["1.3", "1.6", "1.7"]),
        # Of two forms each counts for itself.
        ("20231231-20240201", "1015", ["1.1"]),
        ("20240131", "10-11", ["1.1"]),
        ("20231231-", "-10", ["1.4", "1.2", "1.1"]),
    ],
)
def test_a_range_of_dates_with_a_range_of_times(gateway, dates, times, found):
    assert gateway.search("north", {"00080020": dates, "00080030": times}) == found


@pytest.mark.usefixtures("archive")
def test_what_cannot_be_matched_is_an_error_and_not_ignored(gateway):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be searched by 00100021"):
        gateway.search("north", {"00100021": "x"})


@pytest.mark.usefixtures("archive")
def test_the_newest_is_first_and_a_study_without_a_date_last(gateway):
    assert gateway.search("north") == NEWEST_FIRST


@pytest.mark.usefixtures("archive")
def test_a_recorded_change_changes_the_list(importer, gateway):
    importer.record("1.5", "north", name="Late^Comer", date="20260101")
    assert gateway.search("north")[0] == "1.5"
    importer.forget("1.5")
    assert "1.5" not in gateway.search("north")


def test_pages_of_several_clinics_merge_into_one_order(importer, gateway):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    studies = []
    for number in range(90):
        clinic = draw.choice(["north", "south", "west"])
        study, date, time = f"1.{number}", f"2024{draw.randint(1, 3):02}01", f"{draw.randint(8, 10):02}0000"
        importer.add(study, clinic, date=date, time=time)
        studies.append((clinic, date, time, study))
    for scope in ("north", "north,south", "north,north,west", "*"):
        wanted = [row for row in studies if scope == "*" or row[0] in scope.split(",")]
        wanted.sort(key=lambda row: row[3])
        wanted.sort(key=lambda row: row[1:3], reverse=True)
        pages = [gateway.search(scope, limit=7, skip=skip) for skip in range(0, 98, 7)]
        assert [study for page in pages for study in page] == [row[3] for row in wanted]


def test_wildcards_find_by_index_in_a_large_archive(registry, gateway):
    """The policy would keep LIKE from the index; the function must not."""
    with registry.connect("postgres") as administrator:
        administrator.execute(
            """INSERT INTO registry.study (study_uid, clinic_id, revision, attributes)
               SELECT '1.9.' || n, 'north', 1, jsonb_build_object('00100010', jsonb_build_object('vr', 'PN', 'Value',
                   jsonb_build_array(jsonb_build_object('Alphabetic', md5(n::text)))))
               FROM generate_series(1, 5000) AS n"""
        )
        administrator.execute("VACUUM ANALYZE registry.study")
        administrator.execute("SELECT pg_stat_force_next_flush()")
        before = _index_scans(administrator)
    assert gateway.search("north", {"00100010": "*c4ca4238a0*"}) == ["1.9.1"]
    gateway.connection.execute("SELECT pg_stat_force_next_flush()")
    with registry.connect("postgres") as administrator:
        assert _index_scans(administrator) > before


def _index_scans(connection):
    statement = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'study_words'"
    return connection.execute(statement).fetchone()[0]
