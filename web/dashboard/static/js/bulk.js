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

export function startBulk() {
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-pick-all]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.matches("[data-pick], [data-pick-all]")) count();
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-bulk-do]");
    if (button && !button.disabled) act(button.dataset.bulkDo);
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
  const text = number ? `${number} chosen` : "none chosen";
  const said = bar.querySelector("[data-bulk-count]");
  if (said.textContent !== text) said.textContent = text;
  for (const button of bar.querySelectorAll("[data-bulk-do]")) {
    const fitting = chosen(button.dataset.bulkDo).length;
    const name = button.dataset.bulkDo === "cancel" ? "Cancel" : "Rerun";
    button.disabled = !fitting;
    button.textContent = fitting ? `${name} ${fitting}` : name;
  }
}

async function act(verb) {
  const ids = chosen(verb).map((box) => box.value);
  const many = ids.length === 1 ? "1 task" : `${ids.length} tasks`;
  const title = verb === "cancel" ? `Cancel ${many}?` : `Run ${many} again?`;
  const body = await ask(title, "", { dataset: verb === "cancel" ? { reason: "" } : {} });
  if (!body) return;
  const refused = [];
  const waiting = [...ids];
  const work = async () => {
    for (let id = waiting.shift(); id; id = waiting.shift()) {
      await post(`/api/tasks/${encodeURIComponent(id)}/${verb}`, body).catch((error) => refused.push(error));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  for (const box of boxes()) box.checked = false;
  const all = document.querySelector("[data-pick-all]");
  if (all) all.checked = false;
  if (refused.length) toast(`${ids.length - refused.length} of ${many}; refused: ${refused[0].message}`, true);
  else toast(`${verb === "cancel" ? "Cancel" : "Rerun"} asked for: ${many}`);
  count();
  refresh();
}
