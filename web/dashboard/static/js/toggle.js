// The button that switches between dark and light, remembered in this browser. Back at the system's, it is followed again.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    const isSystems = (next === "dark") === dark.matches;
    if (isSystems) delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (isSystems) localStorage.removeItem("taskflow-theme");
      else localStorage.setItem("taskflow-theme", next);
    } catch {
      // no storage: it holds for this page
    }
  });
}
