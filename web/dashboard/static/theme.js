// Runs before anything is drawn, so that a chosen theme does not flash. Without a choice the system's counts.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("taskflow-theme");
  } catch {
    // no storage: the system's theme
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
