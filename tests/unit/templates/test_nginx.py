"""nginx's configuration as it is rendered: rules that hold for every route, also for one added later."""

from __future__ import annotations

import re

import jinja2
import pytest
import yaml
from nginx_conf import Directive, parse
from project import ROOT
from wired import Wired

ROLE = ROOT / "roles" / "nginx"


@pytest.fixture(scope="module")
def nginx() -> Directive:
    variables = {
        **Wired().of("nginx"),
        **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars" / "main.yml").read_text()),
        "nginx_domain": "imaging.example.org",
        "__nginx_certificate": {"chain": "/etc/imaging/tls/fullchain.pem", "key": "/etc/imaging/tls/privkey.pem"},
        "nginx_orthanc_password": "not-in-this-file",
        "nginx_importer_secret": "not-in-this-file",
        "__nginx_viewer_release": "/opt/imaging/viewer/3.13.2-abcdef01",
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    text = environment.get_template("nginx.conf.j2").render(variables)
    assert "not-in-this-file" not in text
    return parse(text)


@pytest.fixture(scope="module")
def platform(nginx: Directive) -> Directive:
    """The server block of the platform itself."""
    (server,) = [
        s for s in nginx.find("server") if s.own("server_name") and any("443" in str(d) for d in s.own("listen"))
    ]
    return server


def proxied_to(server: Directive, upstream: str) -> list[Directive]:
    found = [
        location
        for location in server.find("location")
        # A variable that chooses between upstreams is named after both.
        if any(
            p.arguments[0].startswith((f"http://{upstream}", f"http://${upstream}_"))
            for p in location.own("proxy_pass")
        )
    ]
    assert found, f"nothing is proxied to {upstream}"
    return found


def headers_sent(location: Directive) -> dict[str, str]:
    return {d.arguments[0]: d.arguments[1] for d in location.effective("proxy_set_header")}


def test_orthanc_is_never_asked_without_the_gateways_word(platform: Directive) -> None:
    for location in proxied_to(platform, "orthanc"):
        assert [str(d) for d in location.effective("auth_request")] == ["auth_request /.authorize"], str(location)


def test_orthanc_gets_no_header_of_the_client_but_those_named(platform: Directive) -> None:
    for location in proxied_to(platform, "orthanc"):
        assert [str(d) for d in location.effective("proxy_pass_request_headers")] == ["proxy_pass_request_headers off"]
        sent = headers_sent(location)
        assert sent["Accept"] == "$orthanc_accept", "the gateway's word"
        granted = {d.arguments[0]: d.arguments[1] for d in location.effective("auth_request_set")}
        assert granted["$orthanc_accept"] == "$upstream_http_x_orthanc_accept"
        assert "Authorization" not in sent, "comes from the included credentials"
        assert sent["Forwarded"] == "host=imaging.example.org;proto=https"
        assert not {"Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Accel-Redirect"} & set(sent)
        (credentials,) = location.effective("include")
        assert credentials.arguments == ["/etc/imaging/credentials/nginx/orthanc.conf"]


def test_nothing_of_the_clients_reaches_a_service_unread(nginx: Directive, platform: Directive) -> None:
    """A header that the gateway's parser refuses would be a 500 of its, for which nobody is to blame."""
    for location in (*proxied_to(platform, "gateway"), *proxied_to(platform, "orthanc")):
        raw = {"$http_accept", "$http_authorization", "$http_x_clinic"}
        assert not raw & set(headers_sent(location).values()), str(location)
    for variable, good in (
        ("$accept_shown", "*/*;q=0.5"),
        ("$authorization_read", "Bearer x.y"),
        ("$clinic_shown", "a"),
    ):
        nothing, pattern, _ = (d.name.strip("\"'") for d in map_of(nginx, variable))
        assert nothing == "", "which nginx compares with no pattern"
        pattern = pattern.removeprefix("~")
        for text, shown in ((good, True), ("a\x01", False), ("\xe9", False), ("a" * 20000, False)):
            assert bool(re.search(pattern, text)) is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("443 Bearer imaging-pass.north.1.a", False),
        ("443 bearer imaging-pass.north.1.a", False),
        ("8082 Bearer imaging-pass.north.1.a", True),
        ("443 Bearer x.y", True),
    ],
)
def test_the_pass_of_a_gateway_is_shown_at_its_own_port_alone(nginx: Directive, text: str, *, shown: bool) -> None:
    stray, other = map_of(nginx, "$authorization_shown")
    assert (stray.arguments, other.name, other.arguments) == (["unreadable"], "default", ["$authorization_read"])
    pattern = stray.name.strip("\"'").removeprefix("~*")
    grammar = (ROOT / "files/gateway/src/imaging_gateway/passes.py").read_text()
    assert f'PREFIX = "{pattern.removeprefix("^443 bearer ")}."' in grammar
    assert bool(re.search(pattern, text, re.IGNORECASE)) is not shown


def test_the_gateway_is_asked_about_uploads_of_any_length(platform: Directive) -> None:
    """A subrequest inherits the length of the request; with a limit of its own each larger upload is a 500."""
    asked = {d.arguments[0] for d in platform.find("auth_request")}
    assert asked == {"/.authorize"}
    (authorize,) = [location for location in platform.find("location") if location.arguments == ["=", "/.authorize"]]
    assert [d.arguments for d in authorize.own("client_max_body_size")] == [["0"]]
    assert [d.arguments for d in authorize.effective("proxy_pass_request_body")] == [["off"]]


def test_what_is_under_way_at_once_is_limited_for_every_route(platform: Directive) -> None:
    assert {d.arguments[0] for d in platform.own("limit_conn")} == {"session_open", "address_open", "sender_open"}
    assert not [location for location in platform.find("location") if location.own("limit_conn")]


@pytest.mark.parametrize(
    ("request_line", "counted"),
    [("GET:", False), ("GET:0", False), ("HEAD:", False), ("GET:5", True), ("GET:chunked", True), ("POST:", True)],
)
def test_requests_with_a_body_are_counted(nginx: Directive, request_line: str, counted: bool) -> None:
    (pattern,) = [d.name.strip("\"'") for d in map_of(nginx, "$sender_key") if d.name != "default"]
    assert bool(re.search(pattern.removeprefix("~"), request_line)) is not counted


def test_only_requests_of_administrators_reach_orthanc_with_a_body_and_its_length(
    nginx: Directive, platform: Directive
) -> None:
    for location in proxied_to(platform, "orthanc"):
        (passed,) = location.effective("proxy_pass_request_body")
        assert passed.arguments == ["on" if "/orthanc/" in str(location.arguments[-1:]) else "off"], str(location)
        assert headers_sent(location)["Content-Length"] == "$length_at_orthanc"
    length = {d.name.strip("\"'"): d.arguments for d in map_of(nginx, "$length_at_orthanc")}
    assert length == {"~^/orthanc/": ["$content_length"], "default": [""]}


def test_the_importer_is_never_asked_without_the_gateways_word_and_learns_the_clinics_from_it_alone(
    platform: Directive,
) -> None:
    for location in proxied_to(platform, "importer"):
        assert [str(d) for d in location.effective("auth_request")] == ["auth_request /.authorize"], str(location)
        assert [str(d) for d in location.effective("proxy_pass_request_headers")] == ["proxy_pass_request_headers off"]
        sent = headers_sent(location)
        assert "Authorization" not in sent, "comes from the included credentials"
        assert sent["X-Clinics"] == "$clinics"
        assert "X-Caller" in sent or location.arguments == ["=", "/import/status"]
        set_by_answer = {d.arguments[0]: d.arguments[1] for d in location.effective("auth_request_set")}
        assert set_by_answer["$clinics"] == "$upstream_http_x_clinics"
        (credentials,) = location.effective("include")
        assert credentials.arguments == ["/etc/imaging/credentials/nginx/importer.conf"]


@pytest.mark.parametrize(
    ("request_line", "is_upload"),
    [
        ("POST /dicom-web/studies", True),
        ("POST /dicom-web/studies/1.2.3", True),
        ("POST /dicom-web/studies/", False),
        ("POST /dicom-web/studies/1.2.3/series", False),
        ("GET /dicom-web/studies", False),
        ("PUT /dicom-web/studies", False),
    ],
)
def test_uploads_go_to_the_importer(nginx: Directive, request_line: str, is_upload: bool) -> None:
    (pattern,) = [d.name.strip("\"'") for d in map_of(nginx, "$is_upload") if d.name != "default"]
    assert bool(re.search(pattern.removeprefix("~"), request_line)) is is_upload


def test_the_cache_is_keyed_by_revision_path_query_and_accept(platform: Directive) -> None:
    cached = cached_locations(platform)
    assert cached
    for location in cached:
        (key,) = location.effective("proxy_cache_key")
        assert key.arguments[0].split() == ["$study_revision", "$request_uri", "$orthanc_accept"]
        assert [d.arguments for d in location.effective("proxy_cache_valid")] == [["200", "30d"]]
        assert [d.arguments for d in location.effective("proxy_no_cache")] == [["$uncached"]]
        assert [d.arguments for d in location.effective("proxy_cache_bypass")] == [["$uncached"]]
        assert [d.arguments for d in location.effective("proxy_cache_lock")] == [["on"]]


def cached_locations(platform: Directive) -> list[Directive]:
    return [location for location in platform.find("location") if location.own("proxy_cache")]


@pytest.mark.parametrize(
    ("path", "is_cached"),
    [
        ("/dicom-web/studies/1.2/series/1.3/metadata", True),
        ("/dicom-web/studies/1.2/series/1.3/instances/1.4", True),
        ("/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1", True),
        ("/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1,2", False),
        ("/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1/rendered", True),
        ("/dicom-web/studies/1.2/series/1.3/instances/1.4/bulk/00420011", True),
        ("/dicom-web/studies/1.2/rendered", True),
        ("/dicom-web/studies/1.2", False),
        ("/dicom-web/studies/1.2/series", True),
        ("/dicom-web/studies/1.2/series/1.3/instances", True),
        ("/dicom-web/studies/1.2/series/1.3", False),
        ("/orthanc/studies", False),
    ],
)
def test_what_is_cached_is_what_never_changes(platform: Directive, path: str, is_cached: bool) -> None:
    patterns = [location.arguments[1] for location in cached_locations(platform)]
    assert any(re.search(pattern, path) for pattern in patterns) is is_cached


def test_the_gateway_gets_exactly_what_the_contract_says(platform: Directive) -> None:
    internal = [location for location in proxied_to(platform, "gateway") if location.own("internal")]
    authorize, methods = sorted(internal, key=lambda location: location.arguments)[::-1]
    assert {name for name, value in headers_sent(methods).items() if value} == {"Host", "Authorization"}
    sent = {name: value for name, value in headers_sent(authorize).items() if value}
    assert sent == {
        "Host": "imaging.example.org",
        "Authorization": "$authorization_shown",
        "X-Original-Method": "$request_method",
        "X-Original-URI": "$request_uri",
        "X-Original-Accept": "$accept_shown",
        "X-Clinic": "$clinic_shown",
        "X-Real-IP": "$remote_addr",
    }


def keycloak_routes(platform: Directive, path: str) -> bool:
    """A location within another is reached through that one alone."""
    outer = [location for location in proxied_to(platform, "keycloak") if location.parent is platform]
    return any(re.search(location.arguments[-1], path) for location in outer)


@pytest.mark.parametrize(
    "path",
    [
        "/auth/realms/imaging",
        "/auth/realms/imaging/.well-known/openid-configuration",
        *(
            f"/auth/realms/imaging/protocol/openid-connect/{name}"
            for name in ("auth", "token", "certs", "logout", "logout/logout-confirm", "userinfo", "revoke")
        ),
        "/auth/realms/imaging/protocol/openid-connect/login-status-iframe.html",
        "/auth/realms/imaging/protocol/openid-connect/login-status-iframe.html/init",
        "/auth/realms/imaging/protocol/openid-connect/3p-cookies/step1.html",
        "/auth/realms/imaging/login-actions/authenticate",
        "/auth/realms/imaging/login-actions/required-action",
        "/auth/realms/imaging/account/",
        "/auth/realms/imaging/account/credentials",
        "/auth/resources/x",
        "/auth/admin/imaging/console/",
        "/auth/admin/realms/imaging/users",
        "/auth/admin/serverinfo",
    ],
)
def test_keycloak_is_reached_for_the_one_realm(platform: Directive, path: str) -> None:
    assert keycloak_routes(platform, path)


@pytest.mark.parametrize(
    "path",
    [
        "/auth/realms/master",
        "/auth/realms/imaging2",
        "/auth/admin/master/console/",
        "/auth/admin/realms",
        "/auth/admin/realms/master",
        "/auth/metrics",
        "/auth/health",
        "/auth/realms/imaging/clients-registrations/default",
        *(
            f"/auth/realms/imaging/{path}"
            for path in (
                *("protocol/saml", "protocol/saml/descriptor", "protocol/docker-v2/auth", "protocol/oid4vc/credential"),
                *("authz/protection/resource_set", "authz/protection/permission", "broker/google/endpoint"),
                *(
                    "broker/after-post-broker-login",
                    ".well-known/uma2-configuration",
                    ".well-known/openid-credential-issuer",
                ),
                *("device", "protocol/openid-connect/auth/device", "protocol/openid-connect/ext/par/request"),
                *("protocol/openid-connect/ext/ciba/auth", "protocol/openid-connect/token/introspect"),
                *("protocol/openid-connect/registrations", "protocol/openid-connect/forgot-credentials", "tokens"),
                *("login-actions/first-broker-login", "login-actions/registration", "login-actions/", "scim/v2/Users"),
            )
        ),
        "/auth/",
        "/x/auth/resources/",
    ],
)
def test_nothing_else_of_keycloak_is_routed(platform: Directive, path: str) -> None:
    assert not keycloak_routes(platform, path)


def test_no_location_takes_the_security_headers_away(platform: Directive) -> None:
    assert {d.arguments[0] for d in platform.own("add_header")} >= {
        "Content-Security-Policy",
        "Strict-Transport-Security",
        "X-Content-Type-Options",
        "Referrer-Policy",
        "Permissions-Policy",
    }
    # One add_header in a location drops all that were set above it.
    assert [str(location) for location in platform.find("location") if location.own("add_header")] == [
        "location @unavailable"
    ]


def map_of(nginx: Directive, variable: str) -> list[Directive]:
    (found,) = [d for d in nginx.find("map") if d.arguments[1] == variable]
    return found.block


@pytest.mark.parametrize(
    ("variable", "text", "matches"),
    [
        ("$smuggles_token", "token=x", True),
        ("$smuggles_token", "a=1&%74oken=x", True),
        ("$smuggles_token", "tokens=1", False),
        ("$smuggles_token", "StudyInstanceUIDs=1.2", False),
        ("$crooked_path", "/auth/realms/imaging/..;/master", True),
        ("$crooked_path", "/a/%2e%2e/b", True),
        ("$crooked_path", "/a/%2E./b", True),
        ("$crooked_path", "/a%2fb", True),
        ("$crooked_path", "/a\\b", True),
        ("$crooked_path", "//a", True),
        ("$crooked_path", "/auth/realms/imaging/.well-known/openid-configuration", False),
        ("$crooked_path", "/dicom-web/studies?PatientName=a//b;%2e", False),
    ],
)
def test_tricks_are_recognised(nginx: Directive, variable: str, text: str, matches: bool) -> None:
    (pattern,) = [d.name.strip("\"'") for d in map_of(nginx, variable) if d.name != "default"]
    assert bool(re.search(pattern.removeprefix("~*"), text, re.IGNORECASE)) is matches


def test_the_log_holds_no_query_and_no_header_of_the_client(nginx: Directive) -> None:
    (log_format,) = nginx.find("log_format")
    variables = set(re.findall(r"\$\w+", " ".join(log_format.arguments)))
    assert not {v for v in variables if v.startswith(("$http_", "$arg", "$cookie", "$query", "$request_uri", "$sent_"))}
    assert "$request" not in variables
    (error_log,) = nginx.find("error_log")
    assert error_log.arguments == ["stderr", "crit"], "below crit nginx writes whole request lines"


def test_a_socket_that_a_killed_master_left_does_not_keep_the_next_from_starting(nginx: Directive) -> None:
    sockets = {str(listen.arguments[0]) for listen in nginx.find("listen") if "unix:" in listen.arguments[0]}
    unit = (ROLE / "templates" / "nginx.service.conf.j2").read_text()
    removed = re.findall(r"^ExecStartPre=/usr/bin/rm --force (\S+)$", unit, re.M)
    assert sockets == {f"unix:{path}" for path in removed}
    assert sockets


def test_a_reload_does_not_read_the_number_of_a_master_that_may_not_be_written_yet() -> None:
    unit = (ROLE / "templates" / "nginx.service.conf.j2").read_text()
    assert re.findall(r"^ExecReload=(.*)$", unit, re.M) == [
        "",  # of Debian's
        "/usr/sbin/nginx -t -q",
        "/usr/bin/kill --signal HUP $MAINPID",
    ]
