// Writes go to the API, with the token of this page.
import { signedOut } from "./connection.js";

export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `the server answered ${status}`);
    Object.assign(this, { status, code: error.code, fields: error.fields ?? {}, advice: error.advice });
  }
}

export async function post(address, body, headers = {}) {
  try {
    return await send(address, body, headers);
  } catch (error) {
    if (error.status === 401) signedOut();
    // Signed in again meanwhile, in another tab: what was typed here is not lost for that.
    if (error.code === "csrf" && (await isTokenRenewed())) return send(address, body, headers);
    throw error;
  }
}

async function send(address, body, headers) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF-Token": tokenOf(document), ...headers },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, { message: "The server can't be reached. Nothing is known of what was asked; look before you ask again." });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found.error ?? {});
  return found;
}

// Whether the one who is signed in now is the one whom this page names, with another token.
async function isTokenRenewed() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const token = tokenOf(page);
    if (!token || token === tokenOf(document) || whoOf(page) !== whoOf(document)) return false;
    document.querySelector('meta[name="csrf-token"]').content = token;
    return true;
  } catch {
    return false;
  }
}

function tokenOf(page) {
  return page.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

function whoOf(page) {
  return page.querySelector("[data-who]")?.dataset.who;
}

export function toast(text, bad = false) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.classList.toggle("bad", bad);
  element.classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(
    () => {
      element.classList.remove("shown");
      element.textContent = "";
    },
    bad ? 10000 : 4000,
  );
}
