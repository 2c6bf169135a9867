// Forms whose fields become the body of one request; what is wrong is said beside its field.
import { post, toast } from "./api.js";
import { refresh } from "./live.js";

const READ = {
  text: (value) => value.trim() || undefined,
  string: (value) => (value === "" ? undefined : value),
  number: (value) => (value.trim() === "" ? undefined : exact(Number(value))),
  choice: (value) => (value === "" ? undefined : JSON.parse(value)),
  json: (value) => {
    if (!value.trim()) return undefined;
    let found;
    try {
      found = JSON.parse(value, (_name, part) => exact(part));
    } catch (error) {
      throw error instanceof Unreadable ? error : new Unreadable(`is no JSON: ${error.message}`);
    }
    if (typeof found !== "object" || found === null || Array.isArray(found)) {
      throw new Unreadable('must be an object, as in {"name": "value"}');
    }
    return found;
  },
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

const UNFIT = "This can't be sent as it is";

class Unreadable extends Error {}

// A whole number that a browser can't hold would be sent as another one.
function exact(part) {
  if (Number.isInteger(part) && !Number.isSafeInteger(part)) throw new Unreadable(`${part} is too large to be sent from here`);
  return part;
}

export function startForms() {
  for (const form of document.querySelectorAll("form[data-submit]")) {
    // One key for this form: to send it twice makes one thing.
    const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    let sent = 0;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const once = form.dataset.once ?? `${key}-${sent}`;
      submit(form, event.submitter, once).then((refused) => (sent += refused ? 1 : 0));
    });
  }
  document.addEventListener("click", (event) => {
    const [opener, closer] = [event.target.closest?.("[data-opens]"), event.target.closest?.("[data-closes]")];
    if (opener) open(opener);
    if (closer) closer.closest("dialog").close();
  });
}

// The dialog of a button, for what the button names now: what was typed for something else is not sent with it.
function open(button) {
  const { opens, named, to, once } = button.dataset;
  const dialog = document.getElementById(opens);
  const form = dialog.querySelector("form");
  if (form.dataset.submit !== to || form.dataset.once !== once) form.reset();
  Object.assign(form.dataset, { submit: to, once });
  dialog.querySelector("[data-named]").textContent = named;
  tell(form, {});
  dialog.showModal();
}

// Whether the page has moved on since the dialog was opened: its button is gone, or is for something else by now.
function isOver(form) {
  const dialog = form.closest("dialog");
  if (!dialog) return false;
  const { to, once } = document.querySelector(`[data-opens="${CSS.escape(dialog.id)}"]`)?.dataset ?? {};
  return form.dataset.submit !== to || form.dataset.once !== once;
}

async function submit(form, button, key) {
  const buttons = [...form.querySelectorAll("button")].filter((one) => !("closes" in one.dataset));
  if (isOver(form)) {
    tell(form, {}, "It does not wait for this any more: somebody else was first, or the wait is over");
    return false;
  }
  const { body, wrong, missing } = read(form);
  if (Object.keys(wrong).length) {
    tell(form, { ...wrong, ...missing }, UNFIT);
    return false;
  }
  for (const one of buttons) one.disabled = true;
  tell(form, {});
  try {
    if (button?.name) body[button.name] = button.value !== "false";
    const whole = form.dataset.whole;
    const made = await post(form.dataset.submit, whole ? (body[whole] ?? {}) : body, { "Idempotency-Key": key });
    if (form.dataset.then) location.assign(form.dataset.then + encodeURIComponent(made.id));
    else sent(form, buttons, made);
    return false;
  } catch (error) {
    tell(form, { ...error.fields, ...missing }, error.code === "invalid" ? UNFIT : error.message);
    for (const one of buttons) one.disabled = false;
    // Where nobody knows what became of it, to send it again must not make a second one.
    return error.status !== 0 && error.status < 500;
  }
}

// Of a form that one stays with: its dialog closes, and the page shows what became of it.
function sent(form, buttons, made) {
  for (const one of buttons) one.disabled = false;
  form.reset();
  form.closest("dialog").close();
  if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
  toast(made.recorded === false ? "It was sent before" : "Sent");
  refresh();
}

// The body of the request, of each field that can't be read what is wrong with it, and of each that is needed and empty that.
function read(form) {
  const [body, wrong, missing] = [{}, {}, {}];
  for (const field of form.querySelectorAll("[data-kind]")) {
    try {
      if (field.validity.badInput) throw new Unreadable("must be a number");
      const value = field.dataset.kind === "flag" ? field.checked : READ[field.dataset.kind](field.value);
      if (value !== undefined) put(body, field.name, value);
      else if (field.required) missing[field.name] = "is needed";
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      wrong[field.name] = error.message;
    }
  }
  return { body, wrong, missing };
}

// A name with a point in it is that of a part. No prototype: a part may be called as something of it.
function put(body, name, value) {
  const [top, part] = name.split(".");
  if (part === undefined) body[top] = value;
  else (body[top] ??= Object.create(null))[part] = value;
}

function tell(form, fields, message = "") {
  const general = [];
  for (const place of form.querySelectorAll("[data-wrong]")) place.textContent = "";
  for (const field of form.querySelectorAll("[data-kind]")) field.removeAttribute("aria-invalid");
  for (const [name, says] of Object.entries(fields)) {
    const place = placeOf(form, name);
    if (!place) {
      general.push(`${name.replaceAll("_", " ")}: ${says}`);
      continue;
    }
    const of = place.dataset.wrong;
    const text = name === of ? says : `${name.slice(of.length + 1)}: ${says}`;
    place.textContent = [place.textContent, text].filter(Boolean).join("; ");
    const field = form.elements[of];
    if (message === UNFIT) general.push(`${labelOf(field) ?? of}: ${text}`);
    field?.setAttribute("aria-invalid", "true");
    field?.closest("details")?.setAttribute("open", "");
  }
  if (message) form.querySelector('[data-wrong=""]').textContent = [message, general.join("; ")].filter(Boolean).join(". ");
  form.querySelector("[aria-invalid]")?.focus();
}

// What a field is called on the page, without its hint.
function labelOf(field) {
  return field?.labels?.[0]?.firstChild.textContent.trim();
}

// Where it is said: beside the field of this name, or of what it is a part of.
function placeOf(form, name) {
  for (const parts = name.split("."); parts.length; parts.pop()) {
    const found = parts.join(".") && form.querySelector(`[data-wrong="${CSS.escape(parts.join("."))}"]`);
    if (found) return found;
  }
  return null;
}
