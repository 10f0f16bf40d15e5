// The panel with the figures of one component.

/** Say what one can do, and what the system is in numbers. */
function showSummary(panel, system) {
  const largest = [...system.components].sort((a, b) => b.bytes - a.bytes)[0];
  panel.replaceChildren(
    h("p", { class: "panel-hint" }, "Point at a component, or reach it with Tab, to see its figures."),
    facts([
      ["levels", whole(system.levels.length)],
      ["components", whole(system.components.length)],
      ["parameters", count(sum(system.components, "parameters"))],
      ["memory", bytes(sum(system.components, "bytes"))],
      ["largest", largest.bytes ? `${shortened(largest.name, 28)}, ${bytes(largest.bytes)}` : "–"],
    ]));
}

const sum = (entries, key) => entries.reduce((total, entry) => total + entry[key], 0);

/**
 * Show the figures of a component.
 * @param {HTMLElement} panel
 * @param {Object} system
 * @param {Object} component
 * @param {{open: boolean, go: function(string): void, close: function(): void}} how
 */
function showDetails(panel, system, component, how) {
  const share = component.bytes / Math.max(1, sum(system.components, "bytes"));
  const close = h("button", { type: "button", class: "quiet close", onclick: how.close }, "Close");
  panel.replaceChildren(
    ...(how.open ? [close] : []),
    h("h3", {}, component.name || "(no name)"),
    h("p", { class: "sub" }, `${kindWords(component.kind)}, level ${component.level.index}`),
    facts([
      ["updated", component.level.frequency],
      ["objective", component.objective],
      ["context", component.context],
      ["parameters", component.parameters ? whole(component.parameters) : "none"],
      ["memory", component.bytes ? `${bytes(component.bytes)}, ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} % of all` : "grows, or none"],
    ]),
    ...edgeList("Gives to", system.edges.filter((edge) => edge.source === component.name), "target", how),
    ...edgeList("Takes from", system.edges.filter((edge) => edge.target === component.name), "source", how),
    ...nameList("In", component.where, component.whereCount),
    ...nameList("Holds", component.tensors, component.tensorCount));
}

function facts(pairs) {
  return h("dl", {}, ...pairs.filter(([, value]) => value).flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
}

function edgeList(title, edges, end, how) {
  if (!edges.length) return [];
  const items = edges.map((edge) => h("li", {},
    swatch(edge.kind),
    h("span", {},
      how.open
        ? h("button", { type: "button", class: "link", onclick: () => how.go(edge[end]) }, edge[end] || "(no name)")
        : h("b", {}, edge[end] || "(no name)"),
      h("span", { class: "what" }, ` ${edge.kind}: ${edge.what}`))));
  return [h("h4", {}, title), h("ul", { class: "edge-list" }, ...items)];
}

function nameList(title, names, total) {
  if (!names.length) return [];
  const more = total > names.length ? [h("li", {}, `and ${whole(total - names.length)} more`)] : [];
  const list = h("ul", { class: "names" }, ...names.map((name) => h("li", {}, name)), ...more);
  if (names.length < 5) return [h("h4", {}, title), list];
  return [h("details", {}, h("summary", {}, `${title} (${whole(total)})`), list)];
}

/** A short line in the look of a kind of edge. */
function swatch(kind) {
  const look = DATA.edges.find((one) => one.kind === kind);
  return s("svg", { class: `swatch edge ${kind}`, width: 40, height: 14, viewBox: "0 0 40 14", "aria-hidden": "true" },
    s("path", { class: "line", d: "M1 7H31", "stroke-dasharray": look.dash || null }),
    s("path", { class: "head", d: look.head, transform: "translate(39 7) rotate(-90)" }));
}
