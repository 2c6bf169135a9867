// Keeps the page as the server would draw it now: after each event, and every now and then while something goes on.
import { connectionFound, connectionLost, isSignedOut, signedOut } from "./connection.js";
import { morph } from "./morph.js";
import { follow } from "./stream.js";
import { setServerTime } from "./times.js";

// Many events in a row are one update.
const PAUSE_MS = 200;
// A server that takes the question and never answers is asked again.
const ANSWER_MAX_MS = 20000;
const AGAIN_MIN_MS = 1000;
const AGAIN_MAX_MS = 30000;
// There is nothing here, or nothing for this person: that is shown. Any other refusal passes, and the page stays as it is.
const SHOWN = [403, 404, 410];
const listeners = [];
const refreshing = {};
let busy = false;
let wanted = false;
let again = null;
let againMs = AGAIN_MIN_MS;
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
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && isSignedOut()) refresh();
  });
}

// The interval may change with each update: a task that ended needs none.
function everyNowAndThen() {
  const seconds = Number(document.querySelector(".live")?.dataset.every);
  setTimeout(() => {
    if ((seconds || polls) && !isSignedOut() && document.visibilityState === "visible") refresh();
    everyNowAndThen();
  }, 1000 * (seconds || 5));
}

export async function refresh() {
  wanted = true;
  if (busy) return;
  busy = true;
  while (wanted) {
    wanted = false;
    clearTimeout(again);
    try {
      await update();
      connectionFound(refreshing);
      againMs = AGAIN_MIN_MS;
    } catch {
      connectionLost(refreshing);
      again = setTimeout(refresh, againMs * (0.5 + Math.random() / 2));
      againMs = Math.min(againMs * 2, AGAIN_MAX_MS);
      wanted = false;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  busy = false;
}

async function update() {
  const answer = await fetch(location.href, {
    headers: { Accept: "text/html", "X-Part": "live" },
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MAX_MS),
  });
  if (answer.status === 401 || answer.redirected) return signedOut();
  if (!answer.ok && !SHOWN.includes(answer.status)) throw new Error(`the page answers ${answer.status}`);
  // Signed in again in another tab: the streams and the token of this page are of the session before.
  if (isSignedOut()) return location.reload();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh) return;
  setServerTime(page);
  document.title = page.title;
  const focused = document.activeElement;
  morph(document.getElementById("main"), fresh);
  // Who was on something that is gone goes on from here by keyboard, not from the top of the page.
  if (focused && !focused.isConnected) document.getElementById("main").focus({ preventScroll: true });
  for (const listener of listeners) listener();
  window.dispatchEvent(new CustomEvent("taskflow:update"));
}
