"""The allowed requests: one spelling for each resource, and nothing that the list does not name."""

from __future__ import annotations

import pytest
from imaging_gateway.allowlist import RULES, Upstream, methods, permit
from imaging_gateway.refusals import RefusedError
from imaging_gateway.request_line import parse

PHYSICIAN = frozenset({"physician"})
ADMIN = frozenset({"admin"})
STUDY = "/dicom-web/studies/1.2.840.1"
INSTANCE = f"{STUDY}/series/1.2.3/instances/1.2.4"
ID = "0a0b0c0d-" * 4 + "0a0b0c0d"
JOB = "01234567-89ab-cdef-0123-456789abcdef"


def asked(uri, roles=PHYSICIAN, method="GET"):
    return permit(parse(method, uri), roles)


VIEWER = [
    # The requests of OHIF, as recorded in a browser.
    f"{STUDY}/series?includefield=00080021,00080031,0008103E,00200011",
    f"{STUDY}/series?includefield=0008103E&SeriesInstanceUID=1.2.3",
    f"{STUDY}/series/1.2.3/metadata",
    f"{INSTANCE}/frames/1",
    INSTANCE,
    f"{INSTANCE}/bulk/00420011",
    f"{INSTANCE}/bulk/52009229/1/00289145/1/00281201",
    # And standard clients.
    STUDY,
    f"{STUDY}/metadata",
    f"{STUDY}/rendered?quality=80",
    f"{STUDY}/instances?limit=10&offset=0",
    f"{STUDY}/series/1.2.3",
    f"{STUDY}/series/1.2.3/rendered",
    f"{STUDY}/series/1.2.3/instances?SOPInstanceUID=1.2.4%2C1.2.5",
    f"{INSTANCE}/metadata",
    f"{INSTANCE}/rendered?viewport=512,512&window=40,400,linear",
    f"{INSTANCE}/rendered?viewport=4096,4096,-10,0.5,,-512.25&quality=100&window=-600,1500.5,linear-exact",
    f"{INSTANCE}/frames/1,2,3",
    f"{INSTANCE}/frames/2/rendered",
    f"/dicom-web/studies/{'1' * 64}/metadata",
]


@pytest.mark.parametrize("uri", VIEWER)
@pytest.mark.parametrize("role", ["physician", "technician", "admin"])
def test_viewers_may_ask_for_images_of_a_study(uri, role):
    permitted = asked(uri, frozenset({role}))
    assert permitted.study in (STUDY.split("/")[3], "1" * 64)
    assert permitted.rule.action in ("view", "download")


@pytest.mark.parametrize("uri", VIEWER)
@pytest.mark.parametrize("roles", [frozenset(), frozenset({"auditor"}), frozenset({"offline_access", "Physician"})])
def test_nobody_else_may(uri, roles):
    with pytest.raises(RefusedError):
        asked(uri, roles)


REFUSED = [
    "",
    "/",
    "dicom-web/studies",
    "http://imaging.test/dicom-web/studies",
    "/dicom-web",
    "/dicom-web/",
    "/dicom-web/studies/",
    "/dicom-web/series/1.2.3",
    "/dicom-web/instances/1.2.3",
    "/dicom-web/patients",
    "/dicom-web/servers",
    "/dicom-web/info",
    "/DICOM-WEB/studies/1.2.840.1",
    "/dicom-web/studies/1.2.840.1/Metadata",
    "/wado?requestType=WADO&studyUID=1.2.840.1&seriesUID=1.2.3&objectUID=1.2.4",
    # Paths that somebody could read differently.
    "//dicom-web/studies/1.2.840.1/metadata",
    "/dicom-web//studies/1.2.840.1/metadata",
    f"{STUDY}/metadata/",
    f"{STUDY}/./metadata",
    f"{STUDY}/../9.9/metadata",
    f"{STUDY}/.../metadata",
    f"{STUDY}/%2e%2e/9.9/metadata",
    f"{STUDY}%2fmetadata",
    f"{STUDY}/metadat%61",
    f"{STUDY};a=b/metadata",
    f"{STUDY}/metadata;",
    f"{STUDY}/metadata%00",
    f"{STUDY}/metadata\x00",
    f"{STUDY}/metadata ",
    f"{STUDY}/metadata\n",
    f"{STUDY}\\metadata",
    f"{STUDY}/metadata#x",
    f"{STUDY}/metädata",
    "/dicom-web/studies/\uff11.2/metadata",
    # UIDs that are none.
    "/dicom-web/studies/1.2./metadata",
    "/dicom-web/studies/.1.2/metadata",
    "/dicom-web/studies/1..2/metadata",
    "/dicom-web/studies/1.2a/metadata",
    "/dicom-web/studies/1.2,9.9/metadata",
    "/dicom-web/studies/*/metadata",
    f"/dicom-web/studies/{'1' * 65}/metadata",
    f"{STUDY}/series/x/metadata",
    f"{INSTANCE}/frames/0",
    f"{INSTANCE}/frames/1,",
    f"{INSTANCE}/frames/x",
    f"{INSTANCE}/bulk/../../1.2.5",
    f"{INSTANCE}/bulk/7FE00010/x",
    f"{INSTANCE}/thumbnail",
    # Parameters: unknown, doubled, of another study, tokens.
    f"{STUDY}/metadata?x=1",
    f"{STUDY}/metadata?token=abc",
    f"{STUDY}/metadata?access_token=abc",
    f"{STUDY}/series?StudyInstanceUID=9.9",
    f"{STUDY}/series?0020000D=9.9",
    f"{STUDY}/series?SeriesInstanceUID=1.2.3&SeriesInstanceUID=9.9",
    f"{STUDY}/series?SeriesInstanceUID=*",
    f"{STUDY}/series?Series%49nstanceUID=1.2.3",
    f"{STUDY}/series?limit=-1",
    f"{STUDY}/series?limit=1;offset=2",
    f"{STUDY}/series?limit=%zz",
    f"{STUDY}/series?limit=1&",
    f"{STUDY}/series?limit=%ff",
    f"{STUDY}/series?limit=1%00",
    f"{STUDY}/series?limit=1?limit=2",
    f"{STUDY}/series?includefield={'0' * 8000}",
    # Pictures that take memory, or that nobody can draw.
    *(
        f"{INSTANCE}/{picture}?{query}"
        for picture in ("rendered", "frames/1/rendered")
        for query in (
            *("viewport=4097,1", "viewport=1,4097", "viewport=30000,30000", "viewport=0,0", "viewport=-5,5"),
            *("viewport=512", "viewport=512.5,512", "viewport=,", "viewport=0512,512", "viewport=1e3,1e3"),
            *("viewport=512,512,0,0,1e9,1", "viewport=512,512,0,0,1,1,1", "viewport=512,512,9999999"),
            *("viewport=512%2C99999", "quality=0", "quality=101", "quality=-1", "quality=1e1"),
            *("window=1,1,cubic", "window=nan,1,linear", "window=1e300,1,linear", "window=1,1", "window=,,linear"),
        )
    ),
]


@pytest.mark.parametrize("uri", REFUSED)
@pytest.mark.parametrize("role", ["physician", "admin"])
def test_everything_else_does_not_exist(uri, role):
    with pytest.raises(RefusedError):
        asked(uri, frozenset({role}))


@pytest.mark.parametrize(
    "method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "GET ", "", "X" * 20]
)
@pytest.mark.parametrize("uri", ["/dicom-web/studies", STUDY, f"{STUDY}/metadata", "/import/status"])
def test_images_are_only_read_and_uploaded(uri, method):
    if (method == "POST" and uri in UPLOADS) or (method == "HEAD" and uri.startswith("/dicom-web/")):
        return
    with pytest.raises(RefusedError):
        asked(uri, ADMIN, method)


def test_a_head_is_permitted_as_its_get():
    for uri in ("/dicom-web/studies", STUDY, f"{STUDY}/metadata"):
        assert asked(uri, PHYSICIAN, "HEAD") == asked(uri, PHYSICIAN)


@pytest.mark.parametrize(
    ("path", "physician", "technician", "auditor"),
    [
        ("/dicom-web/studies", "GET HEAD OPTIONS", "GET HEAD OPTIONS POST", ""),
        ("/dicom-web/series", "GET HEAD OPTIONS", "GET HEAD OPTIONS", ""),
        (STUDY, "GET HEAD OPTIONS", "GET HEAD OPTIONS POST", ""),
        ("/dicom-web/servers", "", "", ""),
    ],
)
def test_a_path_tells_the_methods_that_a_role_has_there(path, physician, technician, auditor):
    for role, told in (("physician", physician), ("technician", technician), ("auditor", auditor)):
        assert " ".join(methods(path, frozenset({role}))) == told


@pytest.mark.parametrize(
    "query",
    [
        "Modality=CT&SeriesNumber=3&PerformedProcedureStepStartDate=20240101-20240131&00400245=1015-",
        "SOPClassUID=1.2.840.10008.5.1.4.1.1.2&InstanceNumber=7&includefield=all&limit=5&fuzzymatching=true",
    ],
)
def test_below_a_study_series_and_instances_have_the_standards_keys(query):
    assert asked(f"{STUDY}/instances?{query}", PHYSICIAN).rule.action == "view"


UPLOADS = ["/dicom-web/studies", STUDY]
BY_IMPORTER = [
    *(("POST", uri, Upstream.IMPORTER_UPLOAD) for uri in UPLOADS),
    ("GET", "/import/status", Upstream.IMPORTER_STATUS),
]


@pytest.mark.parametrize(("method", "uri", "upstream"), BY_IMPORTER)
def test_technicians_and_administrators_upload_and_see_the_import_and_nobody_else_does(method, uri, upstream):
    for role in ("technician", "admin"):
        assert asked(uri, frozenset({role}), method).rule.upstream is upstream
    for roles in (frozenset(), PHYSICIAN, frozenset({"auditor"})):
        with pytest.raises(RefusedError):
            asked(uri, roles, method)


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("POST", "/dicom-web/studies/"),
        ("POST", "/dicom-web/studies?clinic=north"),
        ("POST", f"{STUDY}?x=1"),
        ("POST", f"{STUDY}/series"),
        ("POST", "/import/status"),
        ("GET", "/import"),
        ("GET", "/import/status?clinic=north"),
        ("GET", "/import/status.json"),
    ],
)
def test_there_is_no_other_way_to_the_importer(method, uri):
    with pytest.raises(RefusedError):
        asked(uri, frozenset({"technician", "admin"}), method)


ORTHANC = [
    ("GET", "/orthanc/system"),
    ("GET", "/orthanc/statistics"),
    ("GET", "/orthanc/changes?since=10&limit=100"),
    ("GET", "/orthanc/studies?expand&since=0&limit=10"),
    ("GET", f"/orthanc/studies/{ID}"),
    ("GET", f"/orthanc/studies/{ID}/statistics"),
    ("GET", f"/orthanc/studies/{ID}/archive"),
    ("GET", f"/orthanc/instances/{ID}/simplified-tags"),
    ("DELETE", f"/orthanc/series/{ID}"),
    ("PUT", f"/orthanc/studies/{ID}/labels/teaching"),
    ("DELETE", f"/orthanc/studies/{ID}/labels/teaching"),
    ("POST", "/orthanc/tools/find"),
    ("GET", "/orthanc/jobs?expand"),
    ("POST", f"/orthanc/jobs/{JOB}/cancel"),
]


@pytest.mark.parametrize(("method", "uri"), ORTHANC)
def test_administrators_reach_the_safe_part_of_orthanc_and_nobody_else_does(method, uri):
    assert asked(uri, ADMIN, method).study is None
    for role in ("physician", "technician", "auditor"):
        with pytest.raises(RefusedError):
            asked(uri, frozenset({role}), method)


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("GET", "/orthanc"),
        ("GET", "/orthanc/peers"),
        ("POST", "/orthanc/peers/x/store"),
        ("GET", "/orthanc/modalities"),
        ("POST", "/orthanc/modalities/x/store"),
        ("GET", "/orthanc/plugins"),
        ("GET", "/orthanc/dicom-web/servers"),
        ("GET", "/orthanc/dicom-web/studies"),
        ("GET", "/orthanc/wado"),
        ("GET", "/orthanc/webdav"),
        ("POST", "/orthanc/tools/execute-script"),
        ("POST", "/orthanc/tools/create-dicom"),
        ("POST", "/orthanc/tools/bulk-modify"),
        ("POST", "/orthanc/tools/shutdown"),
        ("PUT", "/orthanc/tools/log-level"),
        ("POST", "/orthanc/instances"),
        ("POST", f"/orthanc/studies/{ID}/modify"),
        ("POST", f"/orthanc/studies/{ID}/anonymize"),
        ("POST", f"/orthanc/studies/{ID}/merge"),
        ("POST", f"/orthanc/jobs/{JOB}/resubmit"),
        ("DELETE", "/orthanc/changes"),
        ("DELETE", "/orthanc/studies"),
        ("PUT", f"/orthanc/studies/{ID}/metadata/1024"),
        ("PUT", f"/orthanc/studies/{ID}/labels/a%2fb"),
    ],
)
def test_what_reaches_out_executes_or_writes_past_the_importer_is_closed_to_administrators_too(method, uri):
    with pytest.raises(RefusedError):
        asked(uri, ADMIN, method)


def test_no_rule_is_shadowed_by_another():
    for rule in RULES:
        example = rule.path.format(
            study="1.2", series="1.3", instance="1.4", frames="1", bulk="00420011", level="series", id=ID,
            related="archive", content="file", job=JOB, command="pause", label="x",
        )  # fmt: skip
        assert asked(example, ADMIN, rule.method).rule is rule
