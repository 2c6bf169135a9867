// The button that switches between dark and light, remembered in this browser.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("taskflow-theme", root.dataset.theme);
    } catch {
      // no storage: it holds for this page
    }
  });
}
