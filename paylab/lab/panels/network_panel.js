// The view of NetworkPanel: an SVG of nodes and edges, a canvas over it for what travels, menus, a list.
import { h, s, write, put, begin, Frames, Ears } from "./panel.js";

// A payment should take about so long on screen; the factors to choose from.
const SHOWN_MS = 4500;
const FACTORS = [5, 10, 20, 50, 100, 200, 500, 1000, 2000];
// A wait is cut down to so much, and whatever travels takes at least so long between two things that happen.
const WAIT_MAX_MS = 420;
const STEP_MIN_MS = 35;
const LOST_MS = 420;
const LINGER_MS = 500;
const MARK_MS = 900;
const PLAYED_MAX = 5;
const WAITING_MAX = 3;
const WAITS_SHOWN_MS = 8000;
const POINTS = 64;
const ROWS = 18;
const LIST_MS = 1000;
const PALETTE_MS = 400;
const NUMBER = new Intl.NumberFormat("en");

const OUTCOMES = {
  COMMITTED: { colour: "--green", shape: "circle", word: "committed" },
  DECLINED: { colour: "--vermilion", shape: "square", word: "declined" },
  QUEUED: { colour: "--purple", shape: "triangle", word: "queued" },
};
const UNDECIDED = { colour: "--blue", shape: "circle", word: "under way" };
const outcome = (state) => OUTCOMES[state] || UNDECIDED;
const SHAPES = { circle: "●", square: "■", triangle: "▲" };

/** One payment's way, laid out on the screen's clock. */
class Journey {
  constructor(data, factor) {
    this.payment = data.payment;
    this.factor = factor;
    this.began = null;
    this.take(data);
  }

  take(data) {
    this.state = data.state;
    this.over = data.over;
    const end = (hop) => hop[4] ?? hop[3] + LOST_MS / this.factor;
    const times = new Set();
    for (const hop of data.hops) times.add(hop[3]).add(end(hop));
    for (const mark of data.marks) times.add(mark[2]);
    const sorted = [...times].sort((a, b) => a - b);
    const at = new Map();
    let x = 0;
    let before = sorted[0];
    for (const time of sorted) {
      const travelling = data.hops.some((hop) => hop[3] <= before && end(hop) >= time);
      const step = Math.min((time - before) * this.factor, travelling ? 2 * WAIT_MAX_MS : WAIT_MAX_MS);
      x += time > before ? Math.max(step, travelling ? STEP_MIN_MS : 0) : 0;
      at.set(time, x);
      before = time;
    }
    this.length = x;
    this.hops = data.hops.map((hop) => {
      const [from, to, kind] = hop;
      return { from, to, kind, lost: hop[4] === null, x0: at.get(hop[3]), x1: at.get(end(hop)) };
    });
    this.marks = data.marks.map(([node, style, time, word]) => ({ node, style, word, x: at.get(time) }));
    const open = new Map();
    for (const { from, to, kind, lost } of this.hops) {
      if (kind === "request" && !lost) open.set(to, (open.get(to) || 0) + 1);
      if (kind !== "request") open.set(from, (open.get(from) || 0) - 1);
    }
    this.waiting = [...open].filter(([, count]) => count > 0).map(([node]) => node);
  }

  grow(data, now) {
    const x = this.began === null ? 0 : Math.min(now - this.began, this.length);
    this.take(data);
    if (this.began !== null) this.began = now - x;
  }

  done(now) {
    const beyond = now - this.began - this.length;
    return beyond > (this.over ? LINGER_MS : WAITS_SHOWN_MS);
  }
}

/** What travels: which journeys are played, and how each moment of them looks. */
class Stage {
  constructor(canvas, root) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.root = root;
    this.journeys = [];
    this.queue = [];
    this.lengths = [];
    this.factor = 100;
    this.chosen = 0;
    this.tracks = new Map();
    this.centres = new Map();
    this.palette = {};
    this.coloursDue = 0;
    this.size = [0, 0];
    this.sized = new ResizeObserver(([{ contentRect }]) => (this.size = [contentRect.width, contentRect.height]));
    this.sized.observe(canvas);
    this.onFactor = () => {};
  }

  plan(plan, paths, place) {
    this.scale = { width: plan.width, height: plan.height };
    this.place = place;
    this.tracks.clear();
    for (const [name, path] of paths) {
      const length = path.getTotalLength();
      const points = [];
      for (let i = 0; i <= POINTS; i += 1) {
        const { x, y } = path.getPointAtLength((length * i) / POINTS);
        points.push([x, y]);
      }
      this.tracks.set(name, points);
    }
    this.centres.clear();
    for (const [name, { box }] of Object.entries(plan.nodes)) this.centres.set(name, box);
  }

  /** The theme's colours, asked for now and then, since to ask has the page compute its styles. */
  colours(now) {
    if (now < this.coloursDue) return;
    this.coloursDue = now + PALETTE_MS;
    const style = getComputedStyle(this.root);
    for (const name of ["--green", "--vermilion", "--purple", "--blue", "--ink", "--paper"])
      this.palette[name] = style.getPropertyValue(name).trim();
  }

  add(data, now) {
    const known = this.journeys.find((one) => one.payment === data.payment);
    if (known) return known.grow(data, now);
    const waiting = this.queue.findIndex((one) => one.payment === data.payment);
    if (waiting >= 0) this.queue.splice(waiting, 1);
    else this.measure(data);
    this.queue.push(data);
    if (this.queue.length > WAITING_MAX) this.queue.shift();
  }

  /** Learn how long payments take, and pick the factor that shows the usual one in good time. */
  measure(data) {
    if (!data.over || !data.hops.length) return;
    this.lengths.push(data);
    if (this.lengths.length > 5) this.lengths.shift();
    const factor = this.chosen || this.fitting();
    if (factor !== this.factor) {
      this.factor = factor;
      this.onFactor(factor);
    }
  }

  fitting() {
    const off = (factor) => {
      const shown = this.lengths.map((data) => new Journey(data, factor).length).sort((a, b) => a - b);
      return Math.abs(Math.log(shown[shown.length >> 1] / SHOWN_MS));
    };
    return FACTORS.reduce((best, factor) => (off(factor) < off(best) - 0.05 ? factor : best));
  }

  /** The network has changed: what ended before would walk through a world that is no more. */
  forget() {
    this.journeys = this.journeys.filter((journey) => !journey.over);
    this.queue = this.queue.filter((data) => !data.over);
  }

  /** Draw one moment; false when nothing is left that moves. */
  draw(now) {
    this.colours(now);
    const { context, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = this.size.map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    this.journeys = this.journeys.filter((journey) => !journey.done(now));
    while (this.queue.length && this.journeys.length < PLAYED_MAX) {
      const journey = new Journey(this.queue.shift(), this.factor);
      journey.began = now;
      this.journeys.push(journey);
    }
    if (!this.journeys.length || !this.scale) return false;
    const zoom = width / this.scale.width;
    context.setTransform(zoom, 0, 0, zoom, 0, 0);
    for (const journey of this.journeys) this.play(journey, now - journey.began, now);
    return true;
  }

  play(journey, x, now) {
    const { colour, shape } = outcome(journey.state);
    const paint = this.palette[colour];
    for (const hop of journey.hops) {
      if (x < hop.x0 || x >= hop.x1 + (hop.lost ? LINGER_MS : 0)) continue;
      const share = Math.min(1, (x - hop.x0) / Math.max(1, hop.x1 - hop.x0));
      this.message(hop, share, paint, shape, x - hop.x1);
    }
    for (const mark of journey.marks) {
      const age = (x - mark.x) / MARK_MS;
      if (age >= 0 && age < 1) this.mark(mark, age, paint);
    }
    if (!journey.over && x > journey.length) {
      for (const node of journey.waiting) this.ring(node, now, paint);
    }
  }

  track(hop) {
    const [from, to] = [this.place(hop.from), this.place(hop.to)];
    const there = this.tracks.get(`${from} ${to}`);
    if (hop.kind === "request") return there;
    const back = this.tracks.get(`${to} ${from}`);
    return back && [...back].reverse();
  }

  message(hop, share, paint, shape, beyond) {
    hop.track ??= this.track(hop);
    if (!hop.track) return;
    const { context } = this;
    const reach = hop.lost ? 0.55 : 1;
    const ease = share * share * (3 - 2 * share);
    const at = (part) => {
      const place = Math.max(0, Math.min(1, part * reach)) * POINTS;
      const [before, rest] = [Math.floor(place), place % 1];
      const [a, b] = [hop.track[before], hop.track[Math.min(POINTS, before + 1)]];
      return [a[0] + (b[0] - a[0]) * rest, a[1] + (b[1] - a[1]) * rest];
    };
    const hollow = hop.kind !== "request";
    context.fillStyle = context.strokeStyle = paint;
    if (beyond < 0) {
      for (let i = 7; i > 0; i -= 1) {
        const [x, y] = at(ease - i * 0.028);
        context.globalAlpha = 0.34 * (1 - i / 8);
        context.beginPath();
        context.arc(x, y, 3.6 * (1 - i / 11), 0, 7);
        context.fill();
      }
    }
    context.globalAlpha = beyond > 0 ? Math.max(0, 1 - beyond / LINGER_MS) : 1;
    const [x, y] = at(ease);
    if (hop.lost && beyond > 0) this.cross(x, y);
    else this.shape(x, y, shape, hollow, paint);
    context.globalAlpha = 1;
  }

  shape(x, y, shape, hollow, paint) {
    const { context } = this;
    context.beginPath();
    if (shape === "square") context.rect(x - 4, y - 4, 8, 8);
    else if (shape === "triangle") {
      context.moveTo(x, y - 5.2);
      context.lineTo(x + 5, y + 3.8);
      context.lineTo(x - 5, y + 3.8);
      context.closePath();
    } else context.arc(x, y, 4.6, 0, 7);
    context.lineWidth = 2;
    context.fillStyle = hollow ? this.palette["--paper"] : paint;
    context.strokeStyle = hollow ? paint : this.palette["--paper"];
    if (!hollow) {
      context.stroke();
      context.fill();
    } else {
      context.fill();
      context.stroke();
    }
  }

  cross(x, y) {
    const { context } = this;
    context.strokeStyle = this.palette["--vermilion"];
    context.lineWidth = 2.4;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(x - 4.5, y - 4.5);
    context.lineTo(x + 4.5, y + 4.5);
    context.moveTo(x - 4.5, y + 4.5);
    context.lineTo(x + 4.5, y - 4.5);
    context.stroke();
  }

  /** A diamond that pops out of a node: it has written something down. */
  mark(mark, age, paint) {
    const box = this.centres.get(this.place(mark.node));
    if (!box) return;
    const { context } = this;
    const big = mark.style === "decision";
    const rise = Math.min(1, age * 4);
    const reach = (big ? 8.5 : 5) * (1 + 0.5 * (1 - rise));
    const [x, y] = [box[2] - 6, box[3]];
    context.globalAlpha = age < 0.6 ? rise : (1 - age) / 0.4;
    context.fillStyle = big ? this.palette["--vermilion"] : this.palette["--ink"];
    context.strokeStyle = this.palette["--paper"];
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, y - reach);
    context.lineTo(x + reach, y);
    context.lineTo(x, y + reach);
    context.lineTo(x - reach, y);
    context.closePath();
    context.fill();
    context.stroke();
    if (mark.word) {
      context.font = "600 9.5px system-ui, sans-serif";
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.textAlign = "right";
      context.strokeText(mark.word, x - reach - 3, y + 3.5);
      context.fillText(mark.word, x - reach - 3, y + 3.5);
    }
    context.globalAlpha = 1;
  }

  ring(node, now, paint) {
    const box = this.centres.get(this.place(node));
    if (!box) return;
    const { context } = this;
    const swell = 2 + 2 * Math.sin(now / 180);
    context.globalAlpha = 0.75;
    context.strokeStyle = paint;
    context.lineWidth = 2;
    context.beginPath();
    context.roundRect(box[0] - swell, box[1] - swell, box[2] - box[0] + 2 * swell, box[3] - box[1] + 2 * swell, 9 + swell);
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** A list of things to do at a node or an edge. */
class Menu {
  constructor(stage) {
    this.element = h("div", { class: "menu", role: "menu" });
    this.element.hidden = true;
    this.stage = stage;
    stage.append(this.element);
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.outside = (event) => {
      if (!this.element.hidden && !this.element.contains(event.target)) this.close(false);
    };
    document.addEventListener("pointerdown", this.outside, true);
  }

  open(owner, title, items, x, y) {
    this.owner = owner;
    this.element.replaceChildren(
      h("div", { class: "menu-title" }, title),
      ...items.map(([label, run]) =>
        h("button", { role: "menuitem", type: "button", onclick: () => (this.close(true), run()) }, label)),
    );
    this.element.setAttribute("aria-label", title);
    this.element.hidden = false;
    const [width, height] = [this.element.offsetWidth, this.element.offsetHeight];
    this.element.style.left = `${Math.max(4, Math.min(x, this.stage.clientWidth - width - 4))}px`;
    this.element.style.top = `${Math.max(4, Math.min(y, this.stage.clientHeight - height - 4))}px`;
    this.element.querySelector("button")?.focus({ preventScroll: true });
  }

  close(back) {
    this.element.hidden = true;
    if (back) this.owner?.focus({ preventScroll: true });
  }

  key(event) {
    const items = [...this.element.querySelectorAll("button")];
    const now = items.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) items[(now + step + items.length) % items.length].focus();
    else if (event.key === "Escape") this.close(true);
    else if (event.key === "Tab") this.close(false);
    else return;
    if (event.key !== "Tab") event.preventDefault();
    event.stopPropagation();
  }

  stop() {
    document.removeEventListener("pointerdown", this.outside, true);
  }
}

function render({ model, el }) {
  const show = begin(model, el, "paylab-network");
  const ears = new Ears(model);
  const ask = (what) => model.send(what);

  // The frame --------------------------------------------------------------------------------------
  const verdict = h("span", { class: "verdict" });
  const evidence = h("span", { class: "evidence" });
  const found = h("ul", { class: "found" });
  const check = h("button", { type: "button", onclick: () => ask({ do: "check" }) }, "Check the ledgers now");
  const banner = h("div", { class: "banner", role: "status" }, h("div", {}, verdict, evidence), check, found);
  const totals = h("div", { class: "totals" });
  const figures = {};
  for (const [name, label, shape] of [
    ["payments", "payments"], ["committed", "committed", "COMMITTED"], ["declined", "declined", "DECLINED"],
    ["queued", "queued", "QUEUED"], ["under_way", "under way", ""], ["per_s", "per second"],
  ]) {
    figures[name] = h("span", { class: "figure", "data-figure": name });
    const sign = shape === undefined ? "" : h("i", { style: `color:var(${outcome(shape).colour})` }, SHAPES[outcome(shape).shape]);
    totals.append(h("span", { class: "total" }, sign, figures[name], ` ${label}`));
  }
  totals.append(h("span", { class: "badge" }, model.get("badge")));
  const drawing = s("svg", { class: "drawing", role: "group", "aria-label": "The network" });
  const canvas = h("canvas", { "aria-hidden": "true" });
  const stage = h("div", { class: "stage" }, drawing, canvas);
  const list = h("ol", { class: "list", "aria-label": "Latest payments" });
  const body = h("div", { class: "body" }, stage, h("div", { class: "side" }, h("h4", {}, "Latest payments"), list));
  const factor = h("select", { "aria-label": "Slow motion", onchange: () => choose(Number(factor.value)) });
  const heal = h("button", { type: "button", onclick: () => ask({ do: "break", kind: "heal" }) }, "Heal the network");
  const notice = h("span", { class: "notice", role: "status", "aria-live": "polite" });
  const legend = h("span", { class: "legend" });
  legend.innerHTML =
    "<b>●</b> request <b>○</b> answer <b>◆</b> forced write <b class='bad'>◆</b> the decision <b class='bad'>✕</b> lost";
  const foot = h("div", { class: "foot" }, h("label", {}, "Slow motion ", factor), legend, heal, notice);
  const drawer = h("div", { class: "drawer" });
  drawer.hidden = true;
  el.append(banner, totals, body, foot, drawer);

  // What moves -------------------------------------------------------------------------------------
  const player = new Stage(canvas, el);
  const frames = new Frames(stage, (now) => player.draw(now));
  el.paylab = { frames, player };
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const choose = (chosen) => {
    player.chosen = chosen;
    player.factor = chosen || (player.lengths.length ? player.fitting() : player.factor);
    player.onFactor(player.factor);
  };
  player.onFactor = (now) => {
    factor.replaceChildren(
      h("option", { value: 0, selected: !player.chosen }, `auto: ×${now}`),
      ...FACTORS.map((one) => h("option", { value: one, selected: player.chosen === one }, `×${one}`)),
    );
  };
  player.onFactor(player.factor);

  // Nodes and edges --------------------------------------------------------------------------------
  const menu = new Menu(stage);
  let nodes = new Map();
  let edges = new Map();
  let crowd = "";
  const place = (name) => (nodes.has(name) ? name : crowd);
  const stateOf = (name) => model.get("nodes")[name]?.[0];

  function nodeMenu(name) {
    const about = model.get("plan").nodes[name];
    if (about.client || model.get("ended")) return;
    const state = stateOf(name);
    const slow = (model.get("nodes")[name]?.[4] ?? 1) !== 1;
    const act = (label, what) => [label, () => ask({ node: name, ...what })];
    const fault = (label, kind, more = {}) => [label, () => ask({ do: "break", kind, node: name, ...more })];
    const items = state === "down" ? [act("Restart", { do: "restart" })] : [
      act("Crash", { do: "crash" }),
      state === "paused" ? fault("Resume", "resume") : fault("Pause", "pause"),
      slow ? fault("Normal speed", "slow", { factor: 1 }) : fault("Slow down ×20", "slow", { factor: 20 }),
    ];
    if (about.behind && state !== "down")
      items.push(state === "draining" ? act("Serve again", { do: "serve" }) : act("Drain", { do: "drain" }));
    const { group } = nodes.get(name);
    openAt(group, `${name}: ${state}`, items, about.box[2] - 10, about.box[3] - 6);
  }

  function edgeMenu(key) {
    if (model.get("ended")) return;
    const [a, b] = key.split(" ");
    const { group, middle } = edges.get(key);
    const fault = (label, kind, more = {}) => [label, () => ask({ do: "break", kind, a, b, ...more })];
    const items = [
      fault("Partition", "partition"),
      fault("Lose 30 %", "lose", { rate: 0.3 }),
      fault("Delay by 1 s", "delay", { seconds: 1 }),
    ];
    if (Object.keys(model.get("edges")[key]?.[2] ?? {}).length) items.unshift(fault("Mend", "mend"));
    openAt(group, `${a} — ${b}`, items, middle[0], middle[1]);
  }

  function openAt(owner, title, items, x, y) {
    const zoom = stage.clientWidth / model.get("plan").width;
    menu.open(owner, title, items, x * zoom, y * zoom);
  }

  const pressed = (open) => (event) => {
    if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    open();
  };

  function layOut() {
    const plan = model.get("plan");
    if (!plan.nodes) return;
    menu.close(false);
    drawing.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
    stage.style.aspectRatio = `${plan.width} / ${plan.height}`;
    const id = model.get("panel_id");
    const head = s("marker", { id: `head-${id}`, markerWidth: 7, markerHeight: 6, refX: 6.5, refY: 3, orient: "auto", markerUnits: "userSpaceOnUse" },
      s("path", { d: "M0 0L7 3L0 6z", class: "head" }));
    nodes = new Map();
    edges = new Map();
    const parts = [s("defs", {}, head)];
    for (const [source, target, path, count] of plan.edges) {
      const key = `${source} ${target}`;
      const open = pressed(() => edgeMenu(key));
      const line = s("path", { d: path, class: "line", "marker-end": `url(#head-${id})` });
      const title = s("title");
      const trouble = s("g", { class: "trouble" });
      const group = s("g", { class: "edge", tabindex: 0, role: "button", "data-edge": key, onclick: open, onkeydown: open },
        title, s("path", { d: path, class: "hit" }), line, trouble);
      const text = count && s("text", { x: count[0], y: count[1] + 3.5, class: "count", "text-anchor": "middle" });
      edges.set(key, { group, line, title, text, trouble, middle: [0, 0], path });
      parts.push(group);
      if (text) parts.push(text);
    }
    for (const [name, about] of Object.entries(plan.nodes)) {
      if (name.endsWith(" clients")) crowd = name;
      const node = nodeShape(name, about);
      nodes.set(name, node);
      parts.push(node.group);
    }
    drawing.replaceChildren(...parts);
    const lines = [...edges].map(([key, edge]) => [key, edge.line]);
    player.plan(plan, lines, place);
    for (const [key, edge] of edges) edge.middle = player.tracks.get(key)[POINTS >> 1];
    showNodes();
    showEdges();
  }

  function nodeShape(name, about) {
    const [left, top, right, bottom] = about.box;
    const open = pressed(() => nodeMenu(name));
    const title = s("title");
    const line = s("text", { x: left + 30, y: bottom - 8.5, class: "rate" });
    const pill = s("g", { class: "pill" },
      s("rect", { x: right - 15, y: top - 7, width: 22, height: 15, rx: 7.5 }),
      s("text", { x: right - 4, y: top + 4, "text-anchor": "middle" }));
    const shown = name.length > 15 ? `${name.slice(0, 14)}…` : name;
    const group = s("g", { class: `node ${about.colour}`, role: about.client ? "img" : "button", "data-node": name,
        ...(about.client ? {} : { tabindex: 0, onclick: open, onkeydown: (event) => step(event, name) || open(event) }) },
      title,
      s("rect", { x: left, y: top, width: right - left, height: bottom - top, rx: 9, class: "box" }),
      s("path", { d: about.icon, class: "icon", transform: `translate(${left + 8} ${top + 13})` }),
      s("text", { x: left + 30, y: top + 18, class: "name" }, shown),
      line, pill,
      s("path", { d: `M${right - 7} ${top - 5}l10 10m0 -10l-10 10`, class: "cross" }));
    return { group, title, line, pill, about };
  }

  /** Arrow keys go to the nearest node that way. */
  function step(event, name) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return false;
    event.preventDefault();
    const middle = ({ about: { box } }) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const [x, y] = middle(nodes.get(name));
    let [best, least] = [null, Infinity];
    for (const [other, node] of nodes) {
      const [dx, dy] = [middle(node)[0] - x, middle(node)[1] - y];
      const ahead = dx * way[0] + dy * way[1];
      const aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (other !== name && !node.about.client && ahead > 5 && ahead + 2 * aside < least) [best, least] = [node, ahead + 2 * aside];
    }
    best?.group.focus();
    return true;
  }

  function changed() {
    player.forget();
    frames.wake();
  }

  function showNodes() {
    for (const [name, { group, title, line, pill, about }] of nodes) {
      const [state, busy, rate, got, slow] = model.get("nodes")[name] ?? ["up", 0, 0, 0, 1];
      if (group.dataset.state && group.dataset.state !== state) changed();
      put(group, "data-state", state);
      put(group, "aria-label", `${name}, ${about.what}, ${state}`);
      put(pill, "class", busy ? "pill busy" : "pill");
      write(pill.lastChild, busy > 99 ? "99+" : String(busy));
      const word = about.client ? "" : state !== "up" ? state : slow !== 1 ? `slow ×${slow}` : rate ? `${rate}/s` : "";
      write(line, word);
      group.classList.toggle("plain", !word);
      write(title, about.client ? name
        : `${name}: ${about.what}, ${state}\n${got} calls received, ${busy} at work, ${rate} in the last second`);
    }
  }

  function showEdges() {
    for (const [key, edge] of edges) {
      const [calls, rate, troubles] = model.get("edges")[key] ?? [0, 0, {}];
      // In steps, so that what hardly changes is not drawn again.
      put(edge.line, "stroke-width", `${(calls ? 1.1 : 0.8) + Math.round(6 * Math.log10(1 + rate)) / 4}`);
      const names = Object.keys(troubles);
      put(edge.group, "class", `edge${calls ? "" : " unused"}${rate ? " live" : ""}${names.map((n) => ` ${n}`).join("")}`);
      if (edge.text) write(edge.text, calls ? NUMBER.format(calls) : "");
      const said = JSON.stringify(troubles);
      if (edge.said !== said) {
        if (edge.said) changed();
        edge.said = said;
        edge.trouble.replaceChildren(...signs(edge, troubles));
      }
      const [a, b] = key.split(" ");
      const wrong = names.length ? `, ${names.map((name) => SAID[name](troubles[name])).join(", ")}` : "";
      write(edge.title, `${a} → ${b}: ${calls} calls, ${rate} in the last second${wrong}`);
      put(edge.group, "aria-label", `link from ${a} to ${b}, ${calls} calls${wrong}`);
    }
  }

  function signs(edge, troubles) {
    const [x, y] = edge.middle;
    if (troubles.cut)
      return [s("circle", { cx: x, cy: y, r: 11, class: "gap" }), s("path", { d: `M${x - 6} ${y - 6}l12 12m0 -12l-12 12`, class: "scissors" })];
    const text = ["lose", "delay"].filter((name) => troubles[name]).map((name) => SAID[name](troubles[name])).join(" ");
    if (!text) return [];
    const width = 6 * text.length + 10;
    return [s("rect", { x: x - width / 2, y: y - 8, width, height: 16, rx: 8, class: "tag" }),
      s("text", { x, y: y + 3.5, "text-anchor": "middle", class: "tag-text" }, text)];
  }

  // Figures, banner, list --------------------------------------------------------------------------
  function showTotals() {
    for (const [name, element] of Object.entries(figures)) write(element, NUMBER.format(model.get("totals")[name] ?? 0));
  }

  function showVerdict() {
    const { ok, found: lines = [], invariants, facts = 0, ledgers } = model.get("verdict");
    banner.classList.toggle("broken", ok === false);
    banner.dataset.ok = String(ok);
    write(verdict, ok === false ? "✘ An invariant is broken" : "✔ Every invariant holds");
    const books = { read: "ledgers read", stale: "ledgers to be read when it rests", "not read yet": "ledgers not read yet" }[ledgers];
    write(evidence, `${invariants} checked over ${NUMBER.format(facts)} recorded facts, ${books}`);
    if (lines.join() !== banner.said) {
      banner.said = lines.join();
      found.replaceChildren(...lines.map((line) => h("li", {}, line)));
    }
  }

  const rows = [];
  for (let i = 0; i < ROWS; i += 1) {
    const [sign, who, amount, state, took] = ["sign", "who", "amount", "state", "took"].map((name) => h("span", { class: name }));
    const button = h("button", { type: "button", class: "row", onclick: () => ask({ do: "timeline", payment: button.dataset.payment }) },
      sign, who, amount, state, took);
    const item = h("li", {}, button);
    item.hidden = true;
    rows.push({ item, button, sign, who, amount, state, took });
    list.append(item);
  }
  list.after(h("p", { class: "hint quiet" }, "Click a payment for its timeline, a node or an edge to break it."));
  let listDue = 0;
  let listShown = -LIST_MS;
  let hovered = false;
  // A list that moves under the pointer would open what nobody meant.
  list.addEventListener("pointerenter", () => (hovered = true));
  list.addEventListener("pointerleave", () => ((hovered = false), listSoon()));
  function listSoon() {
    if (!listDue) listDue = setTimeout(showRows, Math.max(0, listShown + LIST_MS - performance.now()));
  }
  /** Show a new payment at once, and of many that come in a row what can be read. */
  function showRows() {
    listDue = 0;
    listShown = performance.now();
    if (hovered && !rows[0].item.hidden) return;
    const latest = model.get("rows");
    rows.forEach((row, i) => {
      row.item.hidden = i >= latest.length;
      if (row.item.hidden) return;
      const [payment, payer, payee, amount, state, reason, took, attempt] = latest[i];
      const { colour, shape, word } = outcome(state);
      put(row.button, "data-payment", payment);
      put(row.button, "data-state", state);
      put(row.button, "title", `${payment}\n${payer} pays ${amount} to ${payee}: ${state} ${reason}${attempt > 1 ? `, attempt ${attempt}` : ""}`);
      put(row.sign, "style", `color:var(${colour})`);
      write(row.sign, SHAPES[shape]);
      write(row.who, `${payer.split("/").pop()} → ${payee.split("/").pop()}`);
      write(row.amount, amount);
      write(row.state, word);
      write(row.took, took == null ? "" : took < 1000 ? `${took.toFixed(took < 10 ? 1 : 0)} ms` : `${(took / 1000).toFixed(1)} s`);
    });
  }

  function openTimeline({ timeline, html }) {
    const close = h("button", { type: "button", onclick: () => (drawer.hidden = true) }, "Close");
    const picture = h("div", { class: "picture" });
    picture.innerHTML = html;
    drawer.replaceChildren(h("div", { class: "drawer-head" }, h("b", {}, `Timeline of payment ${timeline}`), close), picture);
    drawer.dataset.payment = timeline;
    drawer.hidden = false;
    drawer.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }

  // Listening --------------------------------------------------------------------------------------
  ears.on("change:plan", layOut);
  ears.on("change:nodes", showNodes);
  ears.on("change:edges", showEdges);
  ears.on("change:totals", showTotals);
  ears.on("change:verdict", showVerdict);
  ears.on("change:rows", listSoon);
  ears.on("change:notice", () => write(notice, model.get("notice")));
  const end = () => {
    el.classList.toggle("ended", model.get("ended"));
    if (!model.get("ended")) return;
    write(notice, "This lab is closed; the figures are its last.");
    for (const button of [check, heal]) button.disabled = true;
    for (const { button } of rows) button.disabled = true;
  };
  ears.on("change:ended", end);
  ears.on("msg:custom", (message) => {
    if (message.journeys && !calm && frames.visible) {
      for (const journey of message.journeys) player.add(journey, performance.now());
      frames.wake();
    }
    if (message.timeline) openTimeline(message);
  });
  layOut();
  showTotals();
  showVerdict();
  showRows();
  end();

  return () => {
    ears.stop();
    frames.stop();
    player.sized.disconnect();
    menu.stop();
    clearTimeout(listDue);
    show();
  };
}

const SAID = {
  cut: () => "cut",
  lose: (rate) => `loses ${Math.round(100 * rate)} %`,
  delay: (seconds) => `+${seconds} s`,
};

export default { render };
