"""The database itself keeps clinics apart, whatever the gateway does wrong. It is asked as the gateway's own role."""

from __future__ import annotations

import concurrent.futures
import json
import random

import psycopg
import pytest

from ...conftest import Importer

EVERYTHING = "SELECT study_uid FROM registry.study ORDER BY study_uid"


@pytest.fixture
def two_clinics(importer):
    importer.add("1.1", "north", name="NORTH^ANNA", date="20240101")
    importer.add("1.2", "south", name="SOUTH^IVAN", date="20240102")


@pytest.mark.usefixtures("two_clinics")
@pytest.mark.parametrize(
    ("scope", "visible"),
    [
        (None, []),
        ("", []),
        (",", []),
        ("nowhere", []),
        ("north", ["1.1"]),
        ("south", ["1.2"]),
        ("north,south", ["1.1", "1.2"]),
        ("NORTH", []),
        ("north%", []),
        ("north' OR true --", []),
        ("*", ["1.1", "1.2"]),
        ("*,north", ["1.1"]),
    ],
)
def test_a_transaction_sees_the_clinics_of_its_setting_and_no_others(gateway, scope, visible):
    assert [row[0] for row in gateway.ask(scope, EVERYTHING)] == visible
    assert sorted(gateway.search(scope)) == visible
    assert [study for study in ("1.1", "1.2", "9.9") if gateway.locate(scope, study)] == visible


@pytest.mark.usefixtures("two_clinics")
def test_the_setting_ends_with_its_transaction(gateway):
    assert gateway.search("north") == ["1.1"]
    assert gateway.search(None) == []
    assert gateway.ask(None, EVERYTHING) == []


@pytest.mark.usefixtures("two_clinics")
def test_a_filter_reaches_into_no_other_clinic(gateway):
    assert gateway.search("north", {"0020000D": ["1.2"]}) == []
    assert gateway.search("north", {"00100010": "*"}) == ["1.1"]
    assert gateway.search("north", {"00100010": "*'*"}) == []


def test_clinics_names_are_kept_apart_too(gateway):
    assert gateway.ask("north", "SELECT clinic_id FROM registry.clinic") == [("north",)]
    assert gateway.ask(None, "SELECT clinic_id FROM registry.clinic") == []


def test_a_claimed_study_is_invisible_until_it_is_recorded(importer, gateway):
    assert importer.claim("1.5", "north")
    assert gateway.search("*") == []
    assert gateway.locate("north", "1.5") == []
    assert gateway.ask("*", EVERYTHING) == []
    revision = importer.record("1.5", "north", name="A")
    assert gateway.locate("north", "1.5") == [("north", revision, 0)]


def test_a_studys_largest_instance_is_kept_until_the_study_is_forgotten(importer, gateway):
    def largest():
        return [row[2] for row in gateway.locate("north", "1.5")]

    importer.claim("1.5", "north")
    for told, kept in ((300_000_000_000, 300_000_000_000), (5, 300_000_000_000), (0, 300_000_000_000)):
        importer.record_attributes("1.5", "north", {}, told)
        assert largest() == [kept]
    importer.forget("1.5")
    importer.add("1.5", "north")
    assert largest() == [0]


def test_what_cannot_be_displayed_is_told_to_who_may_see_the_study(importer, gateway):
    def displayable(scope, study="1.1"):
        return gateway.ask(scope, "SELECT all_displayable FROM registry.locate_study(%s)", study)

    def why(scope, image, study="1.1"):
        return gateway.ask(scope, "SELECT registry.why_undisplayable(%s, %s)", study, image)[0][0]

    importer.add("1.1", "north")
    importer.add("1.2", "south")
    assert displayable("north") == [(True,)]
    importer.note_display("1.1", {"1.1.1": "fragments", "1.1.2": None, "1.1.3": "float"})
    importer.note_display("1.1", {"1.1.1": "fragments", "1.1.3": "bits"})  # again, after a kill
    assert displayable("north") == displayable("*") == [(False,)]
    assert displayable("south", "1.2") == [(True,)]
    for scope, image, code in (
        ("north", "1.1.1", "fragments"), ("north", "1.1.2", None), ("north", "1.1.3", "bits"), ("*", "1.1.3", "bits"),
        ("south", "1.1.1", None), ("", "1.1.1", None), (None, "1.1.1", None),
    ):  # fmt: skip
        assert why(scope, image) == code
    everything = "SELECT sop_instance_uid FROM registry.undisplayable ORDER BY 1"
    assert gateway.ask("south", everything) == []
    assert gateway.ask("north", everything) == [("1.1.1",), ("1.1.3",)]
    importer.note_display("1.1", {"1.1.1": None, "1.1.3": None})
    assert displayable("north") == [(True,)]
    importer.note_display("1.9", {"1.9.1": "bits"})  # a study that was forgotten meanwhile
    importer.note_display("1.1", {"1.1.1": "bits"})
    importer.forget("1.1")
    importer.add("1.1", "south")
    assert displayable("south") == [(True,)]


def test_what_is_only_claimed_tells_nothing_of_its_display(importer, gateway):
    importer.claim("1.1", "north")
    importer.note_display("1.1", {"1.1.1": "bits"})
    assert gateway.ask("north", "SELECT registry.why_undisplayable('1.1', '1.1.1')") == [(None,)]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("registry_gateway", "SELECT registry.note_display('[]')"),
        ("registry_gateway", "DELETE FROM registry.undisplayable"),
        ("registry_importer", "SELECT * FROM registry.undisplayable"),
        ("registry_importer", "SELECT registry.why_undisplayable('1.1', '1.1')"),
        ("registry_operator", "SELECT registry.note_display('[]')"),
        ("registry_operator", "SELECT * FROM registry.undisplayable"),
        ("registry_gateway", "SELECT registry.claim_study('1.1', 'north')"),
        ("registry_gateway", "SELECT registry.forget_study('1.1')"),
        ("registry_gateway", "SELECT registry.owned_studies('', 10)"),
        ("registry_gateway", "SELECT registry.upsert_clinic('evil', 'x')"),
        ("registry_gateway", "UPDATE registry.study SET clinic_id = 'south'"),
        ("registry_gateway", "DELETE FROM registry.study"),
        ("registry_gateway", "SELECT * FROM registry.access_log"),
        ("registry_gateway", "DELETE FROM registry.access_log"),
        ("registry_gateway", "UPDATE registry.access_log SET username = 'nobody'"),
        ("registry_gateway", "TRUNCATE registry.access_log"),
        ("registry_gateway", "SET ROLE registry_owner"),
        ("registry_gateway", "ALTER TABLE registry.study DISABLE ROW LEVEL SECURITY"),
        ("registry_gateway", "CREATE TABLE registry.mine (id integer)"),
        ("registry_gateway", "CREATE TABLE public.mine (id integer)"),
        ("registry_importer", "SELECT * FROM registry.study"),
        ("registry_importer", "SELECT * FROM registry.search_studies('{}', 1, 0)"),
        ("registry_importer", "SELECT registry.log_access('[]')"),
        ("registry_importer", "SELECT registry.upsert_clinic('evil', 'x')"),
        ("registry_gateway", "SELECT * FROM registry.count_studies()"),
        ("registry_importer", "SELECT * FROM registry.count_studies()"),
        ("registry_operator", "SELECT * FROM registry.study"),
        ("registry_operator", "SELECT registry.claim_study('1.1', 'north')"),
        ("registry_operator", "SELECT * FROM registry.locate_study('1.1')"),
        ("registry_gateway", "SELECT * FROM registry.series"),
        ("registry_gateway", "SELECT * FROM registry.instance"),
        ("registry_gateway", "SELECT * FROM registry.search('study', '{}', 1, 0)"),
        ("registry_gateway", "SELECT registry.record_contents('1.1', 'north', '[]', '[]')"),
        ("registry_importer", "SELECT * FROM registry.instance"),
        ("registry_importer", "SELECT * FROM registry.search_series('{}', 1, 0)"),
        ("registry_operator", "SELECT * FROM registry.search_instances('{}', 1, 0)"),
    ],
)
def test_each_role_may_do_only_its_own(registry, role, statement):
    with registry.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_the_importer_logs_what_is_tried_on_a_study_whoever_owns_it(registry, importer):
    """Under the clinic that tries, so that the owner's auditors do not see it, and administrators do."""
    importer.add("1.1", "north")
    caller = json.dumps({"username": "tom", "subject": "s", "client": "ohif", "address": "192.0.2.7"})
    call = "SELECT registry.log_upload(%s, %s, %s, %s)"
    importer.connection.execute(call, ("1.1", "north", caller, None))
    importer.connection.execute(call, ("1.1", "south", "{}", "not accepted"))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        importer.connection.execute(call, ("1.1", "nowhere", caller, None))
    with registry.connect("postgres") as auditor:
        rows = auditor.execute(
            "SELECT username, action, clinic_id, study_uid, host(address) FROM registry.access_log ORDER BY entry_id"
        ).fetchall()
    assert rows == [("tom", "upload", "north", "1.1", "192.0.2.7"), ("", "upload", "south", "1.1", None)]
    for role in ("registry_gateway", "registry_operator"):
        with registry.connect(role) as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(call, ("1.1", "north", caller, None))


def test_a_claim_is_released_only_before_anything_is_shown_and_only_for_its_clinic(registry, importer):
    importer.add("1.1", "north")
    importer.connection.execute("SELECT registry.claim_study('1.2', 'north')")
    claims = "SELECT clinic_id, study_uid FROM registry.claims()"
    release = "SELECT registry.release_claim(%s, %s)"
    assert importer.connection.execute(claims).fetchall() == [("north", "1.2")]
    for study, clinic, released in (("1.2", "south", False), ("1.1", "north", False), ("9.9", "north", False)):
        assert importer.connection.execute(release, (study, clinic)).fetchone() == (released,)
    assert importer.connection.execute(release, ("1.2", "north")).fetchone() == (True,)
    assert importer.connection.execute(claims).fetchall() == []
    assert importer.connection.execute("SELECT registry.claim_study('1.2', 'south')").fetchone() == (True,)
    for role in ("registry_gateway", "registry_operator"):
        for statement in (claims, "SELECT registry.release_claim('1.2', 'south')"):
            with registry.connect(role) as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(statement)


LONG = "".join(random.Random(1).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=40_000))


@pytest.mark.parametrize(
    "tag",
    ["00080020", "00080030", "00080050", "00080061", "00080090", "00081030", "00100010", "00100020", "00100030",
     "00100040", "00200010"],
)  # fmt: skip
def test_no_text_is_too_long_for_an_index(importer, tag):
    """Incompressible, so that PostgreSQL cannot make it short; of a date, its digits."""
    value = {"Alphabetic": LONG} if tag in ("00080090", "00100010") else LONG
    importer.connection.execute("SELECT registry.claim_study('1.1', 'north')")
    attributes = {tag: {"vr": "LO", "Value": [value]}}
    importer.connection.execute("SELECT registry.record_study('1.1', 'north', %s)", (json.dumps(attributes),))
    (kept,) = importer.connection.execute("SELECT attributes FROM registry.recorded_study('1.1')").fetchone()
    assert kept[tag] == attributes[tag]


def test_the_access_log_takes_rows_and_keeps_them(registry, gateway):
    entry = """[{"at": "2026-01-02T03:04:05+00:00", "username": "anna", "subject": "s", "client": "ohif",
                 "address": "192.0.2.7", "action": "view", "clinic_id": "north", "study_uid": "1.1"}]"""
    gateway.ask(None, "SELECT registry.log_access(%s)", entry)
    with registry.connect("postgres") as auditor:
        row = auditor.execute("SELECT username, action, clinic_id, study_uid, host(address) FROM registry.access_log")
        assert row.fetchall() == [("anna", "view", "north", "1.1", "192.0.2.7")]


class TestClaims:
    def test_the_first_clinic_keeps_the_study(self, importer):
        assert importer.claim("1.1", "north") is True
        assert importer.claim("1.1", "south") is False
        assert importer.claim("1.1", "north") is True

    def test_a_clinic_nobody_knows_cannot_claim(self, importer):
        for _ in range(2):
            with pytest.raises(psycopg.errors.ForeignKeyViolation, match="clinic nowhere is not in the registry"):
                importer.claim("1.1", "nowhere")
            importer.claim("1.1", "north")

    def test_many_claims_at_once_make_exactly_one_owner(self, registry, importer, gateway):
        clinics = ["north", "south", "west"] * 8
        studies = [f"1.7.{number}" for number in range(25)]

        def claim_all(clinic: str) -> list[bool]:
            with registry.connect("registry_importer") as connection:
                return [Importer(connection).claim(study, clinic) for study in studies]

        with concurrent.futures.ThreadPoolExecutor(len(clinics)) as pool:
            answers = list(pool.map(claim_all, clinics))

        for index, study in enumerate(studies):
            winners = {clinic for clinic, answer in zip(clinics, answers, strict=True) if answer[index]}
            losers = {clinic for clinic, answer in zip(clinics, answers, strict=True) if not answer[index]}
            assert len(winners) == 1, study
            assert winners.isdisjoint(losers), study
            importer.record(study, winners.pop())
        assert sorted(gateway.search("*")) == sorted(studies)

    def test_a_claim_during_another_ones_open_transaction_waits_for_its_end(self, registry, importer):
        with registry.connect("registry_importer") as rival, concurrent.futures.ThreadPoolExecutor(1) as pool:
            with rival.transaction():
                assert Importer(rival).claim("1.1", "south") is True
                waiting = pool.submit(importer.claim, "1.1", "north")
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.2)
            assert waiting.result(timeout=5) is False

    @pytest.mark.parametrize("uid", ["", "1..2", ".1", "1.", "1.2.x", "1" * 65, "1.2\n"])
    def test_a_study_uid_that_is_none_is_refused(self, importer, uid):
        with pytest.raises(psycopg.errors.CheckViolation):
            importer.claim(uid, "north")


class TestRecords:
    def test_only_the_owner_may_record(self, importer):
        importer.claim("1.1", "north")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=r"south has not claimed study 1\.1"):
            importer.record("1.1", "south", name="A")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            importer.record("9.9", "north", name="A")

    def test_attributes_of_another_study_are_refused(self, importer):
        importer.claim("1.1", "north")
        other = {"0020000D": {"vr": "UI", "Value": ["1.2"]}}
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"are of study 1\.2"):
            importer.record_attributes("1.1", "north", other)

    def test_a_revision_is_never_seen_twice_not_even_when_another_server_takes_over_whose_clock_is_slow(
        self, importer, registry
    ):
        with registry.connect("postgres") as administrator:
            hour = 3600 * 1_000_000
            administrator.execute("SELECT setval('registry.revisions', registry.next_revision() + %s)", (hour,))
            try:
                before = importer.add("1.1", "north", name="A")
                importer.forget("1.1")
                after = [importer.add("1.1", "south", name="A"), importer.add("1.2", "south", name="A")]
            finally:
                administrator.execute("SELECT setval('registry.revisions', 1)")
        assert [before, *after] == list(range(before, before + 3))

    def test_a_revision_is_never_seen_twice_not_even_after_a_backup_came_back(self, importer, registry):
        before = importer.add("1.1", "north", name="A")
        with registry.connect("postgres") as administrator:
            administrator.execute("DELETE FROM registry.study")
            administrator.execute("SELECT setval('registry.revisions', 1)")
        assert importer.add("1.1", "south", name="A") > before

    def test_a_revision_is_never_seen_twice_not_even_after_the_study_was_forgotten(self, importer):
        revisions = [importer.add("1.1", "north", name="A"), importer.record("1.1", "north", name="A")]
        assert importer.forget("1.1") is True
        assert importer.forget("1.1") is False
        revisions.append(importer.add("1.1", "south", name="A"))
        assert revisions == sorted(set(revisions))

    def test_what_the_list_cannot_show_is_left_out(self, importer, gateway):
        importer.claim("1.1", "north")
        url = {"vr": "UR", "Value": ["http://127.0.0.1:8042/dicom-web/studies/1.1"]}
        importer.record_attributes("1.1", "north", {"00080061": {"vr": "CS"}, "00081190": url})
        stored = gateway.ask("north", "SELECT attributes FROM registry.study")[0][0]
        assert stored == {"0020000D": {"vr": "UI", "Value": ["1.1"]}}

    def test_every_change_is_announced(self, registry, importer):
        with registry.connect("registry_gateway") as listener:
            listener.execute("LISTEN registry_study")
            importer.add("1.1", "north", name="A")
            importer.forget("1.1")
            heard = [notice.payload for notice in listener.notifies(timeout=5, stop_after=2)]
        assert heard == ["1.1", "1.1"]

    def test_the_reconciler_pages_through_all_of_them(self, registry, importer):
        studies = [f"1.{number}" for number in range(1, 12)]
        for study in studies:
            importer.claim(study, "north")
        seen, after = [], ""
        while page := importer.connection.execute(
            "SELECT study_uid, clinic_id, revision FROM registry.owned_studies(%s, 4)", (after,)
        ).fetchall():
            seen += [row[0] for row in page]
            after = page[-1][0]
        assert seen == sorted(studies)


class TestClinics:
    def test_upsert_tells_what_it_did(self, registry):
        with registry.connect("registry_operator") as operator:
            statement = "SELECT registry.upsert_clinic('east', %s)"
            told = [operator.execute(statement, (name,)).fetchone()[0] for name in ("East", "East", "Far East")]
        assert told == ["created", "unchanged", "updated"]

    @pytest.mark.parametrize("clinic", ["", "a", "-a", "Upper", "a/b", "a,b", "*", "a" * 64, "ä1"])
    def test_a_clinic_id_that_could_forge_a_path_or_a_list_is_refused(self, registry, clinic):
        with registry.connect("registry_operator") as operator, pytest.raises(psycopg.errors.CheckViolation):
            operator.execute("SELECT registry.upsert_clinic(%s, 'x')", (clinic,))

    def test_operator_and_importer_may_list_them(self, registry):
        for role in ("registry_operator", "registry_importer"):
            with registry.connect(role) as connection:
                listed = connection.execute("SELECT clinic_id FROM registry.list_clinics()").fetchall()
            assert [row[0] for row in listed] == ["north", "south", "west"]

    def test_the_operator_counts_what_each_clinic_has_but_not_what_is_only_claimed(self, registry, importer):
        importer.add("1.1", "north")
        importer.add("1.2", "north")
        importer.connection.execute("SELECT registry.claim_study('1.3', 'south')")
        importer.connection.commit()
        with registry.connect("registry_operator") as operator:
            rows = operator.execute("SELECT clinic_id, studies, last_received IS NULL FROM registry.count_studies()")
            assert rows.fetchall() == [("north", 2, False), ("south", 0, True), ("west", 0, True)]
