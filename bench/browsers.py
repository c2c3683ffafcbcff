"""OHIF in a real browser: on this platform, and on a plain nginx in front of raw Orthanc."""

from __future__ import annotations

import os
import statistics
import time

from host import Platform
from playwright.sync_api import Browser, Page, sync_playwright

PLAIN_PORT = 8088
PATIENCE_MS = 120_000
# Cornerstone tells its own element of each image drawn; the event does not bubble, but is caught on its way down.
WATCH = """
    performance.setResourceTimingBufferSize(5000);
    document.addEventListener('CORNERSTONE_IMAGE_RENDERED', () => { window.firstImage ??= performance.now(); }, true);
"""
# Within the application, as a click in its list does, so that starting it again is not part of the time.
OPEN = """(address) => {
    performance.clearResourceTimings();
    window.firstImage = undefined;
    window.opened = performance.now();
    history.pushState(null, '', address);
    dispatchEvent(new PopStateEvent('popstate', { state: null }));
}"""
FRAMES = "performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/frames/'))"
# OHIF without a login, from the same files, and Orthanc with its password filled in, as the handbooks show.
PLAIN_NGINX = """
daemon on; pid /run/bench-nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    include /etc/nginx/mime.types; access_log off; sendfile on;
    gzip on; gzip_types application/javascript application/dicom+json;
    types {{ application/wasm wasm; }}
    server {{
        listen {port};
        root /opt/imaging/viewer/current/www;
        location / {{ try_files $uri /index.html; }}
        location = /app-config.js {{ alias /tmp/bench-app-config.js; }}
        location /dicom-web/ {{
            proxy_pass http://127.0.0.1:8042; proxy_buffering off; proxy_set_header Host $host:{port};
            include /etc/imaging/credentials/nginx/orthanc.conf;
        }}
    }}
}}
"""


def start_plain_nginx(platform: Platform) -> None:
    """Start it beside the platform's own, on the host."""
    script = (
        "sed '/oidc: \\[/,/^  \\],/d' /etc/imaging/viewer/app-config.js > /tmp/bench-app-config.js && "
        f"cat > /tmp/bench-nginx.conf <<'END'\n{PLAIN_NGINX.format(port=PLAIN_PORT)}\nEND\n"
        "test -e /run/bench-nginx.pid || nginx -c /tmp/bench-nginx.conf"
    )
    platform.on_host("sh", "-c", script)
    # Until the firewall is loaded again.
    platform.on_host("nft", "insert", "rule", "inet", "imaging", "input", "tcp", "dport", str(PLAIN_PORT), "accept")


def opened(page: Page, study: str, slices: int) -> tuple[float, float]:
    """Open a study from the study list; the seconds until its first image is drawn, and until the last has arrived."""
    page.evaluate(OPEN, f"/viewer?StudyInstanceUIDs={study}")
    # Not wait_for_function: the platform's Content-Security-Policy forbids the page what that does.
    arrived = f"new Set({FRAMES}.filter((entry) => entry.responseEnd).map((entry) => entry.name)).size"
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(f"window.firstImage !== undefined && {arrived} >= {slices}"):
        if time.monotonic() > deadline:
            raise SystemExit(f"{page.url}: {page.evaluate(arrived)} of {slices} images came in time")
        page.wait_for_timeout(200)
    first = page.evaluate("window.firstImage - window.opened")
    last = page.evaluate(f"Math.max(...{FRAMES}.map((entry) => entry.responseEnd)) - window.opened")
    return first / 1000, last / 1000


def _round(browser: Browser, platform: Platform, origin: str, study: str, slices: int) -> tuple[float, float]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, ignore_https_errors=True)
    try:
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{origin}/", timeout=PATIENCE_MS)
        if origin == platform.url:
            user = platform.user("physician", "denscan-central")
            page.fill("#username", user.username, timeout=PATIENCE_MS)
            page.fill("#password", user.password)
            page.click("#kc-login")
        page.locator("table tbody tr").first.wait_for(timeout=PATIENCE_MS)
        return opened(page, study, slices)
    finally:
        context.close()


def compare(platform: Platform, study: str, slices: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Open a study by turns here and there; medians of (first image, all images) in seconds."""
    start_plain_nginx(platform)
    address = platform.on_host("hostname", "--ip-address").split()[0]
    plain = f"http://{address}:{PLAIN_PORT}"
    taken: dict[str, list[tuple[float, float]]] = {platform.url: [], plain: []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                "--no-proxy-server",
                "--use-gl=angle",
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
                f"--unsafely-treat-insecure-origin-as-secure={plain}",
            ],
        )
        # The first round fills the caches of server and browser, and does not count.
        for number in range(rounds + 1):
            for origin, times in taken.items():
                opened_in = _round(browser, platform, origin, study, slices)
                if number > 0:
                    times.append(opened_in)
        browser.close()
    here, there = (
        (statistics.median(first for first, _ in times), statistics.median(last for _, last in times))
        for times in taken.values()
    )
    return {"platform": here, "plain": there}
