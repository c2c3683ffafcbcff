"""The targets of the Makefile that work on every inventory, and how a test sees that they reach its host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """The words typed with a target and into its program; a pattern of the host's answer."""

    says: str
    arguments: tuple[str, ...] = ()
    typed: str = ""


STRANGER = "nobody-of-this-name"
"""A user whom no host has: what should run as this user ends with the words of the host's own sudo."""

ANSWERED = {
    "status": Verb(r'"well": ', ("JSON=1",)),
    "logs": Verb(r"^\w+ \d+ [\d:]+ imaging-\S+ \S+\[\d+\]: "),
    "logs-importer": Verb(r"imaging_importer"),
    "audit": Verb(r"^at,user,.*\n\Z", ("FORMAT=csv", 'USER=it\'s "nobody" $HOME')),
    "shell-orthanc": Verb(r"^user=orthanc$", typed="echo user=$(id -un)\n"),
    "shell-db": Verb(r"denscan-central", typed="SELECT clinic_id FROM registry.clinic;\n"),
    "test-alert": Verb(r"\A\Z"),
    "outdated": Verb(r"^Debian packages on the hosts of \S+: (the newest|newer ones are there)$"),
    "backup": Verb(r"^/var/backups/imaging/\S+\n\Z"),
}
"""These are quick, and change nothing that another test looks at."""

REFUSED = {
    "restart": Verb(STRANGER),
    "docs-exposure": Verb(STRANGER),
    "add-clinic": Verb(STRANGER, ("CLINIC_ID=elsewhere", "CLINIC_NAME=Elsewhere")),
    "remove-clinic": Verb(STRANGER, ("CLINIC_ID=elsewhere",)),
    "rename-clinic": Verb(STRANGER, ("CLINIC_ID=elsewhere", "NAME=Else where")),
    "list-clinics": Verb(STRANGER),
    "list-users": Verb(STRANGER),
    "add-user": Verb(STRANGER, ("USERNAME=elsewhere", "EMAIL=elsewhere@example.org", "CLINIC=elsewhere")),
    "reset-password": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "reset-totp": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "require-totp": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "logout": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "disable-user": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "enable-user": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "rename-user": Verb(STRANGER, ("USERNAME=elsewhere", "NEW_USERNAME=elsewhere.too")),
    "remove-user": Verb(STRANGER, ("USERNAME=elsewhere",)),
    "add-client": Verb(STRANGER, ("CLIENT_ID=elsewhere", "CLINIC=elsewhere")),
    "new-client-secret": Verb(STRANGER, ("CLIENT_ID=elsewhere",)),
    "remove-client": Verb(STRANGER, ("CLIENT_ID=elsewhere",)),
    "restore": Verb(STRANGER, ("BACKUP_FILE=/var/backups/imaging/elsewhere.tar.zst",)),
    "restore-drill": Verb(STRANGER),
    "certs": Verb(STRANGER),
    "update-testing": Verb(STRANGER),
    "uninstall": Verb(STRANGER),
}
"""These take long or change the host: it is enough that the host refuses."""

ON_EVERY_INVENTORY = {**ANSWERED, **REFUSED}
