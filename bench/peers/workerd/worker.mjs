// Durable Objects: one object per task, its alarm runs the steps; each step's state is on disk before the next one begins.
import { DurableObject } from "cloudflare:workers";

const STEPS = 7;
const looks = []; // of all objects; the clock of this runtime shows whole milliseconds

export class Task extends DurableObject {
  async start(job) {
    await this.ctx.storage.put("state", { job, left: STEPS });
    await this.ctx.storage.setAlarm(Date.now());
  }
  async alarmAt(job, at) {
    await this.ctx.storage.put("state", { job, left: 1 });
    await this.ctx.storage.setAlarm(at);
  }
  async park(job) {
    await this.ctx.storage.put("state", { job, left: 1 });
  }
  async signal() {
    const state = await this.ctx.storage.get("state");
    this.ctx.storage.put("state", { ...state, signalled: true });
    await this.ctx.storage.setAlarm(Date.now());
  }
  async alarm() {
    const state = await this.ctx.storage.get("state");
    while (state.left > 0) {
      looks.push([state.job, Date.now()]);
      state.left -= 1;
      await this.ctx.storage.put("state", state);
      await this.ctx.storage.sync();
    }
  }
}

export default {
  async fetch(request, env) {
    const object = (job) => env.TASK.get(env.TASK.idFromName(job));
    const { name, argument } = request.method === "POST" ? await request.json() : { name: "looks" };
    if (name === "start") await Promise.all(argument.map((job) => object(job).start(job)));
    if (name === "alarm") await Promise.all(Object.entries(argument).map(([job, at]) => object(job).alarmAt(job, Math.round(at * 1000))));
    if (name === "park") await Promise.all(argument.map((job) => object(job).park(job)));
    if (name === "signal") await object(argument).signal();
    return Response.json(name === "looks" ? looks.splice(0) : "done");
  },
};
