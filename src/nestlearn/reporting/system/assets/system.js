// The upper half of the page: the drawing of the levels, and what the reader does with it.

/**
 * @param {Object} system
 */
function systemSection(system) {
  system.byName = new Map(system.components.map((one) => [one.name, one]));
  for (const level of system.levels) for (const name of level.components) system.byName.get(name).level = level;
  const state = { view: remembered("view") || "lanes", hidden: new Set(), open: null, shown: null, width: 0 };
  const view = new SystemView(system, state);
  byId("system").hidden = false;
  byId("remarks").replaceChildren(...remarks(system));
  byId("tables").replaceChildren(...systemTables(system));
  view.tools();
  new ResizeObserver(() => view.fit()).observe(byId("drawing"));
  view.fit();
  return view;
}

class SystemView {
  constructor(system, state) {
    this.system = system;
    this.state = state;
    this.stage = byId("drawing");
    this.panel = byId("details");
    this.listen();
    this.summary();
  }

  /** Buttons for the view and for every kind of edge that there is. */
  tools() {
    const views = [["lanes", "Lanes"], ["rings", "Rings"]].map(([view, label]) => {
      const button = h("button", { type: "button", "aria-pressed": String(view === this.state.view), onclick: () => this.look(view) }, label);
      button.dataset.view = view;
      return button;
    });
    byId("views").replaceChildren(...views);
    const chips = DATA.edges.map(({ kind, words }) => {
      const number = this.system.edges.filter((edge) => edge.kind === kind).length;
      if (!number) return null;
      const chip = h("button", { type: "button", class: "chip", "aria-pressed": "true", title: words }, swatch(kind), `${kind} `, h("span", { class: "number" }, String(number)));
      chip.addEventListener("click", () => this.toggle(kind, chip));
      return chip;
    });
    byId("kinds").replaceChildren(...chips.filter(Boolean));
  }

  look(view) {
    this.state.view = view;
    remember("view", view);
    for (const button of byId("views").children) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    this.draw();
  }

  toggle(kind, chip) {
    const hidden = this.state.hidden;
    if (!hidden.delete(kind)) hidden.add(kind);
    chip.setAttribute("aria-pressed", String(!hidden.has(kind)));
    this.mark();
  }

  /** Draw again where the width has changed. */
  fit() {
    const width = Math.floor(this.stage.clientWidth);
    if (width && width !== this.state.width) { this.state.width = width; this.draw(); }
  }

  draw() {
    const focused = document.activeElement?.closest?.(".node")?.dataset.name;
    const draw = this.state.view === "rings" ? drawRings : drawLanes;
    const svg = draw(this.system, this.state.width);
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-label", `Levels of ${this.system.title}`);
    svg.setAttribute("aria-describedby", "keys");
    this.stage.replaceChildren(svg);
    this.stage.classList.toggle("many", this.system.edges.length > 40);
    this.nodes = new Map([...svg.querySelectorAll(".node")].map((node) => [node.dataset.name, node]));
    this.mark();
    if (focused !== undefined) this.nodes.get(focused).focus({ preventScroll: true });
  }

  listen() {
    const named = (event) => event.target.closest?.(".node")?.dataset.name;
    this.stage.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") this.show(named(event) ?? null); });
    this.stage.addEventListener("pointerleave", () => this.show(null));
    this.stage.addEventListener("focusin", (event) => this.show(named(event) ?? null));
    this.stage.addEventListener("focusout", () => this.show(null));
    this.stage.addEventListener("click", (event) => { const name = named(event); if (name !== undefined) this.open(name, false); });
    this.stage.addEventListener("keydown", (event) => this.key(event, named(event)));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && this.state.open !== null) this.close(); });
  }

  key(event, name) {
    if (name === undefined) return;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.open(name, true); }
    if (!moves[event.key]) return;
    event.preventDefault();
    const [up, along] = moves[event.key];
    const levels = this.system.levels.filter((level) => level.components.length);
    const at = levels.findIndex((level) => level.components.includes(name));
    const level = levels[Math.min(Math.max(at + up, 0), levels.length - 1)].components;
    const place = levels[at].components.indexOf(name) + along;
    const to = up ? Math.min(place, level.length - 1) : (place + level.length) % level.length;
    this.nodes.get(level[to]).focus();
  }

  /** Show a component for as long as it is pointed at; null for none. */
  show(name) {
    if (name === this.state.shown) return;
    this.state.shown = name;
    this.mark();
    if (this.state.open === null) this.summary();
  }

  /** Keep a component shown, whatever is pointed at, until it is closed. */
  open(name, focus) {
    this.state.open = name;
    this.panel.classList.add("open");
    this.summary();
    this.mark();
    if (focus) this.panel.focus();
  }

  close() {
    const name = this.state.open;
    this.state.open = null;
    this.panel.classList.remove("open");
    const inside = this.panel.contains(document.activeElement);
    if (inside) this.nodes.get(name).focus();
    this.mark();
    this.summary();
  }

  /** Fill the panel. */
  summary() {
    const name = this.state.open ?? this.state.shown;
    if (name === null) { showSummary(this.panel, this.system); return; }
    showDetails(this.panel, this.system, this.system.byName.get(name), {
      open: this.state.open !== null, go: (other) => this.open(other, true), close: () => this.close(),
    });
  }

  /** Bring out what belongs to the component that is shown. */
  mark() {
    const name = this.state.shown ?? this.state.open;
    const near = new Set([name]);
    for (const edge of this.stage.querySelectorAll(".edge")) {
      const { source, target } = edge.dataset;
      const own = source === name || target === name;
      if (own) { near.add(source); near.add(target); }
      edge.classList.toggle("own", own);
      edge.classList.toggle("hidden", this.state.hidden.has(edge.classList[1]));
    }
    for (const [other, node] of this.nodes || []) {
      node.classList.toggle("near", near.has(other));
      node.classList.toggle("at", other === name);
      node.setAttribute("aria-expanded", String(other === this.state.open));
    }
    this.stage.classList.toggle("picked", name !== null);
  }
}
