"""Every row of the allow-list, and every other route that the services offer, asked as everybody.

The matrix is printed (pytest -s) and kept in artifacts/access-matrix.txt.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import pytest
import requests
from access_document import allowlist
from deliveries import Study
from platform_client import ROOT, Platform

from .test_attacks import NOTHING_HERE, ask
from .test_ends import Person

CLINIC = "denscan-central"
ROLES = ("physician", "technician", "auditor", "admin")
# Headers that belong to one answer only.
PER_ANSWER_HEADERS = {"date"}
PLACES = {
    "frames": "1",
    "bulk": "00100010",
    "id": "00000000-00000000-00000000-00000000-00000000",
    "related": "statistics",
    "content": "tags",
    "level": "studies",
    "job": "00000000-0000-0000-0000-000000000000",
    "command": "cancel",
    "label": "matrix",
}


@dataclass(frozen=True)
class Asked:
    """One answer, as far as it could tell something."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def answer_of(session: requests.Session, method: str, url: str) -> Asked:
    """Ask, and ask again if the limit on requests says so: it is not what is looked at here."""
    body = b"{}" if method in ("POST", "PUT") else None
    deadline = time.monotonic() + 60
    while (answer := ask(session, url, method, data=body)).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    headers = {
        (name.lower(), value) for name, value in answer.headers.items() if name.lower() not in PER_ANSWER_HEADERS
    }
    return Asked(answer.status_code, tuple(sorted(headers)), answer.content)


@pytest.fixture(scope="module")
def as_role(platform: Platform) -> Callable[[str], requests.Session]:
    """The session of a user with this role in denscan-central, logged in once."""
    return lru_cache(lambda role: platform.api(platform.user(role, CLINIC)))


@pytest.fixture(scope="module")
def nobodys_physician(platform: Platform) -> Iterator[requests.Session]:
    """A physician without a clinic."""
    person = Person(platform, clinics=())
    yield person.session
    person.remove()


def url_of(platform: Platform, rule: allowlist.Rule, study: Study) -> str:
    words = {**PLACES, "study": study.study_uid, "series": study.series_uid, "instance": study.sop_uid}
    return platform.url + rule.path.format(**words)


def expected(rule: allowlist.Rule, role: str, target: str) -> set[int]:
    if role == "no token":
        return {401}
    if role not in rule.roles and role != "no clinic":
        return {404}
    if rule.upstream is allowlist.Upstream.IMPORTER_UPLOAD:
        return {415} if role in rule.roles else {404}  # the body is no image, whatever the study
    if role == "admin" and target == "unknown":
        return {200, 404}  # Orthanc itself is asked, and answers searches with an empty list
    if "{study}" in rule.path and target != "own" and role != "admin":
        return {404}
    if role == "no clinic":
        # An empty list is what somebody without a clinic sees.
        return {200} if rule.upstream is allowlist.Upstream.GATEWAY and rule.action == "list" else {404}
    if rule.method == "POST" or re.search(r"\{(id|job)\}", rule.path):
        return {200, 400, 404}  # open, and what is asked for is not there
    return {200}


@pytest.fixture(scope="module")
def matrix(
    platform, as_role, nobodys_physician, central_study, almaty_study, unknown_study
) -> dict[tuple[str, str, str], Asked]:
    """The answers to (row, role, target). The rows are asked in their order, the owners first."""
    sessions = {role: as_role(role) for role in ROLES}
    sessions |= {"no clinic": nobodys_physician, "no token": platform.session()}
    targets = {"own": central_study, "foreign": almaty_study, "unknown": unknown_study}
    return {
        (f"{rule.method} {rule.path}", role, target): answer_of(session, rule.method, url_of(platform, rule, study))
        for rule in allowlist.RULES
        for role, session in sessions.items()
        for target, study in targets.items()
        if target == "own" or "{study}" in rule.path
    }


def test_the_matrix_holds(matrix):
    columns = list(product((*ROLES, "no clinic", "no token"), ("own", "foreign", "unknown")))
    lines, leaks = [], []
    for rule in allowlist.RULES:
        cells = []
        for role, target in columns:
            if (asked := matrix.get((f"{rule.method} {rule.path}", role, target))) is None:
                cells.append("  ·")
                continue
            right = asked.status in expected(rule, role, target)
            cells.append(f"{asked.status}{' ' if right else '!'}")
            if not right:
                leaks.append(f"{rule.method} {rule.path} as {role}, {target}: {asked.status}")
        lines.append(f"{rule.method:6} {rule.path:86} " + " ".join(f"{cell:4}" for cell in cells))
    heads = [f"{role[:4]}/{target[:3]}" for role, target in columns]
    text = "own, foreign and unknown studies, for: " + ", ".join(heads) + "\n" + "\n".join(lines) + "\n"
    print(text)
    (ROOT / "artifacts").mkdir(exist_ok=True)
    (ROOT / "artifacts/access-matrix.txt").write_text(text)
    assert leaks == []


def test_what_is_refused_is_one_answer_for_all(matrix, central_study, almaty_study):
    """Status, headers, body and so its size: foreign, unknown, forbidden by role, and without a clinic."""
    refusals = {asked for (_, role, _), asked in matrix.items() if asked.status == 404 and role != "no token"}
    assert {refusal.body for refusal in refusals} == {NOTHING_HERE}
    assert len(refusals) == 1, refusals
    for row, role, target in matrix:
        if target == "foreign" and role != "admin":
            assert matrix[row, role, "foreign"] == matrix[row, role, "unknown"], (row, role)
    uids = (central_study.study_uid.encode(), almaty_study.study_uid.encode())
    for (row, role, target), asked in matrix.items():
        if role in ("auditor", "no clinic", "no token") and row != "GET /audit/entries":
            assert not any(uid in asked.body for uid in uids), (row, role, target)


def test_the_time_of_a_refusal_does_not_tell_whether_the_study_exists(
    platform, as_role, almaty_physician, almaty_study, unknown_study
):
    """Asked in turns; told by the chance that a foreign study takes longer than an unknown one: a half tells nothing.

    A disturbed machine may spoil a round, a leak shows in each.
    """
    session = as_role("physician")
    path = "{url}/dicom-web/studies/{study.study_uid}/series/{study.series_uid}/metadata"
    foreign = path.format(url=platform.url, study=almaty_study)
    unknown = path.format(url=platform.url, study=unknown_study)
    # The foreign study is in the gateway's memory and in the cache.
    assert almaty_physician.get(foreign, timeout=30).status_code == 200

    def seconds(url: str) -> float:
        started = time.perf_counter()
        status = session.get(url, timeout=30).status_code
        assert status in (404, 429)
        if status == 429:
            time.sleep(1)
        return time.perf_counter() - started

    chances = []
    for _ in range(4):
        pairs = [(seconds(foreign), seconds(unknown)) for _ in range(60)]
        longer = [a > b for a, _ in pairs for _, b in pairs]
        chances.append(statistics.mean(longer))
        if 0.3 < chances[-1] < 0.7:
            break
    print(f"chance that a foreign study takes longer than an unknown one: {chances}")
    assert 0.3 < chances[-1] < 0.7, chances


# ------------------------------------------------------------------------------------------------ all other routes

# Orthanc writes down its REST API by itself; its DICOMweb plugin's routes are not in it.
COLLECT = r"""
import json, os, subprocess, tempfile
with tempfile.TemporaryDirectory() as directory:
    configuration = os.path.join(directory, "orthanc.json")
    with open(configuration, "w") as file:
        json.dump({"StorageDirectory": directory, "IndexDirectory": directory, "Plugins": []}, file)
    target = os.path.join(directory, "routes.json")
    subprocess.run(["Orthanc", configuration, "--openapi=" + target], capture_output=True, timeout=60)
    paths = json.load(open(target))["paths"]
print(json.dumps(sorted([method.upper(), path] for path, methods in paths.items() for method in methods)))
"""
DICOM_WEB = [
    *(("GET", f"/dicom-web/{level}") for level in ("series", "instances", "info", "servers", "app/libs/axios.min.js")),
    *(("POST", f"/dicom-web/studies{rest}") for rest in ("", "/{study}", "/{study}/series")),
    *(("GET", f"/dicom-web/servers/x{rest}") for rest in ("", "/studies", "/series", "/instances")),
    *(("POST", f"/dicom-web/servers/x/{verb}") for verb in ("get", "retrieve", "stow", "qido", "wado", "delete")),
    *(("PUT", "/dicom-web/servers/x"), ("DELETE", "/dicom-web/servers/x")),
    *(("DELETE", f"/dicom-web/studies/{{study}}{rest}") for rest in ("", "/series/{series}")),
    *(("GET", f"/dicom-web/studies/{{study}}{rest}") for rest in ("/thumbnail", "/bulkdata/1", "/frames/1")),
    ("GET", "/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"),
]
OURS = [
    "/authorize",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/status.json",
    "/stub_status",
    "/.authorize",
    "/.methods/studies",
]
KEYCLOAK = [
    *("/auth", "/auth/metrics", "/auth/health", "/auth/health/ready", "/auth/realms", "/auth/realms/master"),
    *("/auth/realms/master/protocol/openid-connect/token", "/auth/realms/master/.well-known/openid-configuration"),
    *(
        "/auth/admin/realms",
        "/auth/admin/realms/master",
        "/auth/admin/master/console/",
        "/auth/admin/realms/imaging/..",
    ),
    *("/auth/realms/imaging/clients-registrations/default", "/auth/realms/imaging/clients-registrations/saml2-entity"),
]


@pytest.fixture(scope="module")
def closed_routes(platform: Platform, central_study: Study) -> list[tuple[str, str]]:
    """Every route that no row of the allow-list names, below /orthanc and at the root, with real identifiers in it."""
    study = central_study
    collected = [(method, path) for method, path in json.loads(platform.on_host("python3", "-c", COLLECT))]
    assert len(collected) > 150, "Orthanc did not write down its routes"
    words = {"study": study.study_uid, "series": study.series_uid, "instance": study.sop_uid, **PLACES}

    def filled(path: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda place: words.get(place[1], "x"), path)

    routes = [(method, f"/orthanc{filled(path)}") for method, path in collected]
    routes += [(method, prefix + filled(path)) for method, path in DICOM_WEB for prefix in ("", "/orthanc")]
    routes += [("GET", path) for path in (*OURS, *KEYCLOAK)]

    def is_open(method: str, path: str) -> bool:
        path = path.split("?")[0]
        return any(rule.method == method and rule.pattern.fullmatch(path) for rule in allowlist.RULES)

    return sorted({route for route in routes if not is_open(*route)})


@pytest.mark.parametrize("role", ["admin", "physician", "nobody"])
def test_no_other_route_of_any_service_answers(platform, as_role, closed_routes, role):
    session = platform.session() if role == "nobody" else as_role(role)
    answers = {route: answer_of(session, route[0], platform.url + route[1]) for route in closed_routes}
    print(f"{len(answers)} routes asked as {role}")
    wrong = {
        f"{method} {path}": (answer.status, answer.body[:80])
        for (method, path), answer in answers.items()
        if not (answer.status == 404 and answer.body == NOTHING_HERE)
        and not (role == "nobody" and answer.status == 401)
    }
    assert wrong == {}


def test_keycloaks_documents_name_no_address_beside_the_realm(platform):
    document = platform.session().get(f"{platform.realm_url}/.well-known/openid-configuration", timeout=30).json()
    addresses = re.findall(r'https?://[^"]+', json.dumps(document))
    assert addresses
    assert [address for address in addresses if not address.startswith(platform.realm_url)] == []


@pytest.mark.parametrize("clinic", ["denscan-almaty", "partner-clinic"])
def test_an_auditor_learns_no_uid_of_another_clinic(platform, as_role, central_study, clinic):
    """Also not from the row of an administrator, who belongs to all clinics and looked at the record of one study."""
    entries, uid = f"{platform.url}/audit/entries", central_study.study_uid
    assert as_role("admin").get(entries, params={"study": uid}, timeout=30).status_code == 200
    time.sleep(2)  # the rows are written once a second
    own = as_role("auditor").get(entries, params={"study": uid, "user": f"admin-{CLINIC}"}, timeout=30).json()
    assert ("audit", uid) in {(row["action"], row["study"]) for row in own["entries"]}
    foreign = platform.api(platform.user("auditor", clinic))
    for query in ({"limit": "1000"}, {"user": f"admin-{CLINIC}"}):
        answer = foreign.get(entries, params=query, timeout=30)
        assert answer.status_code == 200
        assert uid not in answer.text
    assert foreign.get(entries, params={"study": uid}, timeout=30).json()["entries"] == []
