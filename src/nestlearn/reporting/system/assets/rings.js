// The levels as nested rings: the fastest inside, each slower one around those it holds.

/**
 * @param {Object} system
 * @param {number} width of the drawing, in pixels
 * @returns {SVGElement}
 */
function drawRings(system, width) {
  const size = Math.max(240, Math.min(width, 760)), centre = width / 2;
  const first = size * (system.levels.length > 6 ? 0.06 : 0.09);
  const step = (size / 2 - 46 - first) / Math.max(1, system.levels.length - 1);
  const places = ringPlaces(system, centre, size / 2, first, step);
  const svg = s("svg", { width, height: size, viewBox: `0 0 ${n(width)} ${n(size)}` });
  const radius = (i) => system.levels.length === 1 ? size * 0.3 : first + i * step;
  system.levels.map((_, i) => i).reverse().forEach((i) => svg.append(
    s("circle", { class: `ring ${i % 2 ? "odd" : ""}`, cx: n(centre), cy: n(size / 2), r: n(radius(i) + Math.min(step, 60) / 2) }),
    s("circle", { class: "orbit", cx: n(centre), cy: n(size / 2), r: n(radius(i)) })));
  const edges = s("g", { class: "edges", "aria-hidden": "true" });
  for (const edge of system.edges) edges.append(ringEdge(edge, places, [centre, size / 2]));
  svg.append(edges);
  const taken = [...places.values()].map(({ x, y, r }) => [x - r, y - r, x + r, y + r]);
  system.levels.forEach((level, i) => svg.append(...ringLabel(level, i, centre, size / 2 - radius(i) - Math.min(step, 60) / 2, step, taken)));
  const nodes = system.levels.flatMap((level) => level.components.map(
    (name) => ringNode(system.byName.get(name), places.get(name), taken, width)));
  svg.append(...nodes);
  return svg;
}

/** Where each component is: spread evenly over its ring, rings turned against each other. */
function ringPlaces(system, cx, cy, first, step) {
  const largest = Math.max(1, ...system.components.map((one) => one.bytes));
  const places = new Map();
  system.levels.forEach((level, i) => level.components.forEach((name, k) => {
    const alone = system.components.length === 1 ? 0 : cy * 0.6;
    const radius = system.levels.length === 1 ? alone : first + i * step;
    const angle = 0.35 + i * 2.399963 + 2 * Math.PI * k / level.components.length;
    const share = Math.log1p(system.byName.get(name).bytes) / Math.log1p(largest);
    places.set(name, { x: cx + radius * Math.cos(angle), y: cy + radius * Math.sin(angle), r: 5 + 7 * share });
  }));
  return places;
}

/** Say how often a ring is updated, at its top, where there is room. */
function ringLabel(level, i, x, top, step, taken) {
  const words = step < 26 ? String(level.index) : shortened(level.frequency, 24);
  const y = top + 15, half = textWidth(words, 12) / 2 + 3, box = [x - half, y - 12, x + half, y + 4];
  if (step < 17 || taken.some((o) => box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3])) return [];
  taken.push(box);
  return [s("text", { class: `ring-label ${i % 2 ? "odd" : ""}`, x: n(x), y: n(y) }, words)];
}

function ringEdge(edge, places, [cx, cy]) {
  const [a, b] = [places.get(edge.source), places.get(edge.target)];
  if (a === b) {
    const path = `M${n(a.x - a.r)} ${n(a.y)}c-26 -30 26 -42 ${n(a.r)} ${n(-a.r - 8)}`;
    return drawEdge(edge, path, [a.x, a.y - a.r], 0);
  }
  const [dx, dy] = [b.x - a.x, b.y - a.y], length = Math.hypot(dx, dy) || 1;
  const bend = 0.16 * length;
  const control = [(a.x + b.x) / 2 - dy / length * bend + (cx - (a.x + b.x) / 2) * 0.12,
    (a.y + b.y) / 2 + dx / length * bend + (cy - (a.y + b.y) / 2) * 0.12];
  const out = [control[0] - b.x, control[1] - b.y], far = Math.hypot(...out) || 1;
  const end = [b.x + out[0] / far * (b.r + 1), b.y + out[1] / far * (b.r + 1)];
  const stop = [b.x + out[0] / far * (b.r + 8), b.y + out[1] / far * (b.r + 8)];
  const turn = Math.atan2(-out[1], -out[0]) * 180 / Math.PI - 90;
  return drawEdge(edge, `M${n(a.x)} ${n(a.y)}Q${n(control[0])} ${n(control[1])} ${n(stop[0])} ${n(stop[1])}`, end, turn);
}

/** A dot with its name where there is room; a name without room is shown when the dot is pointed at. */
function ringNode(component, place, taken, width) {
  const label = shortened(component.name || "(no name)", 24), long = textWidth(label, NAME, 600) + 4;
  const { x, y, r } = place;
  const tries = [[x + r + 5, y + 5, "start"], [x - r - 5, y + 5, "end"], [x, y + r + 17, "middle"], [x, y - r - 7, "middle"]];
  const box = ([lx, ly, anchor]) => {
    const left = anchor === "start" ? lx : anchor === "end" ? lx - long : lx - long / 2;
    return [left, ly - 13, left + long, ly + 4];
  };
  const inside = (b) => b[0] >= 0 && b[2] <= width;
  const free = (b) => inside(b) && !taken.some((o) => b[0] < o[2] && o[0] < b[2] && b[1] < o[3] && o[1] < b[3]);
  const best = tries.find((one) => free(box(one)));
  if (best) taken.push(box(best));
  const [lx, ly, anchor] = best || tries.find((one) => inside(box(one))) || tries[2];
  const group = nodeGroup(component, s("circle", { class: "hit", cx: n(x), cy: n(y), r: 14 }),
    s("circle", { class: "dot", cx: n(x), cy: n(y), r: n(r) }),
    s("text", { class: "name ring-name", x: n(lx), y: n(ly), "text-anchor": anchor }, label));
  if (!best) group.classList.add("crowded");
  return group;
}
