// The technician's page: asks the importer, through the gateway, for GET /import/status and shows what it answers: what waits,
// what is being imported, what is done, what failed and why. Of the technician's clinics only; it is not this page that decides.

import { login } from "/pages/login.js";

const AGAIN_MS = 5_000;

const element = (id) => document.getElementById(id);
const say = (text) => {
  if (element("message").textContent !== text) element("message").textContent = text;
};

// The importer's times are UTC.
const time = (text) =>
  new Date(`${text.replace(" ", "T")}Z`).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });

const size = (bytes) => (bytes === null ? "" : `${(bytes / 1e6).toLocaleString(undefined, { maximumFractionDigits: 1 })} MB`);

const make = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const STATES = {
  taken: "accepted",
  listed: "being stored",
  verified: "stored and verified",
  recorded: "visible",
  settling: "being put away",
};
const RESULTS = { processed: "imported", "partly-failed": "imported in part", failed: "failed" };

function progress(row) {
  const text = `${row.files_done} of ${row.files} files`;
  return make("span", {}, make("progress", { max: 100, value: row.percent, ariaLabel: text }), ` ${text}`);
}

// Each list: its key in the answer, its heading, what is said when it is empty, and its columns.
const LISTS = [
  ["failed", "Failed in the last seven days", "Nothing failed.", [
    ["Folder", (row) => row.folder],
    ["When", (row) => time(row.finished)],
    ["Failed", (row) => row.failed],
    ["Stored", (row) => row.stored],
    ["Remarks", (row) => row.remarks],
    ["Why", (row) => row.why],
  ]],
  ["arriving", "Arriving through the browser", "", [
    ["Since", (row) => time(row.since)],
    ["Received", (row) => size(row.bytes)],
  ]],
  ["importing", "Being imported", "Nothing is being imported.", [
    ["Folder", (row) => row.folder],
    ["State", (row) => (row.repeats ? row.trouble : row.trouble ? "put off: the archive does not answer; it is tried again" : STATES[row.state])],
    ["Progress", progress],
  ]],
  ["waiting", "Waiting in the inbox", "Nothing waits.", [
    ["Folder", (row) => row.folder],
    ["Since", (row) => time(row.since)],
    ["State", (row) => row.state],
    ["Files", (row) => row.files ?? ""],
    ["Size", (row) => size(row.bytes)],
  ]],
  ["done_today", "Done today", "Nothing yet.", [
    ["Folder", (row) => row.folder],
    ["When", (row) => time(row.finished)],
    ["Result", (row) => RESULTS[row.result]],
    ["Images", (row) => row.stored],
    ["Remarks", (row) => row.remarks],
  ]],
];

function list(status, [key, heading, empty, columns], withClinic) {
  const rows = status[key];
  if (rows.length === 0 && empty === "") return null;
  const shown = withClinic ? [["Clinic", (row) => row.clinic], ...columns] : columns;
  const total = status[`${key}_total`] ?? rows.length;
  const section = make("section", { id: key }, make("h2", {}, rows.length ? `${heading} (${total})` : heading));
  if (rows.length === 0) {
    section.append(make("p", {}, empty));
    return section;
  }
  const head = make("tr", {}, ...shown.map(([name]) => make("th", { scope: "col" }, name)));
  // The name stands in each cell too: on a phone the head is hidden and every row is a card.
  const cell = (row, [name, show]) => {
    const made = make("td", {}, show(row));
    made.dataset.name = name;
    return made;
  };
  const lines = rows.map((row) => make("tr", {}, ...shown.map((column) => cell(row, column))));
  section.append(make("table", { className: "cards" }, make("thead", {}, head), make("tbody", {}, ...lines)));
  return section;
}

function show(status) {
  const clinics = new Set(LISTS.flatMap(([key]) => status[key].map((row) => row.clinic)));
  element("lists").replaceChildren(...LISTS.map((one) => list(status, one, clinics.size > 1)).filter(Boolean));
  element("lists").hidden = false;
  const away = Object.entries(status.services).filter(([, state]) => state !== "ok");
  const unknown = Object.entries(status.unknown_clinics);
  element("notes").replaceChildren(
    ...away.map(([name, state]) => make("li", {}, `${name}: ${state}. Deliveries wait and go on by themselves.`)),
    ...Object.entries(status.quotas).map(([name, told]) => make("li", {}, `${name}: ${told}.`)),
    ...unknown.map(([name, count]) => make("li", {}, `${count} entries wait in ${name}, which is no clinic.`)),
  );
}

async function refresh(session) {
  const answer = await session.fetch("/import/status");
  if (answer.status === 404) {
    say("Your account may not see the import. It takes the role technician.");
    return false;
  }
  if (answer.ok) {
    show(await answer.json());
    say("");
  } else {
    say("The importer does not answer just now. This page tries again by itself.");
  }
  return true;
}

try {
  const session = await login();
  element("username").textContent = session.username;
  element("logout").hidden = false;
  element("logout").addEventListener("click", () => session.logout());
  const again = async () => {
    let goOn = true;
    try {
      // Nobody looks at a page in the background.
      if (!document.hidden) goOn = await refresh(session);
    } catch (error) {
      say(`There is no connection just now (${error.message}). This page tries again by itself.`);
    }
    if (goOn) setTimeout(again, AGAIN_MS);
  };
  await again();
} catch (error) {
  say(`That did not work: ${error.message}`);
}
