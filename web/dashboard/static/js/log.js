// The output of a task's command as it comes: coloured, searched, followed to its end.
import { Ansi } from "./ansi.js";
import { Search } from "./search.js";
import { follow } from "./stream.js";

// More lines than this make a page slow; the oldest go, and Save has everything.
const LINES_MAX = 20000;
const DRAW_EVERY_MS = 60;
const started = new Map();

export function startLogs() {
  for (const [section, log] of started) {
    if (section.isConnected) continue;
    log.stop();
    started.delete(section);
  }
  for (const section of document.querySelectorAll("[data-log]")) {
    if (!started.has(section)) started.set(section, new Log(section));
  }
}

class Log {
  constructor(section) {
    this.section = section;
    this.lines = section.querySelector("[data-log-lines]");
    this.state = section.querySelector("[data-log-state]");
    this.following = section.querySelector("[data-log-follow]");
    this.ansi = new Ansi();
    this.waiting = "";
    this.raw = [];
    this.tail = null;
    this.top = 0;
    this.search = new Search(section, this.lines, () => (this.following.checked = false));
    this.listen();
    this.say(Number(section.dataset.logBytes) ? "coming" : "none yet");
    this.stream = follow(section.dataset.log, {
      onEvent: (kind, data) => this.take(kind, data),
      onFull: () => this.say("too many follow something now, trying again"),
    });
  }

  stop() {
    this.stream.stop();
  }

  listen() {
    const wrap = this.section.querySelector("[data-log-wrap]");
    wrap.addEventListener("change", () => {
      this.lines.classList.toggle("wrap", wrap.checked);
      this.toEnd();
    });
    this.following.addEventListener("change", () => this.toEnd());
    this.lines.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.section.querySelector("[data-log-save]").addEventListener("click", () => this.save());
  }

  take(kind, data) {
    if (kind !== "log" && kind !== "end") return true;
    this.raw.push(data.text);
    this.waiting += data.text;
    this.drawing ??= setTimeout(() => this.draw(), DRAW_EVERY_MS);
    if (kind !== "end") {
      this.say("live");
      return true;
    }
    this.ended = true;
    return false;
  }

  draw() {
    this.drawing = null;
    const text = this.waiting;
    this.waiting = "";
    const fresh = document.createDocumentFragment();
    this.tail?.remove();
    for (const line of this.ansi.feed(text)) fresh.append(lineOf(line));
    this.tail = this.ansi.tail.length ? lineOf(this.ansi.tail) : null;
    if (this.tail) fresh.append(this.tail);
    this.lines.append(fresh);
    if (this.lines.childElementCount) this.show();
    this.trim();
    this.search.again();
    if (this.ended) this.say(this.howItEnded());
    this.toEnd();
  }

  // Before there is any, one line says so: nothing to search, to follow or to save.
  show() {
    for (const part of this.section.querySelectorAll("[data-log-some]")) part.hidden = false;
  }

  howItEnded() {
    if (this.lines.childElementCount) return "ended";
    return Number(this.section.dataset.logBytes) ? "ended; what it said was deleted for its age" : "none: it ended without any";
  }

  trim() {
    let over = this.lines.childElementCount - LINES_MAX;
    if (over > 0) this.section.querySelector("[data-log-trimmed]").hidden = false;
    for (; over > 0; over--) this.lines.firstElementChild.remove();
  }

  toEnd() {
    if (this.following.checked) this.lines.scrollTop = this.lines.scrollHeight;
  }

  // Upwards is a reader's: by wheel, finger, key or bar. New lines and a new width only lead downwards.
  scrolled() {
    const top = this.lines.scrollTop;
    if (top < this.top && !this.atEnd()) this.following.checked = false;
    this.top = top;
  }

  atEnd() {
    return this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 40;
  }

  say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(this.raw, { type: "text/plain" }));
    link.download = this.section.dataset.logName;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

function lineOf(pieces) {
  const line = document.createElement("div");
  for (const { text, classes } of pieces) {
    if (!classes) {
      line.append(text);
      continue;
    }
    const span = document.createElement("span");
    span.className = classes;
    span.textContent = text;
    line.append(span);
  }
  return line;
}
