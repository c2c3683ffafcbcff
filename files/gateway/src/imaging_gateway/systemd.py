"""systemd's notification protocol (sd_notify(3)). A message is one datagram, so no library is needed."""

from __future__ import annotations

import asyncio
import os
import socket


def notify(state: str) -> None:
    """Tell systemd a state such as READY=1; outside systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def keep_watchdog_quiet() -> None:
    """Report to systemd, twice in WATCHDOG_USEC, that the event loop runs; return at once if there is no watchdog."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    while microseconds:
        notify("WATCHDOG=1")
        await asyncio.sleep(microseconds / 2_000_000)
