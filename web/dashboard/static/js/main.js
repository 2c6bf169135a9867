// What every page starts.
import { startActions } from "./actions.js";
import { startBulk } from "./bulk.js";
import { startForms } from "./forms.js";
import { startLive, onUpdate } from "./live.js";
import { startLogs } from "./log.js";
import { startTheme } from "./toggle.js";
import { startTimes, tellTimes } from "./times.js";

startTheme();
startTimes();
startActions();
startBulk();
startForms();
startLogs();
onUpdate(tellTimes);
onUpdate(startLogs);
startLive();
showCurrent();

// On a phone the navigation may be wider than the page. Not by scrollIntoView: Tab would then begin there.
function showCurrent() {
  const current = document.querySelector(".top [aria-current]");
  const nav = current?.closest("nav");
  if (nav) nav.scrollLeft = current.offsetLeft - nav.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2;
}
