"""All that the library dicomweb-client can ask, with its defaults: each method gets what it promises, or a final no."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from platform_client import Platform
from pydicom.dataset import Dataset
from strange_files import image

CLINIC = "denscan-central"
PIXELS = image().PixelData
LOCAL = {"lookup_keyword", "lookup_tag", "set_chunk_size", "set_http_retry_params"}
METHODS = {name for name, _ in inspect.getmembers(DICOMwebClient, inspect.isfunction) if name[0] != "_"} - LOCAL


@dataclass(frozen=True)
class Stored:
    """A study of two series, the first of two instances."""

    images: list[Dataset]

    @property
    def study(self) -> str:
        return str(self.images[0].StudyInstanceUID)

    @property
    def series(self) -> tuple[str, str]:
        return self.study, str(self.images[0].SeriesInstanceUID)

    @property
    def instance(self) -> tuple[str, str, str]:
        return *self.series, str(self.images[0].SOPInstanceUID)

    @property
    def address(self) -> str:
        study, series, instance = self.instance
        return f"studies/{study}/series/{series}/instances/{instance}"


def client(platform: Platform, role: str) -> DICOMwebClient:
    session = platform.api(platform.user(role, CLINIC))
    return DICOMwebClient(f"{platform.url}/dicom-web", session=session)


@pytest.fixture(scope="module")
def reader(platform: Platform) -> DICOMwebClient:
    return client(platform, "physician")


@pytest.fixture(scope="module")
def stored(platform: Platform) -> Stored:
    first = image(NumberOfFrames=2, PixelData=PIXELS * 2)
    beside = image(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=2)
    apart = image(StudyInstanceUID=first.StudyInstanceUID, SeriesNumber=2)
    answer = client(platform, "technician").store_instances([first, beside, apart])
    assert len(answer.ReferencedSOPSequence) == 3
    return Stored([first, beside, apart])


def uids(found: list[dict[str, dict]], tag: str) -> set[str]:
    return {one[tag]["Value"][0] for one in found}


def sops(datasets: object) -> set[str]:
    return {dataset.SOPInstanceUID for dataset in datasets}  # type: ignore[attr-defined]


def of_study(stored: Stored) -> dict[str, dict[str, str]]:
    return {"search_filters": {"StudyInstanceUID": stored.study}}


Asked = Callable[[DICOMwebClient, Stored], object]

# Method and way of asking -> what it gives, and what is right.
READS: dict[str, tuple[Asked, Callable[[Stored], object]]] = {
    "search_for_studies": (
        lambda c, s: uids(c.search_for_studies(**of_study(s)), "0020000D"), lambda s: {s.study}),
    "search_for_studies without a filter": (
        lambda c, s: len(c.search_for_studies(limit=1)), lambda s: 1),
    "search_for_studies, all that remain": (
        lambda c, s: uids(c.search_for_studies(get_remaining=True, **of_study(s)), "0020000D"), lambda s: {s.study}),
    "search_for_studies by fields": (
        lambda c, s: c.search_for_studies(fields=["InstitutionName"], **of_study(s))[0]["00080080"]["Value"],
        lambda s: [CLINIC]),
    "search_for_series of a study": (
        lambda c, s: uids(c.search_for_series(s.study), "0020000E"), lambda s: {i.SeriesInstanceUID for i in s.images}),
    "search_for_series across studies": (
        lambda c, s: uids(c.search_for_series(**of_study(s)), "0020000E"),
        lambda s: {i.SeriesInstanceUID for i in s.images}),
    "search_for_series without a filter": (
        lambda c, s: len(c.search_for_series(limit=1)), lambda s: 1),
    "search_for_series by number": (
        lambda c, s: uids(c.search_for_series(s.study, search_filters={"SeriesNumber": "2"}), "0020000E"),
        lambda s: {s.images[2].SeriesInstanceUID}),
    "search_for_instances of a series": (
        lambda c, s: uids(c.search_for_instances(*s.series), "00080018"), lambda s: sops(s.images[:2])),
    "search_for_instances of a study": (
        lambda c, s: uids(c.search_for_instances(s.study), "00080018"), lambda s: sops(s.images)),
    "search_for_instances across studies": (
        lambda c, s: uids(c.search_for_instances(**of_study(s)), "00080018"), lambda s: sops(s.images)),
    "search_for_instances by number": (
        lambda c, s: uids(c.search_for_instances(*s.series, search_filters={"InstanceNumber": "2"}), "00080018"),
        lambda s: sops(s.images[1:2])),
    "retrieve_study": (lambda c, s: sops(c.retrieve_study(s.study)), lambda s: sops(s.images)),
    "iter_study": (lambda c, s: sops(c.iter_study(s.study)), lambda s: sops(s.images)),
    "retrieve_series": (lambda c, s: sops(c.retrieve_series(*s.series)), lambda s: sops(s.images[:2])),
    "iter_series": (lambda c, s: sops(c.iter_series(*s.series)), lambda s: sops(s.images[:2])),
    "retrieve_instance": (
        lambda c, s: c.retrieve_instance(*s.instance).PixelData, lambda s: s.images[0].PixelData),
    "retrieve_study_metadata": (
        lambda c, s: uids(c.retrieve_study_metadata(s.study), "00080018"), lambda s: sops(s.images)),
    "retrieve_series_metadata": (
        lambda c, s: uids(c.retrieve_series_metadata(*s.series), "00080018"), lambda s: sops(s.images[:2])),
    "retrieve_instance_metadata": (
        lambda c, s: c.retrieve_instance_metadata(*s.instance)["00080018"]["Value"], lambda s: [s.instance[2]]),
    "retrieve_instance_frames": (
        lambda c, s: c.retrieve_instance_frames(*s.instance, [1, 2]), lambda s: [PIXELS, PIXELS]),
    "iter_instance_frames": (
        lambda c, s: list(c.iter_instance_frames(*s.instance, [2])), lambda s: [PIXELS]),
    "retrieve_bulkdata": (
        lambda c, s: c.retrieve_bulkdata(f"{c.base_url}/{s.address}/bulk/7FE00010"), lambda s: [PIXELS * 2]),
    "iter_bulkdata": (
        lambda c, s: list(c.iter_bulkdata(f"{c.base_url}/{s.address}/bulk/7FE00010")), lambda s: [PIXELS * 2]),
    "retrieve_instance_rendered": (
        lambda c, s: c.retrieve_instance_rendered(*s.instance)[:2], lambda s: b"\xff\xd8"),
    "retrieve_instance_frames_rendered": (
        lambda c, s: c.retrieve_instance_frames_rendered(*s.instance, [1])[:2], lambda s: b"\xff\xd8"),
    "retrieve_series_rendered": (
        lambda c, s: c.retrieve_series_rendered(*s.series)[:2], lambda s: b"\xff\xd8"),
}  # fmt: skip


@pytest.mark.parametrize("asked", READS)
def test_it_gets_what_it_promises(reader, stored, asked):
    ask, right = READS[asked]
    assert ask(reader, stored) == right(stored)


@pytest.mark.parametrize(
    "asked",
    {
        "delete_study": lambda c, s: c.delete_study(s.study),
        "delete_series": lambda c, s: c.delete_series(*s.series),
        "delete_instance": lambda c, s: c.delete_instance(*s.instance),
        "store_instances": lambda c, s: c.store_instances(s.images),
    }.items(),
    ids=lambda asked: asked[0],
)
def test_what_a_physician_may_not_is_refused_and_nothing_changes(reader, stored, asked):
    with pytest.raises(requests.HTTPError) as refused:
        asked[1](reader, stored)
    assert refused.value.response.status_code == 404
    assert sops(reader.retrieve_study(stored.study)) == sops(stored.images)


def test_every_method_is_asked() -> None:
    asked = {name.partition(" ")[0].rstrip(",") for name in READS}
    assert METHODS - asked == {"delete_study", "delete_series", "delete_instance", "store_instances"}


def test_it_stores_into_a_study_and_gets_it_back(platform, reader, stored):
    """By the study's own address. Objects of another study are refused."""
    more = image(StudyInstanceUID=stored.study, SeriesInstanceUID=stored.series[1], InstanceNumber=3)
    writer = client(platform, "technician")
    assert len(writer.store_instances([more], stored.study).ReferencedSOPSequence) == 1
    assert reader.retrieve_instance(*stored.series, more.SOPInstanceUID).PixelData == PIXELS
    with pytest.raises(requests.HTTPError):
        writer.store_instances([image()], stored.study)
