// The auditor's page: asks the gateway for GET /audit/entries and shows what it answers, newest first.

import { login } from "/pages/login.js";

const element = (id) => document.getElementById(id);
const say = (text) => (element("message").textContent = text);

let session;
let filters = {};
let before = null;

function row(entry) {
  const when = new Date(entry.at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const study = entry.study ?? entry.detail ?? "";
  const line = document.createElement("tr");
  for (const text of [when, entry.user, entry.address, entry.client, entry.action, entry.clinic, study]) {
    line.append(Object.assign(document.createElement("td"), { textContent: text ?? "" }));
  }
  return line;
}

async function showMore() {
  say("Asking …");
  const query = new URLSearchParams(before === null ? filters : { ...filters, before });
  const answer = await session.fetch(`/audit/entries?${query}`);
  if (answer.status === 404) return say("Your account may not read the access log. It takes the role auditor.");
  if (!answer.ok) return say(answer.status === 400 ? await answer.text() : "There is no answer just now. Try again.");
  const { entries, next } = await answer.json();
  element("entries").append(...entries.map(row));
  before = next;
  element("older").hidden = next === null;
  say(element("entries").childElementCount === 0 ? "Nothing is on record for this." : "");
}

function show() {
  filters = Object.fromEntries([...new FormData(element("filters"))].filter(([, value]) => value !== ""));
  before = null;
  element("entries").replaceChildren();
  return showMore();
}

/** Runs what a button does, and says so when it fails. */
const handling = (work) => async (event) => {
  event?.preventDefault();
  try {
    await work();
  } catch (error) {
    say(`That did not work: ${error.message}`);
  }
};

element("filters").addEventListener("submit", handling(show));
element("older").addEventListener("click", handling(showMore));
element("logout").addEventListener("click", () => session.logout());

await handling(async () => {
  session = await login();
  element("username").textContent = session.username;
  element("logout").hidden = false;
  await show();
})();
