"""Every alert fires on what it is for, and not on what merely looks like it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring_files import PROJECT, alerts, render, run

ALERTS = {rule["alert"]: rule for rule in alerts()}
TROUBLESHOOTING = (PROJECT / "docs/TROUBLESHOOTING.md").read_text()

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, a value a minute (`0+1x9`: 0, 1, … 9), and the minute at which to look."""

    fires: Series
    quiet: Series
    at: int = 20


DOWN, UP = "1x5 0x40", "1x50"
# Away for a moment: no reason to call anybody.
BLINKS = "1x18 0 1x30"
FAILURES = 'imaging_importer_failures_total{instance="h", clinic="a", reason="%s"}'
IMPORTER = 'up{instance="h", job="importer"}'
REQUESTS = 'nginx_requests_total{instance="h", route="image", status="%s"}'
SIZE, FREE = 'node_filesystem_size_bytes{mountpoint="/"}', 'node_filesystem_avail_bytes{mountpoint="/"}'
USED = 'imaging_importer_clinic_bytes{instance="h", clinic="%s"}'
QUOTA = 'imaging_importer_clinic_quota_bytes{instance="h", clinic="%s"}'


def down(job: str) -> Case:
    return Case({f'up{{job="{job}"}}': DOWN}, {f'up{{job="{job}"}}': BLINKS})


def probe(name: str) -> Case:
    return Case({f'probe_success{{probe="{name}"}}': DOWN}, {f'probe_success{{probe="{name}"}}': BLINKS})


def slow(route: str) -> Case:
    bucket = f'nginx_request_seconds_bucket{{route="{route}", le="%s"}}'
    count = f'nginx_request_seconds_count{{route="{route}"}}'
    return Case(
        {bucket % "2": "0+10x60", bucket % "5": "0+60x60", bucket % "+Inf": "0+60x60", count: "0+60x60"},
        {bucket % "2": "0+60x60", bucket % "5": "0+60x60", bucket % "+Inf": "0+60x60", count: "0+60x60"},
        at=40,
    )


CASES = {
    "HostDown": down("node"),
    "NginxDown": Case({"nginx_up": DOWN}, {"nginx_up": BLINKS}),
    "ViewerDown": probe("viewer"),
    "LoginPageDown": probe("login-page"),
    "StudyListDown": probe("study-list"),
    "OrthancDown": down("orthanc"),
    "KeycloakDown": down("keycloak"),
    "PostgreSQLDown": Case({"pg_up": DOWN}, {"pg_up": BLINKS}),
    "GatewayDown": down("gateway"),
    "GatewayRegistryLost": Case({"gateway_registry_up": DOWN}, {"gateway_registry_up": BLINKS}),
    "ImporterDown": down("importer"),
    "MonitoringTargetMissing": Case({'up{job="blackbox"}': DOWN}, {'up{job="orthanc"}': DOWN}),
    # The first failure ever makes the series appear; an old one is not news.
    "DICOMImportFailed": Case(
        {FAILURES % "truncated": "_x15 1x40", IMPORTER: UP}, {FAILURES % "truncated": "1x60", IMPORTER: UP}
    ),
    "StudyOwnershipConflict": Case(
        {FAILURES % "owned-by-another-clinic": "_x15 1x40", IMPORTER: UP},
        {FAILURES % "truncated": "1x15 2x40", IMPORTER: UP},
    ),
    "ImageMisread": Case(
        {FAILURES % "misread": "_x15 1x40", IMPORTER: UP},
        {FAILURES % "damaged": "1x15 2x40", IMPORTER: UP},
    ),
    "FileStopsOrthanc": Case(
        {FAILURES % "stops-the-archive": "_x15 1x40", IMPORTER: UP},
        {FAILURES % "refused-by-archive": "1x15 2x40", IMPORTER: UP},
    ),
    "ImportStuck": Case(
        {"imaging_importer_oldest_pending_age_seconds": "3500+60x40"},
        {"imaging_importer_oldest_pending_age_seconds": "0+60x40"},
    ),
    "ImportRepeats": Case(
        {"imaging_importer_repeating_deliveries": "1x40"},
        {"imaging_importer_repeating_deliveries": "0x5 1x10 0x25"},
    ),
    "ImporterWaits": Case(
        {
            'imaging_importer_dependency_up{service="orthanc"}': DOWN,
            'imaging_importer_dependency_up{service="registry"}': DOWN,
        },
        {'imaging_importer_dependency_up{service="orthanc"}': BLINKS},
    ),
    "ImporterScanLate": Case(
        {"imaging_importer_last_full_scan_timestamp_seconds": "0x40"},
        {"imaging_importer_last_full_scan_timestamp_seconds": "0+60x40"},
    ),
    "UnknownClinicInInbox": Case(
        {"imaging_importer_unknown_clinic_entries": "2x90"},
        {"imaging_importer_unknown_clinic_entries": "2x30 0x60"},
        at=70,
    ),
    "HighErrorRate": Case(
        {REQUESTS % "200": "0+90x60", REQUESTS % "503": "0+10x60"},
        # One error in a quiet night is half of all requests, and no reason to call anybody.
        {REQUESTS % "200": "0x18 1x40", REQUESTS % "503": "0x18 1x40"},
    ),
    "SlowImages": slow("image"),
    "SlowStudyList": slow("study-list"),
    "RequestsLimited": Case({REQUESTS % "429": "0+60x60"}, {REQUESTS % "200": "0+60x60"}),
    "LoginFailuresHigh": Case(
        {'keycloak_user_events_total{event="login", error="invalid_user_credentials"}': "0+5x60"},
        {
            'keycloak_user_events_total{event="login", error="invalid_user_credentials"}': "0+1x60",
            'keycloak_user_events_total{event="login", error=""}': "0+50x60",
        },
    ),
    "AccessLogLost": Case({"gateway_access_log_lost_total": "0x15 3x40"}, {"gateway_access_log_lost_total": "3x60"}),
    "PostgreSQLConnectionsHigh": Case(
        {'pg_stat_activity_count{instance="h"}': "70x60", 'pg_settings_max_connections{instance="h"}': "80x60"},
        {'pg_stat_activity_count{instance="h"}': "20x60", 'pg_settings_max_connections{instance="h"}': "80x60"},
    ),
    "PostgreSQLLongTransaction": Case(
        {'pg_stat_activity_max_tx_duration{datname="orthanc"}': "0+60x60"},
        {'pg_stat_activity_max_tx_duration{datname="orthanc"}': "60x60"},
    ),
    "PostgreSQLDeadlocks": Case(
        {'pg_stat_database_deadlocks{datname="orthanc"}': "0+1x60"},
        {'pg_stat_database_deadlocks{datname="orthanc"}': "0x15 1x40"},
    ),
    "ImporterWaitsForDisk": Case(
        {"imaging_importer_waits_for_disk": "0x5 1x60"}, {"imaging_importer_waits_for_disk": "0x60"}
    ),
    "ClinicQuotaNearlyUsed": Case(
        {USED % "a": "91x60", QUOTA % "a": "100x60"},
        # One is far from it, for one the other alert fires, and one has none.
        {USED % "a": "89x60", QUOTA % "a": "100x60", USED % "b": "100x60", QUOTA % "b": "100x60", USED % "c": "9e9x60"},
    ),
    "ClinicQuotaUsed": Case(
        {USED % "a": "99x5 100x60", QUOTA % "a": "100x60"},
        {USED % "a": "99x60", QUOTA % "a": "100x60", USED % "b": "9e9x60"},
    ),
    "DiskSpaceLow": Case({SIZE: "100x60", FREE: "15x60"}, {SIZE: "100x60", FREE: "21x60"}),
    "DiskSpaceCritical": Case({SIZE: "100x60", FREE: "4x60"}, {SIZE: "100x60", FREE: "15x60"}),
    "DiskFullInFourDays": Case(
        # 1 % of 100 GB an hour, and as fast on a disk that is nearly empty.
        {SIZE: "100e9x120", FREE: "39e9-16e6x120"},
        {SIZE: "100e9x120", FREE: "95e9-16e6x120"},
        at=100,
    ),
    "DiskInodesLow": Case(
        {'node_filesystem_files_free{mountpoint="/"}': "5x60", 'node_filesystem_files{mountpoint="/"}': "100x60"},
        # Some file systems count none.
        {'node_filesystem_files_free{mountpoint="/"}': "0x60", 'node_filesystem_files{mountpoint="/"}': "0x60"},
    ),
    "MemoryLow": Case(
        {"node_memory_MemAvailable_bytes": "5x60", "node_memory_MemTotal_bytes": "100x60"},
        {"node_memory_MemAvailable_bytes": "20x60", "node_memory_MemTotal_bytes": "100x60"},
    ),
    "ServiceKilledForMemory": Case({"node_vmstat_oom_kill": "7x15 8x40"}, {"node_vmstat_oom_kill": "7x60"}),
    "UnitFailed": Case(
        {'node_systemd_unit_state{name="nginx.service", state="failed"}': "0x5 1x60"},
        {'node_systemd_unit_state{name="nginx.service", state="inactive"}': "1x60"},
    ),
    "UnitRestarting": Case(
        {'node_systemd_service_restart_total{name="imaging-orthanc.service"}': "0+1x60"},
        {'node_systemd_service_restart_total{name="imaging-orthanc.service"}': "0x15 1x40"},
    ),
    "ClockNotSynchronised": Case(
        {
            'node_timex_sync_status{instance="h"}': "0x60",
            'node_systemd_unit_state{instance="h", name="systemd-timesyncd.service", state="active"}': "1x60",
        },
        # A container has the clock of its host, and no daemon of its own.
        {
            'node_timex_sync_status{instance="h"}': "0x60",
            'node_systemd_unit_state{instance="h", name="systemd-timesyncd.service", state="active"}': "0x60",
        },
    ),
    "CertificateExpiringSoon": Case(
        {'probe_ssl_earliest_cert_expiry{probe="viewer"}': f"{10 * 86400}x60"},
        {'probe_ssl_earliest_cert_expiry{probe="viewer"}': f"{30 * 86400}x60"},
    ),
    "CertificateNotRenewed": Case(
        {'node_systemd_unit_state{name="certbot.service", state="failed"}': "0x5 1x60"},
        # The next try, twelve hours later, has begun.
        {'node_systemd_unit_state{name="certbot.service", state="activating"}': "0x5 1x60"},
    ),
    "BackupTooOld": Case(
        {"imaging_backup_last_success_timestamp_seconds": f"{-37 * 3600}x60"},  # tests begin at the time 0
        # Where no backup is configured there is no such series.
        {"imaging_backup_last_failure_timestamp_seconds": f"{-37 * 3600}x60"},
    ),
    "BackupRepositoryTooOld": Case(
        {"imaging_backup_repository_last_success_timestamp_seconds": f"{-3 * 3600}x60"},
        # An hour at the end of the test.
        {"imaging_backup_repository_last_success_timestamp_seconds": "0x60"},
    ),
    "BackupRepositoryNotProven": Case(
        {"imaging_backup_repository_proven_timestamp_seconds": f"{-16 * 86400}x60"},
        {"imaging_backup_repository_proven_timestamp_seconds": f"{-14 * 86400}x60"},
    ),
    "RestoreDrillFailed": Case({"imaging_restore_drill_success": "0x60"}, {"imaging_restore_drill_success": "1x60"}),
    "RestoreDrillTooOld": Case(
        {"imaging_restore_drill_unproven_since_timestamp_seconds": f"{-101 * 86400}x60"},
        # Where there was neither a drill nor a backup there is no such series; BackupTooOld has its own.
        {"imaging_restore_drill_unproven_since_timestamp_seconds": f"{-99 * 86400}x60"},
    ),
    "TestingHasFixes": Case(
        {"imaging_testing_vulnerabilities": "0x5 2x60"},
        # Newer versions alone close no known hole.
        {"imaging_testing_vulnerabilities": "0x60", "imaging_testing_updates_pending": "3x60"},
    ),
    "TestingHasUpdates": Case(
        {"imaging_testing_updates_pending": "0x5 3x60"},
        # The tracker has said that none of them closes a hole.
        {"imaging_testing_updates_pending": "3x60", "imaging_testing_vulnerabilities": "0x60"},
    ),
    "TestingNotChecked": Case(
        {"imaging_testing_last_check_timestamp_seconds": f"{-73 * 3600}x60"},
        # A day on which the mirror was away.
        {"imaging_testing_last_check_timestamp_seconds": f"{-30 * 3600}x60"},
    ),
    "AlertsNotDelivered": Case(
        {'alertmanager_notifications_failed_total{integration="email"}': "0+1x60"},
        {'alertmanager_notifications_failed_total{integration="email"}': "5x60"},
    ),
    "RulesFail": Case(
        {"prometheus_rule_evaluation_failures_total": "0x15 1x40"},
        {"prometheus_rule_evaluation_failures_total": "1x60"},
    ),
    "ConfigurationNotLoaded": Case(
        {"prometheus_config_last_reload_successful": DOWN}, {"prometheus_config_last_reload_successful": UP}
    ),
}


def test_every_alert_has_a_case_and_every_case_an_alert() -> None:
    assert set(CASES) == set(ALERTS)


def promtool_test(alert: str, series: Series, minute: int, firing: int) -> dict[str, Any]:
    # The series ALERTS has the firing alerts. `count` of an empty vector gives nothing, so there is an alternative.
    query = f'(count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)) > bool 0'
    return {
        "name": f"{alert} {'fires' if firing else 'is quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": firing}]}
        ],
    }


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "alerts.yml"
    path.write_text(render("alerts.yml.j2"))
    return path


def test_the_rules_are_rules(rules: Path) -> None:
    assert f"{len(ALERTS)} rules found" in run("promtool", "check", "rules", str(rules))


def test_every_alert_fires_on_what_it_is_for_and_on_nothing_that_looks_like_it(rules: Path) -> None:
    tests = []
    for alert, case in CASES.items():
        tests.append(promtool_test(alert, case.fires, case.at, 1))
        tests.append(promtool_test(alert, case.quiet, case.at, 0))
    promtool_tests(rules, *tests)


def promtool_tests(rules: Path, *tests: dict[str, Any]) -> None:
    path = rules.with_name("test.yml")
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": list(tests)}))
    run("promtool", "test", "rules", str(path))


def test_a_renewal_that_failed_is_told_once(rules: Path) -> None:
    series = {'node_systemd_unit_state{name="certbot.service", state="failed"}': "0x5 1x60"}
    promtool_tests(rules, promtool_test("UnitFailed", series, 20, 0))


def test_old_failures_are_no_news_when_prometheus_was_away(rules: Path) -> None:
    series = {FAILURES % "truncated": "_x10 7x40", IMPORTER: "_x10 1x40"}
    promtool_tests(rules, *(promtool_test("DICOMImportFailed", series, minute, 0) for minute in (12, 20, 30)))


def test_errors_that_an_outage_explains_are_not_told_again(rules: Path) -> None:
    errors = {REQUESTS % "200": "0+90x60", REQUESTS % "503": "0+10x60"}
    after = {'up{instance="h", job="keycloak"}': "1x10 0x5 1x40"}
    promtool_tests(
        rules,
        promtool_test("HighErrorRate", errors | after, 25, 0),
        promtool_test("HighErrorRate", errors | after, 45, 1),
    )


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["labels"]["service"]
    assert set(rule["annotations"]) == {"summary", "users", "runbook_url"}
    document, anchor = rule["annotations"]["runbook_url"].split("#")
    assert (PROJECT / document).is_file()
    section = re.search(rf"^### {alert}\n\n(.+?)\n(?=#|\Z)", TROUBLESHOOTING, re.MULTILINE | re.DOTALL)
    assert anchor == alert.lower()
    assert section, f"docs/TROUBLESHOOTING.md has no section {alert}"
