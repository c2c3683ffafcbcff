"""The updates of Debian testing, and the holes that they close."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from loading import load

ROOT = Path(__file__).parents[3]
updates = load(ROOT / "files/updates/imaging_updates.py")

ORTHANC = updates.Installed("orthanc", "1.12.9+dfsg-1+b2", "orthanc", "1.12.9+dfsg-1")
LIBRARY = updates.Installed("libxml2-16", "2.15.1+dfsg-1", "libxml2", "2.15.1+dfsg-1")
# As the tracker writes it for debsecan.
DATA = """VERSION 1
CVE-2026-0001,,A hole, that is closed
CVE-2026-0002,,One that is not
CVE-2026-0003,,One of a binary package
CVE-2026-0004,,One of somebody else

{vulnerable}

libxml2,libxml2-16 libxml2-dev
"""


def compare(one: str, other: str) -> int:
    """As Debian's own program compares them."""

    def holds(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0

    return -1 if holds("lt") else int(holds("gt"))


@pytest.fixture(autouse=True)
def _debian() -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("needs dpkg")


@pytest.mark.parametrize(
    ("elsewhere", "comes"),
    [
        ([], True),
        (["2.12.7+dfsg-2"], True),
        (["2.12.7+dfsg-2", "2.15.1+dfsg-1"], False),
        # A security update that has not been taken yet: the stable release looks after it.
        (["2.15.1+dfsg-1+deb13u1"], False),
    ],
)
def test_what_no_other_source_has_comes_from_testing(elsewhere: list[str], comes: bool) -> None:
    assert updates.came_from_testing(LIBRARY.version, elsewhere, compare) is comes


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("libxml2,0, HRF,2.15.2+dfsg-1,", [("CVE-2026-0001", "libxml2-16", True)]),
        ("libxml2,0, HRF,2.15.1+dfsg-1,", []),  # that is here
        ("libxml2,1, M? ,,", [("CVE-2026-0002", "libxml2-16", False)]),
        ("libxml2,1, M? ,,2.15.1+dfsg-1", []),  # closed besides
        ("libxml2-16,2,BH? ,2.15.2+dfsg-1,", [("CVE-2026-0003", "libxml2-16", False)]),
        ("orthanc,0, HRF,1.12.9+dfsg-2,", [("CVE-2026-0001", "orthanc", True)]),
        # Rebuilt alone: the source's version counts.
        ("orthanc,0, HRF,1.12.9+dfsg-1,", []),
        ("nginx,3, HRF,99,", []),
    ],
)
def test_a_hole_is_one_of_the_version_that_is_here(line: str, found: list[tuple[str, str, bool]]) -> None:
    seen = updates.holes(DATA.format(vulnerable=line), [ORTHANC, LIBRARY], compare)
    assert [(hole.name, hole.package, hole.fixed) for hole in seen] == found


@pytest.mark.parametrize("data", ["VERSION 2\n\n\n", "<html>no such page</html>", ""])
def test_an_answer_in_another_form_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="form that is not known"):
        updates.holes(data, [ORTHANC], compare)


def test_a_bomb_of_an_answer_is_cut_off_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import zlib

    monkeypatch.setattr(updates, "LARGEST_ANSWER", 1 << 20)
    bomb = zlib.compress(b"\n" * (8 << 20))
    monkeypatch.setattr(updates.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(bomb))
    with pytest.raises(ValueError, match="larger than"):
        updates.ask_tracker("https://tracker.example", "forky")


def test_only_units_of_the_platform_with_a_replaced_library_are_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = "7f00-7f01 r-xp 00000000 08:01 42   /usr/lib/x86_64-linux-gnu/libdcmdata.so.19.3.6.9 (deleted)\n"
    whole = replaced.replace(" (deleted)", "")
    scratch = "7f00-7f01 rw-s 00000000 00:01 42   /dev/shm/scratch (deleted)\n"
    for number, maps, unit in (
        (10, whole + replaced, "imaging-orthanc.service"),
        (11, whole + scratch, "imaging-gateway.service"),
        (12, replaced, "dbus.service"),
    ):
        process = tmp_path / str(number)
        process.mkdir()
        (process / "maps").write_text(maps)
        (process / "cgroup").write_text(f"0::/system.slice/{unit}\n")
    (tmp_path / "13").mkdir()  # has ended meanwhile

    updates.stale({"imaging-orthanc.service", "imaging-gateway.service"}, tmp_path)

    assert capsys.readouterr().out.split() == ["imaging-orthanc.service"]


def test_every_number_is_explained_and_none_is_another_s(tmp_path: Path) -> None:
    path = tmp_path / "imaging-updates.prom"
    updates.write(path, dict.fromkeys(updates.HELP, 1.0))
    names = re.findall(r"^(\w+) 1$", path.read_text(), re.MULTILINE)
    assert names == [f"imaging_testing_{name}" for name in updates.HELP]
    assert path.stat().st_mode & 0o777 == 0o644
