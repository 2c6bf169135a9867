// The banner that says that the connection is lost, once one of the streams has been without it for a moment.
const GRACE_MS = 1500;
const lost = new Set();
let timer = null;
let isOut = false;

export function connectionLost(stream) {
  lost.add(stream);
  timer ??= setTimeout(() => {
    if (lost.size && !isOut) say("Connection lost, trying again. What is shown may be old.", true);
  }, GRACE_MS);
}

export function connectionFound(stream) {
  lost.delete(stream);
  if (lost.size) return;
  clearTimeout(timer);
  timer = null;
  if (!isOut) say("", false);
}

export function isSignedOut() {
  return isOut;
}

export function signedOut() {
  if (isOut) return;
  isOut = true;
  const banner = say("You are signed out. ", true);
  const link = document.createElement("a");
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  banner?.append(link);
}

function say(text, shown) {
  const banner = document.getElementById("connection");
  if (banner && (banner.textContent !== text || !text)) banner.textContent = text;
  banner?.classList.toggle("shown", shown);
  return banner;
}
