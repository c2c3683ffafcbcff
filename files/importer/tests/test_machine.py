"""Any order of deliveries, changes, outages and kills: hypothesis looks for one after which the ledger is wrong.

It shrinks a failure that it finds, and prints the calls that lead there. IMAGING_MACHINE=n tries n orders (default 5).
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from campaign import Campaign
from deliveries import deliver, instance, sop_uid, uid
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from importer_process import Forked, Nursery, wait_until

EXAMPLES = int(os.environ.get("IMAGING_MACHINE", "5"))


class Machine(RuleBasedStateMachine):
    """A clinic's inbox, an importer that may run, Orthanc and PostgreSQL that may be away."""

    registry: ClassVar
    nursery: ClassVar[Nursery]

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.registry.cluster.sql("DELETE FROM registry.study", "registry")
        self.random = random.Random(seed)
        self.campaign = Campaign(Path(self.directory.name), self.random, self.registry)
        self.north = self.campaign.root / "inbox" / "north"
        self.images: list[bytes] = []
        self.importer: Forked | None = None
        self.database = True

    def image(self) -> bytes:
        if self.images and self.random.random() < 0.3:
            return self.random.choice(self.images)
        self.images.append(instance(self.random, uid(self.random), uid(self.random)))
        return self.images[-1]

    def in_inbox(self) -> list[Path]:
        return [path for path in sorted(self.north.rglob("*")) if path.is_file()]

    @rule(folder=st.sampled_from("abc"), count=st.integers(1, 3))
    def deliver(self, folder: str, count: int) -> None:
        """The importer may take the folder between two files; the later files are the next delivery."""
        for _ in range(count):
            data = self.image()
            deliver(self.north / folder, {f"{uid(self.random)}.dcm": data})
            self.campaign.delivered.append(data)

    @precondition(lambda self: self.importer is None)
    @rule(length=st.integers(0, 5000), action=st.sampled_from(("truncate", "append", "touch", "rename", "withdraw")))
    def change(self, length: int, action: str) -> None:
        """Only without an importer can the test know which file the change reaches."""
        files = self.in_inbox()
        if not files:
            return
        path = self.random.choice(files)
        before = path.read_bytes()
        if action == "touch":
            path.touch()
        elif action == "rename":
            path.rename(path.with_name(f"renamed {self.random.randrange(1 << 32)}"))
        else:
            self.campaign.delivered.remove(before)
            if action == "withdraw":
                path.unlink()
                return
            after = before[:length] if action == "truncate" else before + self.random.randbytes(length)
            path.write_bytes(after)
            self.campaign.delivered.append(after)

    @precondition(lambda self: self.importer is None)
    @rule()
    def start(self) -> None:
        self.importer = self.nursery.start(**self.campaign.settings, timeout=5, cooldown=0.05, scan_interval=0.02)

    @precondition(lambda self: self.importer is not None)
    @rule(after=st.floats(0, 0.5))
    def kill(self, after: float) -> None:
        wait_until(self.campaign.settled, after, self.importer)
        self.importer.kill()
        self.importer = None
        self.campaign.check_ledger()

    @rule(down=st.booleans())
    def orthanc(self, down: bool) -> None:
        self.campaign.platform.faults.down = down

    @rule(up=st.booleans())
    def postgresql(self, up: bool) -> None:
        if up != self.database:
            self.registry.cluster.start() if up else self.registry.cluster.crash()
            self.database = up

    def teardown(self) -> None:
        """Everything comes back; then nothing stays pending, and all agrees."""
        if not hasattr(self, "campaign"):
            return
        try:
            self.orthanc(down=False)
            self.postgresql(up=True)
            if self.importer is None:
                self.start()
            assert wait_until(self.campaign.settled, 120, self.importer), (self.campaign.root / "log").read_text()[
                -3000:
            ]
            self.importer.kill()
            self.campaign.check_end()
            stored = set(self.campaign.platform.md5s())
            assert stored <= {sop_uid(data) for data in self.images}
        finally:
            if self.importer:
                self.importer.kill()
            self.campaign.platform.close()
            self.directory.cleanup()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_any_order_of_things(registry) -> None:
    with Nursery() as nursery:
        Machine.registry, Machine.nursery = registry, nursery
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=20,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate, Phase.shrink) if EXAMPLES > 20 else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
