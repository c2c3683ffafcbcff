"""Puts the parts together and runs them: scanner, lanes, reconciler and HTTP, each in its thread."""

import logging
import signal
import sqlite3
import sys
import threading
import time

from imaging_importer import status, systemd
from imaging_importer.config import Config, Secrets
from imaging_importer.delivery import Carrier
from imaging_importer.disk import Disk
from imaging_importer.erase import RESOURCE, Eraser
from imaging_importer.journal import Journal
from imaging_importer.metrics import Metrics
from imaging_importer.operate import DROP, RELEASE, Operator
from imaging_importer.orthanc import OrthancClient
from imaging_importer.quarantine import Quarantine
from imaging_importer.quotas import Quotas
from imaging_importer.reasons import TransientError, UnavailableError
from imaging_importer.reconcile import Reconciler
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Registry
from imaging_importer.settle import Settler
from imaging_importer.spool import Spool, lock
from imaging_importer.ways_in.folders import Inbox
from imaging_importer.ways_in.tickets import Tickets
from imaging_importer.ways_in.uploads import Uploads
from imaging_importer.web import Answer, Request, Route, as_json, as_text, serve
from imaging_importer.worker import LANES, StoppingError, Worker

log = logging.getLogger(__name__)

RECONCILE_EVERY = 5.0
CLINICS_EVERY = 10.0
# A scanner that has not finished a round for so long hangs (a dead network mount). Then systemd may restart the
# service.
SCANNER_HANGS = 600.0


class App:
    """The importer."""

    def __init__(self, config: Config, secrets: Secrets, registry: Registry) -> None:
        self._config = config
        self._secrets = secrets
        paths = config.paths
        self._registry = registry
        self._stopping = threading.Event()
        self._services = {"orthanc": "not asked yet", "registry": "not asked yet"}
        self._clinics: set[str] | None = None
        self._clinics_due = 0.0
        self._scanned = time.monotonic()
        self._metrics = Metrics()
        for directory in (paths.inbox, paths.processed, paths.failed):
            if not directory.is_dir():
                raise FileNotFoundError(f"{directory} is not a directory: create it, or correct the configuration")
        paths.state.mkdir(parents=True, exist_ok=True)
        self._lock = lock(paths.spool)  # before a second importer could touch the journal
        self._journal = Journal(paths.state / "journal.sqlite")
        self._spool = Spool(paths.spool, self._journal)
        recorder = Recorder(self._journal, registry)
        settler = Settler(paths.processed, paths.failed, self._journal, self._spool)
        tickets = Tickets()
        quarantine = Quarantine(self._journal)
        carrier = Carrier(
            config, self._journal, self._spool, settler, registry, recorder, self._orthanc, quarantine, tickets
        )
        self._disk = Disk((paths.inbox, paths.processed, paths.failed, paths.state), config.disk.reserve_bytes)
        has_room = self._disk.has_room
        self._quotas = Quotas(self._journal.used, config.quotas)
        self._worker = Worker(
            self._journal, carrier, tickets, self._metrics, self._report, has_room, self._quotas.may_begin
        )
        self._uploads = Uploads(
            self._spool,
            tickets,
            clinics=lambda: self._clinics or set(),
            is_ready=self._is_ready,
            has_room=has_room,
            quota_used=self._quotas.shortage,
            taken=self._worker.wake,
            public_url=config.upload.public_url.rstrip("/"),
            request_bytes=config.upload.request_bytes,
            limits=config.image_limits,
        )
        self._reconciler = Reconciler(self._journal, registry, recorder, self._orthanc())
        self._operator = Operator(self._journal, registry, recorder, self._orthanc(), self._worker.wake)
        self._eraser = Eraser(self._journal, recorder, self._orthanc())
        self._inbox = Inbox(
            paths.inbox,
            self._spool,
            clinics=lambda: self._clinics or set(),
            taken=self._worker.wake,
            cooldown=config.scan.cooldown,
            interval=config.scan.interval,
            patience=config.scan.patience,
        )

    def _orthanc(self) -> OrthancClient:
        orthanc = self._config.orthanc
        return OrthancClient(orthanc.url, orthanc.user, self._secrets.orthanc_password, self._tick)

    def _tick(self) -> None:
        if self._stopping.is_set():
            raise StoppingError

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        # A thread that computes (reading ahead, MD5) gives way to others after so many seconds. Python's own 5 ms would
        # add up to tenths of a second for an upload, which waits for answers over the network dozens of times.
        sys.setswitchinterval(0.0005)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken read lease must not end the process
        server = serve(self._config.http.host, self._config.http.port, self._secrets.upload_secret, self._routes())
        self._recover()
        self._inbox.start()
        threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (
                ("scanner", self._scan),
                ("reconciler", self._reconcile),
                ("http", server.serve_forever),
            )
        ]
        lanes = [
            threading.Thread(target=self._worker.run, args=(self._stopping,), name=f"lane-{number}", daemon=True)
            for number in range(LANES)
        ]
        threads += lanes
        for thread in threads:
            thread.start()
        systemd.notify("READY=1")
        log.info("ready: inbox %s, status on http://%s:%d/", self._config.paths.inbox, *server.server_address[:2])
        while not self._stopping.wait(min(systemd.watchdog_interval(), 30)):
            if all(thread.is_alive() for thread in threads) and time.monotonic() - self._scanned < SCANNER_HANGS:
                systemd.notify("WATCHDOG=1")
        systemd.notify("STOPPING=1")
        server.shutdown()
        self._inbox.stop()
        # A step that does not end in time, because Orthanc is busy, is dropped. After the next start it is done again.
        until = time.monotonic() + 5
        for lane in lanes:
            lane.join(max(0.0, until - time.monotonic()))
        log.info("stopped")

    def _scan(self) -> None:
        more = False
        while not self._stopping.wait(0 if more else min(1.0, self._config.scan.interval)):
            more = False
            try:
                if time.monotonic() >= self._clinics_due:
                    self._clinics_due = time.monotonic() + CLINICS_EVERY
                    self._refresh_clinics()
                if self._spool.may_hold_unknown:
                    self._recover()
                if self._clinics is not None:
                    more = self._inbox.tick()
            except (OSError, sqlite3.Error) as error:
                log.warning("the inbox could not be scanned, it is tried again: %s", error)
                self._stopping.wait(5)
            except Exception:
                log.exception("the scanner stumbled; it goes on")
                self._stopping.wait(5)
            self._scanned = time.monotonic()

    def _recover(self) -> None:
        if recovered := self._spool.recover():
            log.info("%d folders found in the spool that the journal did not know", recovered)
            self._worker.wake()

    def _refresh_clinics(self) -> None:
        """Learn of new clinics and make their folders in the inbox. Without the registry, the last answer holds."""
        try:
            self._clinics = set(self._registry.list_clinics())
        except UnavailableError as error:
            self._report("registry", str(error))
            return
        self._report("registry", "ok")
        for clinic in self._clinics:
            folder = self._config.paths.inbox / clinic
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o770)
                log.info("made %s", folder)

    def _reconcile(self) -> None:
        while not self._stopping.wait(RECONCILE_EVERY):
            try:
                self._reconciler.step()
            except StoppingError:
                return
            except UnavailableError as error:
                self._report(error.service, str(error))
            except (TransientError, sqlite3.Error) as error:
                log.warning("reconciling will be tried again: %s", error)
            except Exception:
                log.exception("the reconciler stumbled; it goes on")
            else:
                self._report("orthanc", "ok")

    def _report(self, service: str, state: str) -> None:
        """Record how a service answered; log only changes."""
        if self._services.get(service) != state:
            (log.info if state == "ok" else log.warning)("%s: %s", service, state)
            self._services[service] = state

    def _routes(self) -> list[Route]:
        return [
            Route("POST", r"/dicom-web/studies(/[0-9.]{1,64})?", self._uploads.store),
            Route("GET", "/", self._counts, is_open=True),
            Route("GET", "/status.json", self._status),
            Route("POST", DROP, self._operator.drop),
            Route("POST", RELEASE, self._operator.release),
            # A caller that deletes must show Orthanc's own password for it.
            Route("DELETE", RESOURCE, self._eraser.erase, is_open=True),
            Route("GET", "/metrics", self._render_metrics, is_open=True),
            Route("GET", "/health(/ready)?", self._health, is_open=True),
            Route("GET", "/health/live", lambda _: as_json({"status": "ok"}), is_open=True),
        ]

    def _status(self, request: Request) -> Answer:
        """Report the work for the clinics that the gateway or the host's command names: `a,b`, or `*` for all."""
        named = request.headers.get("X-Clinics", "")
        return as_json(self._collect(None if named == "*" else named.split(",")))

    def _counts(self, _request: Request) -> Answer:
        return as_text(200, status.as_counts(self._collect(None)))

    def _collect(self, clinics: list[str] | None) -> status.Status:
        arriving = list(self._uploads.arriving.values())
        services = dict(self._services)
        if shortage := self._disk.shortage():
            services["disk"] = shortage
        return status.collect(self._inbox, self._journal, arriving, services, self._quotas.shortages(), clinics)

    def _is_ready(self) -> bool:
        """Whether a delivery that arrives now could be stored now."""
        return all(state == "ok" for state in self._services.values())

    def _health(self, _request: Request) -> Answer:
        ready = self._is_ready()
        return as_json({"live": True, "ready": ready, "services": self._services}, 200 if ready else 503)

    def _render_metrics(self, _request: Request) -> Answer:
        backlog, oldest = self._journal.backlog()
        waiting = [item for item in self._inbox.waiting.copy().values() if item.why != "empty"]
        since = min([item.found_at for item in waiting] + ([oldest] if oldest else []), default=time.time())
        gauge = self._metrics.set
        further = sum(self._inbox.further.copy().values())
        gauge("imaging_importer_waiting_deliveries", len(waiting) + further, stage="inbox")
        gauge("imaging_importer_waiting_deliveries", backlog, stage="spool")
        gauge("imaging_importer_repeating_deliveries", self._journal.repeating())
        gauge("imaging_importer_oldest_pending_age_seconds", max(0.0, time.time() - since))
        gauge("imaging_importer_unknown_clinic_entries", sum(self._inbox.unknown.values()))
        for service, state in self._services.items():
            gauge("imaging_importer_dependency_up", float(state == "ok"), service=service)
        gauge("imaging_importer_waits_for_disk", float(not self._disk.has_room()))
        for clinic, used in self._quotas.used().items():
            gauge("imaging_importer_clinic_bytes", used, clinic=clinic)
        for clinic, quota in self._config.quotas.items():
            gauge("imaging_importer_clinic_quota_bytes", quota, clinic=clinic)
        gauge("imaging_importer_inotify_overflows_total", self._inbox.overflows)
        gauge("imaging_importer_last_full_scan_timestamp_seconds", self._inbox.last_scan)
        gauge("imaging_importer_full_scan_duration_seconds", self._inbox.scan_seconds)
        return Answer(200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.render())
