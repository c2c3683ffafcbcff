// Orthanc ends an answer of several parts by closing the connection, whether it gave them all or a file was lost, the disk
// failed or it was killed in between. Only the boundary that closes the body tells (RFC 2046 5.1.1), and clients do not
// look for it: what lacks it is broken off, so that nobody takes it for the whole study.

// Of one request: nginx gives each a world of its own.
let closing = null;
let end = Buffer.alloc(0);

// Header filter: take note of what will close the body.
function head(r) {
    const boundary = /^multipart\/related;.*boundary="?([^";]+)/.exec(r.headersOut["Content-Type"] || "");
    if (r.method === "GET" && r.status === 200 && boundary) {
        closing = `--${boundary[1]}--`;
    }
}

// Body filter: give what comes, and break off where nothing more comes and nothing has closed.
function body(r, data, flags) {
    if (closing !== null) {
        end = Buffer.concat([end, data.slice(-closing.length - 2)]).slice(-closing.length - 2);
        if (flags.last && !end.includes(closing)) {
            throw new Error("Orthanc's answer has no end: something of the study could not be read");
        }
    }
    r.sendBuffer(data, flags);
}

export default { head, body };
