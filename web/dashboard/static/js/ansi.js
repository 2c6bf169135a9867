// Reads what a terminal would: lines of pieces of text, each with classes for its colours. Text stays text.
const BASIC = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
const ESCAPE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])/y;
// An escape sequence that the end of the text cut off, up to a length that a real one does not pass.
const CUT = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;
const CUT_MAX = 4096;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;
const PLAIN = { fg: null, bg: null, flags: new Set() };
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "struck" };
const UNSET = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["struck"] };

export class Ansi {
  constructor() {
    this.rest = "";
    this.style = PLAIN;
    this.line = [];
    this.overwrites = false;
  }

  // The lines that `text` completes, each an array of {text, classes}.
  feed(text) {
    const done = [];
    text = this.rest + text;
    this.rest = "";
    const cut = CUT.exec(text);
    if (cut && text.length - cut.index <= CUT_MAX) {
      this.rest = text.slice(cut.index);
      text = text.slice(0, cut.index);
    }
    let at = 0;
    while (at < text.length) {
      const next = indexOfControl(text, at);
      if (next > at) this.write(text.slice(at, next));
      if (next >= text.length) break;
      at = this.control(text, next, done);
    }
    return done;
  }

  // What is left of the last line, not ended yet.
  get tail() {
    return this.line;
  }

  control(text, at, done) {
    if (text[at] === "\n") {
      done.push(this.line);
      this.line = [];
      this.overwrites = false;
      return at + 1;
    }
    if (text[at] === "\r") {
      this.overwrites = true;
      return at + 1;
    }
    ESCAPE.lastIndex = at;
    const found = ESCAPE.exec(text);
    if (!found) return at + 1;
    if (found[2] === "m") this.style = styled(this.style, found[1]);
    return ESCAPE.lastIndex;
  }

  write(text) {
    text = text.replace(CONTROLS, "");
    if (!text) return;
    if (this.overwrites) this.line = [];
    this.overwrites = false;
    const classes = classesOf(this.style);
    const last = this.line.at(-1);
    if (last && last.classes === classes) last.text += text;
    else this.line.push({ text, classes });
  }
}

function indexOfControl(text, from) {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 10 || code === 13 || code === 27) return at;
  }
  return text.length;
}

function classesOf({ fg, bg, flags }) {
  const names = [...flags].map((flag) => `a-${flag}`);
  if (fg) names.push(`fg-${fg}`);
  if (bg) names.push(`bg-${bg}`);
  return names.join(" ");
}

function styled(style, parameters) {
  const codes = parameters.split(/[;:]/).map((part) => (part === "" ? 0 : Number(part)));
  let { fg, bg } = style;
  const flags = new Set(style.flags);
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) {
      [fg, bg] = [null, null];
      flags.clear();
    } else if (FLAGS[code]) flags.add(FLAGS[code]);
    else if (UNSET[code]) for (const flag of UNSET[code]) flags.delete(flag);
    else if (code >= 30 && code <= 37) fg = BASIC[code - 30];
    else if (code >= 90 && code <= 97) fg = `bright-${BASIC[code - 90]}`;
    else if (code >= 40 && code <= 47) bg = BASIC[code - 40];
    else if (code >= 100 && code <= 107) bg = `bright-${BASIC[code - 100]}`;
    else if (code === 38) fg = extended(codes) ?? fg;
    else if (code === 48) bg = extended(codes) ?? bg;
    else if (code === 39) fg = null;
    else if (code === 49) bg = null;
  }
  return { fg, bg, flags };
}

// Of 256 or all colours the nearest of the sixteen: the theme decides how they look, so that all can be read.
function extended(codes) {
  const kind = codes.shift();
  if (kind === 5) return indexed(codes.shift());
  if (kind === 2) return nearest(codes.shift(), codes.shift(), codes.shift());
  return null;
}

function indexed(number) {
  if (!(number >= 0 && number <= 255)) return null;
  if (number < 8) return BASIC[number];
  if (number < 16) return `bright-${BASIC[number - 8]}`;
  if (number >= 232) return nearest(...Array(3).fill(8 + 10 * (number - 232)));
  const cube = number - 16;
  return nearest(...[Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((part) => part * 51));
}

function nearest(red, green, blue) {
  const most = Math.max(red, green, blue);
  if (!(most >= 0)) return null;
  if (most < 60) return "black";
  const bits = [red, green, blue].reduce((sum, part, bit) => sum + (part > most * 0.6 ? 1 << bit : 0), 0);
  if (bits === 7) return most > 200 ? "white" : "bright-black";
  return most > 200 ? `bright-${BASIC[bits]}` : BASIC[bits];
}
