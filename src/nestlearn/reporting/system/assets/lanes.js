// The levels as lanes, the fastest on top.

/**
 * @param {Object} system
 * @param {number} width of the drawing, in pixels
 * @returns {SVGElement}
 */
function drawLanes(system, width) {
  const narrow = width < 620;
  const gutter = narrow ? 0 : 168;
  const most = width - gutter - 44;
  const levels = system.levels.map((level) => level.components.map((name) => laneBox(system.byName.get(name), most)));
  const layout = layOut(levels, system.edges, gutter + 18, width - 18, narrow ? 34 : 0);
  const svg = s("svg", { width, height: layout.height + 10, viewBox: `0 0 ${width} ${n(layout.height + 10)}` });
  layout.lanes.forEach((lane, i) => svg.append(laneBand(system.levels[i], lane, width, narrow)));
  const edges = s("g", { class: "edges", "aria-hidden": "true" });
  for (const route of layout.routes) edges.append(drawEdge(route.edge, curve(route), route.points.at(-1), route.arrives > 0 ? 0 : 180));
  svg.append(edges);
  layout.lanes.forEach((_, i) => svg.append(laneLabel(system.levels[i], layout.lanes[i], narrow)));
  for (const level of system.levels) {
    for (const name of level.components) svg.append(laneNode(system.byName.get(name), layout.boxes.get(name)));
  }
  return svg;
}

const NAME = 14, SMALL = 12;

function laneBox(component, most) {
  const fits = (text, size, weight) => {
    let length = Math.min(34, text.length), cut = shortened(text, length);
    while (length > 4 && textWidth(cut, size, weight) > most - 26) cut = shortened(text, (length -= 2));
    return cut;
  };
  const label = fits(component.name || "(no name)", NAME, 600);
  const about = fits([kindWords(component.kind), held(component)].filter(Boolean).join(" · "), SMALL, 400);
  const width = Math.max(textWidth(label, NAME, 600), textWidth(about, SMALL), 80) + 26;
  return { name: component.name, label, about, width: Math.ceil(width), x: 0, y: 0, row: 0 };
}

function laneBand(level, lane, width) {
  return s("rect", { class: "band", x: 0, y: n(lane.y), width, height: n(lane.height), rx: 12 });
}

function laneLabel(level, lane, narrow) {
  const words = shortened(level.frequency, narrow ? 34 : 22);
  if (narrow) {
    return s("text", { class: "lane-label", x: 14, y: n(lane.y + 24) },
      s("tspan", { class: "index" }, `level ${level.index}`), s("tspan", { dx: 8, class: "frequency" }, words));
  }
  const y = lane.y + lane.height / 2;
  return s("text", { class: "lane-label" },
    s("tspan", { class: "index", x: 18, y: n(y - 4) }, `level ${level.index}`),
    s("tspan", { class: "frequency", x: 18, y: n(y + 14) }, words));
}

function laneNode(component, box) {
  return nodeGroup(component,
    s("rect", { class: "box", x: n(box.x), y: n(box.y), width: n(box.width), height: BOX, rx: 9 }),
    s("text", { class: "name", x: n(middle(box)), y: n(box.y + 20) }, box.label),
    s("text", { class: "about", x: n(middle(box)), y: n(box.y + 36) }, box.about));
}

/** A component that can be pointed at and reached by keyboard, in either view. */
function nodeGroup(component, ...content) {
  const level = component.level;
  const label = `${component.name || "(no name)"}, ${kindWords(component.kind)}, level ${level.index}, ${level.frequency}`;
  const group = s("g", { class: "node", tabindex: 0, role: "button", "aria-label": label }, ...content);
  group.dataset.name = component.name;
  return group;
}

/** An edge with its arrowhead. */
function drawEdge(edge, path, [x, y], turn) {
  const look = DATA.edges.find((one) => one.kind === edge.kind);
  const group = s("g", { class: `edge ${edge.kind}` },
    s("path", { class: "line", d: path, "stroke-dasharray": look.dash || null }),
    s("path", { class: "head", d: look.head, transform: `translate(${n(x)} ${n(y)}) rotate(${n(turn)})` }));
  group.dataset.source = edge.source;
  group.dataset.target = edge.target;
  return group;
}
