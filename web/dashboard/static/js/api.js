// Writes go to the API, with the token of this page.
export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `the server answered ${status}`);
    Object.assign(this, { status, fields: error.fields ?? {}, advice: error.advice });
  }
}

export async function post(address, body, headers = {}) {
  const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF-Token": token, ...headers },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, { message: "The server can't be reached. Nothing is known of what was asked; look before you ask again." });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found.error ?? {});
  return found;
}

export function toast(text, bad = false) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.classList.toggle("bad", bad);
  element.classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => element.classList.remove("shown"), bad ? 10000 : 4000);
}
