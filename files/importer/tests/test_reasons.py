"""Each reason that a file can fail for is reached by a delivery, and told to the technician in words."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pydicom
from campaign import Campaign
from deliveries import changed, deliver, instance, report, sample, sop_uid, uid
from imaging_importer.reasons import SENTENCES, UNTOLD, told
from importer_process import Nursery, wait_until
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from real_files import EXCEPTIONS, real_files

# Reached in test_fuzz.py: they take a bomb, and a sender that swaps a file while it is read; and in test_limits.py and
# test_packed.py. Those of what Orthanc reads, dies of or does not list, and of operators, in test_archive_decides.py;
# of what takes a mistake of our own or a folder that is taken away, in test_endings.py; of an unknown VR in
# test_strict.py.
ELSEWHERE = {
    "packed-damaged",
    "packed-encrypted",
    "packed-too-large",
    "deleted-meanwhile",
    "dropped",
    "importer-stumbled",
    "not-listable",
    "too-deep",
    "too-large-inflated",
    "too-many-files",
    "unknown-vr",
    "unreadable",
    "withdrawn",
}


def signed(data: bytes) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(data))
    parameters, signature = Dataset(), Dataset()
    parameters.MACIDNumber, parameters.DataElementsSigned = 1, [0x00080080]
    signature.MACIDNumber, signature.Signature = 1, b"1234"
    ds.MACParametersSequence, ds.DigitalSignaturesSequence = Sequence([parameters]), Sequence([signature])
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def test_each_reason_is_reached_and_explained(tmp_path: Path, registry) -> None:
    random_ = random.Random(7)
    campaign = Campaign(tmp_path, random_, registry)

    def image(study: str = "", patient: str = "P1") -> bytes:
        return instance(random_, study or uid(random_), uid(random_), patient)

    known, refused = uid(random_), image()
    first = image(known)
    campaign.platform.faults.refused = sop_uid(refused).encode()
    from_table = {
        reason: real_files()[name].read_bytes()
        for name, reason in EXCEPTIONS.items()
        if reason in ("missing-identifiers", "invalid-identifiers", "missing-transfer-syntax", "truncated")
    }
    cut = sample("MR_small.dcm").read_bytes()
    files = from_table | {
        "packed-kind": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "conflicting-bytes": changed(first),
        "damaged": cut[:1000] + b"\xff" * 200 + cut[1200:],
        "empty-file": b"",
        "executable-preamble": b"MZ" + image()[2:],
        "patient-mismatch": image(known, "P2"),
        "refused-by-archive": refused,
        "signed": signed(image()),
        "too-large": image() + bytes(9 << 20),
        "unknown-transfer-syntax": image().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
        "upload-unfinished.part": image(),
    }
    inbox = campaign.root / "inbox"
    with Nursery() as nursery:
        importer = nursery.start(**campaign.settings, patience=0.3)
        deliver(inbox / "north" / "first", {"0.dcm": first})
        assert wait_until(lambda: campaign.owners() and campaign.settled(), 120, importer)
        outside = tmp_path / "outside"
        outside.write_bytes(b"x")
        building = tmp_path / "building"
        deliver(building, files)
        (building / "symbolic-link").symlink_to(outside)
        os.mkfifo(building / "device-file")
        os.link(outside, building / "hard-link")
        building.rename(inbox / "north" / "second")
        deliver(inbox / "south" / "stolen", {"owned-by-another-clinic": image(known)})
        deliver(inbox / "south" / "texts", {"no-dicom": b"text"})
        assert wait_until(campaign.settled, 120, importer)
    campaign.platform.close()

    reached = report(campaign.root, "north", "second")
    assert {name.removesuffix(".part"): reason for name, reason in reached.items()} == {
        name: told(name)
        for name in (os.path.splitext(path)[0] for path in reached)  # noqa: PTH122 - a name, not a path
    }
    reasons = {*reached.values(), *report(campaign.root, "south", "stolen").values()}
    reasons |= set(report(campaign.root, "south", "texts").values())
    assert reasons == set(SENTENCES) - ELSEWHERE - UNTOLD
    texts = "\n".join(path.read_text() for path in (campaign.root / "failed").glob("*/*/*/REASON.txt"))
    assert [reason for reason in reasons if SENTENCES[reason] not in texts] == []
