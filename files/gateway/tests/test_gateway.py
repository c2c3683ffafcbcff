"""The whole gateway against the real registry: its decisions, its answers, and its work while a part is missing."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager

import pytest
from imaging_gateway import access_log, passes
from imaging_gateway.registry import RegistryAwayError

from ...conftest import instance_attributes
from .conftest import SECRETS, open_gateway, ready

METADATA = "/dicom-web/studies/{}/metadata"
SERIES = "/dicom-web/studies/{}/series"
NORTH, SOUTH, UNKNOWN = "1.2.1", "1.2.2", "9.9.9"


@pytest.fixture
def studies(importer):
    return {
        NORTH: importer.add(NORTH, "north", name="NORTH^ANNA", date="20240101", patient="P1", modalities=["CT"]),
        SOUTH: importer.add(SOUTH, "south", name="SOUTH^IVAN", date="20240102", patient="P2", modalities=["MR"]),
    }


@contextmanager
def away(cluster):
    """Let nobody in and put everybody out, as a restart of the database does."""
    cluster.sql("ALTER DATABASE registry ALLOW_CONNECTIONS false")
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'registry'")
    try:
        yield
    finally:
        cluster.sql("ALTER DATABASE registry ALLOW_CONNECTIONS true")


class TestDecisions:
    async def test_a_study_of_the_callers_clinic_is_allowed_with_its_revision(self, gateway, realm, studies):
        assert await gateway.ask(METADATA.format(NORTH), realm.bearer("north")) == (204, str(studies[NORTH]))
        assert await gateway.ask(METADATA.format(SOUTH), realm.bearer("north", "south")) == (204, str(studies[SOUTH]))

    @pytest.mark.parametrize(
        ("path", "whole"),
        [
            ("", True),
            ("/series/1.3", True),
            ("/series/1.3/instances/1.4", True),
            ("/series", False),
            ("/metadata", False),
            ("/rendered", False),
            ("/series/1.3/metadata", False),
            ("/series/1.3/instances", False),
            ("/series/1.3/instances/1.4/frames/1", False),
            ("/series/1.3/instances/1.4/frames/1,2", True),
            ("/series/1.3/instances/1.4/bulk/7FE00010", False),
            ("/series/1.3/instances/1.4/rendered", False),
        ],
    )
    async def test_what_is_given_whole_of_a_study_with_a_large_instance_is_marked(
        self, gateway, realm, importer, studies, path, whole
    ):
        async def heavy():
            uri = f"/dicom-web/studies/{NORTH}{path}"
            sent = {"X-Original-Method": "GET", "X-Original-URI": uri, **realm.bearer("north")}
            async with gateway.http.get("/authorize", headers=sent) as response:
                assert response.status == 204
                return "X-Heavy" in response.headers

        assert not await heavy()
        for largest, marked in ((64 << 20, False), ((64 << 20) + 1, whole)):
            revision = importer.record_attributes(NORTH, "north", {}, largest)
            while await gateway.ask(METADATA.format(NORTH), realm.bearer("north")) != (204, str(revision)):
                await asyncio.sleep(0.01)
            # The second time from memory, if not the first.
            assert [await heavy(), await heavy()] == [marked, marked]

    async def test_foreign_and_unknown_are_one_and_the_same_answer(self, gateway, realm, studies):
        # The foreign one is in the gateway's memory by then.
        assert (await gateway.ask(METADATA.format(SOUTH), realm.bearer("south")))[0] == 204

        async def whole_answer(study):
            sent = {"X-Original-Method": "GET", "X-Original-URI": METADATA.format(study), **realm.bearer("north")}
            async with gateway.http.get("/authorize", headers=sent) as response:
                return (
                    response.status,
                    {name: value for name, value in response.headers.items() if name != "Date"},
                    await response.read(),
                )

        foreign, unknown = await whole_answer(SOUTH), await whole_answer(UNKNOWN)
        assert foreign == unknown
        assert foreign[0] == 403

    async def test_foreign_and_unknown_take_the_same_way(self, gateway, realm, studies, monkeypatch):
        await gateway.ask(METADATA.format(SOUTH), realm.bearer("south"))
        asked = []
        registry_type = type(gateway.service.registry)
        locate = registry_type.locate_study

        async def spy(registry, scope, study):
            asked.append((scope, study))
            return await locate(registry, scope, study)

        monkeypatch.setattr(registry_type, "locate_study", spy)
        await gateway.ask(METADATA.format(SOUTH), realm.bearer("north"))
        await gateway.ask(METADATA.format(UNKNOWN), realm.bearer("north"))
        assert asked == [("north", SOUTH), ("north", UNKNOWN)]

    @pytest.mark.parametrize("path", ["", "/series/1.3", "/rendered", "/series/1.3/instances/1.4/frames/1"])
    async def test_the_pass_of_a_gateway_is_for_what_warms_the_cache_alone(self, gateway, studies, path):
        """Of what it is used for nothing goes on record."""
        own = {"Authorization": f"Bearer {passes.issue(SECRETS.warm_secret, 'north', 120)}"}
        for warmed in (METADATA.format(NORTH), f"/dicom-web/studies/{NORTH}/series"):
            assert await gateway.ask(warmed, own) == (204, str(studies[NORTH]))
        assert await gateway.ask(METADATA.format(SOUTH), own) == (403, None)
        assert await gateway.ask(f"/dicom-web/studies/{NORTH}{path}", own) == (403, None)
        assert (await gateway.search(headers=own))[0] == 401

    @pytest.mark.parametrize("uri", [METADATA.format(NORTH), "/dicom-web/studies", "/nowhere", "//"])
    async def test_without_a_valid_token_everything_is_401(self, gateway, realm, studies, uri):
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            realm.bearer("north", exp=1),
            realm.bearer("north", iss="x"),
        ):
            sent = {"X-Original-Method": "GET", "X-Original-URI": uri, **headers}
            async with gateway.http.get("/authorize", headers=sent) as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")

    async def test_a_token_in_the_query_is_never_taken(self, gateway, realm, studies):
        token = realm.token(("north",))
        assert (await gateway.ask(f"{METADATA.format(NORTH)}?token={token}"))[0] == 401
        assert (await gateway.ask(f"{METADATA.format(NORTH)}?token={token}", realm.bearer("north")))[0] == 403
        assert (await gateway.search(f"?token={token}"))[0] == 401
        assert (await gateway.search(f"?token={token}", realm.bearer("north")))[0] == 400

    async def test_without_a_clinic_or_a_role_nothing_is_visible(self, gateway, realm, studies):
        assert (await gateway.ask(METADATA.format(NORTH), realm.bearer()))[0] == 403
        for role in ("auditor", "offline_access"):
            assert (await gateway.ask(METADATA.format(NORTH), realm.bearer("north", roles=[role])))[0] == 403

    async def test_an_administrator_sees_all_clinics_and_what_the_registry_does_not_know(self, gateway, realm, studies):
        admin = realm.bearer(roles=["admin"])
        assert await gateway.ask(METADATA.format(SOUTH), admin) == (204, str(studies[SOUTH]))
        answers = [await gateway.ask(METADATA.format(UNKNOWN), admin) for _ in range(2)]
        assert [status for status, _ in answers] == [204, 204]
        # Never the same key twice in the proxy's cache.
        assert answers[0] != answers[1]

    async def test_orthanc_is_never_asked_for_a_study_list(self, gateway, realm):
        for roles in (["physician"], ["admin"]):
            assert (await gateway.ask("/dicom-web/studies", realm.bearer("north", roles=roles)))[0] == 403

    @pytest.mark.parametrize(
        ("clinics", "roles", "named", "decided"),
        [
            (["north"], ["technician"], None, "north"),
            (["north"], ["technician"], "north", "north"),
            (["north"], ["technician"], "south", None),
            (["north"], ["technician"], "", None),
            (["north", "south"], ["technician"], None, None),
            (["north", "south"], ["technician"], "south", "south"),
            (["north", "south"], ["technician"], "north, south", None),
            (["north", "south"], ["technician"], "west", None),
            ([], ["technician"], None, None),
            ([], ["technician"], "north", None),
            (["north"], ["admin"], None, "north"),
            (["north"], ["admin"], "west", "west"),
            ([], ["admin"], None, None),
            ([], ["admin"], "west", "west"),
            ([], ["admin"], "*", None),
            ([], ["admin"], "a,b", None),
        ],
    )
    @pytest.mark.parametrize("uri", ["/dicom-web/studies", f"/dicom-web/studies/{SOUTH}"])
    async def test_an_upload_is_for_one_clinic_of_the_caller(
        self, gateway, realm, studies, uri, clinics, roles, named, decided
    ):
        sent = {"X-Original-Method": "POST", "X-Original-URI": uri, "X-Real-IP": "192.0.2.7"}
        sent |= realm.bearer(*clinics, roles=roles) | ({} if named is None else {"X-Clinic": named})
        async with gateway.http.get("/authorize", headers=sent) as response:
            if decided is None:
                assert (response.status, response.headers.get("X-Refusal")) == (403, "clinic")
                assert "X-Clinics" not in response.headers
            else:
                assert (response.status, response.headers["X-Clinics"]) == (204, decided)
                assert json.loads(response.headers["X-Caller"]) == {
                    "username": "anna", "subject": "0b2e8c0e-sub", "client": "ohif", "address": "192.0.2.7",
                }  # fmt: skip

    async def test_who_may_not_upload_is_told_nothing_about_clinics(self, gateway, realm):
        sent = {"X-Original-Method": "POST", "X-Original-URI": "/dicom-web/studies", **realm.bearer("north", "south")}
        async with gateway.http.get("/authorize", headers=sent) as response:
            assert response.status == 403
            assert "X-Refusal" not in response.headers

    async def test_the_import_page_shows_the_callers_clinics(self, gateway, realm):
        for clinics, roles, scope in ((["south", "north"], "technician", "north,south"), ([], "admin", "*")):
            sent = {"X-Original-Method": "GET", "X-Original-URI": "/import/status"}
            async with gateway.http.get("/authorize", headers=sent | realm.bearer(*clinics, roles=[roles])) as response:
                assert (response.status, response.headers["X-Clinics"]) == (204, scope)

    @pytest.mark.parametrize("name", ["X-Original-URI", "X-Original-Method"])
    async def test_a_doubled_or_missing_header_of_the_proxy_is_refused(self, gateway, realm, studies, name):
        sent = {"X-Original-Method": "GET", "X-Original-URI": METADATA.format(NORTH), **realm.bearer("north")}
        async with gateway.http.get("/authorize", headers=[*sent.items(), (name, sent[name])]) as response:
            assert response.status == 403
        async with gateway.http.get("/authorize", headers={key: sent[key] for key in sent if key != name}) as response:
            assert response.status == 403

    async def test_two_tokens_are_none(self, gateway, realm, studies):
        headers = [
            ("X-Original-Method", "GET"),
            ("X-Original-URI", METADATA.format(NORTH)),
            *realm.bearer("north").items(),
            *realm.bearer("south").items(),
        ]
        async with gateway.http.get("/authorize", headers=headers) as response:
            assert response.status == 401

    async def test_clinics_come_from_the_token_only(self, gateway, realm, studies):
        forged = {"X-Clinics": "south", "X-Forwarded-Groups": "/clinics/south", "Cookie": "clinic=south"}
        assert (await gateway.ask(METADATA.format(SOUTH), {**realm.bearer("north"), **forged}))[0] == 403


class TestDisplay:
    """Frames of an image that is stored and cannot be displayed: refused in words, to who may see the study."""

    FRAME = "/dicom-web/studies/{}/series/1/instances/{}/frames/1"

    async def refusal(self, gateway, headers, uri):
        sent = {"X-Original-Method": "GET", "X-Original-URI": uri, **headers}
        async with gateway.http.get("/authorize", headers=sent) as response:
            return response.status, response.headers.get("X-Refusal")

    async def test_its_frames_are_refused_with_the_code_and_all_else_is_given(self, gateway, realm, studies, importer):
        importer.note_display(NORTH, {"1.5": "fragments"})
        importer.record(NORTH, "north")
        frame, bad, good = self.FRAME, (403, "display-fragments"), (204, None)
        for headers in (realm.bearer("north"), realm.bearer(roles=["admin"])):
            assert await self.refusal(gateway, headers, frame.format(NORTH, "1.5")) == bad
            assert await self.refusal(gateway, headers, frame.format(NORTH, "1.5") + ",2") == bad
            assert await self.refusal(gateway, headers, frame.format(NORTH, "1.6")) == good
            for other in ("", "/metadata", "/rendered", "/frames/1/rendered", "/bulk/7FE00010"):
                uri = f"/dicom-web/studies/{NORTH}/series/1/instances/1.5{other}"
                assert await self.refusal(gateway, headers, uri) == good
        importer.note_display(NORTH, {"1.5": None})
        importer.record(NORTH, "north")
        assert await wait_for(lambda: self.refusal(gateway, realm.bearer("north"), frame.format(NORTH, "1.5")), good)

    async def test_who_may_not_see_the_study_is_told_nothing(self, gateway, realm, studies, importer):
        importer.note_display(SOUTH, {"1.5": "fragments"})
        importer.record(SOUTH, "south")
        for study in (SOUTH, UNKNOWN):
            answer = await self.refusal(gateway, realm.bearer("north"), self.FRAME.format(study, "1.5"))
            assert answer == (403, None)

    async def test_it_is_asked_once_for_an_image_and_never_for_a_study_without(
        self, gateway, realm, studies, importer, monkeypatch
    ):
        importer.note_display(NORTH, {"1.5": "fragments"})
        importer.record(NORTH, "north")
        importer.add("1.2.77", "north")
        asked = []
        registry_type = type(gateway.service.registry)
        why = registry_type.why_undisplayable

        async def spy(registry, scope, study, image):
            asked.append((scope, study, image))
            return await why(registry, scope, study, image)

        monkeypatch.setattr(registry_type, "why_undisplayable", spy)
        for _ in range(3):
            for study, image in ((NORTH, "1.5"), (NORTH, "1.6"), ("1.2.77", "1.5")):
                await self.refusal(gateway, realm.bearer("north"), self.FRAME.format(study, image))
        assert asked == [("north", NORTH, "1.5"), ("north", NORTH, "1.6")]

    async def test_what_is_refused_is_no_view(self, gateway, realm, studies, importer, registry):
        importer.note_display(NORTH, {"1.5": "fragments"})
        importer.record(NORTH, "north")
        await self.refusal(gateway, realm.bearer("north"), self.FRAME.format(NORTH, "1.5"))
        await gateway.service.access.flush()
        assert TestAccessLog().rows(registry) == []


async def wait_for(ask, wanted):
    """Ask again until the registry's notification has come."""
    for _ in range(200):
        if (answer := await ask()) == wanted:
            return True
        await asyncio.sleep(0.01)
    raise AssertionError(answer)


class TestForms:
    """The request to Orthanc is decided here, after the owner of the study is known."""

    async def refusal(self, gateway, headers, uri, accept):
        sent = {"X-Original-Method": "GET", "X-Original-URI": uri, "X-Original-Accept": accept, **headers}
        async with gateway.http.get("/authorize", headers=sent) as response:
            names = ("X-Refusal", "X-Orthanc-Accept", "X-Part-Alone")
            return response.status, *(response.headers.get(name) for name in names)

    async def test_who_may_see_the_study_is_told_of_the_form(self, gateway, realm, studies):
        bulk = f"/dicom-web/studies/{NORTH}/series/1/instances/1/bulk/54001010"
        wanted = 'multipart/related; type="application/octet-stream"'
        north = realm.bearer("north")
        assert await self.refusal(gateway, north, METADATA.format(NORTH), "*/*") == (
            204, None, "application/dicom+json", None,
        )  # fmt: skip
        assert await self.refusal(gateway, north, bulk, "application/octet-stream") == (
            204, None, wanted, "application/octet-stream",
        )  # fmt: skip
        assert await self.refusal(gateway, north, METADATA.format(NORTH), "text/html") == (403, "accept", None, None)
        frames = f"/dicom-web/studies/{NORTH}/series/1/instances/1/frames/2,1,2"
        assert await self.refusal(gateway, north, frames, "*/*") == (403, "frames", None, None)

    async def test_who_may_not_is_told_nothing(self, gateway, realm, studies):
        frames = "/dicom-web/studies/{}/series/1/instances/1/frames/2,1,2"
        for study in (SOUTH, UNKNOWN):
            for uri in (METADATA.format(study), f"{METADATA.format(study)}?accept=x", frames.format(study)):
                answer = await self.refusal(gateway, realm.bearer("north"), uri, "text/html")
                assert answer == (403, None, None, None)

    async def test_what_is_not_given_is_no_view(self, gateway, realm, studies, registry):
        await self.refusal(gateway, realm.bearer("north"), METADATA.format(NORTH), "text/html")
        await gateway.service.access.flush()
        assert TestAccessLog().rows(registry) == []

    async def test_orthancs_own_api_is_asked_for_anything(self, gateway, realm):
        admin = realm.bearer(roles=["admin"])
        for accept in ("image/jpeg", "x", ""):
            answer = await self.refusal(
                gateway, admin, f"/orthanc/instances/{'-'.join(['0a0b0c0d'] * 5)}/preview", accept
            )
            assert answer == (204, None, "*/*", None)


class TestChanges:
    """A remembered owner is never used after it has changed."""

    async def until(self, gateway, realm, study, expected, clinic="north"):
        deadline = time.monotonic() + 5
        while (answer := await gateway.ask(METADATA.format(study), realm.bearer(clinic))) != expected:
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.01)

    async def test_a_new_revision_is_known_at_once(self, gateway, realm, studies, importer):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        revision = importer.record(NORTH, "north", name="NORTH^ANNA")
        await self.until(gateway, realm, NORTH, (204, str(revision)))

    async def test_a_deleted_study_is_gone_at_once(self, gateway, realm, studies, importer):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        importer.forget(NORTH)
        await self.until(gateway, realm, NORTH, (403, None))

    async def test_a_study_that_changed_hands_is_its_new_owners(self, gateway, realm, studies, importer):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        importer.forget(NORTH)
        revision = importer.add(NORTH, "south", name="A")
        await self.until(gateway, realm, NORTH, (403, None))
        await self.until(gateway, realm, NORTH, (204, str(revision)), clinic="south")

    async def test_changes_missed_while_the_connection_was_lost_are_not_believed(
        self, gateway, realm, studies, importer, registry
    ):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        with registry.connect("postgres") as administrator:
            administrator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'imaging-gateway'"
            )
            importer.forget(NORTH)
        await self.until(gateway, realm, NORTH, (403, None))


class TestSearch:
    async def test_the_list_has_the_callers_studies_only_newest_first(self, gateway, realm, studies, importer):
        importer.add("1.2.3", "north", name="LATER", date="20250101")
        status, found, headers = await gateway.search("?limit=101&offset=0&fuzzymatching=false", realm.bearer("north"))
        assert status == 200
        assert [study["0020000D"]["Value"] for study in found] == [["1.2.3"], [NORTH]]
        assert found[1]["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "NORTH^ANNA"}]}
        assert found[1]["00081190"]["Value"] == [f"https://imaging.test/dicom-web/studies/{NORTH}"]
        assert headers["Content-Type"] == "application/dicom+json"
        assert headers["Cache-Control"] == "no-store"
        assert "Warning" not in headers

    async def test_a_foreign_study_is_found_as_little_as_an_unknown_one(self, gateway, realm, studies):
        for study in (SOUTH, UNKNOWN):
            status, found, _ = await gateway.search(f"?StudyInstanceUID={study}", realm.bearer("north"))
            assert (status, found) == (200, [])
        assert (await gateway.search("?PatientID=P2", realm.bearer("north")))[1] == []

    async def test_several_clinics_and_all_of_them(self, gateway, realm, studies):
        for headers in (realm.bearer("north", "south"), realm.bearer(roles=["admin"])):
            found = (await gateway.search("", headers))[1]
            assert [study["0020000D"]["Value"][0] for study in found] == [SOUTH, NORTH]

    async def test_no_clinic_no_studies(self, gateway, realm, studies):
        assert (await gateway.search("", realm.bearer()))[:2] == (200, [])

    async def test_pages_tell_that_there_is_more(self, gateway, realm, studies, importer):
        importer.add("1.2.3", "north", name="LATER", date="20250101")
        _, found, headers = await gateway.search("?limit=1", realm.bearer("north"))
        assert [study["0020000D"]["Value"][0] for study in found] == ["1.2.3"]
        assert "There are additional results" in headers["Warning"]
        _, found, headers = await gateway.search("?limit=1&offset=1", realm.bearer("north"))
        assert [study["0020000D"]["Value"][0] for study in found] == [NORTH]
        assert "Warning" not in headers

    async def test_matching_reaches_the_registry(self, gateway, realm, studies):
        found = (await gateway.search("?PatientName=*anna*&ModalitiesInStudy=CT,MR", realm.bearer("north", "south")))[1]
        assert [study["0020000D"]["Value"][0] for study in found] == [NORTH]

    @pytest.mark.parametrize("query", ["?x=1", "?StudyDate=soon", "?PatientID=a&PatientID=b"])
    async def test_a_wrong_query_is_a_400_that_says_so(self, gateway, realm, query):
        status, text, _ = await gateway.search(query, realm.bearer("north"))
        assert status == 400
        assert query[1:].split("=")[0] in text

    async def test_who_may_not_look_at_studies_gets_no_list(self, gateway, realm, studies):
        assert (await gateway.search("", realm.bearer("north", roles=["auditor"])))[0] == 404
        assert (await gateway.search("", {}))[0] == 401

    async def test_only_json_is_spoken(self, gateway, realm):
        accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
        assert (await gateway.search("", {**realm.bearer("north"), **accept}))[0] == 406
        accept = {"Accept": "application/dicom+json, multipart/related"}
        assert (await gateway.search("", {**realm.bearer("north"), **accept}))[0] == 200

    async def test_series_and_instances_of_the_callers_studies(self, gateway, realm, studies, importer):
        importer.record_contents(NORTH, "north", *(instance_attributes("5.1", f"6.{n}", instance=n) for n in (1, 2)))
        importer.record_contents(SOUTH, "south", instance_attributes("5.2", "6.3", modality="MR"))

        async def found(level, tag, query, *clinics):
            headers = realm.bearer(*clinics)
            async with gateway.http.get(f"/dicom-web/{level}{query}", headers=headers) as response:
                assert response.status == 200
                return [one[tag]["Value"][0] for one in await response.json(content_type=None)]

        assert await found("series", "0020000E", "", "north") == ["5.1"]
        assert await found("series", "0020000E", "?Modality=MR", "north") == []
        assert await found("series", "0020000E", "?SeriesInstanceUID=5.1,5.2", "north", "south") == ["5.2", "5.1"]
        assert await found("instances", "00080018", "?PatientName=*Anna*&InstanceNumber=2", "north") == ["6.2"]
        assert await found("instances", "00081190", "?SOPInstanceUID=6.2", "north") == [
            f"https://imaging.test/dicom-web/studies/{NORTH}/series/5.1/instances/6.2"
        ]
        assert await found("instances", "00080018", "?SOPInstanceUID=6.3", "north") == []
        assert await found("instances", "00080018", "", "north", "south") == ["6.3", "6.1", "6.2"]
        for level in ("series", "instances"):
            async with gateway.http.get(f"/dicom-web/{level}?SOPClassUID=x", headers=realm.bearer("north")) as response:
                assert response.status == 400
            async with gateway.http.get(f"/dicom-web/{level}") as response:
                assert response.status == 401

    async def test_a_head_has_everything_but_the_body(self, gateway, realm, studies):
        async with gateway.http.get("/dicom-web/studies", headers=realm.bearer("north")) as whole:
            length = len(await whole.read())
        async with gateway.http.head("/dicom-web/studies", headers=realm.bearer("north")) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(length))
        assert await gateway.ask(METADATA.format(NORTH), realm.bearer("north"), "HEAD") == (204, str(studies[NORTH]))
        assert await gateway.ask(METADATA.format(SOUTH), realm.bearer("north"), "HEAD") == (403, None)

    async def test_options_tell_a_callers_methods_and_nothing_of_a_study(self, gateway, realm, studies):
        async def options(path, headers):
            async with gateway.http.options(path, headers=headers) as response:
                assert await response.text() in ("", "404: Not Found")
                return response.status, response.headers.get("Allow")

        for study in (NORTH, SOUTH, UNKNOWN):
            for path in (METADATA.format(study), SERIES.format(study)):
                assert await options(path, realm.bearer("north")) == (204, "GET, HEAD, OPTIONS")
                assert await options(path, {}) == (401, None)
        uploader = realm.bearer("north", roles=["technician"])
        assert await options("/dicom-web/studies", uploader) == (204, "GET, HEAD, OPTIONS, POST")
        for path in ("/dicom-web/servers", "/dicom-web/studies/x", "/dicom-web/"):
            assert (await options(path, realm.bearer("north")))[0] == 404

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_the_list_is_only_read(self, gateway, realm, method):
        async with gateway.http.request(method, "/dicom-web/studies", headers=realm.bearer("north")) as response:
            assert response.status == 405


class TestAccessLog:
    def rows(self, registry):
        with registry.connect("postgres") as auditor:
            return auditor.execute(
                """SELECT username, client, host(address), action, clinic_id, study_uid, detail
                   FROM registry.access_log ORDER BY entry_id"""
            ).fetchall()

    async def test_a_head_is_a_view_and_a_search_of_any_level_a_list(self, gateway, realm, studies, registry):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north", sid="a"), "HEAD")
        for number, level in enumerate(("studies", "series", "instances")):
            headers = realm.bearer("north", sid=str(number))
            async with gateway.http.head(f"/dicom-web/{level}?PatientID=SECRET", headers=headers) as response:
                assert response.status == 200
        await gateway.service.access.flush()
        assert [(row[3], row[5], row[6]) for row in self.rows(registry)] == [("view", NORTH, None)] + 3 * [
            ("list", None, None)
        ]

    async def test_one_row_per_study_view_and_not_per_frame(self, gateway, realm, studies, registry):
        for frame in range(1, 20):
            await gateway.ask(f"/dicom-web/studies/{NORTH}/series/1/instances/1/frames/{frame}", realm.bearer("north"))
        await gateway.ask(f"/dicom-web/studies/{NORTH}", realm.bearer("north"))
        await gateway.ask(METADATA.format(SOUTH), realm.bearer("north"))
        await gateway.search("?PatientName=SECRET*", realm.bearer("north"))
        await gateway.service.access.flush()
        assert self.rows(registry) == [
            ("anna", "ohif", "192.0.2.7", "view", "north", NORTH, None),
            ("anna", "ohif", "192.0.2.7", "download", "north", NORTH, None),
            ("anna", "ohif", None, "list", "north", None, None),
        ]

    async def test_a_view_that_pauses_is_a_new_view(self, gateway, realm, studies, registry, monkeypatch):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        monkeypatch.setattr(access_log, "VIEW_PAUSE_SECONDS", 1e-6)
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        await gateway.service.access.flush()
        assert len(self.rows(registry)) == 2

    async def test_a_view_through_several_gateways_is_one_row(self, gateway, realm, studies, registry, config):
        async with open_gateway(config, realm) as another:
            await ready(another.http)
            for one in (gateway, another):
                await one.ask(METADATA.format(NORTH), realm.bearer("north"))
                await one.ask(METADATA.format(NORTH), realm.bearer("north", sid=f"a session at {id(one)}"))
            await asyncio.gather(*(one.service.access.flush() for one in (gateway, another)))
        assert len(self.rows(registry)) == 3

    async def test_rows_whose_answer_was_lost_are_not_doubled(self, gateway, realm, studies, registry):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        sent = list(gateway.service.access._pending)
        await gateway.service.access.flush()
        await gateway.service.registry.log_access(sent)
        assert len(self.rows(registry)) == 1

    async def test_what_an_administrator_does_in_orthanc_is_on_record(self, gateway, realm, registry):
        resource = "/orthanc/studies/" + "-".join(["0a0b0c0d"] * 5)
        assert (await gateway.ask(resource, realm.bearer(roles=["admin"]), method="DELETE"))[0] == 204
        await gateway.service.access.flush()
        assert [row[3:] for row in self.rows(registry)] == [("delete", None, None, f"DELETE {resource}")]

    async def test_the_journal_has_the_line_and_nothing_of_the_patient(self, gateway, realm, studies, caplog):
        caplog.set_level("INFO")
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        await gateway.search("?PatientName=ANNA*&PatientID=P1", realm.bearer("north"))
        lines = [record.getMessage() for record in caplog.records if record.name == "access"]
        assert len(lines) == 2
        assert (
            f"action=view user=anna subject=0b2e8c0e-sub client=ohif address=192.0.2.7 clinic=north study={NORTH}"
            in lines[0]
        )
        assert not any(word in caplog.text for word in ("ANNA", "P1", "PatientName"))


class TestFaults:
    async def test_it_starts_without_keycloak_and_decides_nothing_until_it_has_keys(
        self, registry, realm, config, studies
    ):
        realm.down = True
        async with open_gateway(config, realm) as gateway:
            assert (await gateway.ask(METADATA.format(NORTH), realm.bearer("north")))[0] == 503
            async with gateway.http.get("/health/live") as live, gateway.http.get("/health/ready") as not_ready:
                assert (live.status, not_ready.status) == (200, 503)
                assert "no keys yet from http://keycloak.test/certs" in await not_ready.text()
            realm.down = False
            await gateway.service.verifier.refresh_keys()
            await ready(gateway.http)
            assert (await gateway.ask(METADATA.format(NORTH), realm.bearer("north")))[0] == 204

    async def test_while_the_database_is_away_known_owners_hold_and_all_else_is_undecided(
        self, studies, config, realm, cluster
    ):
        known, stranger = realm.bearer("north"), realm.bearer("south")
        # The gateway starts after the studies are recorded: their notifications, heard late, would unlearn the owner.
        async with open_gateway(config, realm) as gateway:
            await ready(gateway.http)
            assert (await gateway.ask(METADATA.format(NORTH), known))[0] == 204
            with away(cluster):
                assert (await gateway.ask(METADATA.format(NORTH), known))[0] == 204
                assert (await gateway.ask(METADATA.format(NORTH), stranger))[0] == 503
                assert (await gateway.ask(METADATA.format(UNKNOWN), known))[0] == 503
                assert (await gateway.search("", known))[0] == 503
                gateway.service.owners._deaf_since = time.monotonic() - 301
                assert (await gateway.ask(METADATA.format(NORTH), known))[0] == 503
            await ready(gateway.http)
            assert (await gateway.ask(METADATA.format(NORTH), stranger))[0] == 403

    async def test_access_log_rows_wait_for_the_database(self, studies, config, realm, cluster, registry):
        async with open_gateway(config, realm) as gateway:  # after the studies, as above
            await ready(gateway.http)
            await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
            await gateway.service.access.flush()
            with away(cluster):
                await gateway.ask(SERIES.format(NORTH), realm.bearer("north", sid="another session"))
                with pytest.raises(RegistryAwayError):
                    await gateway.service.access.flush()
                assert len(gateway.service.access._pending) == 1
            await gateway.service.access.flush()
            assert len(TestAccessLog().rows(registry)) == 2

    async def test_two_who_write_the_access_log_at_once_write_each_row_once(self, gateway, realm, studies, registry):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        await asyncio.gather(*(gateway.service.access.flush() for _ in range(5)))
        assert len(TestAccessLog().rows(registry)) == 1

    async def test_metrics_name_no_one(self, gateway, realm, studies):
        await gateway.ask(METADATA.format(NORTH), realm.bearer("north"))
        async with gateway.http.get("/metrics") as response:
            text = await response.text()
        assert 'gateway_decisions_total{outcome="allowed"}' in text
        assert not any(word in text for word in ("north", "anna", NORTH))
