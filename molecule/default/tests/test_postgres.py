"""PostgreSQL as it runs: checksums, the ports that it listens on, and which role may enter which database."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from testinfra.host import Host
from wired import Wired

UNIT = "postgresql@17-main.service"
# database: its owner, and who else may connect.
DATABASES = {
    "orthanc": ("orthanc", set()),
    "keycloak": ("keycloak", set()),
    "registry": ("registry_owner", {"registry_importer", "registry_gateway", "registry_operator"}),
}
LOGIN_ROLES = {"orthanc", "keycloak", "registry_importer", "registry_gateway", "registry_operator"}


def query(host: Host, sql: str, database: str = "postgres") -> list[list[str]]:
    """Rows of a query by the administrator over the socket."""
    output = host.check_output(f'psql -U postgres -d {database} -XAtF "|" -c "{sql}"')
    return [line.split("|") for line in output.splitlines()]


def test_data_checksums_are_on_and_text_is_utf8(host: Host) -> None:
    assert query(host, "SHOW data_checksums") == [["on"]]
    assert query(host, "SHOW server_encoding") == [["UTF8"]]


def test_case_folds_in_cyrillic_names(host: Host) -> None:
    assert query(host, "SELECT 'ИВАНОВ' ILIKE 'иванов'") == [["t"]]


def test_it_listens_on_loopback_only(host: Host, wired: Wired) -> None:
    port, addresses = wired["postgres_port"], wired["postgres_listen_addresses"]
    assert all(ip_address(address).is_loopback for address in addresses)
    listening = {socket for socket in host.socket.get_listening_sockets() if socket.endswith(f":{port}")}
    assert listening
    assert listening <= {f"tcp://{address}:{port}" for address in addresses}


def test_every_password_is_a_scram_verifier(host: Host) -> None:
    rows = query(host, "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256%'")
    assert {name for (name,) in rows} == LOGIN_ROLES
    assert query(host, "SELECT rolname FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256%'") == []


def test_only_the_administrator_has_powers(host: Host) -> None:
    powers = (
        "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
    )
    assert query(host, powers) == [["postgres"]]


def test_the_registrys_owner_cannot_log_in(host: Host) -> None:
    assert query(host, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'registry_owner'") == [["f"]]


@pytest.mark.parametrize("database", DATABASES)
def test_a_database_lets_in_its_owner_and_those_named(host: Host, database: str) -> None:
    owner, others = DATABASES[database]
    rows = query(
        host,
        "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname NOT LIKE 'pg@_%' ESCAPE '@'"  # noqa: S608
        f" AND has_database_privilege(rolname, '{database}', 'CONNECT')",
    )
    assert {name for (name,) in rows} == {owner} | others


@pytest.mark.parametrize("database", DATABASES)
def test_nobody_but_a_databases_owner_may_create_in_it(host: Host, database: str) -> None:
    owner, _ = DATABASES[database]
    rows = query(
        host,
        "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname NOT LIKE 'pg@_%' ESCAPE '@'"  # noqa: S608
        f" AND (has_schema_privilege(rolname, 'public', 'CREATE') OR"
        f" has_database_privilege(rolname, '{database}', 'CREATE'))",
        database,
    )
    assert {name for (name,) in rows} == {owner}


def test_the_rules_of_entry_name_each_database_and_are_valid(host: Host) -> None:
    assert query(host, "SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []
    rows = query(host, "SELECT DISTINCT unnest(database), auth_method FROM pg_hba_file_rules ORDER BY 1")
    # Monitoring looks in by its system user's name, at the database that holds nothing.
    # And a restore, as a user without rights, at the databases that it is loading.
    peers = [["all", "peer"], ["postgres", "peer"], *([f"{database}_restored", "peer"] for database in DATABASES)]
    assert sorted(rows) == sorted([*peers, *([database, "scram-sha-256"] for database in DATABASES)])


def test_another_system_user_is_not_let_in_without_a_password(host: Host) -> None:
    refused = host.run("runuser -u nobody -- psql -U postgres -d registry -c 'SELECT 1' --no-password")
    assert refused.rc != 0
    assert "Peer authentication failed" in refused.stderr


def test_a_failing_statement_leaves_no_value_in_the_journal(host: Host) -> None:
    host.run("psql -U postgres -d postgres -c \"SELECT 'Mustermann^Erika'::integer\"")
    host.run("psql -U postgres -d postgres -c \"SELECT 1 FROM nowhere WHERE name = 'Mustermann^Erika'\"")
    logged = host.check_output(f"journalctl --unit {UNIT} --since=-1min --no-pager")
    assert 'relation "nowhere" does not exist' in logged
    assert "name = 'Mustermann" not in logged
    assert "STATEMENT" not in logged
