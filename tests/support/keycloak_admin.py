"""Keycloak's admin API, as the platform's own service account uses it on the host."""

from __future__ import annotations

import json
import subprocess

from platform_client import Platform, state_path

KEYCLOAK = "http://127.0.0.1:8180/auth"

# Runs on the host: Keycloak's admin API listens on loopback only.
ADMIN_REQUEST = """
import json, sys, urllib.parse, urllib.request
order = json.load(sys.stdin)
def call(method, path, body=None, form=None, token=None):
    data = json.dumps(body).encode() if body is not None else urllib.parse.urlencode(form).encode() if form else None
    kind = "application/json" if body is not None else "application/x-www-form-urlencoded"
    headers = {"Content-Type": kind} | ({"Authorization": "Bearer " + token} if token else {})
    request = urllib.request.Request(order["keycloak"] + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode(), answer.headers.get("Location", "")
form = {"grant_type": "client_credentials", "client_id": "imaging-ansible", "client_secret": order["secret"]}
token = json.loads(call("POST", "/realms/master/protocol/openid-connect/token", form=form)[0])["access_token"]
print(json.dumps(call(order["method"], "/admin/realms/" + order["path"], order.get("body"), token=token)))
"""


def ask_keycloak(platform: Platform, method: str, path: str, body: object = None) -> tuple[str, str]:
    secret = (state_path() / "secrets/keycloak_bootstrap_secret").read_text().strip()
    order = {"keycloak": KEYCLOAK, "secret": secret, "method": method, "path": path, "body": body}
    result = subprocess.run(
        ["docker", "exec", "-i", platform.container, "python3", "-c", ADMIN_REQUEST],
        input=json.dumps(order), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-1000:]
    text, location = json.loads(result.stdout)
    return text, location


def user_id(platform: Platform, username: str) -> str:
    (found,) = json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={username}&exact=true")[0])
    return str(found["id"])
