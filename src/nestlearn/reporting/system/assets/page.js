// Puts the page together, follows the reader's colours and, where there is one, a run that goes on.

const DATA = JSON.parse(byId("data").textContent);

function headings() {
  const { system, run } = DATA;
  byId("title").textContent = (system || run).title || "(no title)";
  byId("kicker").textContent = system ? "Nested system" : "Training run";
  if (!system) { byId("lead").remove(); return; }
  const numbers = count(sum(system.components, "parameters"));
  const step = system.tokensPerStep ? `; a step of the optimizer is ${plural(system.tokensPerStep, "token")}` : "";
  byId("lead").textContent = `${plural(system.levels.length, "level")}, ${plural(system.components.length, "component")}, ${numbers} parameters, ${bytes(sum(system.components, "bytes"))}${step}.`;
}

const SCHEMES = [["", "as the system"], ["light", "light"], ["dark", "dark"]];

function colours() {
  let at = Math.max(0, SCHEMES.findIndex(([scheme]) => scheme === remembered("scheme")));
  const apply = () => {
    const [scheme, words] = SCHEMES[at];
    if (scheme) document.documentElement.dataset.theme = scheme; else delete document.documentElement.dataset.theme;
    byId("theme").textContent = `Colours: ${words}`;
  };
  byId("theme").addEventListener("click", () => { at = (at + 1) % 3; remember("scheme", SCHEMES[at][0]); apply(); });
  apply();
}

const EVERY = 2000, LONGEST = 60000;

/** Ask for the run every two seconds, and less often while nothing comes. */
function follow(address, timeline) {
  let wait = EVERY, before = "";
  const ask = async () => {
    try {
      const answer = await fetch(address, { cache: "no-store" });
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      const text = await answer.text();
      if (text !== before) timeline.take(JSON.parse(text));
      before = text;
      wait = EVERY;
      sign(timeline.run.finished ? "finished" : "live");
      if (timeline.run.finished) return;
    } catch {
      wait = Math.min(LONGEST, wait * 2);
      sign("stopped");
    }
    setTimeout(ask, wait);
  };
  ask();
}

function sign(state) {
  const element = byId("live");
  element.hidden = false;
  if (element.textContent !== state) element.textContent = state;
  element.dataset.state = state;
}

headings();
colours();
if (DATA.system) systemSection(DATA.system);
const NOTHING = { title: "", finished: false, end: 0, stages: [], levels: [], tasks: [], loss: [] };
if (DATA.run || DATA.live) {
  const timeline = new TimeLine(DATA.run || NOTHING);
  if (DATA.live) follow(DATA.live, timeline);
}
