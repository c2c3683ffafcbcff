// Orthanc ends an answer of several parts by closing the connection. It does so too when a file was lost, the disk failed or
// Orthanc was killed. Only the boundary that closes the body tells a complete answer (RFC 2046 5.1.1). Clients do not look
// for it. An answer without it is broken off, so that nobody takes it for the whole study.

// These belong to one request, because nginx gives each request its own variables.
let closing = null;
let end = Buffer.alloc(0);

// Header filter: take note of what will close the body.
function head(r) {
    const boundary = /^multipart\/related;.*boundary="?([^";]+)/.exec(r.headersOut["Content-Type"] || "");
    if (r.method === "GET" && r.status === 200 && boundary) {
        closing = `--${boundary[1]}--`;
    }
}

// Body filter: pass the data on. Break off if it ends before the closing boundary.
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
