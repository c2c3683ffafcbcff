"""The specification of Orthanc, against the fake of the importer's tests."""

from collections.abc import Iterator

import pytest
from imaging_importer.orthanc import OrthancClient
from importer_fakes import Platform

pytest.register_assert_rewrite("orthanc_specification")

from orthanc_specification import *  # noqa: E402, F403


@pytest.fixture(scope="module")
def orthanc() -> Iterator[OrthancClient]:
    platform = Platform()
    yield OrthancClient(platform.url, "importer", "secret")
    platform.close()
