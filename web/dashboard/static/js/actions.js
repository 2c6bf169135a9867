// Buttons that do something: [data-post] is asked for, after a question where data-ask has one.
import { post, toast } from "./api.js";
import { refresh } from "./live.js";

export function startActions() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-post]");
    if (!button || button.disabled) return;
    const { ask: title, text } = button.dataset;
    const answer = title ? await ask(title, text, button) : {};
    if (answer) await act(button, answer);
  });
}

async function act(button, body) {
  button.disabled = true;
  try {
    const made = await post(button.dataset.post, body);
    if (button.dataset.then) return location.assign(button.dataset.then + encodeURIComponent(made.id));
    toast(`${button.textContent}: asked for`);
  } catch (error) {
    toast(error.advice ? `${error.message} (${error.advice})` : error.message, true);
  } finally {
    button.disabled = false;
    refresh();
  }
}

// What was answered, as the body of the request; null: no.
export function ask(title, text, { dataset } = { dataset: {} }) {
  const dialog = document.getElementById("ask");
  const [reason, force] = [dialog.querySelector("#ask-reason"), dialog.querySelector("#ask-force")];
  dialog.querySelector("#ask-title").textContent = title;
  dialog.querySelector("#ask-text").textContent = text ?? "";
  dialog.querySelector("[data-ask-reason]").hidden = !("reason" in dataset);
  dialog.querySelector("[data-ask-force]").hidden = !("force" in dataset);
  [reason.value, force.checked, dialog.returnValue] = ["", false, ""];
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        if (dialog.returnValue !== "yes") return resolve(null);
        const body = {};
        if ("reason" in dataset) body.reason = reason.value.trim() || null;
        if ("force" in dataset) body.force = force.checked;
        resolve(body);
      },
      { once: true },
    );
    dialog.showModal();
  });
}
