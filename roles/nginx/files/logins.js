// A stranger who knows a name can send wrong passwords for it. After ten in a row, Keycloak pauses the account for everybody.
// So nginx passes on only a few for one name from one address. One stranger cannot shut an account, and other users at the
// stranger's address are not affected.

const MOST_WRONG = 5;
const TOO_OFTEN =
    "Too many wrong passwords for this name came from your network. Wait five minutes. A forgotten password is replaced by the administrator.\n";

// Content handler of the form: refuse a name that failed too often from this address. Pass all others to Keycloak.
function send(r) {
    const name = r.method === "POST" && usernameIn(r.requestText || "");
    if (name) {
        r.variables.login_name = `${r.remoteAddress} ${name}`;
        if ((ngx.shared.wrong_passwords.get(r.variables.login_name) || 0) >= MOST_WRONG) {
            r.headersOut["Content-Type"] = "text/plain; charset=utf-8";
            r.headersOut["Retry-After"] = "300";
            r.return(429, TOO_OFTEN);
            return;
        }
    }
    r.internalRedirect("@login");
}

// Header filter of Keycloak's answer. Who is not let in is shown a form again. So is who is asked for a code next: the
// code's form names nobody, hence what is remembered of the login. Only a code of OAuth 2.0 says that somebody is in.
function answered(r) {
    const login = r.variables.cookie_auth_session_id;
    const name = r.variables.login_name || (login && ngx.shared.logins_begun.get(login));
    if (name && r.status === 302 && /[?&#]code=/.test(r.headersOut["Location"] || "")) {
        ngx.shared.wrong_passwords.delete(name);
    } else if (r.variables.login_name && r.status === 200) {
        ngx.shared.wrong_passwords.incr(name, 1, 0);
        if (login) {
            ngx.shared.logins_begun.set(login, name);
        }
    }
}

// The first field of that name counts, without blanks around it and without capitals, as in Keycloak.
function usernameIn(form) {
    const fields = form.split("&").map((field) => field.split("=").map(decoded));
    const found = fields.find((field) => field[0] === "username");
    return found && (found[1] || "").trim().toLowerCase();
}

function decoded(text) {
    try {
        return decodeURIComponent(text.replace(/\+/g, " "));
    } catch (e) {
        return text;
    }
}

export default { send, answered };
