// Orthanc gives bulk data only as the one part of a multipart body. A client can ask for the bytes alone (a single part
// payload, PS3.18 8.6.1.2.1), as the viewer does for ECGs. It then gets the content of that part. The gateway says which
// client may have this, and under which media type. The cache keeps Orthanc's own answer.

// These belong to one request, because nginx gives each request its own variables.
let closing = null;
let held = Buffer.alloc(0);
let inContent = false;

// Header filter: take note of what will close the part.
function head(r) {
    const boundary = /^multipart\/related;.*boundary="?([^";]+)/.exec(r.headersOut["Content-Type"] || "");
    if (!r.variables.part_alone || r.status !== 200 || !boundary) {
        return;
    }
    closing = `\r\n--${boundary[1]}`;
    r.headersOut["Content-Type"] = r.variables.part_alone;
    delete r.headersOut["Content-Length"];
}

// Body filter: drop the part's head and its closing boundary, even if they come in several pieces.
function body(r, data, flags) {
    if (closing === null) {
        r.sendBuffer(data, flags);
        return;
    }
    held = Buffer.concat([held, data]);
    if (!inContent && held.indexOf("\r\n\r\n") >= 0) {
        held = held.slice(held.indexOf("\r\n\r\n") + 4);
        inContent = true;
    }
    // Behind the boundary come "--" and a line's end.
    const end = flags.last ? held.lastIndexOf(closing) : held.length - closing.length - 4;
    if (inContent && end > 0) {
        r.sendBuffer(held.slice(0, end), flags);
        held = held.slice(end);
    } else if (flags.last) {
        r.sendBuffer("", flags);
    }
}

export default { head, body };
