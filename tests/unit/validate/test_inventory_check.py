"""The values that an operator may write into an inventory, and the messages when they cannot work."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from project import ROOT

Find = Callable[..., dict[str, str]]

GOOD: dict[str, Any] = {
    "imaging_environment": "production",
    "imaging_domain": "imaging.denscan.kz",
    "imaging_tls_mode": "self-signed",
    "imaging_inbox_path": "/data/inbox",
    "imaging_processed_path": "/data/processed",
    "imaging_failed_path": "/data/failed",
    "imaging_storage_path": "/data/dicom",
    "imaging_clinics": [
        {"id": "denscan-central", "name": "DenScan Central", "quota_gb": 500},
        {"id": "42", "name": "Сорок два"},
    ],
    "imaging_users": [
        {
            "username": "anna",
            "email": "anna@denscan.kz",
            "first_name": "Anna",
            "last_name": "Kim",
            "clinics": ["denscan-central"],
            "roles": ["physician", "technician"],
            "password": "correct horse",
        }
    ],
    "imaging_extra_ca_files": [],
    "imaging_secrets_path": "/root/.local/share/imaging-platform/production/secrets",
    "imaging_artifacts_path": "/root/.cache/imaging-platform",
    "imaging_minimum_memory_mb": 3500,
    "imaging_minimum_disk_gb": 10,
    "imaging_disk_reserve_gb": 5,
}


@pytest.fixture
def find(inventory_check: ModuleType) -> Find:
    """Compare GOOD with some variables changed, against the platform's schema alone; answers {path: message}."""
    full = inventory_check.load_specification(ROOT)
    options = {name: option for name, option in full.options.items() if name.startswith("imaging_")}
    specification = inventory_check.Specification(options, full.prefixes, full.internal)

    def find(without: str | None = None, **changed: Any) -> dict[str, str]:
        variables = {name: value for name, value in (GOOD | changed).items() if name != without}
        values = {name: value for name, value in variables.items() if name in options}
        return {
            problem.path: problem.told for problem in inventory_check.find_problems(variables, values, specification)
        }

    return find


def user(**changed: Any) -> list[dict[str, Any]]:
    return [GOOD["imaging_users"][0] | changed]


def test_a_good_inventory_has_no_problem(find: Find) -> None:
    assert find() == {}


@pytest.mark.parametrize(
    "domain", ["pacs.kz", "a.b.c.example.org", "xn--80ak6aa92e.com", "1.example.org", "imaging.sandbox.test"]
)
def test_a_lower_case_full_host_name_is_a_domain(find: Find, domain: str) -> None:
    assert find(imaging_domain=domain) == {}


@pytest.mark.parametrize(
    ("domain", "told"),
    [
        ("https://imaging.denscan.kz", "has a scheme"),
        ("imaging.denscan.kz/viewer", "has a path"),
        ("imaging.denscan.kz:8443", "has a port"),
        ("imaging.denscan.kz.", "ends in a dot"),
        ("Imaging.denscan.kz", "capital letters"),
        ("imaging", "not fully qualified"),
        ("192.168.1.10", "IP address"),
        ("2001:db8::1", "IP address"),
        ("[2001:db8::1]", "IP address"),
        ("1.2.3", "not a host name"),
        ("imaging..kz", "not a host name"),
        ("-imaging.kz", "not a host name"),
        ("imaging_1.kz", "not a host name"),
        ("imaging denscan.kz", "not a host name"),
        ("изображения.kz", "not a host name"),
        (f"{'a' * 64}.kz", "not a host name"),
        (".".join(["abcdefgh"] * 30), "not a host name"),
        ("", "not fully qualified"),
        ("imaging.denscan.kz\n", "not a host name"),
    ],
)
def test_a_wrong_domain_is_told_with_what_it_takes(find: Find, domain: str, told: str) -> None:
    problems = find(imaging_domain=domain)
    assert list(problems) == ["imaging_domain"]
    assert told in problems["imaging_domain"]
    assert "imaging.example.org" in problems["imaging_domain"]


@pytest.mark.parametrize(
    ("changed", "path", "told"),
    [
        # names
        ({"imaging_domian": "x"}, "imaging_domian", "did you mean imaging_domain?"),
        ({"imagin_domain": "x"}, "imagin_domain", "did you mean imaging_domain?"),
        ({"imaging_colour": "x"}, "imaging_colour", "take it out"),
        ({"base_packges": []}, "base_packges", "is not a variable of the platform"),
        ({"imaging_secret_orthanc_importer_pasword": "x"}, "imaging_secret_orthanc_importer_pasword", "did you mean"),
        # types
        ({"imaging_domain": None}, "imaging_domain", "is empty"),
        ({"imaging_domain": True}, "imaging_domain", "takes text"),
        ({"imaging_domain": ["a.kz"]}, "imaging_domain", "takes text"),
        ({"imaging_clinics": "denscan-central"}, "imaging_clinics", "takes a list"),
        ({"imaging_clinics": ["denscan-central"]}, "imaging_clinics[0]", "takes a mapping"),
        ({"imaging_clinics": [None]}, "imaging_clinics[0]", "is empty"),
        ({"imaging_clinics": [{"id": "aa"}]}, "imaging_clinics[0].name", "is missing"),
        (
            {"imaging_clinics": [{"id": "aa", "name": "A", "nmae": "B"}]},
            "imaging_clinics[0].nmae",
            "did you mean name?",
        ),
        ({"imaging_minimum_memory_mb": "4 GB"}, "imaging_minimum_memory_mb", "takes a whole number"),
        ({"imaging_minimum_memory_mb": 3500.5}, "imaging_minimum_memory_mb", "takes a whole number"),
        ({"imaging_minimum_disk_gb": True}, "imaging_minimum_disk_gb", "takes a whole number"),
        ({"imaging_minimum_disk_gb": -1}, "imaging_minimum_disk_gb", "not negative"),
        ({"imaging_inbox_path": 7}, "imaging_inbox_path", "takes a path"),
        # choices
        ({"imaging_tls_mode": "selfsigned"}, "imaging_tls_mode", "takes one of self-signed"),
        ({"imaging_acme_directory": "acme.denscan.kz"}, "imaging_acme_directory", "begins with https://"),
        # environment
        ({"imaging_environment": "../etc"}, "imaging_environment", "a short name"),
        ({"imaging_environment": "Production"}, "imaging_environment", "a short name"),
        # paths
        ({"imaging_inbox_path": "data/inbox"}, "imaging_inbox_path", "absolute path"),
        ({"imaging_inbox_path": "/data/../etc"}, "imaging_inbox_path", "absolute path"),
        ({"imaging_storage_path": "/"}, "imaging_storage_path", "absolute path"),
        ({"imaging_processed_path": "/data/inbox"}, "imaging_processed_path", "a directory of its own"),
        ({"imaging_processed_path": "/data/inbox/"}, "imaging_processed_path", "a directory of its own"),
        ({"imaging_failed_path": "/data/inbox/failed"}, "imaging_failed_path", "one lies inside the other"),
        ({"imaging_storage_path": "/data"}, "imaging_storage_path", "one lies inside the other"),
        ({"imaging_secrets_path": "secrets"}, "imaging_secrets_path", "absolute path"),
        ({"imaging_secrets_path": str(ROOT / "secrets")}, "imaging_secrets_path", "inside the repository"),
        ({"imaging_artifacts_path": str(ROOT)}, "imaging_artifacts_path", "inside the repository"),
        # CA certificates
        ({"imaging_extra_ca_files": ["/nowhere/ca.crt"]}, "imaging_extra_ca_files[0]", "not a file"),
        ({"imaging_extra_ca_files": [__file__]}, "imaging_extra_ca_files[0]", "end in .crt"),
        # clinics
        (
            {"imaging_clinics": [{"id": "a", "name": "A"}], "imaging_users": []},
            "imaging_clinics[0].id",
            "2 to 63 characters",
        ),
        ({"imaging_clinics": [{"id": "a" * 64, "name": "A"}], "imaging_users": []}, "imaging_clinics[0].id", "2 to 63"),
        ({"imaging_clinics": [{"id": "-aa", "name": "A"}], "imaging_users": []}, "imaging_clinics[0].id", "2 to 63"),
        ({"imaging_clinics": [{"id": "a/b", "name": "A"}], "imaging_users": []}, "imaging_clinics[0].id", "2 to 63"),
        ({"imaging_clinics": [{"id": "Aa", "name": "A"}], "imaging_users": []}, "imaging_clinics[0].id", "2 to 63"),
        ({"imaging_clinics": [{"id": "aa\n", "name": "A"}], "imaging_users": []}, "imaging_clinics[0].id", "2 to 63"),
        ({"imaging_clinics": [{"id": "aa", "name": " "}], "imaging_users": []}, "imaging_clinics[0].name", "is empty"),
        (
            {"imaging_clinics": [{"id": "aa", "name": "A"}, {"id": "aa", "name": "B"}], "imaging_users": []},
            "imaging_clinics[1].id",
            "and so is imaging_clinics[0].id",
        ),
        *(
            (
                {"imaging_clinics": [{"id": "aa", "name": "A", "charset": charset}], "imaging_users": []},
                "imaging_clinics[0].charset",
                "takes one of windows-1250, windows-1251",
            )
            for charset in ("cp1251", "ISO_IR 144", "utf-8", "")
        ),
        # users
        *(
            (
                {"imaging_clinics": [{"id": "aa", "name": "A", "quota_gb": quota}], "imaging_users": []},
                "imaging_clinics[0].quota_gb",
                told,
            )
            for quota, told in (
                (0, "whole number of GB above 0"),
                (-5, "whole number of GB above 0"),
                (None, "whole number of GB above 0"),
                (0.5, "takes a whole number"),
                (True, "takes a whole number"),
                ("500 GB", "takes a whole number"),
            )
        ),
        ({"imaging_users": user(clinics=["denscan-centrl"])}, "imaging_users[0].clinics", "not in imaging_clinics"),
        ({"imaging_users": user(clinics="denscan-central")}, "imaging_users[0].clinics", "takes a list"),
        (
            {"imaging_users": user(roles=["doctor"])},
            "imaging_users[0].roles[0]",
            "one of physician, technician, auditor, admin",
        ),
        ({"imaging_users": user(username="Anna")}, "imaging_users[0].username", "It takes 3 or more of a-z"),
        ({"imaging_users": user(email="anna")}, "imaging_users[0].email", "a mail address"),
        (
            {"imaging_users": user() + user(email="b@c.kz")},
            "imaging_users[1].username",
            "and so is imaging_users[0].username",
        ),
        (
            {"imaging_users": user() + user(username="berta")},
            "imaging_users[1].email",
            "and so is imaging_users[0].email",
        ),
        # alerts
        (
            {
                "imaging_alert_email_to": ["a@b.kz"],
                "imaging_alert_email_from": "c@b.kz",
                "imaging_alert_smtp_server": "",
            },
            "imaging_alert_smtp_server",
            "is empty",
        ),
        # backup
        ({"imaging_backup_repository": "nas:/backups"}, "imaging_backup_repository", "sftp:user@host:/path"),
        ({"imaging_backup_repository": "s3:bucket"}, "imaging_backup_repository", "s3:https://host/bucket"),
        (
            {
                "imaging_backup_repository": "s3:https://s3.denscan.kz/imaging",
                "imaging_backup_s3_access_key": "imaging",
                "imaging_backup_s3_secret_key": "",
            },
            "imaging_backup_s3_secret_key",
            "cannot be reached without it",
        ),
        (
            {
                "imaging_backup_repository": "sftp:imaging@nas:/backups",
                "imaging_backup_sftp_key_file": "/nowhere/key",
                "imaging_backup_sftp_known_hosts": "nas ssh-ed25519 AAAA",
            },
            "imaging_backup_sftp_key_file",
            "is not a file on this machine",
        ),
        ({"imaging_alert_webhook_urls": ["chat.denscan.kz"]}, "imaging_alert_webhook_urls[0]", "does not begin with"),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_takes(
    find: Find, changed: dict[str, Any], path: str, told: str
) -> None:
    problems = find(**changed)
    assert list(problems) == [path]
    assert told in problems[path]


@pytest.mark.parametrize("name", ["imaging_domain", "imaging_environment"])
def test_a_variable_without_a_default_must_be_set(find: Find, name: str) -> None:
    problems = find(without=name)
    assert list(problems) == [name]
    assert problems[name].startswith("is missing")


def test_a_file_named_like_a_certificate_must_hold_one(find: Find, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"0\x82\x03 binary DER")
    assert "PEM" in find(imaging_extra_ca_files=[str(tmp_path / "ca.crt")])["imaging_extra_ca_files[0]"]


# --- a certificate of the operator's own ------------------------------------------------------------------------------

NOW = datetime.datetime.now(datetime.UTC)
DOMAIN = str(GOOD["imaging_domain"])


class Authority:
    """Issues certificates, and writes what an operator would have in files."""

    def __init__(self, name: str, issuer: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (issuer or self).issue(self.name, self.key.public_key(), [])

    def issue(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, names: list[str], start: int = -1, end: int = 90
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(NOW + datetime.timedelta(start))
        builder = builder.not_valid_after(NOW + datetime.timedelta(end))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authorities() -> tuple[Authority, Authority]:
    root = Authority("Hospital root")
    return Authority("Hospital issuer", root), root


@pytest.fixture
def provide(find: Find, authorities: tuple[Authority, Authority], tmp_path: Path) -> Find:
    """The messages about a certificate for these names, of this time, with these certificates behind it."""
    issuer, _ = authorities

    def provide(
        names: list[str], start: int = -1, end: int = 90, after: list[x509.Certificate] | None = None, **changed: Any
    ) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
        chain = [issuer.issue(subject, key.public_key(), names, start, end)]
        chain += [issuer.certificate] if after is None else after
        (tmp_path / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files = {
            "imaging_tls_certificate_file": str(tmp_path / "chain.pem"),
            "imaging_tls_key_file": str(tmp_path / "key.pem"),
        }
        return find(imaging_tls_mode="provided", **(files | changed))

    return provide


@pytest.mark.parametrize("names", [[DOMAIN], ["*.denscan.kz"], ["denscan.kz", DOMAIN.upper()]])
def test_a_sound_certificate_is_taken(provide: Find, names: list[str]) -> None:
    assert provide(names) == {}


@pytest.mark.parametrize("names", [["denscan.kz"], ["*.imaging.denscan.kz"], ["*.kz"], []])
def test_a_certificate_for_another_name_is_refused(provide: Find, names: list[str]) -> None:
    assert f"is not for {DOMAIN}" in provide(names)["imaging_tls_certificate_file"]


def test_a_certificate_of_another_time_is_refused(provide: Find) -> None:
    assert "ended on" in provide([DOMAIN], start=-9, end=-1)["imaging_tls_certificate_file"]
    assert "not valid before" in provide([DOMAIN], start=1)["imaging_tls_certificate_file"]


def test_a_chain_in_the_wrong_order_is_refused(provide: Find, authorities: tuple[Authority, Authority]) -> None:
    issuer, root = (one.certificate for one in authorities)
    assert provide([DOMAIN], after=[issuer, root]) == {}
    assert "is no chain" in provide([DOMAIN], after=[root, issuer])["imaging_tls_certificate_file"]


def test_a_key_of_another_certificate_is_refused(provide: Find, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "other.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    problems = provide([DOMAIN], imaging_tls_key_file=str(tmp_path / "other.pem"))
    assert "is not the one of the first certificate" in problems["imaging_tls_key_file"]


def test_a_key_behind_a_passphrase_is_refused(provide: Find, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    hidden = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    (tmp_path / "hidden.pem").write_bytes(hidden)
    assert "passphrase" in provide([DOMAIN], imaging_tls_key_file=str(tmp_path / "hidden.pem"))["imaging_tls_key_file"]


@pytest.mark.parametrize(
    ("value", "told"),
    [("", "is empty"), ("/nowhere.pem", "not a file"), ("key.pem", "whole path"), (__file__, "inside the repository")],
)
def test_a_key_that_is_not_there_or_in_the_wrong_place_is_refused(provide: Find, value: str, told: str) -> None:
    assert told in provide([DOMAIN], imaging_tls_key_file=value)["imaging_tls_key_file"]


def test_what_is_no_certificate_is_refused(provide: Find) -> None:
    assert "PEM" in provide([DOMAIN], imaging_tls_certificate_file=__file__)["imaging_tls_certificate_file"]


def test_all_problems_are_told_at_once(find: Find) -> None:
    problems = find(
        without="imaging_environment",
        imaging_domian="x",
        imaging_domain="1.2.3.4",
        imaging_tls_mode="none",
        imaging_failed_path="failed",
        imaging_users=user(roles=["doctor"]),
    )
    assert set(problems) == {
        "imaging_environment",
        "imaging_domian",
        "imaging_domain",
        "imaging_tls_mode",
        "imaging_failed_path",
        "imaging_users[0].roles[0]",
    }


@pytest.mark.parametrize("password", [["hunter2"], {"value": "hunter2"}, True])
def test_a_secret_is_never_shown(find: Find, password: Any) -> None:
    problems = find(imaging_users=user(password=password))
    assert "it is a secret" in problems["imaging_users[0].password"]
    assert "hunter2" not in str(problems)


def test_no_secret_of_a_list_is_shown(inventory_check: ModuleType) -> None:
    option = {"type": "list", "elements": "str", "no_log": True, "description": "Keys."}
    (problem,) = inventory_check.find_type_problems("gateway_keys", ["fine", {"key": "hunter2"}], option)
    assert problem.path == "gateway_keys[1]"
    assert "hunter2" not in problem.told


@pytest.mark.parametrize(
    "name", ["ansible_user", "molecule_yml", "hospital_proxy", "inventory_hostname", "__base_packages", "groups"]
)
def test_variables_that_are_not_the_platforms_are_left_alone(find: Find, name: str) -> None:
    assert find(**{name: "anything"}) == {}


def test_numbers_written_on_the_command_line_are_numbers(find: Find) -> None:
    assert find(imaging_minimum_memory_mb="2000") == {}


def test_a_long_value_is_cut(find: Find) -> None:
    assert len(find(imaging_domain="https://" + "x" * 5000)["imaging_domain"]) < 300


def test_every_role_s_public_variables_are_known(inventory_check: ModuleType) -> None:
    specification = inventory_check.load_specification(ROOT)
    assert "base_open_tcp_ports" in specification.options
    assert {"imaging", "base", "postgres"} <= specification.prefixes
    assert "imaging_secret_postgres_orthanc_password" in specification.internal
