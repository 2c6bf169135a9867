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
