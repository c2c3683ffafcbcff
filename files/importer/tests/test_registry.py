"""Whose a study is: the importer against the real registry."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from campaign import Campaign
from deliveries import deliver, instance, report, sop_uid, uid
from imaging_importer.reasons import RejectedError, TransientError, UnavailableError
from imaging_importer.registry import Contents, PostgresRegistry
from importer_process import Nursery, wait_until


def connect(registry) -> PostgresRegistry:
    return PostgresRegistry(
        {"host": str(registry.cluster.socket), "dbname": registry.name, "user": "registry_importer"}
    )


@pytest.fixture
def campaign(tmp_path: Path, registry):
    made = Campaign(tmp_path, random.Random(4), registry)
    yield made
    made.platform.close()


@pytest.fixture
def importer(campaign: Campaign):
    with Nursery() as nursery:
        yield nursery.start(**campaign.settings)


def test_of_two_clinics_that_claim_at_once_one_gets_the_study(registry) -> None:
    clients = [connect(registry) for _ in range(8)]
    for number in range(20):
        with ThreadPoolExecutor(8) as threads:
            clinics = [("north", "south")[turn % 2] for turn in range(8)]
            claims = [
                threads.submit(client.claim_study, f"1.2.{number}", clinic)
                for client, clinic in zip(clients, clinics, strict=True)
            ]
            won = {clinic for clinic, claim in zip(clinics, claims, strict=True) if claim.result()}
        assert len(won) == 1


def test_two_clinics_deliver_one_study_at_once(campaign: Campaign, importer) -> None:
    """One has it, the other is refused whole, and nothing of the other's reaches Orthanc."""
    study, series = uid(campaign.random), uid(campaign.random)
    images = {clinic: [instance(campaign.random, study, series) for _ in range(9)] for clinic in ("north", "south")}
    for clinic, files in images.items():
        campaign.delivered += files
        deliver(campaign.root / "inbox" / clinic / "study", {str(number): data for number, data in enumerate(files)})
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()
    (owner,) = {clinic for clinic, _ in campaign.owners().values()}
    other = ({"north", "south"} - {owner}).pop()
    assert set(campaign.platform.md5s()) == {sop_uid(data) for data in images[owner]}
    assert set(report(campaign.root, other, "study").values()) == {"not-accepted"}


def test_a_study_split_over_folders_and_days_grows(campaign: Campaign, importer) -> None:
    study, series = uid(campaign.random), uid(campaign.random)
    revisions = []
    for day in range(3):
        files = {f"{number}": instance(campaign.random, study, series) for number in range(3)}
        campaign.delivered += files.values()
        deliver(campaign.root / "inbox" / "north" / f"day {day}", files)
        assert wait_until(campaign.settled, 120, importer)
        revisions.append(campaign.owners()[study][1])
    assert len(campaign.platform.instances) == 9
    assert revisions == sorted(set(revisions)), "each delivery must raise the revision"
    campaign.check_end()


def test_the_database_restarts_in_the_middle(campaign: Campaign, importer) -> None:
    for number in range(6):
        files = {
            str(index): instance(campaign.random, uid(campaign.random), uid(campaign.random)) for index in range(3)
        }
        campaign.delivered += files.values()
        deliver(campaign.root / "inbox" / "north" / f"folder {number}", files)
    assert wait_until(lambda: campaign.platform.instances, 120, importer)
    campaign.registry.cluster.crash()
    campaign.registry.cluster.start()
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()


def test_an_unknown_clinic_concerns_its_own_delivery_alone(registry) -> None:
    client = connect(registry)
    with pytest.raises(TransientError, match="nowhere") as caught:
        client.claim_study("1.2.3", "nowhere")
    assert not isinstance(caught.value, UnavailableError), "the other deliveries would wait too"
    assert client.claim_study("1.2.3", "north")


def test_what_the_registry_never_takes_is_told_from_what_it_does_not_take_now(registry) -> None:
    client = connect(registry)
    client.claim_study("1.2.3", "north")
    with pytest.raises(RejectedError):
        client.record_study("1.2.3", "north", {"0020000D": {"vr": "UI", "Value": ["9.9"]}})
    with pytest.raises(RejectedError) as refusal:
        client.claim_study("1..2", "north")
    assert (refusal.value.reason, "1..2" in refusal.value.detail) == ("not-listable", False)
    text = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A\0B\ud800"}]},
        "00081030": {"vr": "LO", "Value": ["\0"]},
    }
    assert client.record_study("1.2.3", "north", text)
    with pytest.raises(TransientError, match="not claimed"):
        client.record_study("1.2.4", "north", {})


def test_series_and_instances_come_with_their_study_or_not_at_all(registry) -> None:
    client = connect(registry)
    client.claim_study("1.2.3", "north")

    def contents(*instances: str) -> Contents:
        series = {"0020000E": {"vr": "UI", "Value": ["2.1"]}, "0008103E": {"vr": "LO", "Value": ["A\0B\ud800"]}}
        return Contents([series], [series | {"00080018": {"vr": "UI", "Value": [uid]}} for uid in instances])

    def shown() -> list[str]:
        with registry.connect("postgres") as connection:
            return [row[0] for row in connection.execute("SELECT instance_uid FROM registry.instance ORDER BY 1")]

    revision = client.record_study("1.2.3", "north", {}, contents=contents("3.1", "3.2"))
    assert shown() == ["3.1", "3.2"]
    client.record_contents("1.2.3", "north", contents("3.2", "3.3"))
    assert shown() == ["3.2", "3.3"]
    assert client.recorded_study("1.2.3").revision == revision
    with pytest.raises(RejectedError):
        client.record_study("1.2.3", "north", {"0020000D": {"vr": "UI", "Value": ["9"]}}, contents=contents("3.9"))
    with pytest.raises(TransientError):
        client.record_contents("1.2.3", "south", contents("3.9"))
    assert shown() == ["3.2", "3.3"]
    client.forget_study("1.2.3")
    assert shown() == []


def test_a_lost_connection_is_made_anew(registry) -> None:
    client = connect(registry)
    assert client.list_clinics() == ["north", "south", "west"]
    registry.cluster.crash()
    with pytest.raises(UnavailableError):
        client.list_clinics()
    registry.cluster.start()
    assert client.list_clinics() == ["north", "south", "west"]
