"""A job has the hosts of its group, or of `imaging`; an inventory whose hosts cannot carry the platform is refused."""

from __future__ import annotations

from types import ModuleType

import pytest
from ansible.errors import AnsibleError  # type: ignore[import-untyped]

Groups = dict[str, list[str]]


def problems(lookup: ModuleType, groups: Groups) -> list[str]:
    return list(lookup.find_problems(groups))


def test_each_job_has_the_host_of_the_platform_where_the_inventory_names_none(lookup: ModuleType) -> None:
    for job in lookup.JOBS:
        assert lookup.find_hosts(job, {"imaging": ["a"]}) == ["a"]
        assert lookup.find_hosts(job, {"imaging": ["a"], job: []}) == ["a"]


def test_a_job_has_the_hosts_of_its_group(lookup: ModuleType) -> None:
    groups = {"imaging": ["a", "b"], "orthanc": ["b"]}
    assert lookup.find_hosts("orthanc", groups) == ["b"]
    assert lookup.find_hosts("gateway", groups) == ["a", "b"]


def test_a_job_that_is_misspelt_has_no_host(lookup: ModuleType) -> None:
    with pytest.raises(AnsibleError, match="postgress is no job"):
        lookup.find_hosts("postgress", {"imaging": ["a"]})


@pytest.mark.parametrize(
    "groups",
    [
        {"imaging": ["a"]},
        {"imaging": ["a"], "postgres": ["a"], "orthanc": []},
        {"imaging": ["a"], "postgres": ["a"], "monitoring": ["a"], "printers": ["b", "c"]},
    ],
)
def test_one_host_is_right_whether_or_not_jobs_name_it(lookup: ModuleType, groups: Groups) -> None:
    assert problems(lookup, groups) == []


@pytest.mark.parametrize("groups", [{}, {"imaging": []}, {"postgres": ["a"]}])
def test_a_platform_without_a_host_is_refused(lookup: ModuleType, groups: Groups) -> None:
    (problem,) = problems(lookup, groups)
    assert "no host in the group `imaging`" in problem


def test_two_hosts_of_the_platform_are_refused(lookup: ModuleType) -> None:
    assert problems(lookup, {"imaging": ["a", "b"]}) == ["The group `imaging` has 2 hosts: a, b."]


@pytest.mark.parametrize("job", ["postgres", "orthanc", "keycloak", "gateway", "importer", "nginx", "monitoring"])
def test_two_hosts_of_a_job_are_refused(lookup: ModuleType, job: str) -> None:
    assert f"The group `{job}` has 2 hosts: a, b." in problems(lookup, {"imaging": ["a", "b"], job: ["a", "b"]})


def test_a_host_that_the_platform_does_not_know_is_refused(lookup: ModuleType) -> None:
    groups = {"imaging": ["a"], "orthanc": ["b"], "postgres": ["a"]}
    assert problems(lookup, groups) == ["The group `orthanc` names b, which is not in the group `imaging`."]


def test_jobs_on_different_hosts_are_refused(lookup: ModuleType) -> None:
    told = problems(lookup, {"imaging": ["a", "b"], "orthanc": ["b"], "postgres": ["a"]})
    assert told == [
        "The group `imaging` has 2 hosts: a, b.",
        "The jobs are on different hosts: postgres on a, orthanc on b.",
    ]


def test_the_refusal_says_where_what_and_what_to_do(lookup: ModuleType) -> None:
    told = lookup.refusal(["The group `imaging` has 2 hosts: a, b."], ["/etc/hospital"])
    assert told.startswith("The hosts of the inventory (/etc/hospital) cannot carry the platform; no host was touched.")
    assert "- The group `imaging` has 2 hosts: a, b." in told
    assert "Name one host in `imaging`" in told
