"""The problems that `imaging-status` reports, its reading of the host, and the same limits in the alerts."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from loading import load

ROOT = Path(__file__).parents[3]
status = load(ROOT / "files/status/imaging_status.py")

NOW = 1_800_000_000
LISTENING = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:1F91 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000     0
"""


def service(**values):
    return status.Service(**({"name": "Gateway", "unit": "imaging-gateway.service"} | values))


@pytest.fixture
def endpoint():
    """A service that says 503 at /ill and 200 elsewhere, with three deliveries waiting."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if self.path == "/ill" else 200)
            self.end_headers()
            self.wfile.write(
                b'imaging_importer_waiting_deliveries{state="inbox"} 2\n'
                b'imaging_importer_waiting_deliveries{state="spool"} 1\n'
                b"imaging_importer_oldest_pending_age_seconds 4000\n"
            )

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def look(monkeypatch, service, state="active"):
    monkeypatch.setattr(status, "unit_states", lambda units: dict.fromkeys(units, state))
    (seen,) = status.look_at_services([service], "")
    return seen


def test_only_what_listens_counts_as_a_port():
    assert status.listening_ports(LISTENING) == {8080}


def test_an_active_service_that_answers_is_well(monkeypatch, endpoint):
    port = int(endpoint.rpartition(":")[2])
    assert look(monkeypatch, service(url=f"{endpoint}/well", ports=[port])).trouble == ""


def test_a_stopped_service_is_named_with_its_state(monkeypatch):
    seen = look(monkeypatch, service(), state="failed")
    assert not seen.healthy
    assert status.troubles_of([seen], []) == ["Gateway: the unit is failed"]


def test_an_active_service_that_says_it_is_not_ready_is_not_well(monkeypatch, endpoint):
    assert "answers 503" in look(monkeypatch, service(url=f"{endpoint}/ill")).trouble


def test_a_service_may_be_well_by_refusing(monkeypatch, endpoint):
    assert look(monkeypatch, service(url=f"{endpoint}/ill", expects=503)).healthy


def test_an_active_service_that_does_not_answer_is_not_well(monkeypatch):
    seen = look(monkeypatch, service(url="http://127.0.0.1:9/", ports=[9]))
    assert "does not answer" in seen.trouble
    assert "nobody listens on port 9" in seen.trouble


@pytest.mark.parametrize(("command", "healthy"), [(["true"], True), (["false"], False), (["no-such-command"], False)])
def test_a_command_may_say_whether_it_is_well(monkeypatch, command, healthy):
    assert look(monkeypatch, service(command=command)).healthy is healthy


@pytest.mark.parametrize(("hours", "wrong"), [(1, False), (35, False), (37, True)])
def test_a_backup_is_wrong_when_the_last_good_one_is_old(hours, wrong):
    samples = {"imaging_backup_last_success_timestamp_seconds": NOW - hours * 3600}
    assert bool(status.backup(samples, failed=False, now=NOW).trouble) is wrong


def test_a_failed_backup_is_wrong_and_a_host_that_made_none_yet_is_not():
    assert status.backup({}, failed=True, now=NOW).trouble
    assert status.backup({}, failed=False, now=NOW).trouble == ""


@pytest.mark.parametrize(("minutes", "wrong"), [(1, False), (119, False), (121, True)])
def test_a_repository_that_takes_nothing_in_is_wrong_after_two_hours(minutes, wrong):
    samples = {"imaging_backup_repository_last_success_timestamp_seconds": NOW - minutes * 60}
    (fact,) = status.repository(samples, failed=False, now=NOW)
    assert bool(fact.trouble) is wrong


def test_a_repository_that_never_took_anything_in_is_told_only_where_there_is_one():
    assert status.repository({}, failed=False, now=NOW) == []
    (fact,) = status.repository({}, failed=True, now=NOW)
    assert "imaging-backup-push" in fact.trouble


@pytest.mark.parametrize(("success", "wrong"), [(1, False), (0, True)])
def test_a_failed_drill_is_wrong(success, wrong):
    samples = {"imaging_restore_drill_timestamp_seconds": NOW - 86400, "imaging_restore_drill_success": success}
    assert bool(status.restore_drill(samples, NOW).trouble) is wrong


@pytest.mark.parametrize(("days", "wrong"), [(99, False), (101, True)])
def test_backups_that_nobody_restored_for_long_are_wrong(days, wrong):
    samples = {"imaging_restore_drill_unproven_since_timestamp_seconds": NOW - days * 86400}
    assert bool(status.restore_drill(samples, NOW).trouble) is wrong


def test_pending_deliveries_are_counted_and_an_old_one_is_wrong(endpoint):
    fact = status.imports(f"{endpoint}/metrics")
    assert fact.values == {"pending": 3, "oldest_seconds": 4000}
    assert "waiting for 67 minutes" in fact.trouble


def test_a_full_disk_and_a_missing_directory_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(status.shutil, "disk_usage", lambda _path: status.shutil._ntuple_diskusage(100, 85, 15))
    facts = status.disk([tmp_path, tmp_path / "gone"])
    assert sorted(fact.trouble for fact in facts) == [
        f"{tmp_path}/gone is not there",
        f"the disk of {tmp_path} has 15% free",
    ]


@pytest.mark.parametrize(("controllers", "told"), [("cpu memory pids", []), ("hugetlb", [False]), (None, [False])])
def test_a_kernel_that_holds_no_service_to_its_memory_is_told(monkeypatch, tmp_path, controllers, told):
    monkeypatch.setattr(status, "CONTROLLERS", tmp_path / "cgroup.controllers")
    if controllers is not None:
        status.CONTROLLERS.write_text(controllers)
    facts = status.memory_limits()
    assert [fact.values["enforced"] for fact in facts] == told
    assert not any(fact.trouble for fact in facts), "nothing that an operator of a container could mend"


def test_who_may_not_ask_the_services_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(status.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit):
        status.main(["--services"])
    assert "sudo" in capsys.readouterr().err


def test_people_and_scripts_are_told_the_same(monkeypatch):
    seen = [look(monkeypatch, service(), state="inactive")]
    facts = [status.Fact("imports", "0 pending", {"pending": 0})]
    told = json.loads(status.as_json("imaging.test", seen, facts))
    assert told["well"] is False
    assert told["imports"] == {"pending": 0}
    text = status.as_text("imaging.test", seen, facts)
    assert all(trouble in text for trouble in told["troubles"])


def test_alerts_draw_the_same_lines():
    alerts = (ROOT / "roles/monitoring/templates/alerts.yml.j2").read_text()
    assert f'probe_ssl_earliest_cert_expiry{{probe="viewer"}} - time() < {status.CERTIFICATE_DAYS} * 86400' in alerts
    assert f"node_filesystem_avail_bytes / node_filesystem_size_bytes < {status.DISK_FREE}\n" in alerts
    assert f"imaging_backup_last_success_timestamp_seconds > {status.BACKUP_HOURS} * 3600" in alerts
    assert f"imaging_importer_oldest_pending_age_seconds > {status.PENDING_SECONDS}\n" in alerts
    assert f"imaging_restore_drill_unproven_since_timestamp_seconds > {status.UNPROVEN_DAYS} * 86400" in alerts


@pytest.mark.parametrize(
    ("samples", "wrong"),
    [
        ({}, ""),
        ({"last_check_timestamp_seconds": NOW, "updates_pending": 3, "vulnerabilities": 0}, ""),
        ({"last_check_timestamp_seconds": NOW, "updates_pending": 3, "vulnerabilities": 2}, "closes 2 known holes"),
        # Nobody can say which of them closes a hole.
        ({"last_check_timestamp_seconds": NOW, "updates_pending": 3}, "may close holes"),
        ({"last_check_timestamp_seconds": NOW, "updates_pending": 0}, ""),
        ({"last_check_timestamp_seconds": NOW - 4 * 86400, "updates_pending": 0}, "does not answer"),
        ({"last_check_timestamp_seconds": 0}, "does not answer"),
    ],
)
def test_updates_of_testing_are_told(samples, wrong):
    fact = status.updates({f"imaging_testing_{name}": value for name, value in samples.items()}, NOW)
    assert wrong in fact.trouble
    assert bool(wrong) == bool(fact.trouble)
