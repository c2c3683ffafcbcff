"""A real PostgreSQL for the tests of the registry and of the services that stand on it, thrown away after the run."""

# ruff: noqa: S101, S603
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parent.parent
OLDEST_POSTGRESQL = 15
ROLES = """
CREATE ROLE registry_owner NOLOGIN;
CREATE ROLE registry_importer LOGIN;
CREATE ROLE registry_gateway LOGIN;
CREATE ROLE registry_operator LOGIN;
"""


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server that listens on a socket in its own directory and trusts everybody there."""

    socket: Path
    control: Callable[..., None]  # runs pg_ctl on it

    def start(self) -> None:
        self.control("-w", "start")

    def crash(self) -> None:
        """Stop at once, as when the power goes; `start` recovers it."""
        self.control("-m", "immediate", "stop")

    def connect(self, role: str, database: str) -> psycopg.Connection:
        return psycopg.connect(host=str(self.socket), user=role, dbname=database, autocommit=True)

    def sql(self, statement: str, database: str = "postgres") -> None:
        with self.connect("postgres", database) as connection:
            connection.execute(statement)

    def migrate(self, database: str, migrations: list[dict[str, str]], check: bool = False) -> dict[str, object]:
        """Run the module registry_migrations as Ansible does and return what it answers."""
        arguments = {
            "database": database,
            "socket": str(self.socket),
            "port": 5432,
            "migrations": migrations,
            "_ansible_check_mode": check,
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"ANSIBLE_MODULE_ARGS": arguments}, file)
            file.flush()
            command = [sys.executable, str(ROOT / "library" / "registry_migrations.py"), file.name]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.stdout, run.stderr
        return json.loads(run.stdout)


@dataclass(frozen=True)
class RegistryDatabase:
    """A registry with every migration applied."""

    cluster: Cluster
    name: str

    def connect(self, role: str) -> psycopg.Connection:
        return self.cluster.connect(role, self.name)


def newest_postgresql() -> Path | None:
    """Return the directory of the newest server programs on this machine (as Debian lays them out)."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    found = [path for path in found if int(path.parent.name) >= OLDEST_POSTGRESQL]
    return max(found, key=lambda path: int(path.parent.name), default=None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    programs = newest_postgresql()
    if programs is None:
        pytest.skip(f"PostgreSQL {OLDEST_POSTGRESQL} or newer is not installed: apt-get install postgresql")
    directory = Path(tempfile.mkdtemp(prefix="registry-test-", dir="/tmp"))
    # initdb refuses root.
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(directory, "nobody", "nogroup")
        directory.chmod(0o755)
    data = str(directory / "data")

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=directory, check=False)
        assert done.returncode == 0, done.stdout.decode()

    options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off -c max_connections=200"
    run("initdb", "-D", data, "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
    made = Cluster(directory, partial(run, "pg_ctl", "-D", data, "-o", options, "-l", str(directory / "log")))
    made.start()
    try:
        made.sql(ROLES)
        made.sql("CREATE DATABASE registry OWNER registry_owner")
        answer = made.migrate("registry", migrations())
        assert answer.get("changed") is True, answer
        yield made
    finally:
        made.crash()
        shutil.rmtree(directory)


def migrations() -> list[dict[str, str]]:
    """Return this release's migrations as the role registry passes them."""
    paths = sorted((ROOT / "files" / "registry").glob("*.sql"))
    return [{"name": path.name, "sql": path.read_text(encoding="utf-8")} for path in paths]


@pytest.fixture
def registry(cluster: Cluster) -> RegistryDatabase:
    """An empty registry with three clinics. Its numbers go on from test to test, as a real one's do."""
    cluster.sql("DELETE FROM registry.study; DELETE FROM registry.clinic; DELETE FROM registry.access_log", "registry")
    database = RegistryDatabase(cluster, "registry")
    with database.connect("registry_operator") as operator:
        for clinic in ("north", "south", "west"):
            operator.execute("SELECT registry.upsert_clinic(%s, %s)", (clinic, f"Clinic {clinic}"))
    return database


def person(alphabetic: str, ideographic: str = "") -> dict[str, object]:
    groups = {"Alphabetic": alphabetic, **({"Ideographic": ideographic} if ideographic else {})}
    return {"vr": "PN", "Value": [groups]}


def study_attributes(**values: object) -> dict[str, object]:
    """Study-level DICOM JSON from keywords: date, time, name, patient, accession, modalities, description, …"""
    tags = {
        "date": ("00080020", "DA"),
        "time": ("00080030", "TM"),
        "accession": ("00080050", "SH"),
        "modalities": ("00080061", "CS"),
        "physician": ("00080090", "PN"),
        "description": ("00081030", "LO"),
        "name": ("00100010", "PN"),
        "patient": ("00100020", "LO"),
        "birth": ("00100030", "DA"),
        "sex": ("00100040", "CS"),
        "study_id": ("00200010", "SH"),
    }
    elements: dict[str, object] = {}
    for keyword, value in values.items():
        tag, vr = tags[keyword]
        if vr == "PN":
            elements[tag] = value if isinstance(value, dict) else person(str(value))
        else:
            elements[tag] = {"vr": vr, "Value": value if isinstance(value, list) else [value]}
    return elements


def instance_attributes(
    series: str, uid: str, modality: str = "CT", number: int = 1, instance: int = 1, started: tuple[str, str] = ("", "")
) -> dict[str, object]:
    """DICOM JSON of an instance and of its series."""
    elements = {
        "00080016": ("UI", "1.2.840.10008.5.1.4.1.1.2"),
        "00080018": ("UI", uid),
        "0020000E": ("UI", series),
        "00080060": ("CS", modality),
        "00200011": ("IS", number),
        "00200013": ("IS", instance),
        "00400244": ("DA", started[0]),
        "00400245": ("TM", started[1]),
    }
    return {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in elements.items() if value != ""}


class Importer:
    """The importer's calls to the registry."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def claim(self, study: str, clinic: str) -> bool:
        return self.connection.execute("SELECT registry.claim_study(%s, %s)", (study, clinic)).fetchone()[0]

    def record(self, study: str, clinic: str, **values: object) -> int:
        return self.record_attributes(study, clinic, study_attributes(**values))

    def record_attributes(self, study: str, clinic: str, attributes: dict[str, object], largest: int = 0) -> int:
        arguments = (study, clinic, json.dumps(attributes), largest)
        return self.connection.execute("SELECT registry.record_study(%s, %s, %s, %s)", arguments).fetchone()[0]

    def note_display(self, study: str, codes: dict[str, str | None]) -> None:
        images = [{"study_uid": study, "sop_instance_uid": image, "code": code} for image, code in codes.items()]
        self.connection.execute("SELECT registry.note_display(%s)", (json.dumps(images),))

    def record_contents(self, study: str, clinic: str, *instances: dict[str, object]) -> None:
        """Record series and instances: DICOM JSON of each instance with its series' elements."""
        series = {one["0020000E"]["Value"][0]: one for one in instances}
        arguments = (study, clinic, json.dumps(list(series.values())), json.dumps(instances))
        self.connection.execute("SELECT registry.record_contents(%s, %s, %s, %s)", arguments)

    def forget(self, study: str) -> bool:
        return self.connection.execute("SELECT registry.forget_study(%s)", (study,)).fetchone()[0]

    def add(self, study: str, clinic: str, **values: object) -> int:
        assert self.claim(study, clinic)
        return self.record(study, clinic, **values)


@pytest.fixture
def importer(registry: RegistryDatabase) -> Iterator[Importer]:
    with registry.connect("registry_importer") as connection:
        yield Importer(connection)
