"""Accept headers of clients, and the one form that Orthanc is asked for instead."""

from __future__ import annotations

import contextlib
import itertools
import random
import time

import pytest
from imaging_gateway.accept import LONGEST_ACCEPT, choose
from imaging_gateway.allowlist import BULK, FILES, FRAMES, JSON, PICTURE, RULES, permit
from imaging_gateway.refusals import AcceptError, RefusedError, RepeatedFrameError
from imaging_gateway.request_line import LONGEST_URI, parse

STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
FRAME = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
BYTES = 'multipart/related; type="application/octet-stream"'
DICOM_JSON = "application/dicom+json"

TAKEN = [
    *(
        (FILES, accept, STORED)
        for accept in ("", " ", "*/*", "multipart/*", "multipart/related", "*/*;q=0.1", ",, */*,")
    ),
    (FILES, 'multipart/related; type="application/dicom"', STORED),
    (FILES, 'multipart/related; type="application/dicom"; transfer-syntax=*', STORED),
    (FILES, "multipart/related;type=application/dicom;transfer-syntax=*", STORED),
    (FILES, 'Multipart/Related; TYPE="Application/DICOM"; Transfer-Syntax="*"', STORED),
    (FILES, 'multipart/related; type="application\\/dicom"', STORED),
    (FILES, 'multipart/related; boundary="a,b;c"; type="application/dicom"', STORED),
    (FILES, "text/html, multipart/related; q=0.5", STORED),
    # A conversion that nobody makes, and what it may be instead.
    (FILES, f'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90, {STORED}', STORED),
    (FRAMES, "multipart/related; type=application/octet-stream; transfer-syntax=*", FRAME),
    (FRAMES, "", FRAME),
    # dicomweb-client asks for parts of any kind.
    (FRAMES, 'multipart/related; type="*/*"', FRAME),
    (FRAMES, "multipart/related; type=application/*; transfer-syntax=*", FRAME),
    (
        FRAMES,
        'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50, multipart/related; type="*/*"',
        FRAME,
    ),
    (FILES, 'multipart/related; type="*/*"; transfer-syntax=*', STORED),
    (BULK, 'multipart/related; type="*/*"', BYTES),
    (BULK, 'multipart/related; type="video/*"', BYTES),
    (FRAMES, "*/*", FRAME),
    *((JSON, accept, DICOM_JSON) for accept in ("", "*/*", "application/json", "application/*", DICOM_JSON)),
    (JSON, "application/dicom+json; charset=utf-8", DICOM_JSON),
    (JSON, 'multipart/related; type="application/dicom+xml", application/dicom+json;q=0.1', DICOM_JSON),
    (BULK, "", BYTES),
    (BULK, "*/*", BYTES),
    (BULK, 'multipart/related; type="application/pdf"', BYTES),
    (BULK, "multipart/related", BYTES),
    (BULK, "application/octet-stream", BYTES),
    (PICTURE, "", "*/*"),
    (PICTURE, "image/*", "*/*"),
    (PICTURE, "image/jpeg, image/png;q=0.9", "*/*"),
    (PICTURE, "image/png", "image/png"),
    (PICTURE, "image/png, image/jpeg;q=0.9", "image/png"),
    (PICTURE, "image/avif, image/png, */*;q=0.8", "image/png"),
    (PICTURE, "image/jpeg;q=0, image/png;q=0.001", "image/png"),
]


@pytest.mark.parametrize(("forms", "accept", "asked"), TAKEN)
def test_each_spelling_is_one_form_of_few(forms, accept, asked):
    assert choose(accept, forms).orthanc == asked


REFUSED = [
    *(
        (FILES, f'multipart/related; type="application/dicom"; transfer-syntax={syntax}')
        for syntax in ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1", "**", "")
    ),
    (FILES, "application/dicom+json"),
    (FILES, "application/zip"),
    (FILES, 'multipart/related; type="application/octet-stream"'),
    (FILES, "*/*;q=0"),
    (FILES, "multipart/related;q=0, */*"),
    (FILES, 'multipart/related; type="application/dicom"; q=0, multipart/*'),
    (FRAMES, "image/jpeg"),
    (FRAMES, 'multipart/related; type="image/jpeg"'),
    (FRAMES, 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'),
    (JSON, 'multipart/related; type="application/dicom+xml"'),
    (JSON, "text/html"),
    (BULK, "image/jpeg"),
    (PICTURE, "text/html"),
    (PICTURE, "image/gif"),
    # Not to be read.
    *(
        (JSON, accept)
        for accept in (
            "x", "*", "*/json", "application/", "/json", "application/json;q=2", "application/json;q=x", "a/b/c",
            "application/json;q=0.1;q=1", "application/json; q = 1", "application/json application/dicom+json",
            'application/json; a="', "application/json\x00", "application/dicom+js*n", "(application/json)",
            "unreadable", "application/json;q=-1", "application/json;q=1.0000", "\u00e9/json", "application/json;=x",
        )
    ),
    (JSON, "application/json," * 100),
    (JSON, "*/*" + " " * LONGEST_ACCEPT),
]  # fmt: skip


@pytest.mark.parametrize(("forms", "accept"), REFUSED)
def test_everything_else_is_refused(forms, accept):
    with pytest.raises(AcceptError):
        choose(accept, forms)


def test_bytes_alone_are_granted_to_who_asks_for_them_alone():
    assert [choose(accept, BULK).alone for accept in ("", "*/*", "application/octet-stream", "application/pdf")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not any(form.alone for rule in RULES for form in rule.forms if rule.forms is not BULK)


def test_orthanc_is_asked_in_five_ways_and_none_of_them_converts():
    asked = {form.orthanc for rule in RULES for form in rule.forms}
    assert asked == {STORED, FRAME, BYTES, DICOM_JSON, "*/*", "image/png"}
    for rule in RULES:
        if rule.path.startswith("/dicom-web/studies/") and rule.method == "GET":
            assert rule.forms, "a route without a form would let Orthanc choose"


def test_whatever_is_written_ends_in_a_form_or_in_a_refusal_at_once():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pieces = [
        "multipart/related",
        "*/*",
        "application/dicom",
        ";",
        ",",
        "=",
        '"',
        "\\",
        " ",
        "q=0.5",
        "type=",
        "\t",
        "a",
    ]
    given = 0
    started = time.monotonic()
    for _ in range(5000):
        accept = "".join(chance.choices(pieces, k=chance.randrange(60)))
        for forms in (FILES, FRAMES, JSON, BULK, PICTURE):
            with contextlib.suppress(AcceptError):
                assert choose(accept, forms) in forms
                given += 1
    for piece in ("; ", ";", '"', ", ", ' ;a="\\"', "a/b;", "*/*;q=0 "):
        with contextlib.suppress(AcceptError):
            choose((piece * 1000)[:LONGEST_ACCEPT], FILES)
    assert 100 < given < 5000 * 5
    assert time.monotonic() - started < 10


STUDY = "/dicom-web/studies/1.2"
INSTANCE = f"{STUDY}/series/1.3/instances/1.4"
PHYSICIAN = frozenset({"physician"})


def asked(uri):
    return permit(parse("GET", uri), PHYSICIAN)


@pytest.mark.parametrize("name", ["accept", "Accept", "ACCEPT"])
def test_an_accept_in_the_query_is_refused_in_words(name):
    with pytest.raises(AcceptError):
        asked(f"{STUDY}?{name}=application/dicom").form("*/*")


def test_as_many_frames_are_asked_for_as_the_address_carries():
    frames = f"{INSTANCE}/frames/1"
    for number in itertools.count(2):
        if len(f"{frames},{number}") > LONGEST_URI:
            break
        frames += f",{number}"
    assert number > 3000
    assert asked(frames).form("*/*").orthanc == FRAME
    with pytest.raises(RefusedError):
        asked(f"{frames},{number}")


@pytest.mark.parametrize("frames", ["1,1", "3,1,2,3", ",".join(["1000"] * 3000)])
def test_a_frame_is_named_once(frames):
    for path in (frames, f"{frames}/rendered"):
        with pytest.raises(RepeatedFrameError):
            asked(f"{INSTANCE}/frames/{path}").form("*/*")
