// Numbers along the stream: what was known at a token.

/** @typedef {number[][]} Points pairs of tokens and value, in order */

/** @returns {?number[]} the last point at or before a token */
function pointAt(points, token) {
  let low = 0, high = points.length;
  while (low < high) {
    const between = (low + high) >> 1;
    if (points[between][0] <= token) low = between + 1; else high = between;
  }
  return low ? points[low - 1] : null;
}

/** Bring what a server sends to the form in which the page holds it. */
function prepared(run) {
  const levels = run.levels.map((level) => ({
    ...level,
    count: level.count ?? level.updates.length,
    spans: level.spans ?? level.updates.map((at) => [at, 0, 1]),
  }));
  const surprises = run.surprises || [];
  const alarms = run.alarms || [];
  return { ...run, levels, surprises, alarms, diagnostics: run.diagnostics || {},
    surpriseCount: run.surpriseCount ?? surprises.length, alarmCount: run.alarmCount ?? alarms.length };
}

/** @returns {{number: number, last: ?number}} updates up to a token, and the last of them */
function updatesAt(level, token) {
  let number = 0, last = null;
  for (const [start, distance, many] of level.spans) {
    if (start > token) break;
    const done = distance > 0 ? Math.min(many, Math.floor((token - start) / distance + 1e-6) + 1) : many;
    number += done;
    last = start + distance * (done - 1);
  }
  return { number, last };
}

/** @returns {string} a path with a tick for every pixel in which there was an update */
function ticks(level, place, top, height) {
  const columns = new Set();
  for (const [start, distance, many] of level.spans) {
    const [from, to] = [place(start), place(start + distance * (many - 1))];
    if (many > to - from + 1) { for (let x = Math.round(from); x <= to; x += 1) columns.add(x); columns.add(Math.round(to)); continue; }
    for (let i = 0; i < many; i += 1) columns.add(Math.round(place(start + distance * i)));
  }
  return [...columns].sort((a, b) => a - b).map((x) => `M${x} ${top}v${height}`).join("");
}

/** @returns {number[]} about four round values that cover a range */
function roundTicks(low, high, about) {
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= raw * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

/** @returns {string} a line through points, broken where a value is missing, at most four corners a pixel */
function linePath(points, x, y) {
  let path = "", pen = false, column = null, held = [];
  const flush = () => {
    if (!held.length) return;
    const ys = held.map(([, v]) => v);
    const keep = held.length <= 4 ? held : [held[0], held[ys.indexOf(Math.min(...ys))], held[ys.indexOf(Math.max(...ys))], held.at(-1)];
    for (const [px, py] of keep.map(([t, v]) => [x(t), y(v)])) { path += `${pen ? "L" : "M"}${n(px)} ${n(py)}`; pen = true; }
    held = [];
  };
  for (const [at, value] of points) {
    const here = Math.round(x(at));
    if (here !== column) { flush(); column = here; }
    if (value === null) { flush(); pen = false; } else held.push([at, value]);
  }
  flush();
  return path;
}
