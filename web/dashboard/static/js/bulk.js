// Cancel or rerun what is chosen in the list.
import { post, toast } from "./api.js";
import { ask } from "./actions.js";
import { onUpdate, refresh } from "./live.js";

const ENDED = ["completed", "failed", "cancelled"];
const FITS = {
  cancel: (status) => !ENDED.includes(status),
  rerun: (status) => status === "failed" || status === "cancelled",
};
const AT_ONCE = 4;
let busy = false;

export function startBulk() {
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-pick-all]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.matches("[data-pick], [data-pick-all]")) count();
    // By keyboard each arrow is a change: there it is sent with the button.
    const isByPointer = !event.target.matches(":focus-visible");
    if (event.target.matches("[data-submit-on-change]") && isByPointer) event.target.form.requestSubmit();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-bulk-do]");
    if (button && !button.disabled && !busy) act(button);
  });
  onUpdate(count);
  count();
}

function boxes() {
  return [...document.querySelectorAll("[data-pick]")];
}

function chosen(verb) {
  return boxes().filter((box) => box.checked && FITS[verb](box.dataset.pick));
}

function count() {
  const bar = document.querySelector("[data-bulk]");
  if (!bar) return;
  const number = boxes().filter((box) => box.checked).length;
  const all = document.querySelector("[data-pick-all]");
  if (all) {
    all.checked = number > 0 && number === boxes().length;
    all.indeterminate = number > 0 && !all.checked;
  }
  const text = number ? `${number} chosen` : "none chosen";
  const said = bar.querySelector("[data-bulk-count]");
  if (said.textContent !== text) said.textContent = text;
  for (const button of bar.querySelectorAll("[data-bulk-do]")) {
    const fitting = chosen(button.dataset.bulkDo).length;
    const name = button.dataset.bulkDo === "cancel" ? "Cancel" : "Rerun";
    button.disabled = busy || !fitting;
    button.textContent = fitting ? `${name} ${fitting}` : name;
  }
}

async function act(button) {
  const verb = button.dataset.bulkDo;
  const ids = chosen(verb).map((box) => box.value);
  const many = ids.length === 1 ? "1 task" : `${ids.length} tasks`;
  const title = verb === "cancel" ? `Cancel ${many}?` : `Run ${many} again?`;
  busy = true;
  try {
    const body = await ask(title, "", button);
    if (!body) return;
    const refused = await askFor(ids, verb, body);
    tell(verb, many, ids.length - refused.size, refused);
    refresh();
  } finally {
    busy = false;
    count();
  }
}

// Of those that were refused: id -> why.
async function askFor(ids, verb, body) {
  count();
  const refused = new Map();
  const waiting = [...ids];
  const work = async () => {
    for (let id = waiting.shift(); id; id = waiting.shift()) {
      await post(`/api/tasks/${encodeURIComponent(id)}/${verb}`, body).catch((error) => refused.set(id, error.message));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return refused;
}

// What was refused stays chosen.
function tell(verb, many, done, refused) {
  for (const box of boxes()) box.checked = refused.has(box.value);
  const name = verb === "cancel" ? "Cancel" : "Rerun";
  if (!refused.size) return toast(`${name} asked for: ${many}`);
  const reasons = [...new Set(refused.values())];
  toast(`${name} asked for: ${done} of ${many}. ${refused.size} refused: ${reasons.slice(0, 3).join("; ")}`, true);
}
