// What every other part uses: elements, numbers, the reader's choices.

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id @returns {HTMLElement} */
const byId = (id) => document.getElementById(id);

/**
 * Make an HTML element. Text is always text.
 * @param {string} tag
 * @param {Object<string, any>} attributes
 * @param {...(Node|string)} content
 * @returns {HTMLElement}
 */
function h(tag, attributes = {}, ...content) {
  return filled(document.createElement(tag), attributes, content);
}

/** Make an SVG element; as `h`. */
function s(tag, attributes = {}, ...content) {
  return filled(document.createElementNS(SVG, tag), attributes, content);
}

function filled(element, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...content);
  return element;
}

/** @param {number} value @returns {string} a count in at most four digits: "12.3 k" */
function count(value) {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * size) return `${short3(value / size)} ${unit}`;
  }
  return String(Math.round(value));
}

const short3 = (value) => String(Number(value.toPrecision(3)));

/** @param {number} value @returns {string} "49.4 kB" */
function bytes(value) {
  const amount = count(value);
  return /[a-z]$/i.test(amount) ? `${amount}B` : `${amount} B`;
}

/** @param {number} value @returns {string} "1,234" */
const whole = (value) => Math.round(value).toLocaleString("en-US");

/** @param {?number} value @returns {string} four digits, a true minus, or a dash where there is none */
function figure(value) {
  if (value === null || value === undefined) return "–";
  const small = value !== 0 && Math.abs(value) < 1e-3;
  const text = small ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace(/-/g, "−");
}

/** @param {number} number @param {string} noun @returns {string} */
const plural = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;

const KIND_WORDS = {
  optimizer_state: "optimizer state", fast_weights: "fast weights",
  recurrent_state: "recurrent state", key_memory: "key memory",
};
/** What a table says of a key, if it has it; names such as "constructor" are no keys. */
const known = (words, key, otherwise) => Object.hasOwn(words, key) ? words[key] : otherwise;

/** @returns {string} the kind of a component as a reader says it */
const kindWords = (kind) => known(KIND_WORDS, kind, kind.replace(/_/g, " "));

/** What a component holds, in few words. */
function held(component) {
  const amounts = component.parameters ? [count(component.parameters)] : [];
  return (component.bytes ? [...amounts, bytes(component.bytes)] : amounts).join(", ");
}

/** Cut one line in the middle, where names differ least. */
function shortened(text, length) {
  const letters = Array.from(text.replace(/\s+/g, " ").trim());
  if (letters.length <= length) return letters.join("");
  const end = Math.floor((length - 1) / 2);
  return `${letters.slice(0, length - 1 - end).join("")}…${letters.slice(letters.length - end).join("")}`;
}

const pen = document.createElement("canvas").getContext("2d");
const FONT = getComputedStyle(document.body).fontFamily;

/** @returns {number} width of a line of text in pixels */
function textWidth(text, size, weight = 400) {
  pen.font = `${weight} ${size}px ${FONT}`;
  return pen.measureText(text).width;
}

/** A table that scrolls sideways on its own. */
function table(caption, head, rows) {
  const cell = (value, i) => i === 0 ? h("th", { scope: "row" }, value) : h("td", {}, value);
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map(cell))))));
}

const KEEP = "nestlearn-page";
/** Remember a choice of the reader where the browser allows it. */
function remember(name, value) {
  try { localStorage.setItem(`${KEEP}-${name}`, value); } catch { /* a page from disk may have no storage */ }
}
function remembered(name) {
  try { return localStorage.getItem(`${KEEP}-${name}`); } catch { return null; }
}
