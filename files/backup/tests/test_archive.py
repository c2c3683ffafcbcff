"""An archive proves itself: whatever happened to it on the way is found before anything of it is used."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from imaging_backup import archive
from imaging_backup.errors import BackupError


def prove(path: Path) -> dict[str, bytes]:
    """Prove an archive; the members that were read from it."""
    found: dict[str, bytes] = {}

    class Member(io.BytesIO):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.member = name

        def close(self) -> None:
            found[self.member] = self.getvalue()
            super().close()

    archive.prove(path, lambda about: None, Member)
    return found


def repack(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write an archive anew, as somebody would who does not know what the manifest is for."""
    raw = subprocess.run(["zstd", "-dqc", str(path)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as old:
        members = [(entry.name, old.extractfile(entry).read()) for entry in old]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as new:
        for name, content in change(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    path.write_bytes(subprocess.run(["zstd", "-qc"], input=packed.getvalue(), check=True, capture_output=True).stdout)


def test_what_was_written_is_read_again(archive_file):
    found = prove(archive_file)
    assert found["settings/tls/ca.pem"] == b"certificate"
    assert list(found) == ["realm.json", "settings/tls/ca.pem", "images/00000000-0000-0000-0000-000000000001"]


def test_only_its_owner_may_read_it(archive_file):
    assert archive_file.stat().st_mode & 0o777 == 0o600


def test_tools_that_everybody_has_prove_it_too(archive_file, tmp_path):
    directory = tmp_path / "unpacked"
    directory.mkdir()
    script = (
        "zstd -dqc \"$1\" | tar -x && sha256sum --check --quiet manifest.sha256 && sed 's/ [0-9]* /  /' manifest.txt"
    )
    script += " | sha256sum --check --quiet"
    subprocess.run(["sh", "-c", script, "sh", str(archive_file)], cwd=directory, check=True)


@pytest.mark.parametrize("part", [0.0001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_archive_is_refused(archive_file, part):
    whole = archive_file.read_bytes()
    archive_file.write_bytes(whole[: max(5, int(len(whole) * part))])
    with pytest.raises(BackupError, match="damaged"):
        prove(archive_file)


def test_any_flipped_bit_is_found(archive_file):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    whole = bytearray(archive_file.read_bytes())
    for _ in range(100):
        position, bit = choice.randrange(len(whole)), 1 << choice.randrange(8)
        whole[position] ^= bit
        archive_file.write_bytes(whole)
        with pytest.raises(BackupError, match=r"damaged|not a backup"):
            prove(archive_file)
        whole[position] ^= bit


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda members: [(n, b"forged" if n.endswith("ca.pem") else c) for n, c in members], "settings/tls/ca.pem is"),
        (lambda members: [m for m in members if m[0] != "realm.json"], "is not what the manifest says"),
        (lambda members: [members[0], ("images.tsv", b""), *members[1:]], "images.tsv is not what"),
        (lambda members: [*members[:-2], ("images.tsv", b""), *members[-2:]], "more than its manifest names"),
        (lambda members: [*members, ("images.tsv", b"")], "something follows"),
        (lambda members: members[:-1], "the manifest itself"),
        (lambda members: members[:-2], "before its manifest"),
        (lambda members: [(n, c.replace(b"north", b"south") if n == "about.json" else c) for n, c in members], "about"),
    ],
)
def test_what_somebody_changed_is_named(archive_file, change, told):
    repack(archive_file, change)
    with pytest.raises(BackupError, match=told):
        prove(archive_file)


@pytest.mark.parametrize("name", ["settings/../../etc/passwd", "/etc/passwd", "images/../x", "settings/..", "setup.sh"])
def test_a_name_that_leads_elsewhere_is_refused(archive_file, name):
    repack(archive_file, lambda members: [members[0], (name, b"x"), *members[1:]])
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(archive_file)


@pytest.mark.parametrize("content", [b"", b"text", b"\x28\xb5\x2f\xfd"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.tar.zst"
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"not a backup of this platform|damaged"):
        prove(path)


def test_somebody_else_s_archive_is_refused(archive_file):
    repack(archive_file, lambda members: [("realm.json", b"{}")])
    with pytest.raises(BackupError, match="not a backup of this platform"):
        prove(archive_file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BackupError, match="cannot be read: No such file"):
        prove(tmp_path / "none.tar.zst")


def test_a_full_disk_is_told():
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(BackupError, match=r"(?i)no space left"),
        archive.packed(full, []) as stream,
    ):
        stream.write(random.randbytes(2_000_000))


def test_an_archive_for_a_key_is_read_by_its_holder_alone(tmp_path):
    key = tmp_path / "key.txt"
    subprocess.run(["age-keygen", "-o", str(key)], check=True, capture_output=True)
    recipient = subprocess.run(
        ["age-keygen", "-y", str(key)], check=True, capture_output=True, text=True
    ).stdout.strip()
    path = tmp_path / "dicom-backup-2026-05-04T020000Z.tar.zst.age"
    with archive.new_archive(path, {}, [recipient]) as writer:
        writer.add_bytes("realm.json", b"{}")
    with pytest.raises(BackupError, match=r"is encrypted.* age --decrypt --identity KEY FILE \| ssh HOST"):
        prove(path)
    plain = path.with_suffix("")
    subprocess.run(["age", "--decrypt", "--identity", str(key), "--output", str(plain), str(path)], check=True)
    assert prove(plain) == {"realm.json": b"{}"}


def test_a_key_that_is_none_is_refused(tmp_path):
    with (
        pytest.raises(BackupError, match=r"(?i)recipient"),
        archive.new_archive(tmp_path / "archive.tar.zst.age", {}, ["age1nonsense"]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
