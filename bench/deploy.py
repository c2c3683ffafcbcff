#!/usr/bin/env python3
"""How long a deployment takes and how much memory the idle platform needs.

It makes a host of its own (imaging-bench), deploys to it, logs in as a physician and deploys again. Then it measures
the memory of all processes in the host (proportional set size, so that shared pages count once). Times are of this
machine.
"""

from __future__ import annotations

import re
import sys
import time

from host import Platform, describe_machine, make

SETTLE_SECONDS = 60


def memory_mb(platform: Platform) -> dict[str, float]:
    """Proportional set size of the host's processes by unit, in MB."""
    script = (
        'for p in /proc/[0-9]*; do s=$(awk "/^Pss:/ {print \\$2}" $p/smaps_rollup 2>/dev/null) || continue; '
        'u=$(grep -o "[^/]*\\.service" $p/cgroup | head -n 1); echo "${s:-0} ${u:-other}"; done'
    )
    usage: dict[str, float] = {}
    for line in platform.on_host("sh", "-c", script).splitlines():
        kilobytes, unit = line.split(maxsplit=1)
        usage[unit] = usage.get(unit, 0) + int(kilobytes) / 1024
    return dict(sorted(usage.items(), key=lambda item: -item[1]))


def main() -> int:
    print(describe_machine())
    make("down")
    started = time.monotonic()
    make("up")
    platform = Platform()
    user = platform.user("physician", "denscan-central")
    studies = platform.api(user).get(f"{platform.url}/dicom-web/studies", timeout=60)
    studies.raise_for_status()
    print(f"bare host to first login: {time.monotonic() - started:.0f} s")
    again, output = make("up")
    changed = sum(int(count) for count in re.findall(r"changed=(\d+)", output))
    print(f"make up again: {again:.0f} s, changed={changed}")
    time.sleep(SETTLE_SECONDS)
    usage = memory_mb(platform)
    print(f"memory of the idle stack: {sum(usage.values()):.0f} MB")
    for unit, megabytes in usage.items():
        if megabytes >= 10:
            print(f"  {unit:40} {megabytes:6.0f} MB")
    make("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
