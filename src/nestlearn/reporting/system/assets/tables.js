// The same as text: tables, what could not be placed, notes.

function systemTables(system) {
  const rows = system.levels.flatMap((level) => level.components.map((name) => {
    const one = system.byName.get(name);
    return [name || "(no name)", String(level.index), level.frequency, kindWords(one.kind), one.parameters ? whole(one.parameters) : "–",
      one.bytes ? bytes(one.bytes) : "–", one.objective, one.context];
  }));
  const edges = system.edges.map((edge) => [edge.source || "(no name)", edge.target || "(no name)", edge.kind, edge.what]);
  return [
    table("Components, from the fastest level", ["component", "level", "updated", "kind", "parameters", "memory", "objective", "context"], rows),
    ...(edges.length ? [table("What goes from one component to another", ["from", "to", "kind", "what"], edges)] : []),
  ];
}

function remarks(system) {
  const list = (title, sentences) => sentences.length
    ? [h("h3", {}, title), h("ul", { class: "remarks" }, ...sentences.map((text) => h("li", {}, text)))] : [];
  return [
    ...list("Not placed", system.unplaced.map(({ name, why }) => `${name}: ${why}`)),
    ...list("Notes", system.notes),
  ];
}

function runTables(run) {
  const last = (points) => { const known = points.filter((point) => point[1] !== null); return known.length ? known.at(-1) : null; };
  const least = (task) => {
    const values = task.points.map((point) => point[1]).filter((value) => value !== null);
    return values.length ? (task.lower_is_better ? Math.min : Math.max)(...values) : null;
  };
  const tasks = run.tasks.map((task) => [task.name, task.measure, figure(least(task)), figure(last(task.points)?.[1]), whole(last(task.points)?.[0] ?? 0)]);
  const levels = run.levels.map((level) => [level.name, level.period ? `${whole(level.period)} tokens` : "–", whole(level.count)]);
  const stages = run.stages.map((stage) => [stage.name, whole(stage.start), whole(stage.end)]);
  const measures = Object.entries(run.diagnostics).flatMap(([level, series]) => Object.entries(series).map(
    ([measure, points]) => [level, known(MEASURES, measure, measure), figure(last(points)?.[1])]));
  return [
    ...(levels.length ? [table("Updates of each level", ["level", "period", "updates"], levels)] : []),
    ...(tasks.length ? [table("Tasks", ["task", "measure", "best", "last", "at token"], tasks)] : []),
    ...(measures.length ? [table("Diagnostics at the end", ["level", "measure", "value"], measures)] : []),
    ...(stages.length ? [table("Stages of the stream", ["stage", "from token", "to token"], stages)] : []),
  ];
}
