// One chart of the time line: lines over tokens, with values at the cursor in its legend.

/**
 * @typedef {{name: string, points: Points, look: string, dash: ?string}} Line
 * @typedef {{element: HTMLElement, at: function(number): void}} Strip
 */

const LOOKS = ["run-0", "run-1", "run-2", "run-3", "run-4", "run-5"];
const DASHES = [null, "7 3", "2 2.5", "9 3 2 3", "4 2", "12 4"];

/** @returns {Line[]} */
const lines = (entries) => entries.map(([name, points], i) => ({
  name, points, look: LOOKS[i % 6], dash: DASHES[Math.floor(i / 6) % 6],
}));

/**
 * @param {{title: string, note: string, lines: Line[], height: number}} chart
 * @param {Object} frame of the time line: width, left, x, run
 * @returns {Strip}
 */
function chartStrip(chart, frame) {
  const shown = chart.lines.filter((line) => line.points.some((point) => point[1] !== null));
  const values = shown.flatMap((line) => line.points.map((point) => point[1])).filter((value) => value !== null);
  const legend = shown.map((line) => {
    const value = h("output", {}, "–");
    const mark = s("svg", { width: 22, height: 8, viewBox: "0 0 22 8", "aria-hidden": "true" },
      s("path", { class: `plot ${line.look}`, d: "M1 4H21", "stroke-dasharray": line.dash }));
    const name = chart.lines.length > 1 ? [mark, h("span", { class: "series" }, line.name)] : [];
    return { line, value, item: h("li", {}, ...name, value) };
  });
  const head = h("div", { class: "strip-head" }, h("h3", {}, chart.title),
    h("span", { class: "note" }, chart.note), h("ul", { class: "legend" }, ...legend.map(({ item }) => item)));
  const element = h("div", { class: "strip" }, head, plot(chart, shown, values, frame));
  const at = (token) => legend.forEach(({ line, value }) => { value.textContent = figure(pointAt(line.points, token)?.[1]); });
  return { element, at };
}

function plot(chart, shown, values, frame) {
  const { width, left, x } = frame, height = chart.height;
  const [low, high] = range(values);
  const y = (value) => height - 8 - (height - 16) * (value - low) / (high - low);
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${chart.title}; values are in the tables` });
  svg.append(...stageBands(frame, height));
  for (const tick of roundTicks(low, high, height > 110 ? 4 : 2)) {
    svg.append(s("path", { class: "grid", d: `M${left} ${n(y(tick))}H${width}` }),
      s("text", { class: "tick", x: left - 8, y: n(y(tick) + 4), "text-anchor": "end" }, figure(Number(tick.toPrecision(6)))));
  }
  for (const line of shown) {
    if (line.points.length === 1) svg.append(s("circle", { class: `point ${line.look}`, cx: n(x(line.points[0][0])), cy: n(y(line.points[0][1])), r: 3 }));
    svg.append(s("path", { class: `plot ${line.look}`, d: linePath(line.points, x, y), "stroke-dasharray": line.dash }));
  }
  return svg;
}

function range(values) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** Every second stage has a ground of its own, in every strip. */
function stageBands({ run, x, left, width }, height) {
  return run.stages.filter((_, i) => i % 2 === 0).map((stage) => s("rect", {
    class: "stage", x: n(Math.max(left, x(stage.start))), y: 0, height,
    width: n(Math.max(0, Math.min(width, x(stage.end)) - Math.max(left, x(stage.start)))),
  }));
}
