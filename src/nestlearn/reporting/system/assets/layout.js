// Where boxes and edges go in lanes: rows of boxes, edges through the gaps between them. As layout.py.

const BOX = 46, GAP = 26, BETWEEN_ROWS = 40, PAD = 18, BETWEEN_LANES = 12, CLEAR = 6, APART = 5;

/**
 * @typedef {{name: string, width: number, x: number, y: number, row: number}} Box
 * @typedef {{edge: Object, points: number[][], arrives: number}} Route
 */

/**
 * Place the boxes of every level and lead the edges between them.
 * @param {Box[][]} levels
 * @param {Object[]} edges
 * @param {number} left @param {number} right @param {number} head room for a label on top of each lane
 */
function layOut(levels, edges, left, right, head) {
  const lanes = [], rows = [];
  let top = 0;
  for (const level of levels) {
    const own = breakRows(level, right - left);
    own.forEach((boxes, i) => {
      stand(boxes, left, right, top + head + PAD + i * (BOX + BETWEEN_ROWS), rows.length);
      rows.push(boxes);
    });
    const height = head + 2 * PAD + own.length * BOX + (own.length - 1) * BETWEEN_ROWS;
    lanes.push({ y: top, height });
    top += height + BETWEEN_LANES;
  }
  const boxes = new Map(rows.flat().map((box) => [box.name, box]));
  return { lanes, boxes, routes: lead(edges, boxes, rows, left, right), height: top - BETWEEN_LANES };
}

function breakRows(boxes, width) {
  const total = boxes.reduce((sum, box) => sum + box.width + GAP, GAP);
  const fair = total / Math.max(1, Math.ceil(total / width));
  const rows = [[]];
  let used = GAP;
  for (const box of boxes) {
    const full = used + box.width + GAP > width;
    if (rows.at(-1).length && (full || used + box.width / 2 > fair)) { rows.push([]); used = GAP; }
    rows.at(-1).push(box);
    used += box.width + GAP;
  }
  return rows;
}

function stand(boxes, left, right, y, row) {
  const length = boxes.reduce((sum, box) => sum + box.width, GAP * (boxes.length - 1));
  let x = Math.max(left, left + (right - left - length) / 2);
  for (const box of boxes) {
    Object.assign(box, { x, y, row });
    x += box.width + GAP;
  }
}

const middle = (box) => box.x + box.width / 2;

/** @returns {Route[]} */
function lead(edges, boxes, rows, left, right) {
  const ends = edges.map((edge) => [boxes.get(edge.source), boxes.get(edge.target)]);
  const passing = pass(ends, rows, left, right);
  const ports = spreadPorts(ends, passing);
  return edges.map((edge, i) => {
    const [source, target] = ends[i];
    const down = source.row <= target.row;
    const points = [[ports[i].source, source.y + (down ? BOX : 0)]];
    for (const [row, x] of passing[i]) {
      const y = rows[row][0].y;
      points.push(...(down ? [[x, y], [x, y + BOX]] : [[x, y + BOX], [x, y]]));
    }
    points.push([ports[i].target, target.y + (source.row >= target.row ? BOX : 0)]);
    return { edge, points, arrives: source.row < target.row ? 1 : -1 };
  });
}

/** For every edge, the rows that it passes and the x at which it does. */
function pass(ends, rows, left, right) {
  const wanted = new Map();
  ends.forEach(([source, target], i) => {
    const step = target.row > source.row ? 1 : -1;
    let x = middle(source);
    for (let row = source.row + step; source.row !== target.row && row !== target.row; row += step) {
      if (!rows[row].length) continue;
      x += (middle(target) - x) / (Math.abs(target.row - row) + 1);
      const gaps = gapsOf(rows[row], left, right);
      const far = gaps.map(([low, high]) => Math.max(low - x, x - high, 0));
      const least = Math.min(...far) + 1;
      const best = step > 0 ? far.findIndex((one) => one <= least) : far.findLastIndex((one) => one <= least);
      x = Math.min(Math.max(x, gaps[best][0]), gaps[best][1]);
      const key = `${row},${best}`;
      if (!wanted.has(key)) wanted.set(key, { row, gap: gaps[best], entries: [] });
      wanted.get(key).entries.push({ x, i });
    }
  });
  const found = ends.map(() => []);
  for (const { row, gap, entries } of wanted.values()) {
    entries.sort((a, b) => a.x - b.x || a.i - b.i);
    spread(entries.map((entry) => entry.x), gap).forEach((x, n) => found[entries[n].i].push([row, x]));
  }
  found.forEach((passed, i) => passed.sort((a, b) => (ends[i][0].row < ends[i][1].row ? a[0] - b[0] : b[0] - a[0])));
  return found;
}

function gapsOf(row, left, right) {
  const gaps = [[left - 12, row[0].x]];
  for (let i = 1; i < row.length; i += 1) gaps.push([row[i - 1].x + row[i - 1].width, row[i].x]);
  gaps.push([row.at(-1).x + row.at(-1).width, right + 12]);
  return gaps.map(([low, high]) => {
    const clear = Math.min(CLEAR, (high - low) / 2);
    return [low + clear, high - clear];
  });
}

/** Keep ascending values apart, as near to what they were as the room allows. */
function spread(wanted, [low, high]) {
  const apart = Math.min(APART, (high - low) / Math.max(1, wanted.length - 1));
  const placed = [];
  wanted.forEach((x, i) => {
    const least = i ? placed[i - 1] + apart : low;
    placed.push(Math.min(Math.max(x, least), high - apart * (wanted.length - 1 - i)));
  });
  return placed;
}

function spreadPorts(ends, passing) {
  const sides = new Map();
  const put = (box, bottom, entry) => {
    const key = `${bottom ? "b" : "t"}${box.name}`;
    if (!sides.has(key)) sides.set(key, { box, entries: [] });
    sides.get(key).entries.push(entry);
  };
  ends.forEach(([source, target], i) => {
    const passed = passing[i];
    put(source, source.row <= target.row, { x: passed.length ? passed[0][1] : middle(target), i, end: "source" });
    put(target, source.row >= target.row, { x: passed.length ? passed.at(-1)[1] : middle(source), i, end: "target" });
  });
  const ports = ends.map(() => ({}));
  for (const { box, entries } of sides.values()) {
    entries.sort((a, b) => a.x - b.x || a.i - b.i);
    entries.forEach(({ i, end }, n) => { ports[i][end] = box.x + box.width * (n + 1) / (entries.length + 1); });
  }
  return ports;
}

/** @param {Route} route @returns {string} a path that is vertical at every point */
function curve({ points, arrives }) {
  const line = points.map((point) => [...point]);
  line.at(-1)[1] -= 7 * arrives;
  const one = line.length === 2 && Math.abs(points[0][1] - points[1][1]) < 1;
  let path = `M${n(line[0][0])} ${n(line[0][1])}`;
  for (let i = 1; i < line.length; i += 1) {
    const [[x0, y0], [x1, y1]] = [line[i - 1], line[i]];
    const between = one ? Math.max(y0, y1) + 26 : (y0 + y1) / 2;
    path += `C${n(x0)} ${n(between)} ${n(x1)} ${n(between)} ${n(x1)} ${n(y1)}`;
  }
  return path;
}

const n = (value) => String(Math.round(value * 10) / 10);
