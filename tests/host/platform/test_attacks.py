"""Attacks from outside, by somebody without an account and by people with one: each must be worth nothing.

The attacker is a physician of denscan-almaty who knows every UID of a study of denscan-central (the victim's).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import lru_cache

import pydicom
import pytest
import requests
from deliveries import Study
from platform_client import Platform, state_path
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from raw_http import exchange, statuses

NOTHING_HERE = b"There is nothing here.\n"


@pytest.fixture(scope="module")
def attacker(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-almaty"))


@pytest.fixture(scope="module")
def as_role(platform: Platform) -> Callable[[str], requests.Session]:
    """The session of a user with this role in denscan-central, logged in once."""
    return lru_cache(lambda role: platform.api(platform.user(role, "denscan-central")))


@pytest.fixture(scope="module")
def admin(as_role: Callable[[str], requests.Session]) -> requests.Session:
    return as_role("admin")


def places(victim: Study, own: Study) -> dict[str, str]:
    """The values for the braces of a table's path."""
    return {
        "victim": f"/dicom-web/studies/{victim.study_uid}/series",
        "victims_frame": f"/dicom-web/studies/{victim.study_uid}/series/{victim.series_uid}"
        f"/instances/{victim.sop_uid}/frames/1",
        "victims_uid": victim.study_uid,
        "own": f"/dicom-web/studies/{own.study_uid}/series",
        "own_uid": own.study_uid,
    }


def ask(session: requests.Session, url: str, method: str = "GET", **options: object) -> requests.Response:
    """Send the path exactly as it is written: requests would tidy it up."""
    prepared = session.prepare_request(requests.Request(method, "/".join(url.split("/", 3)[:3]), **options))
    prepared.url = url
    return session.send(prepared, allow_redirects=False, timeout=30, verify=session.verify)


# ------------------------------------------------------------------------------------------------ passes


def test_the_pass_of_a_gateway_is_worth_nothing_from_outside(platform: Platform, almaty_study: Study) -> None:
    """Not even one that is good where gateways come in."""
    issue = "from imaging_gateway import config, passes; "
    issue += "print(passes.issue(config.load_secrets().warm_secret, 'denscan-almaty', 60))"
    environment = ["CREDENTIALS_DIRECTORY=/etc/imaging/credentials/gateway", "PYTHONPATH=/opt/imaging/gateway"]
    token = platform.on_host("env", *environment, "python3", "-PBc", issue).strip()
    session = platform.session()
    for scheme in ("Bearer", "bearer"):
        session.headers["Authorization"] = f"{scheme} {token}"
        answer = session.get(f"{platform.url}/dicom-web/studies/{almaty_study.study_uid}/series", timeout=30)
        assert answer.status_code == 401


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    "path",
    [
        "/{own}",
        "{own}/../../{victims_uid}/series",
        "{own}/%2e%2e/%2e%2e/{victims_uid}/series",
        "{own}/.%2E/.%2E/{victims_uid}/series",
        "{own}/..%2f..%2f{victims_uid}",
        "{own}/..;/..;/{victims_uid}/series",
        "{own};x=1",
        "{own}.",
        "{own}/",
        "{own}%20",
        "/dicom-web/Studies/{own_uid}/series",
        "/dicom-web/studie%73/{own_uid}/series",
        "/dicom-web/studies/{own_uid}%2fseries",
        "/dicom-web/studies/{own_uid}\\..\\{victims_uid}/series",
        "/dicom-web/studies/{own_uid},{victims_uid}/series",
        "/dicom-web/studies/{own_uid}%2c{victims_uid}/series",
        "{own}?StudyInstanceUID={victims_uid}",
        "{own}?SeriesInstanceUID=1.2&SeriesInstanceUID=1.3",
        "{own}?unknown=1",
        "{own}?limit=1%00",
        "{own}?includefield=" + "0" * 9000,
        "/auth/realms/imaging/%2e%2e/master",
        "/auth/realms/master/%2e%2e/imaging/.well-known/openid-configuration",
        "/auth/metrics/%2e%2e/realms/imaging",
        "/auth/realms/imaging/client%73-registrations/openid-connect",
        "/auth/realms/imaging/x\\..\\..\\master",
    ],
)
def test_another_spelling_of_a_path_is_unknown(platform, attacker, central_study, almaty_study, path):
    answer = ask(attacker, platform.url + path.format(**places(central_study, almaty_study)))
    assert answer.status_code == 404
    assert answer.content == NOTHING_HERE


# ------------------------------------------------------------------------------------------------ headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Original-URI": "{own}"},
        {"X-Original-URI": "{own}", "Connection": "X-Original-URI"},
        {"X-Original-Method": "GET", "X-Rewrite-URL": "{own}", "X-Original-URL": "{own}"},
        {"X-Study-Revision": "1"},
        {"X-Accel-Redirect": "{victims_frame}"},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
        {"X-Clinics": "*", "X-Groups": "/clinics/denscan-central"},
        {"X-HTTP-Method-Override": "POST"},
        {"Connection": "Authorization"},
        {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"Range": "bytes=0-9"},
        {"If-None-Match": "*"},
        {"If-Modified-Since": "Sat, 01 Jan 2050 00:00:00 GMT"},
        {"Accept": "image/jpeg"},
        {"Accept": "x/y"},
    ],
    ids=lambda headers: "+".join(headers),
)
def test_no_header_opens_a_foreign_frame_that_is_in_the_cache(
    platform, attacker, central_physician, central_study, almaty_study, headers
):
    words = places(central_study, almaty_study)
    url = platform.url + words["victims_frame"]
    assert central_physician.get(url, timeout=30).status_code == 200
    answer = attacker.get(url, headers={name: value.format(**words) for name, value in headers.items()}, timeout=30)
    assert answer.status_code == 404
    assert answer.content == NOTHING_HERE
    assert not {"age", "etag", "x-cache", "vary"} & {name.lower() for name in answer.headers}


@pytest.mark.parametrize("method", ["TRACE", "PUT", "PATCH", "DELETE", "POST", "PROPFIND"])
def test_no_other_method_reaches_an_own_study(platform, attacker, almaty_study, method):
    answer = attacker.request(method, f"{platform.url}/dicom-web/studies/{almaty_study.study_uid}", timeout=30)
    assert answer.status_code == 404
    assert "Allow" not in answer.headers


def test_methods_are_told_of_an_address_and_not_of_a_study(platform, attacker, almaty_study, central_study):
    """The same words for one's own study, another clinic's and none; and no leave for a page of another origin."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    for study in (almaty_study.study_uid, central_study.study_uid, "1.2.3"):
        url = f"{platform.url}/dicom-web/studies/{study}"
        answer = attacker.options(url, headers=asked, timeout=30)
        assert (answer.status_code, answer.headers["Allow"], answer.content) == (204, "GET, HEAD, OPTIONS", b"")
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        assert platform.session().options(url, headers=asked, timeout=30).status_code == 401
    assert attacker.options(f"{platform.url}/dicom-web/../orthanc/system", timeout=30).status_code == 404
    assert attacker.options(f"{platform.url}/dicom-web/servers", timeout=30).status_code == 404


def test_a_head_is_a_look_without_the_body(platform, attacker, almaty_study, central_study):
    for path in ("", "/metadata", "/series"):
        own = f"{platform.url}/dicom-web/studies/{almaty_study.study_uid}{path}"
        answer, whole = (attacker.request(method, own, timeout=30) for method in ("HEAD", "GET"))
        assert (answer.status_code, answer.content) == (200, b"")
        kinds = {one.headers["Content-Type"].split(";")[0] for one in (answer, whole)}
        assert len(kinds) == 1
        foreign = own.replace(almaty_study.study_uid, central_study.study_uid)
        assert attacker.head(foreign, timeout=30).status_code == 404
    assert attacker.head(f"{platform.url}/dicom-web/studies", timeout=30).status_code == 200


def test_no_other_origin_is_let_in(platform, attacker, almaty_study):
    answer = attacker.get(f"{platform.url}/dicom-web/studies", headers={"Origin": "https://evil.example"}, timeout=30)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_a_cookie_is_no_token(platform, attacker):
    token = attacker.headers["Authorization"].removeprefix("Bearer ")
    cookies = {"access_token": token, "token": token, "KEYCLOAK_IDENTITY": token}
    assert platform.session().get(f"{platform.url}/dicom-web/studies", cookies=cookies, timeout=30).status_code == 401


# ------------------------------------------------------------------------------------------------ the cache

EVIL = "evil.example"


def test_nobody_poisons_what_the_next_one_gets_from_the_cache(platform, attacker, almaty_physician, almaty_study):
    """The first one to ask fills the cache; headers, a host and a method of one's own change nothing in it."""
    study = almaty_study
    url = f"{platform.url}/dicom-web/studies/{study.study_uid}/metadata"
    poison = {
        "Forwarded": f"host={EVIL};proto=http",
        "X-Forwarded-Host": EVIL,
        "X-Forwarded-Proto": "http",
        "X-Original-Host": EVIL,
        "Cookie": "a=b",
        "Accept-Encoding": "identity",
        "Range": "bytes=0-9",
        "If-None-Match": "*",
        "X-HTTP-Method-Override": "DELETE",
    }
    first = attacker.get(url, headers=poison, timeout=60)
    assert first.status_code in (200, 206, 304)
    assert attacker.get(url, headers={"Accept": "text/html"}, timeout=60).status_code in (200, 400, 404, 406)
    for session in (almaty_physician, attacker):
        answer = session.get(url, headers={"Accept": "application/dicom+json"}, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("application/dicom+json")
        assert {instance["0020000D"]["Value"][0] for instance in answer.json()} == {study.study_uid}
        assert EVIL not in answer.text
        assert "Set-Cookie" not in answer.headers


def test_the_cache_tells_nobody_what_is_in_it(platform, attacker, almaty_physician, almaty_study):
    """An own image from Orthanc and from the cache: only the time may differ, and only for those who may see it."""
    path = (
        f"/dicom-web/studies/{almaty_study.study_uid}/series/{almaty_study.series_uid}/instances/{almaty_study.sop_uid}"
    )
    answers = [attacker.get(f"{platform.url}{path}/metadata", timeout=60) for _ in range(2)]
    names = [sorted(name for name in answer.headers if name != "Date") for answer in answers]
    assert names[0] == names[1]
    assert not {"age", "x-cache", "x-cache-status", "via"} & {name.lower() for name in names[0]}
    assert "no-store" in answers[0].headers["Cache-Control"], "a shared computer's browser keeps it"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-9", "bytes=-5", "bytes=0-0,2-3", "bytes=99999999999-", "bytes=x", "lines=1"]
)
def test_a_range_of_an_own_frame_is_a_part_of_it_and_of_nothing_else(platform, attacker, almaty_study, wanted):
    path = f"/dicom-web/studies/{almaty_study.study_uid}/series/{almaty_study.series_uid}"
    url = f"{platform.url}{path}/instances/{almaty_study.sop_uid}/frames/1"
    # One answer names a boundary of its own in a multipart answer: the cache keeps that, too.
    attacker.get(url, timeout=60)
    whole = attacker.get(url, timeout=60).content
    part = attacker.get(url, headers={"Range": wanted}, timeout=60)
    assert part.status_code in (200, 206, 416)
    if part.status_code == 206 and "," not in wanted:
        assert part.content in whole
    if part.status_code == 200:
        assert part.content == whole


# ------------------------------------------------------------------------------------------------ other tokens


@pytest.mark.parametrize(
    ("client", "page"),
    [
        ("account-console", "/auth/realms/imaging/account/"),
        ("security-admin-console", "/auth/admin/imaging/console/"),
    ],
)
def test_a_token_of_another_client_is_none(platform, client, page):
    tokens = platform.login(platform.user("admin", "denscan-central"), client, page)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    for path in ("/dicom-web/studies", "/orthanc/studies", "/audit/entries"):
        assert platform.session().get(platform.url + path, headers=headers, timeout=30).status_code == 401


def test_a_token_of_the_pages_opens_no_image_to_a_physician(platform, central_study):
    """The pages beside the viewer need no physician's rights, so their tokens carry none."""
    tokens = platform.login(platform.user("physician", "denscan-central"), "pages", "/audit")
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    for path in ("/dicom-web/studies", f"/dicom-web/studies/{central_study.study_uid}/series", "/audit/entries"):
        assert platform.session().get(platform.url + path, headers=headers, timeout=30).status_code == 404


@pytest.mark.parametrize("kind", ["id_token", "refresh_token"])
def test_no_other_token_of_a_login_is_taken(platform, kind):
    tokens = platform.login(platform.user("physician", "denscan-central"))
    headers = {"Authorization": f"Bearer {tokens[kind]}"}
    assert platform.session().get(f"{platform.url}/dicom-web/studies", headers=headers, timeout=30).status_code == 401


MASTER_TOKEN = """
import json, urllib.parse, urllib.request
secret = open("/dev/stdin").read()
form = {"grant_type": "client_credentials", "client_id": "imaging-ansible", "client_secret": secret}
url = "http://127.0.0.1:8180/auth/realms/master/protocol/openid-connect/token"
print(json.load(urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30))["access_token"])
"""


def test_a_token_of_the_realm_master_is_none(platform):
    """Even the one that may do everything in Keycloak."""
    token = subprocess.run(
        ["docker", "exec", "-i", platform.container, "python3", "-c", MASTER_TOKEN],
        input=(state_path() / "secrets/keycloak_bootstrap_secret").read_text().strip(),
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/dicom-web/studies", "/orthanc/studies"):
        assert platform.session().get(platform.url + path, headers=headers, timeout=30).status_code == 401


@pytest.mark.parametrize("request_headers", [{}, {"Access-Control-Request-Method": "POST"}])
def test_keycloak_lets_no_page_of_another_origin_in(platform, request_headers):
    url = f"{platform.realm_url}/protocol/openid-connect/token"
    for method in ("OPTIONS", "POST"):
        answer = platform.session().request(
            method, url, headers={"Origin": f"https://{EVIL}", **request_headers}, timeout=30
        )
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


# ------------------------------------------------------------------------------------------------ raw connections

INNER = "GET /system HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("line", "headers", "body", "expected"),
    [
        pytest.param("GET {own}", f"Content-Length: {len(INNER)}\r\n", INNER, {200}, id="a request in a body"),
        pytest.param("GET {own}", CHUNKED, f"{len(INNER):x}\r\n{INNER}\r\n0\r\n\r\n", {200}, id="one in a chunk"),
        pytest.param("GET {own}", "Content-Length: 4\r\n" + CHUNKED, "0\r\n\r\n" + INNER, {400}, id="CL.TE"),
        pytest.param("GET {own}", CHUNKED * 2, "0\r\n\r\n" + INNER, {400}, id="TE.TE"),
        pytest.param("GET {own}", "Transfer-Encoding: xchunked\r\n", INNER, {501}, id="unknown coding"),
        pytest.param("GET {own}", "Transfer-Encoding : chunked\r\n", INNER, {400}, id="space before the colon"),
        pytest.param("GET {own}", "Content-Length: 0\r\nContent-Length: 36\r\n", INNER, {400}, id="two lengths"),
        pytest.param("GET {own}", "Content-Length: -1\r\n", INNER, {400}, id="negative length"),
        pytest.param("GET {own}", CHUNKED, "fffffffffffffffff\r\nx", {400}, id="endless chunk"),
        pytest.param("GET {own}", "Authorization: Bearer x\r\n", "", {400}, id="two tokens"),
        pytest.param("GET {own}", "Host: evil.example\r\n", "", {400}, id="two hosts"),
        pytest.param("GET {own}", " X-Original-URI: /\r\n", "", {400}, id="folded header"),
        pytest.param("GET {own}\0", "", "", {400}, id="null byte"),
        pytest.param("GET {own}%00", "", "", {400}, id="encoded null byte"),
        pytest.param("GET https://{host}{victim}", "", "", {404}, id="absolute form"),
        pytest.param("GET https://evil.example{own}", "", "", {421}, id="absolute form, other host"),
        pytest.param("GET http://127.0.0.1:8042/system", "", "", {421}, id="absolute form, Orthanc"),
        pytest.param("CONNECT 127.0.0.1:8042", "", "", {400, 405}, id="tunnel"),
        pytest.param("GET {victim}", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "", {404}, id="h2c"),
        pytest.param("GET {victim}\t", "", "", {400, 404}, id="tab"),
        pytest.param("GET {own}#/../{victims_uid}", "", "", {400, 404}, id="fragment"),
        pytest.param("GET {own}?" + "a" * 40_000, "", "", {414}, id="over-long"),
    ],
)
def test_a_crooked_request_gets_one_answer_and_no_study(
    platform, attacker, central_study, almaty_study, line, headers, body, expected
):
    words = places(central_study, almaty_study) | {"host": platform.url.removeprefix("https://")}
    request = (
        f"{line.format(**words)} HTTP/1.1\r\nHost: {words['host']}\r\n"
        f"Authorization: {attacker.headers['Authorization']}\r\n{headers}\r\n{body}"
    )
    answer = exchange(platform, request.encode(), seconds=1)
    assert set(statuses(answer)) <= expected
    # Over-long requests are refused while they are still being sent; the answer may be lost with the connection.
    assert len(statuses(answer)) == 1 or (expected == {414} and not answer)
    assert central_study.study_uid.encode() not in answer
    assert b"ApiVersion" not in answer, "Orthanc answered the inner request"


# ------------------------------------------------------------------------------------------------ Orthanc


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/orthanc/tools/execute-script"),
        ("POST", "/orthanc/tools/reset"),
        ("POST", "/orthanc/tools/shutdown"),
        ("POST", "/orthanc/tools/create-archive"),
        ("POST", "/orthanc/tools/bulk-modify"),
        ("POST", "/orthanc/tools/bulk-delete"),
        ("PUT", "/orthanc/tools/log-level"),
        ("GET", "/orthanc/tools/metrics-prometheus"),
        ("GET", "/orthanc/modalities"),
        ("GET", "/orthanc/peers"),
        ("GET", "/orthanc/plugins"),
        ("GET", "/orthanc/exports"),
        ("POST", "/orthanc/instances"),
        ("POST", "/orthanc/jobs/00000000-0000-0000-0000-000000000000/resubmit"),
        ("GET", "/orthanc/dicom-web/studies"),
        ("GET", "/orthanc/dicom-web/servers"),
        ("GET", "/orthanc/app/explorer.html"),
        ("GET", "/orthanc/%73ystem"),
        ("GET", "/orthanc//system"),
        ("GET", "/wado?requestType=WADO&studyUID=1&seriesUID=1&objectUID=1"),
    ],
)
def test_what_executes_or_reaches_out_is_closed_to_administrators_too(platform, admin, method, path):
    answer = ask(admin, platform.url + path, method, data=b"{}" if method != "GET" else None)
    assert answer.status_code == 404
    assert answer.content == NOTHING_HERE


@pytest.mark.parametrize("role", ["physician", "technician", "auditor"])
@pytest.mark.parametrize("path", ["/orthanc/system", "/orthanc/studies", "/orthanc/changes", "/orthanc/jobs"])
def test_orthancs_own_api_is_for_administrators(platform, as_role, role, path):
    session = as_role(role)
    assert session.get(platform.url + path, timeout=30).status_code == 404


def test_an_auditor_sees_no_image(platform, as_role, central_study, almaty_study):
    words = places(central_study, almaty_study)
    session = as_role("auditor")
    for path in (words["victim"], words["victims_frame"], "/dicom-web/studies"):
        assert session.get(platform.url + path, timeout=30).status_code == 404


# ------------------------------------------------------------------------------------------------ Keycloak


@pytest.mark.parametrize(
    "path",
    [
        *("/auth", "/auth/", "/auth/realms/master", "/auth/admin/realms", "/auth/admin/realms/master", "/auth/metrics"),
        *("/auth/health", "/auth/welcome", "/auth/admin/master/console/"),
        *("/auth/realms/imaging/clients-registrations/openid-connect", "/metrics", "/health", "/authorize"),
        *("/.authorize", "/stub_status", "/nginx.conf", "/local", "/viewer?token=x", "/callback?%74oken=x"),
    ],
)
def test_an_outsider_meets_nothing_beside_the_viewer_and_the_login(platform, path):
    assert ask(platform.session(), platform.url + path).content == NOTHING_HERE


@pytest.mark.parametrize("user", ["physician", "admin"])
@pytest.mark.parametrize("path", ["/users", "", "/clients", "/events"])
def test_a_token_of_the_viewer_manages_no_users(platform, as_role, user, path):
    session = as_role(user)
    assert session.get(f"{platform.url}/auth/admin/realms/imaging{path}", timeout=30).status_code == 403


@pytest.mark.parametrize(
    "client",
    [
        *("ohif", "account", "account-console", "security-admin-console"),
        "admin-cli",
    ],
)
def test_no_client_takes_a_password_without_the_login_page(platform, client):
    """Else passwords could be tried at the token endpoint, past the limit on logins."""
    user = platform.user("admin", "denscan-central")
    form = {"grant_type": "password", "client_id": client, "username": user.username, "password": user.password}
    answer = platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=30)
    assert answer.status_code in (400, 401)
    # Not `invalid_grant`, which would say that the password was looked at.
    assert answer.json()["error"] in ("unauthorized_client", "invalid_client")


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/",
        "https://{host}.evil.example/callback",
        "https://{host}@evil.example/callback",
        "https://{host}/callback/../x",
        "https://{host}/callback?x=1",
        "http://{host}/callback",
    ],
)
def test_no_code_is_sent_elsewhere(platform, uri):
    query = {
        "client_id": "ohif",
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": uri.format(host=platform.url.removeprefix("https://")),
        "code_challenge": "a" * 43,
        "code_challenge_method": "S256",
    }
    answer = platform.session().get(
        f"{platform.realm_url}/protocol/openid-connect/auth", params=query, allow_redirects=False, timeout=30
    )
    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize("uri", ["https://evil.example/", "//evil.example", "https://{host}@evil.example/"])
def test_logging_out_leads_nowhere_else(platform, uri):
    query = {"client_id": "ohif", "post_logout_redirect_uri": uri.format(host=platform.url.removeprefix("https://"))}
    answer = platform.session().get(
        f"{platform.realm_url}/protocol/openid-connect/logout", params=query, allow_redirects=False, timeout=30
    )
    assert answer.status_code == 400


# ------------------------------------------------------------------------------------------------ a study made for it


def test_a_study_with_another_clinics_series_and_instances_changes_neither(
    platform: Platform, attacker, central_physician, central_study: Study, tmp_path_factory
):
    """An own study whose series and instance carry the victim's UIDs: neither shows, hides or replaces the other."""
    folder = tmp_path_factory.mktemp("attack") / "study"
    folder.mkdir()
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    dataset.StudyInstanceUID, dataset.PatientID = generate_uid(), "ATTACKER"
    dataset.SeriesInstanceUID = central_study.series_uid
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = central_study.sop_uid
    dataset.save_as(folder / "IM0000")
    platform.deliver("denscan-almaty", folder, f"test-{dataset.StudyInstanceUID}")
    platform.wait_for_study(attacker, dataset.StudyInstanceUID, seconds=60)

    below = f"series/{central_study.series_uid}/instances/{central_study.sop_uid}/metadata"
    for session, study, is_attackers in (
        (attacker, str(dataset.StudyInstanceUID), True),
        (central_physician, central_study.study_uid, False),
    ):
        (instance,) = session.get(f"{platform.url}/dicom-web/studies/{study}/{below}", timeout=30).json()
        assert instance["0020000D"]["Value"] == [study]
        assert (instance["00100020"]["Value"] == ["ATTACKER"]) is is_attackers
