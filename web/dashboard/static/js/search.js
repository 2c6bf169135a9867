// Finds a text in the lines of an output, marks the lines and the text in them, and walks from one to the next.
// So many places are marked; the lines all are.
const MARKED_MAX = 5000;

export class Search {
  constructor(section, lines, onWalk) {
    Object.assign(this, { lines, onWalk, found: [], at: -1, searched: null });
    this.input = section.querySelector("[data-log-search]");
    this.count = section.querySelector("[data-log-count]");
    this.input.addEventListener("input", () => this.anew());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.walk(event.shiftKey ? -1 : 1);
      }
    });
    section.querySelector("[data-log-next]").addEventListener("click", () => this.walk(1));
    section.querySelector("[data-log-previous]").addEventListener("click", () => this.walk(-1));
  }

  anew() {
    for (const line of this.found) line.classList.remove("hit", "at");
    this.at = -1;
    this.again();
    if (this.found.length) this.walk(1);
  }

  // After lines came or went.
  again() {
    const wanted = this.input.value.toLowerCase();
    if (!wanted && !this.found.length && !this.count.textContent) return;
    const present = this.found[this.at];
    this.found = wanted ? [...this.lines.children].filter((line) => line.textContent.toLowerCase().includes(wanted)) : [];
    for (const line of this.found) line.classList.add("hit");
    this.at = this.found.indexOf(present);
    this.mark(wanted);
    this.tell();
  }

  // Without a change to the lines: what is selected in them stays. Text whose colour changes within is not marked.
  mark(wanted) {
    if (!window.Highlight) return;
    const marks = new Highlight();
    CSS.highlights.set("found", marks);
    for (const line of this.found) {
      const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        const node = texts.currentNode;
        const text = node.data.toLowerCase();
        for (let from = text.indexOf(wanted); from >= 0; from = text.indexOf(wanted, from + wanted.length)) {
          if (marks.size >= MARKED_MAX) return;
          marks.add(new StaticRange({ startContainer: node, startOffset: from, endContainer: node, endOffset: from + wanted.length }));
        }
      }
    }
  }

  walk(step) {
    if (!this.found.length) return;
    this.found[this.at]?.classList.remove("at");
    this.at = this.at < 0 && step < 0 ? this.found.length - 1 : (this.at + step + this.found.length) % this.found.length;
    const line = this.found[this.at];
    line.classList.add("at");
    this.onWalk();
    this.lines.scrollTop += line.getBoundingClientRect().top - this.lines.getBoundingClientRect().top - this.lines.clientHeight / 3;
    this.tell();
  }

  tell() {
    const many = this.found.length;
    const text = !this.input.value ? "" : many ? `${this.at < 0 ? "" : `${this.at + 1} of `}${many} line${many === 1 ? "" : "s"}` : "not found";
    if (this.count.textContent !== text) this.count.textContent = text;
  }
}
