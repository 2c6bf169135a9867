// Keeps the page as the server would draw it now: after each event, and every now and then while something goes on.
import { connectionFound, connectionLost, signedOut } from "./connection.js";
import { morph } from "./morph.js";
import { follow } from "./stream.js";
import { setServerTime } from "./times.js";

// Many events in a row are one update.
const PAUSE_MS = 200;
const listeners = [];
const refreshing = {};
let busy = false;
let wanted = false;
// The server has no room for a further stream: the page asks every now and then instead.
let polls = false;

export function onUpdate(listener) {
  listeners.push(listener);
}

export function startLive() {
  const live = document.querySelector(".live");
  if (!live) return;
  if (live.dataset.stream) {
    let opened = 0;
    follow(live.dataset.stream, {
      after: live.dataset.after,
      onOpen: () => {
        polls = false;
        if (opened++) refresh();
      },
      onFull: () => (polls = true),
      onEvent: (_kind, event) => {
        if (!live.dataset.about || event.subject_kind === live.dataset.about) refresh();
        window.dispatchEvent(new CustomEvent("taskflow:event", { detail: event }));
        return true;
      },
    });
  }
  everyNowAndThen();
}

// The interval may change with each update: a task that ended needs none.
function everyNowAndThen() {
  const seconds = Number(document.querySelector(".live")?.dataset.every);
  setTimeout(() => {
    if ((seconds || polls) && document.visibilityState === "visible") refresh();
    everyNowAndThen();
  }, 1000 * (seconds || 5));
}

export async function refresh() {
  wanted = true;
  if (busy) return;
  busy = true;
  while (wanted) {
    wanted = false;
    try {
      await update();
      connectionFound(refreshing);
    } catch {
      connectionLost(refreshing);
      wanted = false;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  busy = false;
}

async function update() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html", "X-Part": "live" }, cache: "no-store" });
  if (answer.status === 401 || answer.redirected) return signedOut();
  if (answer.status >= 500) throw new Error(`the page answers ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh) return;
  setServerTime(page);
  document.title = page.title;
  morph(document.getElementById("main"), fresh);
  for (const listener of listeners) listener();
  window.dispatchEvent(new CustomEvent("taskflow:update"));
}
