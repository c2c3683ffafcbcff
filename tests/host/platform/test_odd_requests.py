"""A fuzzer of nginx: every route that there is for images, asked oddly, over images of every kind.

However a physician or an administrator asks, Orthanc and the gateway live on, and each answer is one that somebody
meant: no 500, and no 503, which would say that trying again helps. `make test-nginx` runs it for ten minutes.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from odd_requests import Asker
from platform_client import Platform
from stored_kinds import images
from through_nginx import Life, store

CLINIC = "denscan-central"
SECONDS = float(os.environ.get("ODD_REQUESTS_SECONDS", "20"))
SEED = int(os.environ.get("ODD_REQUESTS_SEED", secrets.randbelow(1 << 32)))
MEANT = {200, 206, 400, 404, 406, 414, 416, 429}


@pytest.fixture(scope="module")
def stored(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return store(platform, CLINIC, list(images(tmp_path_factory.mktemp("kinds")).values()))


def found(platform: Platform, admin: requests.Session, paths: list[str]) -> dict[str, list[str]]:
    """Orthanc's own identifiers of what was stored."""
    level = re.match(r".*/studies/([0-9.]+)/", paths[0])
    assert level
    ids: dict[str, list[str]] = {"instances": [], "studies": []}
    for name, names in (("Instance", "instances"), ("Study", "studies")):
        for path in paths:
            query = {"Level": name, "Query": {"StudyInstanceUID": path.split("/")[3]}}
            ids[names] += admin.post(f"{platform.url}/orthanc/tools/find", json=query, timeout=30).json()
    return ids


def test_orthanc_outlives_whatever_is_asked(platform: Platform, stored: list[str]) -> None:
    print(f"seed {SEED}: ODD_REQUESTS_SEED={SEED}")
    admin, *others = (platform.api(platform.user(role, CLINIC)) for role in ("admin", "physician", "technician"))
    ids = found(platform, admin, stored)
    life = Life(platform)
    deadline = time.monotonic() + SECONDS

    def ask(session: requests.Session) -> tuple[Counter[int], list[str]]:
        asker = Asker(random.Random(SEED + [admin, *others].index(session)), stored, ids)
        counted: Counter[int] = Counter()
        wrong = []
        while time.monotonic() < deadline:
            path, headers = asker.administrators() if session is admin else asker.physicians()
            try:
                # A part of compressed data cannot be unpacked, so it is read as it is.
                with session.get(platform.url + path, headers=headers, timeout=60, stream=True) as answer:
                    for _ in answer.raw.stream(1 << 20, decode_content=False):
                        pass
            except requests.RequestException as error:
                wrong.append(f"{path} {headers}: {type(error).__name__}")
                continue
            counted[answer.status_code] += 1
            if answer.status_code not in MEANT or (answer.status_code != 429 and "Retry-After" in answer.headers):
                wrong.append(f"{path} {headers}: {answer.status_code}")
        return counted, wrong

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(ask, [admin, *others]))
    counted = sum((counter for counter, _ in results), Counter())
    print(dict(counted))
    assert [line for _, wrong in results for line in wrong] == []
    life.assert_unbroken()
    # A quick machine asks more than nginx passes on.
    assert counted[200] > 0.2 * (counted.total() - counted[429]), "too few of them reach Orthanc"
    assert counted[406] > 0
