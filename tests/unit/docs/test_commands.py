"""Each command that a page shows exists and takes what is shown with it. A test runs it, or it is said why not."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest
import yaml
from ansible.cli.playbook import PlaybookCLI
from loading import load
from project import ROOT
from what_runs import in_code_that_runs

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/ADMIN.md",
    "docs/COMMANDS.md",
    "docs/FIGURES.md",
    "docs/TROUBLESHOOTING.md",
    "docs/USER.md",
)
COMMANDS_PAGE = (ROOT / "docs/COMMANDS.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
ROW = re.compile(r"^\| `make ([\w-]+)[^`]*` \|.*$", re.MULTILINE)
PROGRAMS = ("imaging-backup", "imaging-gateway", "imaging-importer", "imaging-status", "imaging-updates")
# Only programs that they start read these, so make itself would do the same without them.
IN_THE_ENVIRONMENT = {"SANDBOX"}

# Where each is run as a person runs it: the file, and the words in it that run it.
RUN = {
    "make up": ("tests/host/readme/test_quickstart.py", 'run("make up")'),
    "make up-dev": ("tests/host/platform/test_developing.py", '"tools/develop.py"), "run"'),
    "make demo": ("tests/host/readme/test_quickstart.py", '"make demo"'),
    "make down": ("tests/host/readme/test_quickstart.py", 'run("make down")'),
    "make info": ("tests/host/platform/test_commands.py", 'make("info")'),
    "make status": ("tests/host/platform/test_status.py", '["make", "-s", "status"'),
    "make help": ("tests/unit/docs/test_commands.py", '["make", "-s", "help"]'),
    "make logs": ("tests/host/platform/test_commands.py", '"logs"'),
    "make logs-importer": ("tests/host/platform/test_commands.py", '"logs-importer"'),
    "make test-alert": ("tests/host/platform/test_commands.py", 'make("test-alert")'),
    "make restart": ("tests/host/platform/test_commands.py", 'make("restart")'),
    "make audit": ("tests/host/platform/test_commands.py", 'make("audit"'),
    "make shell-db": ("tests/host/platform/test_commands.py", '"shell-db"'),
    "make shell-orthanc": ("tests/host/platform/test_commands.py", '"shell-orthanc"'),
    "make add-clinic": ("tests/host/platform/test_people.py", 'make("add-clinic"'),
    "make rename-clinic": ("tests/host/platform/test_people.py", 'make("rename-clinic"'),
    "make rename-user": ("tests/host/platform/test_people.py", 'make("rename-user"'),
    "make remove-clinic": ("tests/host/platform/test_removing_clinics.py", 'done("remove-clinic"'),
    "make list-clinics": ("tests/host/platform/test_people.py", 'listed("list-clinics")'),
    "make list-users": ("tests/host/platform/test_people.py", 'listed("list-users")'),
    "make add-user": ("tests/host/platform/test_people.py", 'make("add-user"'),
    "make reset-password": ("tests/host/platform/test_people.py", 'make("reset-password"'),
    "make reset-totp": ("tests/host/platform/test_second_factor.py", 'make("reset-totp"'),
    "make require-totp": ("tests/host/platform/test_second_factor.py", 'make("require-totp"'),
    "make logout": ("tests/host/platform/test_people.py", 'make("logout"'),
    "make disable-user": ("tests/host/platform/test_people.py", 'make("disable-user"'),
    "make enable-user": ("tests/host/platform/test_people.py", 'make("enable-user"'),
    "make remove-user": ("tests/host/platform/test_people.py", 'make("remove-user"'),
    "make add-client": ("tests/host/platform/test_clients.py", 'make("add-client"'),
    "make new-client-secret": ("tests/host/platform/test_clients.py", 'make("new-client-secret"'),
    "make remove-client": ("tests/host/platform/test_clients.py", 'make("remove-client"'),
    "make certs": ("tests/host/certificates/test_issuing.py", 'play("playbooks/certificates.yml", renew=1)'),
    "make update-testing": ("tests/host/platform/test_updates.py", 'make("update-testing")'),
    "imaging-updates pending": ("playbooks/update-testing.yml", "[imaging-updates, pending]"),
    "make backup": ("tests/host/restore/test_restore.py", '"backup", "INCLUDE_DICOM=1"'),
    "make restore": ("tests/host/restore/test_restore.py", 'timed("restore", f"BACKUP_FILE={archive}"'),
    "make restore-drill": ("tests/host/restore/test_restore_drill.py", '"restore-drill"'),
    "make uninstall": ("tests/host/uninstall/test_uninstall.py", 'make("uninstall")'),
    "make docs-exposure": ("molecule/default/tests/test_base.py", "exposure_document.render("),
    "make docs": ("tests/unit/docs/test_variables.py", "render()"),
    "make release": ("tests/unit/test_release.py", "release.main()"),
    "ansible-playbook site.yml": ("tests/host/certificates/test_issuing.py", 'play("site.yml")'),
    "ansible-playbook add-clinic.yml": ("Makefile", "$(PLAYBOOK) add-clinic.yml"),
    "ansible-playbook playbooks/add-user.yml": ("Makefile", "$(PLAYBOOK) playbooks/add-user.yml"),
    "ansible-playbook playbooks/account.yml": ("Makefile", "$(PLAYBOOK) playbooks/account.yml"),
    "imaging-status": ("tests/host/platform/test_status.py", '["make", "-s", "status"'),
    "imaging-gateway audit": ("Makefile", "imaging-gateway audit"),
    "imaging-importer status": ("tests/host/platform/test_uploads.py", '"imaging-importer", "status"'),
    "imaging-importer retry": ("tests/host/platform/test_commands.py", '"imaging-importer", "retry"'),
    "imaging-importer drop": ("files/importer/tests/test_archive_decides.py", 'main(["drop", job])'),
    "imaging-importer claims": ("files/importer/tests/test_archive_decides.py", 'main(["claims"])'),
    "imaging-importer release": ("files/importer/tests/test_archive_decides.py", 'main(["release", "1.2.3"])'),
    "imaging-importer check-config": ("files/importer/tests/test_settings.py", '"check-config"])'),
    "imaging-importer rebuild": ("files/importer/tests/test_rebuild.py", 'main(["rebuild"])'),
    "imaging-backup create": ("tests/host/restore/test_restore_drill.py", '"imaging-backup", "create"'),
    "imaging-backup push": ("tests/host/platform/test_repository.py", "imaging-backup push"),
    "imaging-backup tidy": ("tests/host/platform/test_repository.py", '"imaging-backup", "tidy"'),
    "imaging-backup key": ("playbooks/restore-drill/fetch.yml", "imaging-backup, key"),
    "imaging-backup list": ("tests/host/platform/test_backup.py", '"imaging-backup", "list"'),
    "imaging-backup check": ("playbooks/restore-drill/fetch.yml", "imaging-backup, check"),
}
NOT_RUN = {
    "make .venv/deploy": "every other target that needs Ansible begins with it",
    "make bench": "measures, and is right by definition",
    "make bench-import": "measures, and is right by definition",
    "make bench-gateway": "measures, and is right by definition",
    "make outdated": "asks package registries; what it makes of their answers is in tests/unit/test_outdated.py",
    "make audit-dependencies": "asks services elsewhere; tests/unit/test_audit_dependencies.py has stand-ins of them",
    "make requirements": "asks a package registry",
}


def shown() -> Iterator[str]:
    """Every command of ours in a page, as it would be typed, without sudo."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        lines = "\n".join(FENCED.findall(text)).replace("\\\n", " ").splitlines()
        typed = [part for line in lines for part in re.split(r"&&|\||;", re.sub(r"(^|\s)#.*", "", line))]
        for command in (*typed, *SPAN.findall(FENCED.sub("", text))):
            command = re.sub(r"^sudo (--\S+ )*", "", " ".join(command.split()))
            words = command.split()
            # Of our other programs the name alone is that of the service.
            if words[:1] == ["imaging-status"] or (words[1:] and words[0] in ("make", "ansible-playbook", *PROGRAMS)):
                yield command


COMMANDS = sorted(set(shown()))
MADE = [command for command in COMMANDS if command.startswith("make ")]
PLAYED = [command for command in COMMANDS if command.startswith("ansible-playbook ")]
CALLED = [command for command in COMMANDS if command.startswith("imaging-")]


def name(command: str) -> str:
    """The program that is run, without its arguments."""
    words = shlex.split(command)
    return words[0] if words[0] == "imaging-status" else " ".join(words[:2])


@cache
def dry(*words: str) -> str:
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_make_uses(target: str, variables: list[str]) -> None:
    for variable in variables:
        if variable == "INVENTORY":
            assert dry(target, "INVENTORY=inventories/production") != dry(target)
        elif variable not in IN_THE_ENVIRONMENT:
            # 1 and all: where only these count.
            probes = {dry(target, f"{variable}={value}") for value in ("1", "all", "somewhere")}
            assert probes != {dry(target)}, f"make {target} does nothing with {variable}"


@pytest.mark.parametrize("command", MADE)
def test_make_knows_target_and_variables(command: str) -> None:
    _, target, *variables = shlex.split(command)
    assert_make_uses(target, [variable.partition("=")[0] for variable in variables])


@pytest.mark.parametrize("row", list(ROW.finditer(COMMANDS_PAGE)), ids=lambda row: row[1])
def test_make_uses_each_variable_of_the_page_of_commands(row: re.Match[str]) -> None:
    assert_make_uses(row[1], re.findall(r"\b([A-Z_]+)=", row[0]))


def groups_of(text: str, heading: str, target: str) -> dict[str, list[str]]:
    """The targets below each heading, in their order."""
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.match(heading, line):
            groups[found[1]] = []
        elif (found := re.match(target, line)) and groups:
            groups[list(groups)[-1]].append(found[1])
    return groups


def test_makefile_help_and_the_page_of_commands_have_the_same_groups() -> None:
    made = groups_of(MAKEFILE, r"##@ (.+)", r"([a-z][a-z-]*):.*## \w")
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = groups_of(COMMANDS_PAGE, r"## (.+)", r"\| `make ([a-z-]+)")
    assert made == groups_of(shown, r"(\w.*)", r"  make (\S+) +\w") == explained
    assert {target for targets in made.values() for target in targets} == set(
        re.findall(r"^\.PHONY: ([a-z].*)$", MAKEFILE, re.MULTILINE)
    )
    assert [line for line in shown.splitlines() if len(line) > 100] == []


def test_the_readme_has_the_dozen_for_newcomers_and_the_page_of_commands_all() -> None:
    rows = re.findall(r"^\| `(make [^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 12
    assert set(rows) <= set(re.findall(r"^\| `(make [^`]+)`", COMMANDS_PAGE, re.MULTILINE))


def names_in(playbook: str) -> set[str]:
    """Every word of a playbook and of those that it imports."""
    path = ROOT / playbook
    words = set(re.findall(r"\w+", path.read_text()))
    for play in yaml.safe_load(path.read_text()):
        if imported := play.get("ansible.builtin.import_playbook"):
            words |= names_in(str((path.parent / imported).resolve().relative_to(ROOT)))
    return words


@pytest.mark.parametrize("command", PLAYED)
def test_ansible_takes_the_options_and_the_playbook_uses_the_variables(command: str) -> None:
    cli = PlaybookCLI(shlex.split(command))
    cli.init_parser()
    cli.parser.parse_args(cli.args[1:])
    (playbook,) = (word for word in shlex.split(command) if word.endswith(".yml"))
    given = {word.partition("=")[0] for word in shlex.split(command) if re.match(r"[a-z_]+=", word)}
    assert given - names_in(playbook) == set()


class Parsed(Exception):  # noqa: N818 - no error
    """The program has understood its arguments; nothing of it has run."""


@pytest.mark.parametrize("command", CALLED)
def test_the_program_takes_the_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: object, **named: object) -> None:
        parse(self, *given, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(Parsed):
        main_of(program)()


def main_of(program: str):
    if program == "imaging-status":
        return load(ROOT / "files/status/imaging_status.py").main
    if program == "imaging-updates":
        return load(ROOT / "files/updates/imaging_updates.py").main
    part = program.removeprefix("imaging-")
    source = str(ROOT / f"files/{part}/src")
    if source not in sys.path:
        sys.path.append(source)
    return importlib.import_module(f"imaging_{part}.{'__main__' if part == 'gateway' else 'cli'}").main


def is_a_suite(command: str) -> bool:
    """Whether the command is a way to run tests."""
    return command in ("make test", "make lint") or (command.startswith("make test-") and command != "make test-alert")


@pytest.mark.parametrize("command", sorted({name(command) for command in COMMANDS}))
def test_each_is_run_by_a_test_or_it_is_said_why_not(command: str) -> None:
    if is_a_suite(command):
        return
    assert (command in RUN) != (command in NOT_RUN), f"say in RUN where `{command}` is run, or in NOT_RUN why it is not"
    if command in RUN:
        file, words = RUN[command]
        in_tests = [made.removeprefix("make ") for made, (where, _) in RUN.items() if where.endswith(".py")]
        assert in_code_that_runs(file, words, [made for made in in_tests if " " not in made]), f"{file} does not run it"


def test_nothing_is_said_of_commands_that_no_page_shows() -> None:
    assert {*RUN, *NOT_RUN} - {name(command) for command in COMMANDS} == set()
