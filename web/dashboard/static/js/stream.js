// Follows a stream of server-sent events and loses nothing: whatever breaks, it connects again and says what it saw last.
// fetch instead of EventSource, because that one gives up at an answer like 503 and hides why.
import { connectionLost, connectionFound, signedOut } from "./connection.js";

const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 8000;
// The server sends a line at least every 15 seconds; after this much silence the connection is dead.
const SILENCE_MAX_MS = 40000;
// Hidden pages give their connection back: browsers allow six for all tabs of one server.
const HIDDEN_MAX_MS = 30000;

export function follow(address, { after = null, onEvent, onOpen = () => {} }) {
  const stream = new Stream(address, after, onEvent, onOpen);
  stream.run();
  return stream;
}

class Stream {
  constructor(address, after, onEvent, onOpen) {
    Object.assign(this, { address, last: after, onEvent, onOpen, stopped: false, hidden: false, waitMs: WAIT_MIN_MS });
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
      try {
        if (!(await this.connect())) return this.stop();
      } catch {
        // aborted, or the connection broke: the same
      }
      if (this.stopped) return;
      if (!this.hidden) connectionLost(this);
      await this.pause();
    }
  }

  // Reads until the connection ends. False: there is nothing to come back for.
  async connect() {
    this.abort = new AbortController();
    const headers = { Accept: "text/event-stream" };
    if (this.last !== null) headers["Last-Event-ID"] = this.last;
    const answer = await fetch(this.address, { headers, signal: this.abort.signal, cache: "no-store" });
    if (answer.status === 401 || answer.redirected) return signedOut();
    if (answer.status === 403 || answer.status === 404) return false;
    if (!answer.ok) {
      this.waitMs = Math.max(this.waitMs, 1000 * (Number(answer.headers.get("Retry-After")) || 0));
      return true;
    }
    connectionFound(this);
    this.onOpen();
    this.waitMs = WAIT_MIN_MS;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const silence = setTimeout(() => this.abort.abort(), SILENCE_MAX_MS);
      const { value, done } = await reader.read().finally(() => clearTimeout(silence));
      if (done) return true;
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) if (this.take(frame) === false) return false;
    }
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
