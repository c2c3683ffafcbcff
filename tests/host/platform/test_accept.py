"""Accept headers of clients on a running platform: images come as stored, everything else is refused in words."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from platform_client import Platform
from raw_http import exchange, statuses
from real_sizes import panoramic
from stored_kinds import images
from stow import encoded
from through_nginx import Life, store

CLINIC = "denscan-central"
NOTHING_HERE = b"There is nothing here.\n"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
GDCMS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")

Get = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def kinds(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """Kind of image -> its path, and what was sent."""
    made = images(tmp_path_factory.mktemp("kinds"))
    paths = store(platform, CLINIC, list(made.values()))
    return {kind: (path, encoded(image)) for (kind, image), path in zip(made.items(), paths, strict=True)}


@pytest.fixture(scope="module")
def get(platform: Platform) -> Get:
    session = platform.api(platform.user("physician", CLINIC))

    def get(path: str, accept: str | None = None) -> requests.Response:
        # On a quick machine these tests ask more often than one session may.
        while (answer := session.get(platform.url + path, headers={"Accept": accept}, timeout=60)).status_code == 429:
            time.sleep(1)
        return answer

    return get


@pytest.fixture(autouse=True)
def lives(platform: Platform) -> Iterator[None]:
    """Orthanc and the gateway live through each of these tests."""
    life = Life(platform)
    yield
    life.assert_unbroken()


@pytest.mark.parametrize("accept", [None, "*/*", 'multipart/related; type="application/dicom"', AS_STORED])
def test_a_file_comes_as_it_is_stored_whatever_default_is_asked_for(kinds, get, accept):
    for kind, (path, sent) in kinds.items():
        for level in (path, path.partition("/instances")[0], path.partition("/series")[0]):
            answer = get(level, accept)
            assert answer.status_code == 200, (kind, level)
            # Pixels, document and video, bit for bit; the importer has written its clinic into what stands before.
            assert sent[-200:].rstrip(b"\0") in answer.content or kind == "deflated", (kind, level)


@pytest.mark.parametrize("syntax", [*GDCMS, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1", "1.2.3"])
def test_a_conversion_is_refused_in_words_and_orthanc_lives(kinds, get, syntax):
    for path, _ in kinds.values():
        for level in (path, path.partition("/series")[0]):
            answer = get(level, f'multipart/related; type="application/dicom"; transfer-syntax={syntax}')
            assert answer.status_code == 406
            assert "as they are stored" in answer.text


def test_a_rendering_is_a_picture_or_a_final_no(kinds, get):
    seen = {}
    for kind, (path, _) in kinds.items():
        answer = get(f"{path}/rendered")
        seen[kind] = (answer.status_code, answer.headers["Content-Type"])
        assert "Retry-After" not in answer.headers
        if answer.status_code == 406:
            assert "trying again changes nothing" in answer.text
    assert {seen[kind] for kind in ("explicit", "JPEG", "RLE", "JPEG-LS", "palette")} == {(200, "image/jpeg")}
    assert {seen[kind][0] for kind in ("report", "plan", "JPEG 2000", "JPEG 2000 in colour")} == {406}


@pytest.mark.parametrize(
    "query",
    ["viewport=30000,30000", "viewport=4097,1", "viewport=0,0", "viewport=-1,-1", "viewport=512.5,512", "quality=0"],
)
def test_a_picture_has_a_largest_size(kinds, get, query):
    path, _ = kinds["explicit"]
    for place in (f"{path}/rendered", f"{path}/frames/1/rendered", f"{path.partition('/series')[0]}/rendered"):
        answer = get(f"{place}?{query}")
        assert (answer.status_code, answer.content) == (404, NOTHING_HERE)
    assert get(f"{path}/rendered?viewport=4096,4096").status_code == 200


@pytest.mark.parametrize("name", ["preview", "file", "tags"])
def test_an_administrators_orthanc_sees_no_accept_either(platform, kinds, name):
    """Of a colour JPEG 2000 image, whose conversion ended it."""
    admin = platform.api(platform.user("admin", CLINIC))
    study = kinds["JPEG 2000 in colour"][0].split("/")[3]
    found = admin.post(
        f"{platform.url}/orthanc/tools/find",
        json={"Level": "Instance", "Query": {"StudyInstanceUID": study}},
        timeout=30,
    )
    (instance,) = found.json()
    for accept in ("*/*", "image/jpeg", "image/png", "application/dicom+json", "x", AS_STORED):
        answer = admin.get(
            f"{platform.url}/orthanc/instances/{instance}/{name}", headers={"Accept": accept}, timeout=60
        )
        assert answer.status_code == (406 if name == "preview" else 200)
        assert "Retry-After" not in answer.headers


def test_each_spelling_is_one_entry_of_the_cache(platform, kinds, get):
    path, _ = kinds["multi-frame"]
    spellings = [
        "*/*",
        "multipart/related;type=application/octet-stream",
        'MULTIPART/related ; type="application/octet-stream"; transfer-syntax=*',
        "multipart/related;q=0.3, text/html;q=0.1",
    ]
    for accept in [None, *spellings]:
        assert get(f"{path}/frames/7", accept).status_code == 200
    lines = platform.on_host("sh", "-c", f"sleep 3; grep -F '{path}/frames/7' /var/log/nginx/access.log").splitlines()
    assert [json.loads(line)["cache"] for line in lines] == ["MISS", *["HIT"] * len(spellings)]


@pytest.mark.parametrize(
    "accept",
    [
        "x",
        "*",
        "a/b;q=2",
        "text/html",
        "\x01",
        'multipart/related; type="',
        "*/*, " * 500,
        "image/\xe9",
        "*/*;q=0",
    ],
)
def test_what_cannot_be_read_or_given_is_refused_and_a_foreign_study_stays_unknown(
    platform, kinds, get, almaty_study, accept
):
    path, _ = kinds["explicit"]
    for place in ("", "/metadata", "/frames/1", "/bulk/7FE00010", "/rendered"):
        assert get(path + place, accept.encode("latin-1")).status_code == 406
        foreign = f"/dicom-web/studies/{almaty_study.study_uid}/series/1.2/instances/1.3{place}"
        answer = get(foreign, accept.encode("latin-1"))
        assert (answer.status_code, answer.content) == (404, NOTHING_HERE)
    assert get("/dicom-web/studies", accept.encode("latin-1")).status_code == 406


def test_several_accept_headers_are_one_list(platform, kinds):
    path, _ = kinds["explicit"]
    token = platform.api(platform.user("physician", CLINIC)).headers["Authorization"]
    host = platform.url.removeprefix("https://")
    for accepts, expected in ((("text/html", "*/*;q=0.1"), 200), (("text/html", "image/gif"), 406)):
        lines = "".join(f"Accept: {accept}\r\n" for accept in accepts)
        lines += f"Host: {host}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n"
        request = f"GET {path}/metadata HTTP/1.1\r\n{lines}"
        assert statuses(exchange(platform, request.encode())) == [expected]


def frames_of(path: str, longest: int) -> str:
    """An address that asks for the first, second, … frame, as long as it may be."""
    address, number = f"{path}/frames/1", 2
    while len(f"{address},{number}") <= longest:
        address, number = f"{address},{number}", number + 1
    return address


def test_as_many_frames_are_given_as_the_address_carries(platform, get):
    """More than 3,000 of an image that has them all."""
    image = panoramic(rows=8, columns=8, frames=3600)
    (path,) = store(platform, CLINIC, [image])
    address = frames_of(path, 16000)
    count = address.count(",") + 1
    assert count > 3300
    answer = get(address)
    assert answer.status_code == 200
    boundary = re.search(r"boundary=([^;]+)", answer.headers["Content-Type"])[1].strip('"').encode()
    frames = [part.partition(b"\r\n\r\n")[2][:128] for part in answer.content.split(b"--" + boundary)[1:-1]]
    assert b"".join(frames) == image.PixelData[: 128 * count]

    refused = get(frames_of(path, 16010))
    assert (refused.status_code, "16000 characters" in refused.text) == (414, True)


def test_a_list_of_frames_is_given_or_refused_in_words(kinds, get):
    path, _ = kinds["multi-frame"]
    whole = get(f"{path}/frames/{','.join(str(number + 1) for number in range(10))}")
    assert whole.status_code == 200
    assert len(re.findall(rb"\r\nContent-Type: ", whole.content)) == 10 or whole.content.count(b"Content-Type") == 10
    for frames in ("1,1", "3,2,1,3", ",".join(["1"] * 3000)):
        refused = get(f"{path}/frames/{frames}")
        assert refused.status_code == 400
        assert "name each once" in refused.text


def test_a_frame_that_there_is_not_is_final(kinds, get):
    for kind, frame in (("explicit", 2), ("report", 1), ("video", 1)):
        answer = get(f"{kinds[kind][0]}/frames/{frame}")
        assert answer.status_code == 406
        assert "Retry-After" not in answer.headers
