// Buttons that do something: [data-post] is asked for, after a question where data-ask has one.
import { post, toast } from "./api.js";
import { onUpdate, refresh } from "./live.js";

// The addresses that are asked for now: a second press changes nothing, also when the page was drawn anew meanwhile.
const underWay = new Set();

export function startActions() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-post]");
    if (button && !underWay.has(button.dataset.post)) press(button);
  });
  document.getElementById("ask-no").addEventListener("click", () => document.getElementById("ask").close("no"));
  onUpdate(mark);
}

async function press(button) {
  // Read now: until the question is answered another button may have come to this place.
  const { post: address, then, ask: title, text } = button.dataset;
  const label = button.textContent;
  underWay.add(address);
  mark();
  let isLeft = false;
  try {
    const body = title ? await ask(title, text, button) : {};
    isLeft = body !== null && (await act(address, body, label, then));
  } finally {
    if (!isLeft) underWay.delete(address);
    mark();
  }
}

// Whether this page is left.
async function act(address, body, label, then) {
  try {
    const made = await post(address, body);
    if (then) {
      location.assign(then + encodeURIComponent(made.id));
      return true;
    }
    toast(`${label}: asked for`);
  } catch (error) {
    toast(error.advice ? `${error.message} (${error.advice})` : error.message, true);
  }
  await refresh();
  return false;
}

// Not disabled: the focus would be lost.
function mark() {
  for (const button of document.querySelectorAll("[data-post]")) {
    if (underWay.has(button.dataset.post)) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

// What was answered, as the body of the request; null: no. ``button`` says what is asked besides.
export function ask(title, text, button) {
  const asks = { reason: "reason" in button.dataset, force: "force" in button.dataset };
  const dialog = document.getElementById("ask");
  const [reason, force] = [dialog.querySelector("#ask-reason"), dialog.querySelector("#ask-force")];
  const yes = dialog.querySelector("#ask-yes");
  dialog.querySelector("#ask-title").textContent = title;
  dialog.querySelector("#ask-text").textContent = text ?? "";
  dialog.querySelector("[data-ask-reason]").hidden = !asks.reason;
  dialog.querySelector("[data-ask-force]").hidden = !asks.force;
  yes.textContent = `Yes, ${button.textContent.toLowerCase()}`;
  yes.classList.toggle("danger", button.classList.contains("danger"));
  [reason.value, force.checked, dialog.returnValue] = ["", false, ""];
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        // What was pressed may be gone by now, and with it the place by keyboard.
        if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
        if (dialog.returnValue !== "yes") return resolve(null);
        const body = {};
        if (asks.reason) body.reason = reason.value.trim() || null;
        if (asks.force) body.force = force.checked;
        resolve(body);
      },
      { once: true },
    );
    dialog.showModal();
  });
}
