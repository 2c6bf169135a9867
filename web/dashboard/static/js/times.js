// Times in the reader's words, and waits that count down. The server's clock counts, not this machine's.
let offsetMs = 0;
const titled = new WeakMap();

export function setServerTime(root) {
  const said = Number(root.querySelector('meta[name="server-now"]')?.content);
  if (said) offsetMs = said * 1000 - Date.now();
}

export function startTimes() {
  setServerTime(document);
  tellTimes();
  setInterval(tellTimes, 1000);
}

export function tellTimes() {
  const now = Date.now() + offsetMs;
  for (const element of document.querySelectorAll("time[data-ago]")) tell(element, ago(now - at(element)));
  for (const element of document.querySelectorAll("time[data-until]")) {
    const leftMs = at(element) - now;
    tell(element, leftMs > 0 ? `in ${length(leftMs)}` : leftMs > -5000 ? "now" : `over for ${length(-leftMs)}`);
  }
  for (const element of document.querySelectorAll("time[data-hour]")) {
    const text = new Date(at(element)).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    if (element.textContent !== text) element.textContent = text;
  }
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = length(now - Date.parse(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}

function at(element) {
  return Date.parse(element.dateTime);
}

function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (titled.get(element) === element.dateTime) return;
  titled.set(element, element.dateTime);
  element.title = new Date(at(element)).toLocaleString();
}

function ago(ms) {
  if (ms < 1500) return "just now";
  const hours = Math.floor(ms / 3600000);
  // The exact time is in the title.
  return `${hours >= 1 && hours < 48 ? `${hours} h` : length(ms)} ago`;
}

export function length(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes} min ${seconds % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? (minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`) : `${Math.floor(hours / 24)} days`;
}
