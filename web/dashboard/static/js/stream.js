// Follows a stream of server-sent events and loses nothing: whatever breaks, it connects again and says what it saw last.
// fetch instead of EventSource, because that one gives up at an answer like 503 and hides why.
import { connectionLost, connectionFound, signedOut } from "./connection.js";

const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 8000;
// The server sends a line at least every 15 seconds; after this much silence the connection is dead.
const SILENCE_MAX_MS = 40000;
// Hidden pages give their connection back: browsers allow six for all tabs of one server.
const HIDDEN_MAX_MS = 30000;

export function follow(address, { after = null, onEvent, onOpen = () => {}, onFull = () => {} }) {
  const stream = new Stream(address, after, { onEvent, onOpen, onFull });
  stream.run();
  return stream;
}

class Stream {
  constructor(address, after, listeners) {
    Object.assign(this, listeners, { address, last: after, stopped: false, hidden: false, waitMs: WAIT_MIN_MS });
    this.wake = () => {};
    this.onVisibility = () => this.look();
    this.onOnline = () => this.wake();
    document.addEventListener("visibilitychange", this.onVisibility);
    window.addEventListener("online", this.onOnline);
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.hiding);
    document.removeEventListener("visibilitychange", this.onVisibility);
    window.removeEventListener("online", this.onOnline);
    connectionFound(this);
    this.abort?.abort();
    this.wake();
  }

  look() {
    clearTimeout(this.hiding);
    if (document.visibilityState === "hidden") {
      this.hiding = setTimeout(() => {
        this.hidden = true;
        this.abort?.abort();
      }, HIDDEN_MAX_MS);
    } else if (this.hidden) {
      this.hidden = false;
      this.wake();
    }
  }

  async run() {
    while (!this.stopped) {
      let how = "broken";
      try {
        how = await this.connect();
      } catch {
        // aborted, or the connection broke: the same
      }
      if (how === "over") this.stop();
      if (this.stopped) return;
      if (how === "broken" && !this.hidden) connectionLost(this);
      await this.pause();
    }
  }

  // Reads until the connection ends: broken, full (the server has no room for it now), or over (nothing more to come for).
  async connect() {
    this.abort = new AbortController();
    const headers = { Accept: "text/event-stream" };
    if (this.last !== null) headers["Last-Event-ID"] = this.last;
    const answer = await this.inTime(fetch(this.address, { headers, signal: this.abort.signal, cache: "no-store" }));
    const isOut = answer.status === 401 || answer.redirected;
    if (isOut) signedOut();
    if (isOut || answer.status === 403 || answer.status === 404) return "over";
    if (!answer.ok) {
      this.waitMs = Math.max(this.waitMs, 1000 * (Number(answer.headers.get("Retry-After")) || 0));
      if (answer.status !== 429 && answer.status !== 503) return "broken";
      connectionFound(this);
      this.onFull();
      return "full";
    }
    connectionFound(this);
    this.onOpen();
    this.waitMs = WAIT_MIN_MS;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await this.inTime(reader.read());
      if (done) return "broken";
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) if (this.take(frame) === false) return "over";
    }
  }

  inTime(promise) {
    const silence = setTimeout(() => this.abort.abort(), SILENCE_MAX_MS);
    return promise.finally(() => clearTimeout(silence));
  }

  take(frame) {
    const event = { kind: "message", data: null };
    for (const line of frame.split("\n")) {
      if (line.startsWith("id: ")) this.last = line.slice(4);
      else if (line.startsWith("event: ")) event.kind = line.slice(7);
      else if (line.startsWith("data: ")) event.data = JSON.parse(line.slice(6));
    }
    return event.data === null ? true : this.onEvent(event.kind, event.data);
  }

  async pause() {
    const waitMs = this.waitMs * (0.5 + Math.random() / 2);
    this.waitMs = Math.min(this.waitMs * 2, WAIT_MAX_MS);
    await new Promise((resolve) => {
      this.wake = resolve;
      if (!this.hidden) setTimeout(resolve, waitMs);
    });
  }
}
