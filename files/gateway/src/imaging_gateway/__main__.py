"""The command: start the gateway (read the configuration, listen, tell systemd), or print the access log."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from imaging_gateway import audit, systemd
from imaging_gateway.app import LARGEST_FIELD, make_app
from imaging_gateway.config import Config, Secrets, load, load_secrets
from imaging_gateway.printable import Formatter
from imaging_gateway.strict_toml import SettingsError


async def serve(config: Config, secrets: Secrets) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Request lines are not logged: they hold names and identifiers of patients.
    runner = web.AppRunner(
        make_app(config, secrets), access_log=None, max_line_size=LARGEST_FIELD, max_field_size=LARGEST_FIELD
    )
    await runner.setup()
    await web.TCPSite(runner, config.listen_address, config.listen_port, backlog=1024, shutdown_timeout=5).start()
    systemd.notify("READY=1")
    watchdog = asyncio.create_task(systemd.keep_watchdog_quiet())
    await stop.wait()
    systemd.notify("STOPPING=1")
    watchdog.cancel()
    await runner.cleanup()


def main() -> None:
    """Entry point of the service."""
    parser = argparse.ArgumentParser(prog="imaging-gateway", description="Decides every DICOMweb and REST request.")
    parser.add_argument("--config", type=Path, default=Path("/etc/imaging/gateway.toml"))
    commands = parser.add_subparsers(dest="command", help="default: run the service, as systemd does")
    audit.add_options(commands.add_parser("audit", help="print who opened which study, newest first"))
    commands.add_parser("check-config", help="say whether the configuration can be used (Ansible does)")
    arguments = parser.parse_args()
    level = os.environ.get("IMAGING_LOG_LEVEL", "INFO")  # set by `make up-dev` alone
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    try:
        config = load(arguments.config)
        if arguments.command == "check-config":
            return
        secrets = load_secrets()
    except SettingsError as error:
        sys.exit(f"imaging-gateway cannot start: {error}")
    if arguments.command == "audit":
        sys.exit(audit.show(config, secrets, arguments))
    asyncio.run(serve(config, secrets))


if __name__ == "__main__":
    main()
