"""The readers of the access log, their rows and their queries, in the browser and by the command on the host."""

from __future__ import annotations

import argparse
import csv
import io
import json
from datetime import UTC, datetime

import pytest
from imaging_gateway import audit
from imaging_gateway.audit import AuditQuery, read
from imaging_gateway.search import QueryError

from .conftest import SECRETS

STUDY, FOREIGN = "1.2.1", "1.2.2"
VIEW = "/dicom-web/studies/{}/metadata"


@pytest.fixture
async def viewed(gateway, realm, importer):
    """Anna of the north and Boris of the south have each opened a study of theirs."""
    importer.add(STUDY, "north", name="NORTH^ANNA")
    importer.add(FOREIGN, "south", name="SOUTH^IVAN")
    await gateway.ask(VIEW.format(STUDY), realm.bearer("north"))
    await gateway.ask(VIEW.format(FOREIGN), realm.bearer("south", preferred_username="boris", sub="b"))
    await gateway.service.access.flush()


async def entries(gateway, headers, query=""):
    async with gateway.http.get(f"/audit/entries{query}", headers=headers) as response:
        return response.status, await (response.json() if response.status == 200 else response.text())


def auditor(realm, *clinics, **changes):
    return realm.bearer(*clinics, roles=["auditor"], preferred_username="auditor", sub="a", **changes)


@pytest.mark.usefixtures("viewed")
async def test_an_auditor_reads_of_the_own_clinics_only(gateway, realm):
    status, found = await entries(gateway, auditor(realm, "north"))
    assert status == 200
    (entry,) = found["entries"]
    moment = datetime.fromisoformat(entry.pop("at"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert entry == {
        "user": "anna",
        "address": "192.0.2.7",
        "client": "ohif",
        "action": "view",
        "clinic": "north",
        "study": STUDY,
        "detail": None,
    }
    assert found["next"] is None
    assert (await entries(gateway, auditor(realm)))[1]["entries"] == []
    both = (await entries(gateway, auditor(realm, "north", "south")))[1]["entries"]
    assert [one["user"] for one in both if one["action"] == "view"] == ["boris", "anna"]


@pytest.mark.usefixtures("viewed")
async def test_an_administrator_reads_all_of_it(gateway, realm):
    found = (await entries(gateway, realm.bearer(roles=["admin"])))[1]["entries"]
    assert [one["user"] for one in found] == ["boris", "anna"]


@pytest.mark.usefixtures("viewed")
async def test_a_foreign_study_is_as_little_on_record_as_an_unknown_one(gateway, realm):
    answers = [await entries(gateway, auditor(realm, "north"), f"?study={study}") for study in (FOREIGN, "9.9.9")]
    assert answers[0] == answers[1] == (200, {"entries": [], "next": None})


@pytest.mark.parametrize("roles", [[], ["physician"], ["technician"], ["offline_access", "Auditor"]])
async def test_nobody_else_reads_it(gateway, realm, roles):
    assert (await entries(gateway, realm.bearer("north", roles=roles)))[0] == 404


async def test_without_a_token_it_is_closed(gateway, realm):
    assert (await entries(gateway, {}))[0] == 401
    assert (await entries(gateway, auditor(realm, "north", exp=1)))[0] == 401


async def test_the_proxy_is_never_told_to_ask_orthanc_for_it(gateway, realm):
    assert (await gateway.ask("/audit/entries", auditor(realm, "north")))[0] == 403


@pytest.mark.usefixtures("viewed")
async def test_reading_it_is_on_record_too(gateway, realm):
    await entries(gateway, auditor(realm, "north"), f"?study={STUDY}")
    await gateway.service.access.flush()
    newest = (await entries(gateway, auditor(realm, "north")))[1]["entries"][0]
    assert (newest["user"], newest["action"], newest["study"]) == ("auditor", "audit", STUDY)


@pytest.mark.usefixtures("viewed")
async def test_pages(gateway, realm):
    everything = (await entries(gateway, realm.bearer(roles=["admin"])))[1]["entries"]
    first = (await entries(gateway, realm.bearer(roles=["admin"], sid="2"), "?limit=1"))[1]
    assert len(first["entries"]) == 1
    second = (await entries(gateway, realm.bearer(roles=["admin"]), f"?limit=1&before={first['next']}"))[1]
    assert [*first["entries"], *second["entries"]] == everything


def asked(query):
    return read(tuple(tuple(pair.split("=", 1)) for pair in query.split("&")))


def test_filters_are_read():
    assert asked("study=&user=&since=&limit=") == AuditQuery()
    assert asked("user=Anna&study=1.2&limit=5000&before=7") == AuditQuery("1.2", "anna", None, 7, audit.LARGEST_PAGE)
    assert asked("since=2026-05-04").since == datetime(2026, 5, 4, tzinfo=UTC)
    assert asked("since=2026-05-04T13:30+05:00").since == datetime(2026, 5, 4, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        *(
            "study=x",
            "study=1.2%",
            "study=1.2'--",
            "since=soon",
            "since=2026-13-01",
            "since=2026-02-30",
            "since=9999-12-31T23:59:59-23:59",
            "limit=0",
        ),
        *("limit=-1", "limit=x", "before=x", "user=a\nb", "clinic=north", "user=a&user=b", "study=1.2&study=1.3"),
    ],
)
async def test_a_wrong_filter_is_named_and_never_ignored(query):
    with pytest.raises(QueryError, match=query.split("=")[0]):
        asked(query)


async def test_a_wrong_filter_is_a_400_that_says_so(gateway, realm):
    status, text = await entries(gateway, auditor(realm, "north"), "?since=soon")
    assert status == 400
    assert "since takes a date as in 2026-05-04" in text


class TestCommand:
    """`imaging-gateway audit`, for the operator."""

    @pytest.fixture
    def show(self, config, capsys):
        def show(*arguments):
            parser = argparse.ArgumentParser()
            audit.add_options(parser)
            status = audit.show(config, SECRETS, parser.parse_args(arguments))
            return status, *capsys.readouterr()

        return show

    @pytest.fixture
    def row(self, gateway_role):
        gateway_role(
            [
                {"at": f"2026-01-02T03:04:0{number}Z", "username": user, "subject": "s", "client": "ohif",
                 "address": None, "action": "view", "clinic_id": "north", "study_uid": STUDY, "detail": None}
                for number, user in enumerate(("anna", "boris"))
            ]
        )  # fmt: skip

    @pytest.fixture
    def gateway_role(self, registry):
        def log(rows):
            with registry.connect("registry_gateway") as connection:
                connection.execute("SELECT registry.log_access(%s)", (json.dumps(rows),))

        return log

    @pytest.mark.usefixtures("row")
    def test_it_prints_a_table(self, show):
        status, out, _ = show("--user", "anna")
        assert status == 0
        assert [line.split() for line in out.splitlines()] == [
            ["at", "user", "address", "client", "action", "clinic", "study", "detail"],
            ["2026-01-02T03:04:00+00:00", "anna", "ohif", "view", "north", STUDY],
        ]

    @pytest.mark.usefixtures("row")
    def test_it_prints_json_and_csv_and_says_when_there_is_more(self, show):
        assert len(json.loads(show("--format=json")[1])["entries"]) == 2
        rows = list(csv.reader(io.StringIO(show("--format=csv")[1])))
        assert [row[1] for row in rows] == ["user", "boris", "anna"]
        assert "There is more" in show("--limit=1")[1]

    def test_a_wrong_filter_is_said_and_nothing_is_printed(self, show):
        status, out, err = show("--since=soon")
        assert (status, out) == (1, "")
        assert "since takes a date" in err
