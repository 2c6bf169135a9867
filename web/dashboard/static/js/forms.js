// The form of a new task: its fields become the body of one request, and what is wrong is said beside its field.
import { post } from "./api.js";

const READ = {
  text: (value) => value.trim() || undefined,
  number: (value) => (value.trim() === "" ? undefined : Number(value)),
  shell: (value) => (value.trim() ? ["sh", "-c", value.replaceAll("\r\n", "\n").trim()] : undefined),
  pairs: (value) => {
    const lines = value.split("\n").filter((line) => line.trim());
    if (!lines.length) return undefined;
    const found = new Map();
    for (const line of lines) {
      const name = line.split("=", 1)[0].trim();
      // The line itself may be a secret: it is not said again.
      if (!name || !line.includes("=")) throw new Unreadable(`line ${lines.indexOf(line) + 1} is not written as name=value`);
      if (found.has(name)) throw new Unreadable(`${name} is there twice`);
      found.set(name, line.slice(line.indexOf("=") + 1));
    }
    return Object.fromEntries(found);
  },
};

class Unreadable extends Error {}

export function startForms() {
  for (const form of document.querySelectorAll("form[data-submit]")) {
    // One key for this form: to send it twice makes one task.
    const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    let sent = 0;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submit(form, event.submitter, `${key}-${sent}`).then((refused) => (sent += refused ? 1 : 0));
    });
  }
}

async function submit(form, button, key) {
  const buttons = [...form.querySelectorAll("button")];
  const { body, wrong } = read(form);
  if (Object.keys(wrong).length) {
    tell(form, wrong, "This can't be sent as it is");
    return false;
  }
  for (const one of buttons) one.disabled = true;
  tell(form, {});
  try {
    body.start = button?.value !== "false";
    const made = await post(form.dataset.submit, body, { "Idempotency-Key": key });
    location.assign(`/tasks/${encodeURIComponent(made.id)}`);
    return false;
  } catch (error) {
    tell(form, error.fields ?? {}, error.message);
    for (const one of buttons) one.disabled = false;
    // Where nobody knows what became of it, to send it again must not make a second task.
    return error.status !== 0 && error.status < 500;
  }
}

// The body of the request, and of each field that can't be read what is wrong with it.
function read(form) {
  const [body, wrong] = [{}, {}];
  for (const field of form.querySelectorAll("[data-kind]")) {
    try {
      if (field.validity.badInput) throw new Unreadable("must be a number");
      const value = field.dataset.kind === "flag" ? field.checked : READ[field.dataset.kind](field.value);
      if (value !== undefined) body[field.name] = value;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      wrong[field.name] = error.message;
    }
  }
  return { body, wrong };
}

function tell(form, fields, message = "") {
  const general = [];
  for (const place of form.querySelectorAll("[data-wrong]")) place.textContent = "";
  for (const field of form.querySelectorAll("[data-kind]")) field.removeAttribute("aria-invalid");
  for (const [name, says] of Object.entries(fields)) {
    const top = name.split(".")[0];
    const place = form.querySelector(`[data-wrong="${CSS.escape(top)}"]`);
    if (!place || !top) {
      general.push(`${name}: ${says}`);
      continue;
    }
    place.textContent = name === top ? says : `${name.slice(top.length + 1)}: ${says}`;
    const field = form.elements[top];
    field.setAttribute("aria-invalid", "true");
    field.closest("details")?.setAttribute("open", "");
  }
  if (message) form.querySelector('[data-wrong=""]').textContent = [message, ...general].join("; ");
  form.querySelector("[aria-invalid]")?.focus();
}
