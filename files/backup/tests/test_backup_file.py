"""A backup file proves itself: any change on its way is found before anything of it is used."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from backup_keys import KEY, OTHER_KEY, TRUST
from imaging_backup import backup_file
from imaging_backup.errors import BackupError
from imaging_backup.signing import Trust


def prove(path: Path, trust: Trust = TRUST) -> dict[str, bytes]:
    """Prove a backup file; the members that were read from it."""
    found: dict[str, bytes] = {}

    class Member(io.BytesIO):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.member = name

        def close(self) -> None:
            found[self.member] = self.getvalue()
            super().close()

    backup_file.prove(path, trust, lambda about: None, Member)
    return found


def repack(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write a backup file again, as somebody would who does not know the purpose of the manifest."""
    raw = subprocess.run(["zstd", "-dqc", str(path)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as old:
        members = [(entry.name, old.extractfile(entry).read()) for entry in old]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as new:
        for name, content in change(members):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            new.addfile(entry, io.BytesIO(content))
    path.write_bytes(subprocess.run(["zstd", "-qc"], input=packed.getvalue(), check=True, capture_output=True).stdout)


def test_what_was_written_is_read_again(backup_path):
    found = prove(backup_path)
    assert found["settings/tls/ca.pem"] == b"certificate"
    assert list(found) == ["realm.json", "settings/tls/ca.pem", "images/00000000-0000-0000-0000-000000000001"]


def test_only_its_owner_may_read_it(backup_path):
    assert backup_path.stat().st_mode & 0o777 == 0o600


def test_tools_that_everybody_has_prove_it_too(backup_path, tmp_path):
    directory = tmp_path / "unpacked"
    directory.mkdir()
    script = (
        "zstd -dqc \"$1\" | tar -x && sha256sum --check --quiet manifest.sha256 && sed 's/ [0-9]* /  /' manifest.txt"
    )
    script += " | sha256sum --check --quiet"
    subprocess.run(["sh", "-c", script, "sh", str(backup_path)], cwd=directory, check=True)


@pytest.mark.parametrize("part", [0.0001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_backup_file_is_refused(backup_path, part):
    whole = backup_path.read_bytes()
    backup_path.write_bytes(whole[: max(5, int(len(whole) * part))])
    with pytest.raises(BackupError, match="damaged"):
        prove(backup_path)


def test_any_flipped_bit_is_found(backup_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    whole = bytearray(backup_path.read_bytes())
    for _ in range(100):
        position, bit = choice.randrange(len(whole)), 1 << choice.randrange(8)
        whole[position] ^= bit
        backup_path.write_bytes(whole)
        with pytest.raises(BackupError, match=r"damaged|not a backup|signed|has the format|names a key"):
            prove(backup_path)
        whole[position] ^= bit


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda members: [(n, b"forged" if n.endswith("ca.pem") else c) for n, c in members], "settings/tls/ca.pem is"),
        (lambda members: [m for m in members if m[0] != "realm.json"], "is not what the manifest says"),
        (lambda members: [members[0], ("images.tsv", b""), *members[1:]], "images.tsv is not what"),
        (lambda members: [*members[:-3], ("images.tsv", b""), *members[-3:]], "more than its manifest names"),
        (lambda members: [*members, ("images.tsv", b"")], "something follows"),
        (lambda members: members[:-1], "FORGED or damaged"),
        (lambda members: members[:-2], "the manifest itself"),
        (lambda members: members[:-3], "before its manifest"),
        (lambda members: [(n, c.replace(b"north", b"south") if n == "about.json" else c) for n, c in members], "about"),
    ],
)
def test_what_somebody_changed_is_named(backup_path, change, told):
    repack(backup_path, change)
    with pytest.raises(BackupError, match=told):
        prove(backup_path)


@pytest.mark.parametrize("name", ["settings/../../etc/passwd", "/etc/passwd", "images/../x", "settings/..", "setup.sh"])
def test_a_name_that_leads_elsewhere_is_refused(backup_path, name):
    repack(backup_path, lambda members: [members[0], (name, b"x"), *members[1:]])
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(backup_path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x28\xb5\x2f\xfd"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.tar.zst"
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"not a backup of this platform|damaged"):
        prove(path)


def test_somebody_else_s_file_is_refused(backup_path):
    repack(backup_path, lambda members: [("realm.json", b"{}")])
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(backup_path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BackupError, match="cannot be read: No such file"):
        prove(tmp_path / "none.tar.zst")


@pytest.mark.parametrize("announced", [12, 20_000])
def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path, monkeypatch, announced):
    (tmp_path / "ca.pem").write_bytes(b"certificate")
    writer = backup_file.Writer(io.BytesIO(), {}, KEY)
    monkeypatch.setattr(backup_file.os, "fstat", lambda _: SimpleNamespace(st_size=announced))
    with pytest.raises(BackupError, match=r"settings/tls/ca\.pem became shorter while it was read"):
        writer.add_file("settings/tls/ca.pem", tmp_path / "ca.pem")


def test_a_full_disk_is_told():
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(BackupError, match=r"(?i)no space left"),
        backup_file.packed(full, []) as stream,
    ):
        stream.write(random.randbytes(2_000_000))


def test_a_backup_file_for_a_key_is_read_by_its_holder_alone(tmp_path):
    key = tmp_path / "key.txt"
    subprocess.run(["age-keygen", "-o", str(key)], check=True, capture_output=True)
    recipient = subprocess.run(
        ["age-keygen", "-y", str(key)], check=True, capture_output=True, text=True
    ).stdout.strip()
    path = tmp_path / "dicom-backup-2026-05-04T020000Z.tar.zst.age"
    with backup_file.new_backup_file(path, {}, [recipient], KEY) as writer:
        writer.add_bytes("realm.json", b"{}")
    with pytest.raises(BackupError, match=r"is encrypted.* age --decrypt --identity KEY FILE \| ssh HOST"):
        prove(path)
    plain = path.with_suffix("")
    subprocess.run(["age", "--decrypt", "--identity", str(key), "--output", str(plain), str(path)], check=True)
    assert prove(plain) == {"realm.json": b"{}"}


def test_a_key_that_is_none_is_refused(tmp_path):
    with (
        pytest.raises(BackupError, match=r"(?i)recipient"),
        backup_file.new_backup_file(tmp_path / "backup.tar.zst.age", {}, ["age1nonsense"], KEY),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# --- the signature ---------------------------------------------------------------------------------------------------


def forge(path: Path, change: Callable[[dict[str, bytes]], None], sign: bytes | None = None) -> None:
    """The file of an attacker who knows the format: everything fits except the signature."""

    def anew(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        content = dict(members)
        signature = content.pop("manifest.sig")
        del content["manifest.txt"], content["manifest.sha256"]
        change(content)
        lines = (f"{hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in content.items())
        manifest = "".join(lines).encode()
        digest = f"{hashlib.sha256(manifest).hexdigest()}  manifest.txt\n".encode()
        content |= {"manifest.txt": manifest, "manifest.sha256": digest}
        if json.loads(content["about.json"])["format"] > 1:
            content["manifest.sig"] = signature if sign is None else sign or OTHER_KEY.sign(digest)
        return list(content.items())

    repack(path, anew)


def claim(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        content["about.json"] = json.dumps(json.loads(content["about.json"]) | values).encode()

    return change


def plant(content: dict[str, bytes]) -> None:
    content["settings/tls/ca.pem"] = b"another authority"


@pytest.mark.parametrize("sign", [None, b"", b"short", bytes(64)], ids=["old", "another key", "short", "zeros"])
def test_what_somebody_else_has_made_is_refused_at_its_end(backup_path, sign):
    forge(backup_path, plant, sign)
    with pytest.raises(BackupError, match="is FORGED or damaged: its signature is not by the key 248acb"):
        prove(backup_path)


def test_another_platform_s_is_refused_before_it_is_read_and_taken_on_a_word(backup_path):
    forge(backup_path, claim(key=OTHER_KEY.public), b"")
    with pytest.raises(
        BackupError, match=f"the key {OTHER_KEY.public}.* this platform's is 248acb.* TRUST={OTHER_KEY.public}"
    ):
        prove(backup_path)
    found = prove(backup_path, Trust(KEY.public, also=OTHER_KEY.public))
    assert found["settings/tls/ca.pem"] == b"certificate"


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, 7, ["248acb"], {"a": 1}])
def test_a_key_that_is_none_is_no_way_in(backup_path, key):
    forge(backup_path, claim(key=key))
    with pytest.raises(BackupError, match="names a key that is none"):
        prove(backup_path, Trust(KEY.public, unsigned=True))


@pytest.mark.parametrize("stripped", [{"format": 1}, {"format": 2, "key": None}], ids=["old format", "no key"])
def test_one_without_a_signature_is_taken_on_an_explicit_word_alone(backup_path, stripped):
    forge(backup_path, claim(**stripped))
    with pytest.raises(BackupError, match=r"is not signed: .* UNSIGNED=1"):
        prove(backup_path)
    with pytest.raises(BackupError, match="is not signed"):
        prove(backup_path, Trust(KEY.public, also=OTHER_KEY.public))
    if stripped["format"] == 1:  # the format of earlier releases
        assert prove(backup_path, Trust(KEY.public, unsigned=True))["settings/tls/ca.pem"] == b"certificate"


def test_openssl_knows_the_signature(backup_path, tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public))
    (tmp_path / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    script = (
        'zstd -dqc "$1" | tar -x manifest.sha256 manifest.sig && '
        "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in manifest.sha256 -sigfile manifest.sig"
    )
    subprocess.run(["sh", "-c", script, "sh", str(backup_path)], cwd=tmp_path, check=True)


def test_a_list_tells_what_each_says_of_itself(backup_path, tmp_path):
    assert backup_file.says(backup_path) == f"signed with the key {KEY.public}"
    forge(backup_path, claim(format=1))
    assert backup_file.says(backup_path) == "not signed"
    for name in ("empty.tar.zst", "other.tar.zst.age"):
        (tmp_path / name).touch()
    assert backup_file.says(tmp_path / "empty.tar.zst") == "cannot be read"
    assert backup_file.says(tmp_path / "other.tar.zst.age") == "encrypted"


# --- traps -----------------------------------------------------------------------------------------------------------


def entry(name: str, content: bytes = b"x", **values: object) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size, made.mode = len(content), 0o600
    for key, value in values.items():
        setattr(made, key, value)
    return made, content


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return entry("././@PaxHeader", records, type=kind)


def record(keyword: str, value: str) -> bytes:
    rest = f" {keyword}={value}\n".encode()
    length = next(n for n in range(1, 10**6) if n == len(str(n)) + len(rest))
    return str(length).encode() + rest


CA = "settings/tls/ca.pem"
TRAPS = {
    "an absolute name": [entry("/etc/passwd")],
    "a way up": [entry("settings/../../etc/passwd")],
    "a way up in a long name": [extended(record("path", "settings/../../etc/cron.d/x")), entry(CA)],
    "a symbolic link": [entry(CA, b"", type=tarfile.SYMTYPE, linkname="/etc/shadow")],
    "a hard link": [entry(CA, b"", type=tarfile.LNKTYPE, linkname="/etc/shadow")],
    "a device": [entry(CA, b"", type=tarfile.BLKTYPE, devmajor=8)],
    "a pipe": [entry(CA, b"", type=tarfile.FIFOTYPE)],
    "a directory": [entry("settings/tls", b"", type=tarfile.DIRTYPE)],
    "a program": [entry(CA, mode=0o755)],
    "a program with its owner's rights": [entry(CA, mode=0o4755)],
    "a sparse file": [entry(CA, b"", type=tarfile.GNUTYPE_SPARSE)],
    "a sparse file of pax": [
        extended(record("GNU.sparse.major", "1") + record("GNU.sparse.realsize", "9" * 15)),
        entry(CA, b"1\n0\n"),
    ],
    "a long name of GNU": [entry("././@LongLink", b"settings/" + b"a" * 300, type=tarfile.GNUTYPE_LONGNAME), entry(CA)],
    "a header for all that follow": [extended(record("path", "/etc/passwd"), tarfile.XGLTYPE), entry(CA)],
    "two headers in a row": [extended(record("path", CA)), extended(record("path", CA)), entry(CA)],
    "a link's name in a header": [extended(record("linkpath", "/etc/shadow")), entry(CA)],
    "a header that is long": [extended(record("comment", "a" * 100_000)), entry(CA)],
    "a header that is nonsense": [extended(b"no record"), entry(CA)],
    "a record that does not end": [extended(b"0 path=x\n"), entry(CA)],
    "a negative record": [extended(b"-9 path=x\n"), entry(CA)],
    "a negative size": [extended(record("size", "-512")), entry(CA)],
    "a size that is no number": [extended(record("size", "1e9")), entry(CA)],
    "a name that is there": [entry(CA)],
    "about.json again": [entry("about.json", b"{}")],
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_whatever_a_backup_never_holds_is_refused(backup_path, trap):
    """Also of a file without signature that somebody takes at its word."""
    raw = subprocess.run(["zstd", "-dqc", str(backup_path)], check=True, capture_output=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for number, member in enumerate(old):
            if number == 3:
                for made, content in trap:
                    packed.write(made.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
            content = old.extractfile(member).read()
            if member.name == "about.json":
                content = content.replace(b'"format": 2', b'"format": 1')
            member.size, new.offset = len(content), packed.tell()
            new.addfile(member, io.BytesIO(content))
    backup_path.write_bytes(
        subprocess.run(["zstd", "-qc"], input=packed.getvalue(), check=True, capture_output=True).stdout
    )
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(backup_path, Trust(KEY.public, unsigned=True))


def test_headers_without_end_take_no_memory_and_no_stack(backup_path):
    block = extended(record("path", CA))
    repeated = block[0].tobuf(tarfile.USTAR_FORMAT) + block[1].ljust(512, b"\0")
    about, _, _ = subprocess.run(["zstd", "-dqc", str(backup_path)], check=True, capture_output=True).stdout.partition(
        b"realm.json"
    )
    bomb = about[: len(about) // 512 * 512] + repeated * 100_000
    backup_path.write_bytes(subprocess.run(["zstd", "-qc"], input=bomb, check=True, capture_output=True).stdout)
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(backup_path)


def test_more_files_than_fit_into_such_a_file_are_refused(backup_path):
    """A few kilobytes that unpack to millions of files would fill the disk with their names alone."""
    made, content = entry("settings/x")
    about, _, _ = subprocess.run(["zstd", "-dqc", str(backup_path)], check=True, capture_output=True).stdout.partition(
        b"realm.json"
    )
    made.name = "images/" + "0" * 36
    member = made.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0")
    bomb = about[: len(about) // 512 * 512] + member * 400_000
    backup_path.write_bytes(subprocess.run(["zstd", "-qc"], input=bomb, check=True, capture_output=True).stdout)
    with pytest.raises(BackupError, match="more files than such a file can"):
        prove(backup_path)


def test_what_somebody_else_wrote_does_not_steer_the_terminal(backup_path):
    forge(backup_path, lambda content: content.update({"settings/\x1b]0;owned\x07": b"x", "settings/\u202egpj": b"x"}))
    repack(backup_path, lambda members: [(n, b"other" if n.startswith("settings/") else c) for n, c in members])
    with pytest.raises(BackupError) as refused:
        prove(backup_path)
    assert str(refused.value).isprintable()
