import { h, s, write, begin, Frames, Ears } from "./panel.js";

const WIDE = 320, HIGH = 118, LEFT = 34, RIGHT = 6, TOP = 8, BOTTOM = 16;
const HERE_EVERY_MS = 2000;
const AXES = [5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600];
const PHASES = { ready: "Ready.", sending: "Sending", ending: "Waiting for the last payments …", done: "Done" };
const NUMBER = new Intl.NumberFormat("en");

// Title, unit, and lines: name, column of a point, colour.
const CHARTS = [
  ["Throughput", "payments/s", [["due", 1, "--muted"], ["ended", 2, "--green"], ["failed", 3, "--vermilion"]]],
  ["Latency", "ms, log", [["p50", 4, "--green"], ["p95", 5, "--blue"], ["p99", 6, "--vermilion"]]],
  ["Queue depth", "payments", [["under way", 7, "--blue"], ["waiting", 8, "--vermilion"], ["queued", 9, "--purple"]]],
  ["Error rate", "%", [["no receipt", 10, "--vermilion"]]],
];

function niceAbove(value) {
  let step = 1;
  for (let n = 0; step < value; n += 1) step *= n % 3 === 1 ? 2.5 : 2;
  return step;
}

function shown(value) {
  if (value == null) return "–";
  return value >= 100 || Number.isInteger(value) ? NUMBER.format(Math.round(value)) : value.toFixed(1);
}

/** One chart: its lines over the seconds of a load, on a scale that grows with what is measured. */
class Chart {
  constructor([name, unit, lines], onPoint) {
    this.lines = lines;
    this.log = unit.includes("log");
    this.values = lines.map(() => h("span", { class: "figure" }));
    this.paths = lines.map(([line, , colour]) =>
      s("path", { class: `line ${line}`, style: `--colour:var(${colour})` }));
    this.grid = s("g");
    this.marks = s("g");
    this.cursor = s("line", { class: "cursor", visibility: "hidden" });
    this.svg = s("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": name },
      this.grid, this.marks, ...this.paths, this.cursor);
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      onPoint(((event.clientX - box.left) / box.width * this.wide - LEFT) / (this.wide - LEFT - RIGHT));
    });
    this.svg.addEventListener("pointerleave", () => onPoint(null));
    const keys = lines.map(([line, , colour], n) =>
      h("span", { class: "key", style: `--colour:var(${colour})` }, h("i"), `${line} `, this.values[n]));
    this.element = h("div", { class: "chart" },
      h("div", { class: "head" }, h("b", {}, `${name} `, h("small", {}, unit)), ...keys), this.svg);
    this.wide = WIDE;
    this.high = HIGH;
  }

  /** Draw points up to `end` seconds; `at` is the place of the pointed-at point, or -1. */
  draw(points, marks, end, at) {
    // One unit is one pixel, so that texts keep their shape at any width.
    this.wide = this.svg.clientWidth || WIDE;
    this.high = this.svg.clientHeight || HIGH;
    const bottom = this.high - BOTTOM;
    this.svg.setAttribute("viewBox", `0 0 ${this.wide} ${this.high}`);
    const most = Math.max(0, ...this.lines.map(([, column]) => Math.max(0, ...points.map((p) => p[column] ?? 0))));
    const top = this.log ? Math.max(100, 10 ** Math.ceil(Math.log10(Math.max(1, most)))) : niceAbove(most * 1.02);
    const x = (t) => LEFT + (this.wide - LEFT - RIGHT) * t / end;
    const share = (v) => this.log ? Math.max(0, Math.log10(Math.max(1, v)) / Math.log10(top)) : v / top;
    const y = (v) => TOP + (bottom - TOP) * (1 - share(v));
    this.lines.forEach(([, column], n) => {
      let path = "", pen = "M";
      for (const point of points) {
        if (point[column] == null) { pen = "M"; continue; }
        path += `${pen}${x(point[0]).toFixed(1)} ${y(point[column]).toFixed(1)}`;
        pen = "L";
      }
      this.paths[n].setAttribute("d", path);
      const point = points[at < 0 ? points.length - 1 : at];
      write(this.values[n], point ? shown(point[column]) : "–");
    });
    const ticks = this.log ? [1, 10, 100, 1000, 10000, 100000].filter((v) => v <= top) : [0, top / 2, top];
    const seconds = [0, end / 2, end];
    const key = [this.wide, this.high, end, ...ticks, ...marks.map(([t]) => t)].join();
    if (key !== this.key) {
      this.key = key;
      this.grid.replaceChildren(
        ...ticks.flatMap((v, n) => [
          s("line", { class: n ? "grid" : "grid base", x1: LEFT, x2: this.wide - RIGHT, y1: y(v), y2: y(v) }),
          label(LEFT - 5, y(v) + 3, v >= 1000 ? `${v / 1000}k` : `${v}`, "end"),
        ]),
        ...seconds.map((t, n) => label(x(t), this.high - 3, `${+t.toFixed(1)} s`, ["start", "middle", "end"][n])));
      this.marks.replaceChildren(...marks.map(([t, what]) => {
        const line = s("line", { class: "mark", x1: x(t), x2: x(t), y1: TOP, y2: bottom });
        line.append(s("title"));
        line.firstChild.textContent = what;
        return line;
      }));
    }
    const point = at < 0 ? null : points[at];
    this.cursor.setAttribute("visibility", point ? "visible" : "hidden");
    if (!point) return;
    for (const [name, value] of [["x1", x(point[0])], ["x2", x(point[0])], ["y1", TOP], ["y2", bottom]]) {
      this.cursor.setAttribute(name, value);
    }
  }
}

function label(x, y, text, anchor) {
  const element = s("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function slider(model, trait, name, { min, max, step, unit = "", scale = 1 }) {
  const value = h("span", { class: "figure" });
  const input = h("input", { type: "range", min, max, step, name: trait, "aria-label": name, oninput: () => {
    model.set(trait, input.value / scale);
    model.save_changes();
    show();
  } });
  const show = () => {
    const now = +(model.get(trait) * scale).toFixed(2);
    if (+input.value !== now) input.value = now;
    write(value, `${now}${unit}`);
  };
  return { element: h("label", {}, name, value, input), input, show, trait };
}

function select(model, trait, name, options, onChoose) {
  const input = h("select", { name: trait, "aria-label": name, onchange: () => {
    const kind = typeof model.get(trait);
    const value = kind === "number" ? +input.value : input.value;
    if (onChoose) return onChoose(value);
    model.set(trait, value);
    model.save_changes();
  } });
  const fill = (choices) => input.replaceChildren(...choices.map(([value, text]) => h("option", { value }, text)));
  fill(options);
  const show = () => {
    const now = `${model.get(trait)}`;
    if (![...input.options].some((option) => option.value === now)) input.append(h("option", { value: now }, now));
    input.value = now;
  };
  return { element: h("label", {}, name, input), input, show, trait };
}

function render({ model, el }) {
  const undo = begin(model, el, "paylab-workload");
  const ask = (what, about = {}) => model.send({ do: what, ...about });
  const page = Math.random().toString(36).slice(2);

  const settings = [
    slider(model, "rate", "Rate", { min: 1, max: 300, step: 1, unit: "/s" }),
    select(model, "duration_s", "For", [[5, "5 s"], [10, "10 s"], [20, "20 s"], [60, "1 min"], [300, "5 min"]]),
    slider(model, "concurrency", "Concurrency", { min: 1, max: 500, step: 1 }),
    select(model, "arrivals", "Arrivals", [["poisson", "by chance"], ["steady", "steady"]]),
  ];
  const mix = [
    slider(model, "inside_bank", "Inside one bank", { min: 0, max: 100, step: 1, unit: " %", scale: 100 }),
    slider(model, "without_funds", "Without funds", { min: 0, max: 100, step: 1, unit: " %", scale: 100 }),
    select(model, "largest", "Largest amount", ["1.00 EUR", "20.00 EUR", "500.00 EUR"].map((text) => [text, text])),
  ];
  const policies = select(model, "policy", "Policy", model.get("policies").map((name) => [name, name.replaceAll("_", " ")]),
    (policy) => ask("policy", { policy }));
  const loss = select(model, "loss", "Messages lost", [[0, "none"], [0.01, "1 %"], [0.05, "5 %"], [0.2, "20 %"]],
    (rate) => ask("lose", { rate }));
  const node = h("select", { "aria-label": "Node" });
  const actions = ["crash", "restart", "pause", "resume", "drain", "serve"].map((action) =>
    h("button", { type: "button", onclick: () => ask("act", { node: node.value, action }) }, action));
  const start = h("button", { class: "start", type: "button", onclick: () => ask("start") }, "Start");
  const stop = h("button", { class: "stop", type: "button", onclick: () => ask("stop") }, "Stop");

  let pointed = null;
  const charts = CHARTS.map((chart) => new Chart(chart, (share) => { pointed = share; frames.wake(); }));
  const state = h("span", { class: "state quiet", "aria-live": "polite" });
  const bar = h("div");
  const progress = h("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
  const tally = h("div", { class: "tally" });
  const events = h("div", { class: "events" });
  const notice = h("div", { class: "notice quiet", role: "status" });
  const badge = h("span", { class: "badge" }, model.get("badge"));

  el.append(
    h("header", {}, h("h3", {}, "Load"), state, badge), progress,
    h("aside", {}, h("div", { class: "go" }, start, stop), ...settings.map((one) => one.element),
      h("fieldset", {}, h("legend", {}, "What is paid"), ...mix.map((one) => one.element)),
      h("fieldset", {}, h("legend", {}, "What goes wrong"), policies.element, loss.element,
        h("label", {}, "Node", node), h("div", { class: "buttons" }, ...actions))),
    h("main", {}, ...charts.map((chart) => chart.element), tally, events), notice);

  const controls = [...settings, ...mix, policies, loss];
  const showControls = () => {
    const busy = ["sending", "ending"].includes(model.get("phase")), ended = model.get("ended");
    for (const control of controls) {
      control.show();
      control.input.disabled = ended || (busy && ["duration_s", "concurrency", "arrivals"].includes(control.trait));
    }
    start.disabled = busy || ended;
    stop.disabled = model.get("phase") !== "sending" || ended;
    for (const button of actions) button.disabled = ended;
    const nodes = Object.entries(model.get("nodes"));
    if (node.options.length !== nodes.length) {
      node.replaceChildren(...nodes.map(([name]) => h("option", { value: name })));
      node.value = nodes.some(([name]) => name === "alpine-1") ? "alpine-1" : (nodes.find(([name]) => name.endsWith("-1")) || nodes[0] || [""])[0];
    }
    nodes.forEach(([name, how], n) => write(node.options[n], how === "up" ? name : `${name} (${how})`));
  };

  const draw = () => {
    const totals = model.get("totals"), phase = model.get("phase"), points = model.get("points");
    const marks = model.get("marks");
    const share = model.get("progress");
    const last = points.length ? points[points.length - 1][0] : 0;
    // While it runs the axis grows in steps, so that nothing creeps.
    const whole = model.get("duration_s");
    const end = phase === "sending" ? AXES.find((s) => s >= Math.min(last, whole)) || last : Math.max(1, last);
    const at = pointed == null ? -1 : nearest(points, pointed * end);
    for (const chart of charts) chart.draw(points, marks, end, at);
    bar.style.width = `${(100 * share).toFixed(1)}%`;
    progress.classList.toggle("done", phase === "done");
    progress.setAttribute("aria-valuenow", Math.round(100 * share));
    write(state, at >= 0 ? `At ${points[at][0].toFixed(1)} s` : phase === "sending"
      ? `Sending, ${(totals.at_s || 0).toFixed(0)} of ${model.get("duration_s")} s`
      : phase === "done" ? `Done after ${last.toFixed(1)} s` : PHASES[phase]);
    const counts = [["due", totals.due || 0], ["ended", totals.ended || 0], ...Object.entries(totals.answers || {})];
    if (tally.childElementCount !== counts.length) {
      tally.replaceChildren(...counts.map(([name]) =>
        h("span", { class: "quiet" }, `${name.toLowerCase().replaceAll("_", " ")} `, h("span", { class: "figure", "data-count": name }))));
    }
    counts.forEach(([, count], n) => write(tally.children[n].lastChild, NUMBER.format(count)));
    write(events, marks.slice(-6).map(([t, what]) => `${t.toFixed(1)} s ${what}`).join("  ·  "));
    return false;
  };

  const frames = new Frames(el, draw);
  const sized = new ResizeObserver(() => frames.wake());
  sized.observe(el);
  const ears = new Ears(model);
  ears.on("change:points change:totals change:marks change:progress change:phase", () => frames.wake());
  ears.on([...controls.map((one) => `change:${one.trait}`), "change:phase", "change:nodes", "change:ended"].join(" "), showControls);
  ears.on("change:notice", () => write(notice, model.get("notice")));
  showControls();
  write(notice, model.get("notice"));
  frames.wake();

  // The kernel stops a load that nobody looks at any more.
  const here = () => ask("page", { page, here: true });
  const gone = () => {
    try {
      ask("page", { page, here: false });
    } catch {
      // A notebook that closes has let go of its kernel, which hears our silence.
    }
  };
  here();
  const quiet = every(HERE_EVERY_MS, () => model.get("phase") === "sending" && here());
  addEventListener("pagehide", gone);

  return () => {
    gone();
    quiet();
    removeEventListener("pagehide", gone);
    sized.disconnect();
    frames.stop();
    ears.stop();
    undo();
  };
}

/** Call back every so often, also in a page in the background, whose own timers rest; returns what ends it. */
function every(ms, callback) {
  const source = new Blob([`setInterval(() => postMessage(0), ${ms})`], { type: "text/javascript" });
  const address = URL.createObjectURL(source);
  const worker = new Worker(address);
  let timer = 0;
  worker.onmessage = callback;
  worker.onerror = () => { timer = timer || setInterval(callback, ms) };
  return () => {
    worker.terminate();
    clearInterval(timer);
    URL.revokeObjectURL(address);
  };
}

function nearest(points, t) {
  let best = -1;
  points.forEach((point, n) => {
    if (best < 0 || Math.abs(point[0] - t) < Math.abs(points[best][0] - t)) best = n;
  });
  return best;
}

export default { render };
