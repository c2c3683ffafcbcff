// Logs people in for the pages beside the viewer: OpenID Connect, authorization code with PKCE (RFC 7636), the same realm and
// the same session as the viewer's. Tokens stay in this page's memory: loading it again asks Keycloak, which remembers.

const KEYCLOAK = "/auth/realms/imaging/protocol/openid-connect";
const CLIENT = "pages";
const PENDING = "pages-login";
const RENEW_BEFORE_MS = 30_000;

const here = () => location.origin + location.pathname;

const base64url = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

/** Leads to the login page; never returns. */
async function leave() {
  const state = random();
  const verifier = random();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  sessionStorage.setItem(PENDING, JSON.stringify({ state, verifier }));
  const query = new URLSearchParams({
    client_id: CLIENT,
    redirect_uri: here(),
    response_type: "code",
    scope: "openid",
    state,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  });
  location.assign(`${KEYCLOAK}/auth?${query}`);
  return new Promise(() => {});
}

async function askForTokens(form) {
  const answer = await fetch(`${KEYCLOAK}/token`, {
    method: "POST",
    body: new URLSearchParams({ client_id: CLIENT, ...form }),
    credentials: "omit",
  });
  return answer.ok ? answer.json() : null;
}

/** The tokens for the code in this page's address, if it answers our own request; else null. */
async function tokensFromAddress() {
  const answer = new URLSearchParams(location.search);
  const pending = JSON.parse(sessionStorage.getItem(PENDING) ?? "null");
  sessionStorage.removeItem(PENDING);
  if (!answer.has("code") && !answer.has("error")) return null;
  history.replaceState(null, "", here());
  if (pending === null || answer.get("state") !== pending.state) return null;
  if (answer.has("error")) throw new Error(answer.get("error_description") ?? answer.get("error"));
  return askForTokens({
    grant_type: "authorization_code",
    code: answer.get("code"),
    redirect_uri: here(),
    code_verifier: pending.verifier,
  });
}

/** Somebody who is logged in. */
class Session {
  #tokens;
  #ends;
  #renewal = null;

  constructor(tokens) {
    this.#keep(tokens);
  }

  #keep(tokens) {
    this.#tokens = tokens;
    this.#ends = Date.now() + tokens.expires_in * 1000;
  }

  get #claims() {
    const bytes = atob(this.#tokens.access_token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))));
  }

  get username() {
    return this.#claims.preferred_username;
  }

  async #renew() {
    const tokens = await askForTokens({ grant_type: "refresh_token", refresh_token: this.#tokens.refresh_token });
    if (tokens === null) return leave();
    this.#keep(tokens);
    this.#renewal = null;
  }

  /** A token that is still valid; leads to the login page when there is none. */
  async token() {
    // A refresh token can be used once, so other callers wait for the same answer.
    if (Date.now() > this.#ends - RENEW_BEFORE_MS) await (this.#renewal ??= this.#renew());
    return this.#tokens.access_token;
  }

  /** Like the browser's fetch, with the token; leads to the login page when the token is not accepted. */
  async fetch(path, options = {}) {
    const headers = { ...options.headers, Authorization: `Bearer ${await this.token()}` };
    const answer = await fetch(path, { ...options, headers, credentials: "omit" });
    return answer.status === 401 ? leave() : answer;
  }

  logout() {
    const query = new URLSearchParams({
      client_id: CLIENT,
      id_token_hint: this.#tokens.id_token,
      post_logout_redirect_uri: here(),
    });
    location.assign(`${KEYCLOAK}/logout?${query}`);
  }
}

/** The session of the user of this page, after the login. Throws Keycloak's refusal, in its words. */
export async function login() {
  const tokens = await tokensFromAddress();
  return tokens === null ? leave() : new Session(tokens);
}
