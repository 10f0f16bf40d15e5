// The lower half of the page: updates, losses and diagnostics along the stream, with one cursor.

const MEASURES = {
  update_ratio: "length of an update over that of the weights", drift: "drift from the start of the stream",
  cancel: "share of the updates that cancels", agreement: "agreement with the context before",
  surprise: "surprise", rank: "effective rank of the key memories", fill: "fill of the key memories",
  dead: "share of dead units", idle: "periods since the last update",
};

class TimeLine {
  constructor(run) {
    this.element = byId("timeline");
    this.state = { token: null, level: null, width: 0 };
    this.element.addEventListener("pointermove", (event) => this.pointed(event));
    this.element.addEventListener("pointerdown", (event) => this.pointed(event));
    this.element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(this.element);
    byId("run").hidden = false;
    this.take(run);
  }

  /** Show a run, as it is by now; what the reader has chosen stays. */
  take(run) {
    const moved = this.run && this.state.token !== this.run.end;
    this.run = prepared(run);
    if (!moved) this.state.token = this.run.end;
    const known = Object.keys(this.run.diagnostics);
    if (!known.includes(this.state.level)) this.state.level = known[0] ?? null;
    byId("run-lead").textContent = this.lead();
    byId("run-tables").replaceChildren(...runTables(this.run));
    this.alarms();
    this.state.width = 0;
    this.fit();
  }

  lead() {
    const { run } = this;
    const parts = [plural(run.end, "token")];
    if (run.stages.length) parts.push(plural(run.stages.length, "stage"));
    if (run.levels.length) parts.push(plural(run.levels.reduce((total, level) => total + level.count, 0), "update"));
    if (run.surpriseCount) parts.push(plural(run.surpriseCount, "surprise"));
    return `${parts.join(", ")}; the run ${run.finished ? "is finished" : "goes on"}.`;
  }

  alarms() {
    const { alarms, alarmCount } = this.run;
    if (alarmCount === this.raised) return;
    this.raised = alarmCount;
    if (!alarms.length) { byId("alarms").replaceChildren(); return; }
    const items = alarms.map((alarm) => h("li", {}, h("button", { type: "button", class: "alarm", onclick: () => this.jump(alarm) },
      h("span", { class: "sentence" }, alarm.sentence), h("span", { class: "where" }, `at ${whole(alarm.tokens)} tokens`))));
    const more = alarmCount > alarms.length ? [h("p", {}, `The first ${whole(alarms.length)} of ${whole(alarmCount)} alarms.`)] : [];
    byId("alarms").replaceChildren(h("h3", {}, plural(alarmCount, "alarm")), h("ul", { class: "alarms" }, ...items), ...more);
  }

  jump(alarm) {
    if (Object.hasOwn(this.run.diagnostics, alarm.level)) this.choose(alarm.level);
    this.move(alarm.tokens);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.element.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
    this.slider.focus({ preventScroll: true });
  }

  choose(level) {
    this.state.level = level;
    this.draw();
  }

  fit() {
    const width = Math.floor(this.element.clientWidth);
    if (width && width !== this.state.width) { this.state.width = width; this.draw(); }
  }

  draw() {
    const focused = this.slider && document.activeElement === this.slider;
    const chosen = document.activeElement?.id === "level-choice";
    const width = this.state.width, left = width < 620 ? 48 : 168, { run } = this;
    const x = (token) => left + (width - left - 8) * token / Math.max(1, run.end);
    this.frame = { width, left, x, run };
    this.cursor = h("div", { class: "cursor", "aria-hidden": "true" });
    this.slider = h("div", { class: "slider", role: "slider", tabindex: 0, "aria-label": "Place in the stream, in tokens", "aria-valuemin": 0, "aria-valuemax": run.end });
    this.reading = h("output", { class: "reading" });
    this.strips = [updatesStrip(this.frame), ...this.taskStrips(), ...this.diagnosticStrips()];
    this.slider.append(h("span", { class: "hint" }, "Arrow keys or the pointer move the cursor"), this.reading);
    this.element.replaceChildren(this.slider, ...this.strips.map((strip) => strip.element), this.cursor);
    this.move(this.state.token);
    if (focused) this.slider.focus({ preventScroll: true });
    if (chosen) byId("level-choice")?.focus({ preventScroll: true });
  }

  taskStrips() {
    const groups = new Map();
    for (const task of this.run.tasks) {
      const key = `${task.measure} ${task.lower_is_better}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(task);
    }
    const charts = [...groups.values()].map((tasks) => ({
      title: tasks[0].measure, note: tasks[0].lower_is_better ? "lower is better" : "higher is better",
      lines: lines(tasks.map((task) => [task.name, task.points])), height: 190,
    }));
    if (this.run.loss.length) charts.push({ title: "training loss", note: "", lines: lines([["loss", this.run.loss]]), height: 110 });
    return charts.map((chart) => chartStrip(chart, this.frame));
  }

  diagnosticStrips() {
    const levels = Object.keys(this.run.diagnostics);
    if (!levels.length) return [];
    const select = h("select", { id: "level-choice", onchange: (event) => this.choose(event.target.value) },
      ...levels.map((level) => h("option", { value: level, selected: level === this.state.level }, level)));
    const head = { element: h("div", { class: "diagnosed" }, h("label", { for: "level-choice" }, "Diagnostics of level"), select), at() {} };
    const charts = Object.entries(this.run.diagnostics[this.state.level]).filter(([, points]) => points.length);
    return [head, ...charts.map(([measure, points]) => chartStrip(
      { title: known(MEASURES, measure, measure), note: "", lines: lines([[measure, points]]), height: 84 }, this.frame))];
  }

  pointed(event) {
    if (event.target.closest("select, button, .slider")) return;
    const at = event.clientX - this.element.getBoundingClientRect().left - this.frame.left;
    if (at < 0) return;
    this.move(Math.round(at / (this.frame.width - this.frame.left - 8) * this.run.end));
  }

  key(event) {
    if (event.target !== this.slider) return;
    const step = Math.max(1, Math.round(this.run.end / 200));
    const to = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -10 * step, PageUp: 10 * step,
      Home: -this.run.end, End: this.run.end }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.move(this.state.token + to);
  }

  /** Put the cursor at a token, and every value at that token beside its name. */
  move(token) {
    this.state.token = Math.min(Math.max(0, token), this.run.end);
    const stage = this.run.stages.find((one) => one.start <= this.state.token && this.state.token <= one.end);
    const words = `${whole(this.state.token)} tokens${stage ? `, ${stage.name}` : ""}`;
    this.reading.textContent = words;
    this.slider.setAttribute("aria-valuenow", String(this.state.token));
    this.slider.setAttribute("aria-valuetext", words);
    this.cursor.style.transform = `translateX(${this.frame.x(this.state.token)}px)`;
    for (const strip of this.strips) strip.at(this.state.token);
  }
}

/** Stages, updates of every level, surprises and alarms. */
function updatesStrip(frame) {
  const { run, width, left, x } = frame, narrow = left < 100;
  const row = narrow ? 46 : 36, top = 26, marks = run.surprises.length || run.alarms.length ? 24 : 0;
  const height = top + run.levels.length * row + marks + 24;
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Updates of every level; numbers are in the tables" });
  svg.append(...stageBands(frame, height - 20), ...stageNames(frame));
  const counters = run.levels.map((level, i) => {
    const y = top + i * row;
    const counter = s("text", { class: "tick", x: narrow ? width - 8 : left - 12, y: y + (narrow ? 14 : 25), "text-anchor": "end" });
    const name = shortened(level.name, narrow ? 28 : 20);
    svg.append(s("text", { class: "row-name", x: narrow ? left : left - 12, y: y + (narrow ? 14 : 11), "text-anchor": narrow ? "start" : "end" }, name), counter,
      s("path", { class: "base", d: `M${left} ${y + row - 6}H${width - 8}` }),
      s("path", { class: "ticks", d: ticks(level, x, y + (narrow ? 20 : 6), row - (narrow ? 26 : 12)) }));
    return { level, counter };
  });
  svg.append(...eventMarks(frame, top + run.levels.length * row + 12), ...axis(frame, height - 6));
  const at = (token) => counters.forEach(({ level, counter }) => {
    counter.textContent = `${whole(updatesAt(level, token).number)} of ${whole(level.count)}`;
  });
  return { element: h("div", { class: "strip" }, h("div", { class: "strip-head" }, h("h3", {}, "updates"), eventLegend(run)), svg), at };
}

function eventLegend(run) {
  const entry = (kind, path, number, words) => number
    ? [h("li", {}, s("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, s("path", { class: kind, d: path })), plural(number, words))] : [];
  return h("ul", { class: "legend" }, ...entry("surprise", DIAMOND, run.surpriseCount, "surprise"), ...entry("warning", WARNING, run.alarmCount, "alarm"));
}

const DIAMOND = "M0 -5.5L5.5 0L0 5.5L-5.5 0Z", WARNING = "M0 -6L6 5H-6Z";

function eventMarks({ run, x }, y) {
  const mark = (kind, path, at, words) => s("g", { transform: `translate(${n(x(at))} ${y})` }, s("title", {}, words), s("path", { class: kind, d: path }));
  return [...run.surprises.map((at) => mark("surprise", DIAMOND, at, `surprise at ${whole(at)} tokens`)),
    ...run.alarms.map((alarm) => mark("warning", WARNING, alarm.tokens, alarm.sentence))];
}

function stageNames({ run, x }) {
  return run.stages.flatMap((stage) => {
    const room = x(stage.end) - x(stage.start) - 10;
    const letters = Math.floor(room / 7.5);
    return letters < 3 ? [] : [s("text", { class: "stage-name", x: n(x(stage.start) + 6), y: 16 }, shortened(stage.name, letters))];
  });
}

function axis({ run, x, width, left }, y) {
  return roundTicks(0, run.end, width - left < 420 ? 2 : 5).map((tick) => {
    const px = x(tick), anchor = px > width - 30 ? "end" : tick === 0 ? "start" : "middle";
    return s("text", { class: "tick", x: n(px), y, "text-anchor": anchor }, tick ? count(tick) : "0 tokens");
  });
}
