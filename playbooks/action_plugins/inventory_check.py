"""Ansible action: refuse an inventory that cannot work, before any host is touched.

An action and not a module, because an action sees where a variable was written (file and line), and because the secrets
it meets on the way then never leave the controller's process. Documentation: library/inventory_check.py.

Read it from the bottom: `ActionModule` collects variables and specifications, `find_problems` compares them.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from ansible._internal._datatag._tags import Origin  # type: ignore[import-untyped]
from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PROJECT = Path(__file__).parents[2]

CLINIC_ID = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 section 2.1, in lower case
USERNAME = re.compile(r"[a-z0-9][a-z0-9._@-]{2,254}")
ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
SECRETS_PLACE = ("imaging_environment", "imaging_secrets_path")
HOST_PATHS = tuple(f"imaging_{name}_path" for name in ("inbox", "processed", "failed", "storage", "backup"))
NUMBERS = (
    "imaging_backup_keep_count",
    "imaging_backup_keep_days",
    "imaging_import_cooldown_seconds",
    "imaging_minimum_memory_mb",
    "imaging_minimum_disk_gb",
    "imaging_disk_reserve_gb",
)
CONTROLLER_PATHS = ("imaging_secrets_path", "imaging_artifacts_path")
# playbooks/validate.yml sets these later, from the hosts. Either value has the right type.
UNKNOWN_YET = {"imaging_dashboards": False}

Option = Mapping[str, Any]
Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which variable, what it is, and what the variable takes."""

    path: str  # imaging_users[2].roles
    told: str

    @property
    def variable(self) -> str:
        return re.split(r"[.\[]", self.path, maxsplit=1)[0]


@dataclass(frozen=True)
class Specification:
    """Every variable that may be set."""

    options: Mapping[str, Option]
    prefixes: frozenset[str]  # beginnings of the platform's variables, up to the first underscore
    internal: frozenset[str]  # only referred to in vars/wiring.yml


def quote(value: object) -> str:
    """A value as people would write it, cut to what a line holds."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


# --- names ------------------------------------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "it does nothing: take it out"


def find_unknown(names: Iterable[str], specification: Specification) -> Iterator[Problem]:
    known = {*specification.options, *specification.internal}
    for name in sorted(set(names) - known):
        prefix = name.split("_", 1)[0]
        ours = prefix in specification.prefixes
        # The prefix itself may be misspelt: imagin_domain, postgress_roles.
        almost_ours = bool(
            difflib.get_close_matches(prefix, specification.prefixes, cutoff=0.8)
            and difflib.get_close_matches(name, known, cutoff=0.9)
        )
        if ours or almost_ours:
            yield Problem(name, f"is not a variable of the platform; {did_you_mean(name, known)}")


def find_missing(names: Iterable[str], specification: Specification) -> Iterator[Problem]:
    present = set(names)
    for name, option in specification.options.items():
        if option.get("required") and name not in present:
            yield Problem(name, f"is missing. It takes: {first_sentence(option)}")


def first_sentence(option: Option) -> str:
    description = option.get("description", "")
    text = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"C\((.*?)\)", r"\1", text).strip()


# --- types ------------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    # A value that Ansible would convert without loss is right: `-e base_open_tcp_ports=…` gives text.
    "str": ("text", lambda value: isinstance(value, (str, int, float)) and not isinstance(value, bool)),
    "path": ("a path", lambda value: isinstance(value, str)),
    "int": ("a whole number", lambda value: re.fullmatch(r"-?\d+", str(value)) is not None),
    "float": ("a number", lambda value: re.fullmatch(r"-?\d+(\.\d+)?", str(value)) is not None),
    "bool": ("true or false", lambda value: isinstance(value, bool) or value in ("true", "false", "yes", "no")),
    "list": ("a list", lambda value: isinstance(value, (list, tuple))),
    "dict": ("a mapping", lambda value: isinstance(value, Mapping)),
    "raw": ("anything", lambda _: True),
}


def find_type_problems(path: str, value: object, option: Option) -> Iterator[Problem]:
    """Compare a value, and what is inside it, with its option (type, choices, elements, suboptions)."""
    shown = "its value (not shown: it is a secret)" if option.get("no_log") else quote(value)
    if value is None:
        if option.get("required") or option.get("default") is not None:
            yield Problem(path, f"is empty. It takes: {first_sentence(option)}")
        return
    takes, fits = TYPES[option.get("type", "str")]
    if not fits(value):
        yield Problem(path, f"is {shown}, but it takes {takes}. {first_sentence(option)}")
        return

    if isinstance(value, (list, tuple)):
        element = {key: option[key] for key in ("description", "options", "choices", "no_log") if key in option}
        element |= {"type": option.get("elements", "raw"), "required": True}
        for index, item in enumerate(value):
            yield from find_type_problems(f"{path}[{index}]", item, element)
    elif "choices" in option and value not in option["choices"]:
        yield Problem(path, f"is {shown}, but it takes one of {', '.join(map(str, option['choices']))}")
    elif isinstance(value, Mapping) and "options" in option:
        suboptions: Mapping[str, Option] = option["options"]
        for name in value:
            if name not in suboptions:
                yield Problem(f"{path}.{name}", f"is unknown; {did_you_mean(name, suboptions)}")
        for name, suboption in suboptions.items():
            if name in value:
                yield from find_type_problems(f"{path}.{name}", value[name], suboption)
            elif suboption.get("required"):
                yield Problem(f"{path}.{name}", f"is missing. It takes: {first_sentence(suboption)}")


# --- rules that only the platform knows -------------------------------------------------------------------------------


def check_domain(domain: str) -> str | None:
    """The error in a public host name (RFC 1123 section 2.1), or None."""
    bare = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", domain)
    if bare != domain:
        return "has a scheme"
    if "/" in domain:
        return "has a path"
    try:
        ipaddress.ip_address(domain.strip("[]"))
    except ValueError:
        pass
    else:
        return "is an IP address, for which no certificate and no login redirect can be made"
    if ":" in domain:
        return "has a port; the platform always answers on 443"
    if domain.endswith("."):
        return "ends in a dot"
    if domain != domain.lower():
        return "has capital letters, which browsers and token issuers compare as different"
    labels = domain.split(".")
    if len(labels) < 2:
        return "is not fully qualified: it has no dot"
    if len(domain) > 253 or not all(HOST_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        return "is not a host name: labels of a-z, 0-9 and -, joined by dots"
    return None


def find_domain_problems(domain: str) -> Iterator[Problem]:
    if wrong := check_domain(domain):
        takes = "a lower-case fully qualified host name such as imaging.example.org"
        yield Problem("imaging_domain", f"is {quote(domain)}: it {wrong}. It takes {takes}")


def find_environment_problems(name: str) -> Iterator[Problem]:
    if not ENVIRONMENT.fullmatch(name):
        takes = "a short name of a-z, 0-9 and -, such as production"
        yield Problem("imaging_environment", f"is {quote(name)}. It takes {takes}")


def find_path_problems(variables: Variables) -> Iterator[Problem]:
    """Paths are absolute; the host's do not lie inside each other, the controller's not inside the repository."""
    sound: dict[str, PurePosixPath] = {}
    for name in (*HOST_PATHS, *CONTROLLER_PATHS):
        if name not in variables:
            continue
        path = PurePosixPath(variables[name])
        if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
            takes = f"an absolute path below /, without `..`, such as /data/{name.split('_')[1]}"
            yield Problem(name, f"is {quote(variables[name])}. It takes {takes}")
        else:
            sound[name] = path

    host = [(name, path) for name, path in sound.items() if name in HOST_PATHS]
    for position, (name, path) in enumerate(host):
        for other, other_path in host[:position]:
            if path == other_path:
                yield Problem(name, f"is {quote(str(path))}, and so is {other}. Each takes a directory of its own")
            elif path.is_relative_to(other_path) or other_path.is_relative_to(path):
                problem = f"is {quote(str(path))}, and {other} is {quote(str(other_path))}: one lies inside the other"
                yield Problem(name, f"{problem}. Each takes a directory of its own")
    for name in CONTROLLER_PATHS:
        if name in sound and sound[name].is_relative_to(PROJECT):
            yield Problem(name, f"is {quote(str(sound[name]))}, inside the repository. It takes a directory outside it")


def find_ca_problems(files: Iterable[str]) -> Iterator[Problem]:
    for index, name in enumerate(files):
        path, where = Path(name), f"imaging_extra_ca_files[{index}]"
        if not path.is_file():
            yield Problem(where, f"is {quote(name)}, which is not a file on this machine")
        elif path.suffix != ".crt":
            yield Problem(where, f"is {quote(name)}. update-ca-certificates only reads names that end in .crt")
        elif b"-----BEGIN CERTIFICATE-----" not in path.read_bytes():
            yield Problem(where, f"is {quote(name)}, which is not a certificate in PEM form")


def find_tls_problems(variables: Variables) -> Iterator[Problem]:
    """Read the provided files here, so that a wrong file never reaches a host."""
    directory = str(variables.get("imaging_acme_directory", "https://"))
    if not directory.startswith("https://"):
        takes = "the address of an ACME directory, which begins with https://"
        yield Problem("imaging_acme_directory", f"is {quote(directory)}. It takes {takes}")
    if variables.get("imaging_tls_mode") != "provided":
        return
    chain_file, key_file = "imaging_tls_certificate_file", "imaging_tls_key_file"
    contents = {}
    for name, what in ((chain_file, "the certificate with its intermediates"), (key_file, "the certificate's key")):
        path = Path(str(variables.get(name) or ""))
        if not variables.get(name):
            yield Problem(
                name, f"is empty, but imaging_tls_mode is provided. It takes the path of {what}, on this machine"
            )
        elif not path.is_absolute() or not path.is_file():
            yield Problem(name, f"is {quote(str(path))}, which is not a file on this machine. Write its whole path")
        elif name == key_file and path.resolve().is_relative_to(PROJECT):
            yield Problem(name, f"is {quote(str(path))}, inside the repository. Keep a key outside of it")
        else:
            contents[name] = path.read_bytes()

    chain, key = None, None
    if chain_file in contents:
        try:
            chain = x509.load_pem_x509_certificates(contents[chain_file])
        except ValueError:
            yield Problem(chain_file, "names a file that holds no certificate in PEM form")
    if key_file in contents:
        try:
            key = load_pem_private_key(contents[key_file], password=None)
        except (ValueError, TypeError):
            yield Problem(key_file, "names a file that holds no private key in PEM form without a passphrase")
    if chain and key and chain[0].public_key() != key.public_key():
        told = "names a key that is not the one of the first certificate in imaging_tls_certificate_file"
        yield Problem(key_file, f"{told}. The host's own certificate comes first there, then its intermediates")
    if chain:
        domain = str(variables.get("imaging_domain", ""))
        yield from (Problem(chain_file, told) for told in find_chain_problems(chain, domain))


def find_chain_problems(chain: list[x509.Certificate], domain: str) -> Iterator[str]:
    now = datetime.datetime.now(datetime.UTC)
    for certificate in chain:
        subject = quote(certificate.subject.rfc4514_string())
        if certificate.not_valid_after_utc < now:
            yield f"holds a certificate that ended on {certificate.not_valid_after_utc:%Y-%m-%d}: {subject}"
        elif certificate.not_valid_before_utc > now:
            yield f"holds a certificate that is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}: {subject}"
    for certificate, issuer in itertools.pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            subjects = [quote(one.subject.rfc4514_string()) for one in (certificate, issuer)]
            yield f"is no chain: {subjects[0]} is not issued by {subjects[1]}, which follows it"
    try:
        alternative = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    # A wildcard stands for exactly one label (RFC 6125 section 6.4.3).
    if not {domain, f"*.{domain.partition('.')[2]}"} & {name.lower() for name in names}:
        covered = ", ".join(names) or "no name at all (browsers do not read the common name)"
        yield f"holds a certificate that is not for {domain}, but for {covered}"


def find_clinic_problems(clinics: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, clinic in enumerate(clinics):
        identifier = clinic["id"]
        path = f"imaging_clinics[{index}]"
        if not CLINIC_ID.fullmatch(identifier):
            takes = "2 to 63 characters of a-z, 0-9 and -, starting with a letter or digit"
            yield Problem(f"{path}.id", f"is {quote(identifier)}. It takes {takes}")
        if identifier in seen:
            yield Problem(f"{path}.id", f"is {quote(identifier)}, and so is imaging_clinics[{seen[identifier]}].id")
        if not clinic["name"].strip():
            yield Problem(f"{path}.name", "is empty. It takes the clinic's name, as people write it")
        if "quota_gb" in clinic and int(clinic["quota_gb"] or 0) < 1:
            takes = "a whole number of GB above 0; without it the clinic has no quota"
            yield Problem(f"{path}.quota_gb", f"is {quote(clinic['quota_gb'])}. It takes {takes}")
        seen.setdefault(identifier, index)


def find_user_problems(users: Iterable[Mapping[str, Any]], clinics: Iterable[str]) -> Iterator[Problem]:
    known_clinics = list(clinics)
    for field in ("username", "email"):
        seen: dict[str, int] = {}
        for index, user in enumerate(users):
            value = user[field].lower()
            if value in seen:
                other = f"imaging_users[{seen[value]}].{field}"
                yield Problem(f"imaging_users[{index}].{field}", f"is {quote(value)}, and so is {other}")
            seen.setdefault(value, index)
    for index, user in enumerate(users):
        path = f"imaging_users[{index}]"
        if not USERNAME.fullmatch(user["username"]):
            # Keycloak stores names in lower case, so any other would differ at every run.
            takes = "3 or more of a-z, 0-9, `.`, `_`, `@` and -, starting with a letter or digit"
            yield Problem(f"{path}.username", f"is {quote(user['username'])}. It takes {takes}")
        if not EMAIL.fullmatch(user["email"]):
            yield Problem(f"{path}.email", f"is {quote(user['email'])}. It takes a mail address")
        for clinic in user.get("clinics") or []:
            if clinic not in known_clinics:
                known = ", ".join(known_clinics) or "none"
                told = f"names {quote(clinic)}, which is not in imaging_clinics. Known: {known}"
                yield Problem(f"{path}.clinics", told)


def find_alert_problems(variables: Variables) -> Iterator[Problem]:
    if variables.get("imaging_alert_email_to"):
        for name in ("imaging_alert_smtp_server", "imaging_alert_email_from"):
            if name in variables and not variables[name]:
                yield Problem(name, "is empty, but imaging_alert_email_to names people to mail to")
    for index, url in enumerate(variables.get("imaging_alert_webhook_urls") or []):
        # The address itself may hold a token, so it is not shown.
        if not re.match(r"https?://[^/]", url):
            yield Problem(f"imaging_alert_webhook_urls[{index}]", "does not begin with http:// or https://")


def find_repository_problems(variables: Variables) -> Iterator[Problem]:
    name = "imaging_backup_repository"
    repository = str(variables.get(name) or "")
    if not repository:
        return
    if not re.fullmatch(r"/[^\s]+|sftp:[^\s:/]+:[^\s]+|s3:https?://[^\s/]+/[^\s]+", repository):
        takes = "an absolute path, sftp:user@host:/path or s3:https://host/bucket"
        yield Problem(name, f"is {quote(repository)}. It takes {takes}")
        return
    kind = repository.partition(":")[0]
    needed = {
        "s3": ("imaging_backup_s3_access_key", "imaging_backup_s3_secret_key"),
        "sftp": ("imaging_backup_sftp_key_file", "imaging_backup_sftp_known_hosts"),
    }
    for missing in needed.get(kind, ()):
        if missing in variables and not variables[missing]:
            yield Problem(missing, f"is empty, and {name} cannot be reached without it")
    key_file = str(variables.get("imaging_backup_sftp_key_file") or "")
    if kind == "sftp" and key_file and not Path(key_file).is_file():
        yield Problem("imaging_backup_sftp_key_file", f"is {quote(key_file)}, which is not a file on this machine")


def find_platform_problems(variables: Variables) -> Iterator[Problem]:
    """Checks beyond types; `variables` holds only those whose type is right."""
    if "imaging_environment" in variables:
        yield from find_environment_problems(str(variables["imaging_environment"]))
    if "imaging_domain" in variables:
        yield from find_domain_problems(str(variables["imaging_domain"]))
    yield from find_path_problems(variables)
    yield from find_ca_problems(variables.get("imaging_extra_ca_files") or [])
    yield from find_tls_problems(variables)
    yield from find_alert_problems(variables)
    yield from find_repository_problems(variables)
    clinics = variables.get("imaging_clinics") or []
    yield from find_clinic_problems(clinics)
    # Without a readable list of clinics every user's clinic would seem unknown.
    if "imaging_clinics" in variables:
        yield from find_user_problems(variables.get("imaging_users") or [], (clinic["id"] for clinic in clinics))
    for name in NUMBERS:
        if name in variables and int(variables[name]) < 0:
            yield Problem(name, f"is {quote(variables[name])}. It takes a number that is not negative")


# --- all together -----------------------------------------------------------------------------------------------------


def find_problems(names: Iterable[str], values: Variables, specification: Specification) -> list[Problem]:
    """Everything that is wrong with one host's variables: `names` are set, `values` are those that were evaluated."""
    names = list(names)
    problems = [*find_unknown(names, specification), *find_missing(names, specification)]
    sound = {}
    for name, value in values.items():
        wrong = list(find_type_problems(name, value, specification.options[name]))
        problems += wrong
        if not wrong and value is not None:
            sound[name] = value
    return [*problems, *find_platform_problems(sound)]


def refers_to(expression: object, names: Iterable[str]) -> bool:
    """Whether a variable is made of another one that is reported: mending that one mends this one."""
    text = str(expression)
    return "{" in text and any(re.search(rf"\b{name}\b", text) for name in names)


def load_specification(project: Path) -> Specification:
    """Read vars/schema.yml, every role's meta/argument_specs.yml, and the names that vars/wiring.yml refers to."""
    roles = [path for path in (project / "roles").iterdir() if path.is_dir()]
    options: dict[str, Option] = {}
    for path in (project / "vars" / "schema.yml", *(role / "meta" / "argument_specs.yml" for role in roles)):
        if path.is_file():
            entry_points = yaml.safe_load(path.read_text())["argument_specs"]
            for name, entry_point in entry_points.items():
                for option_name, option in (entry_point.get("options") or {}).items():
                    # Only `main` runs always. The caller of another entry point sets what that one requires.
                    options[option_name] = option if name == "main" else {**option, "required": False}
    wiring = (project / "vars" / "wiring.yml").read_text()
    wired = (name for name in yaml.safe_load(wiring) if len(re.findall(rf"\b{name}\b", wiring)) > 1)
    versions = yaml.safe_load((project / "vars" / "versions.yml").read_text())
    return Specification(
        options=options,
        prefixes=frozenset({"imaging", *(role.name.split("_", 1)[0] for role in roles)}),
        internal=frozenset({*wired, *versions}),
    )


class ActionModule(ActionBase):  # type: ignore[misc]
    """Collects what `find_problems` needs from Ansible."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        assert task_vars is not None  # noqa: S101 - the base class says None, the executor never does
        specification = load_specification(PROJECT)
        # A set that keeps its order: hosts mostly share their variables, and so their problems.
        told: dict[str, None] = {}
        for host in task_vars["ansible_play_hosts"]:
            variables = dict(task_vars["hostvars"].raw_get(host))
            told |= dict.fromkeys(self._problems_of_host(variables, specification))

        result.update(changed=False, failed=bool(told))
        if told:
            count = "one problem" if len(told) == 1 else f"{len(told)} problems"
            lines = [f"The inventory has {count}; no host was touched.", *(f"- {line}" for line in told)]
            result["msg"] = "\n".join(lines)
        return result

    def _problems_of_host(self, variables: dict[str, Any], specification: Specification) -> list[str]:
        known = self._role_defaults() | variables | UNKNOWN_YET
        templar = Templar(loader=self._loader, variables=known)
        values: dict[str, Any] = {}
        unevaluated: list[Problem] = []

        def evaluate(names: Iterable[str]) -> list[Problem]:
            for name in names:
                try:
                    values[name] = templar.template(variables[name])
                except AnsibleError as error:
                    unevaluated.append(Problem(name, f"cannot be evaluated: {error}"))
            return find_problems(variables, values, specification)

        ours = [name for name in variables if name in specification.options]
        # Evaluating a variable may generate a secret, so this checks the directory of secrets first.
        place = [name for name in ours if name in SECRETS_PLACE]
        problems = evaluate(place)
        if not unevaluated and not any(problem.variable in SECRETS_PLACE for problem in problems):
            problems = evaluate(name for name in ours if name not in place)

        problems += unevaluated
        reported = {problem.variable for problem in problems}
        return [
            self._tell(problem, variables.get(problem.variable))
            for problem in problems
            if not refers_to(variables.get(problem.variable), reported - {problem.variable})
        ]

    def _role_defaults(self) -> dict[str, Any]:
        """The variables to which the inventory's own expressions may refer, as in the play that has the roles."""
        defaults: dict[str, Any] = {}
        for path in sorted((PROJECT / "roles").glob("*/defaults/main.yml")):
            defaults |= self._loader.load_from_file(str(path), trusted_as_template=True) or {}
        return defaults

    def _tell(self, problem: Problem, raw: object) -> str:
        origin = Origin.get_tag(raw)
        if origin is None or origin.path is None:
            return f"{problem.path} {problem.told}"
        path = Path(origin.path)
        where = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path
        return f"{problem.path} ({where}, line {origin.line_num}) {problem.told}"
