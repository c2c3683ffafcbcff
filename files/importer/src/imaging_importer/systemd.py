"""sd_notify(3): tells systemd that the service is ready, alive or stopping."""

import os
import socket


def notify(state: str) -> None:
    """Send one state, such as READY=1; nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
        connection.sendall(state.encode())


def watchdog_interval() -> float:
    """Seconds between two signs of life: half of the limit that systemd sets."""
    return int(os.environ.get("WATCHDOG_USEC", "60000000")) / 2e6
