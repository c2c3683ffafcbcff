// Orthanc gives bulk data only as the one part of a multipart body. Who asks for the bytes alone (a single part payload,
// PS3.18 8.6.1.2.1), as the viewer does for ECGs, gets the content of that part: whoever it is, the gateway says, and
// under which media type. The cache keeps what Orthanc gave.

// Of one request: nginx gives each a world of its own.
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

// Body filter: drop the part's head and what closes it, whatever pieces they come in.
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
