#!/usr/bin/python
"""Ansible module: the roles and databases of a PostgreSQL server, and exactly the rights named.

One task and one look at the catalogue instead of a dozen module calls, and unlike those it also takes away what is
*not* named: CONNECT of a role dropped from the list, superuser of a role that must not have it, everything of PUBLIC.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_access
short_description: Keep roles and databases of a PostgreSQL server, with exactly the rights named
description:
  - Connects over the local socket as C(postgres) and brings roles and databases to the state described.
  - Roles and databases that are not named are left alone; rights that are not named are revoked.
  - In check mode, a server that does not run yet counts as empty.
options:
  port:
    description: Port of the server, which names its socket.
    type: int
    required: true
  roles:
    description: The roles.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name., type: str, required: true}
      password:
        description: Printable ASCII; only its SCRAM-SHA-256 verifier is sent. Without one, a stored one is removed.
        type: str
      login: {description: Whether the role may log in., type: bool, default: true}
      member_of: {description: Roles that it is a member of - exactly these., type: list, elements: str, default: []}
  databases:
    description: The databases.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name., type: str, required: true}
      owner: {description: Owning role., type: str, required: true}
      connect: {description: Other roles that may connect., type: list, elements: str, default: []}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

RETURN = r"""
actions: {description: What was done (in check mode - would be done)., type: list, elements: str, returned: always}
"""

import base64
import hashlib
import hmac
import re
import traceback
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib  # type: ignore[import-untyped]

try:
    import psycopg
    from psycopg import sql

    PSYCOPG_ERROR = None
except ImportError:
    PSYCOPG_ERROR = traceback.format_exc()

SOCKET_DIRECTORY = "/run/postgresql"
PUBLIC = "PUBLIC"
# The rights on a new database that everybody has (PostgreSQL manual, 5.8 Privileges, table 5.2).
PUBLIC_DEFAULT = {(PUBLIC, "CONNECT"), (PUBLIC, "TEMPORARY")}
# Attributes that no role of the platform needs, as columns of pg_authid and words of ALTER ROLE.
FORBIDDEN = {
    "rolsuper": "SUPERUSER",
    "rolcreatedb": "CREATEDB",
    "rolcreaterole": "CREATEROLE",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}


@dataclass(frozen=True)
class Action:
    """One statement, the database it runs in, and what people are told of it (never a secret)."""

    told: str
    statement: Any
    database: str = "postgres"


def matches_verifier(password: str, verifier: str | None) -> bool:
    """Whether `verifier`, as PostgreSQL stores it, was made from `password` (RFC 5802 section 3, RFC 7677)."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):([^:]+)", verifier or "")
    if not found:
        return False
    iterations, salt, stored_key, _server_key = found.groups()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), base64.b64decode(stored_key))


def connect(port: int, database: str) -> psycopg.Connection[dict[str, Any]]:
    """Open an autocommit connection as the administrator over the local socket; raises ConnectionError, in words."""
    if PSYCOPG_ERROR:
        raise ConnectionError(missing_required_lib("psycopg (Debian: python3-psycopg)"))
    try:
        return psycopg.connect(
            host=SOCKET_DIRECTORY,
            port=port,
            dbname=database,
            user="postgres",
            autocommit=True,
            row_factory=psycopg.rows.dict_row,
        )
    except psycopg.OperationalError as error:
        raise ConnectionError(f"PostgreSQL does not answer on its socket in {SOCKET_DIRECTORY}: {error}") from error


def plan_role(wanted: dict[str, Any], stored: dict[str, Any] | None, verifier: str | None) -> list[Action]:
    """Actions that bring one role to its state; `verifier` is what to store when its password is to change."""
    name = wanted["name"]
    role = sql.Identifier(name)
    login = sql.SQL("LOGIN" if wanted["login"] else "NOLOGIN")
    password = sql.SQL("PASSWORD {}").format(sql.Literal(verifier))
    member_of = set(wanted["member_of"])
    if stored is None:
        created = Action(f"create role {name}", sql.SQL("CREATE ROLE {} {} {}").format(role, login, password))
        return [created, *plan_membership(name, set(), member_of)]

    actions = plan_membership(name, set(stored["member_of"]), member_of)
    if stored["rolcanlogin"] != wanted["login"]:
        told = f"{'allow' if wanted['login'] else 'forbid'} role {name} to log in"
        actions.append(Action(told, sql.SQL("ALTER ROLE {} {}").format(role, login)))
    for column, word in FORBIDDEN.items():
        if stored[column]:
            actions.append(Action(f"take {word} from role {name}", sql.SQL(f"ALTER ROLE {{}} NO{word}").format(role)))
    if wanted["password"] is None:
        password_differs = stored["rolpassword"] is not None
    else:
        password_differs = not matches_verifier(wanted["password"], stored["rolpassword"])
    if password_differs:
        told = f"{'remove' if verifier is None else 'set'} the password of role {name}"
        actions.append(Action(told, sql.SQL("ALTER ROLE {} {}").format(role, password)))
    return actions


def plan_membership(name: str, stored: set[str], wanted: set[str]) -> list[Action]:
    """Actions that make a role a member of exactly the wanted roles."""
    actions = []
    for verb, preposition, groups in (("REVOKE", "FROM", stored - wanted), ("GRANT", "TO", wanted - stored)):
        for group in sorted(groups):
            statement = sql.SQL(f"{verb} {{}} {preposition} {{}}").format(sql.Identifier(group), sql.Identifier(name))
            actions.append(Action(f"{verb.lower()} {group} {preposition.lower()} role {name}", statement))
    return actions


def plan_database(wanted: dict[str, Any], stored: dict[str, Any] | None) -> list[Action]:
    """Actions that bring one database's owner and access list to their state."""
    name = wanted["name"]
    database, owner = sql.Identifier(name), sql.Identifier(wanted["owner"])
    actions = []
    if stored is None:
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner)
        actions.append(Action(f"create database {name}", statement))
        granted = PUBLIC_DEFAULT
    else:
        granted = {(grant["grantee"], grant["privilege"]) for grant in stored["grants"]}
        if stored["owner"] != wanted["owner"]:
            statement = sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, owner)
            actions.append(Action(f"give database {name} to {wanted['owner']}", statement))

    # The owner's rights come with ownership; everybody else's are listed.
    allowed = {(role, "CONNECT") for role in wanted["connect"]}
    granted = {(grantee, privilege) for grantee, privilege in granted if grantee != wanted["owner"]}
    for verb, preposition, grants in (("REVOKE", "FROM", granted - allowed), ("GRANT", "TO", allowed - granted)):
        for grantee, privilege in sorted(grants):
            grantee_sql = sql.SQL(PUBLIC) if grantee == PUBLIC else sql.Identifier(grantee)
            statement = sql.SQL(f"{verb} {privilege} ON DATABASE {{}} {preposition} {{}}").format(database, grantee_sql)
            told = f"{verb.lower()} {privilege} on database {name} {preposition.lower()} {grantee}"
            actions.append(Action(told, statement))
    return actions


def plan_public_schema(port: int, database: str) -> list[Action]:
    """Close the schema `public` of a database made by PostgreSQL 14 or older, where anybody could create in it."""
    with connect(port, database) as connection:
        open_to_all = connection.execute(
            "SELECT FROM pg_namespace, aclexplode(nspacl) AS acl"
            " WHERE nspname = 'public' AND acl.grantee = 0 AND acl.privilege_type = 'CREATE'"
        ).fetchone()
    if open_to_all is None:
        return []
    told = f"revoke CREATE on schema public of database {database} from PUBLIC"
    return [Action(told, sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"), database)]


def plan_access(
    server: psycopg.Connection[dict[str, Any]], port: int, roles: list[dict[str, Any]], databases: list[dict[str, Any]]
) -> list[Action]:
    """Compare the server with what is wanted and say what to do, in order."""
    stored_roles = {
        row["rolname"]: row
        for row in server.execute(
            "SELECT *, ARRAY(SELECT pg_get_userbyid(roleid)::text FROM pg_auth_members WHERE member = role.oid)"
            " AS member_of FROM pg_authid AS role"
        )
    }
    stored_databases = {
        row["datname"]: row
        for row in server.execute(
            "SELECT datname, pg_get_userbyid(datdba) AS owner, (SELECT coalesce(json_agg(json_build_object("
            "  'grantee', CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(acl.grantee) END,"
            "  'privilege', acl.privilege_type)), '[]')"
            " FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) AS acl WHERE acl.grantee <> datdba) AS grants"
            " FROM pg_database"
        )
    }
    actions = []
    for role in roles:
        verifier = None
        if role["password"] is not None:
            # The verifier is made here and not by the server, so that no log can hold the password.
            encrypted = server.pgconn.encrypt_password(
                role["password"].encode(), role["name"].encode(), b"scram-sha-256"
            )
            verifier = encrypted.decode()
        actions += plan_role(role, stored_roles.get(role["name"]), verifier)
    for database in databases:
        actions += plan_database(database, stored_databases.get(database["name"]))
        if database["name"] in stored_databases:
            actions += plan_public_schema(port, database["name"])
    return actions


def find_mistakes(roles: list[dict[str, Any]], databases: list[dict[str, Any]]) -> list[str]:
    """The errors in the wishes themselves, in words; empty if there are none."""
    mistakes = []
    names = {role["name"] for role in roles}
    for role in roles:
        # Outside printable ASCII, SASLprep (RFC 4013) would have to normalise the password before it is compared.
        if role["password"] is not None and not re.fullmatch(r"[\x20-\x7e]+", role["password"]):
            mistakes.append(f"the password of role {role['name']} must be printable ASCII and not empty")
    for database in databases:
        for role_name in [database["owner"], *database["connect"]]:
            if role_name not in names:
                mistakes.append(
                    f"database {database['name']} names the role {role_name}, which is not in the list of roles"
                )
    return mistakes


def main() -> None:
    """Run the module."""
    role_spec = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "login": {"type": "bool", "default": True},
        "member_of": {"type": "list", "elements": "str", "default": []},
    }
    database_spec = {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "connect": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "roles": {"type": "list", "elements": "dict", "required": True, "options": role_spec},
            "databases": {"type": "list", "elements": "dict", "required": True, "options": database_spec},
        },
        supports_check_mode=True,
    )
    port, roles, databases = (module.params[name] for name in ("port", "roles", "databases"))
    if mistakes := find_mistakes(roles, databases):
        module.fail_json(msg="; ".join(mistakes))

    try:
        with connect(port, "postgres") as server:
            actions = plan_access(server, port, roles, databases)
        told = [action.told for action in actions]
    except ConnectionError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        # Before the first run there is neither a server nor the library that puts statements together.
        told = [f"create role {role['name']}" for role in roles]
        told += [f"create database {database['name']}" for database in databases]

    if not module.check_mode:
        for action in actions:
            try:
                with connect(port, action.database) as connection:
                    connection.execute(action.statement)
            except psycopg.Error as error:
                module.fail_json(msg=f"PostgreSQL refused to {action.told}: {error}")

    module.exit_json(
        changed=bool(told), actions=told, diff={"before": "", "after": "".join(f"{line}\n" for line in told)}
    )


if __name__ == "__main__":
    main()
