// The view of NetworkPanel: an SVG of nodes and edges, a stage over it for what travels, menus, a list.
import { h, s, write, put, begin, Sight, Ears } from "./panel.js";
import { COLOURS, FACTORS, FarStage, POINTS, outcome } from "./stage.js";

const ROWS = 18;
const LIST_MS = 1000;
const NUMBER = new Intl.NumberFormat("en");
const SHAPES = { circle: "●", square: "■", triangle: "▲" };

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

/** Points along a path, as far apart as each other. */
function track(path) {
  const length = path.getTotalLength();
  return Array.from({ length: POINTS + 1 }, (_, i) => {
    const { x, y } = path.getPointAtLength((length * i) / POINTS);
    return [x, y];
  });
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
  const factor = h("select", { "aria-label": "Slow motion", onchange: () => player.ask("choose", Number(factor.value)) });
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
  const showFactor = (now) => {
    const chosen = Number(factor.value) || 0;
    factor.replaceChildren(
      h("option", { value: 0, selected: !chosen }, `auto: ×${now}`),
      ...FACTORS.map((one) => h("option", { value: one, selected: chosen === one }, `×${one}`)),
    );
  };
  showFactor(100);
  const player = new FarStage(canvas, model.get("stage"), showFactor);
  el.paylab = { player };
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let size = [0, 0];
  const look = () => {
    const style = getComputedStyle(el);
    const palette = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(name).trim()]));
    const [width, height] = size.map((side) => Math.round(side * (window.devicePixelRatio || 1)));
    player.ask("look", { palette, width, height, visible: sight.visible });
  };
  const sight = new Sight(stage, look);
  const sized = new ResizeObserver(([{ contentRect }]) => {
    size = [contentRect.width, contentRect.height];
    look();
  });
  sized.observe(canvas);

  // Nodes and edges --------------------------------------------------------------------------------
  const menu = new Menu(stage);
  let nodes = new Map();
  let edges = new Map();
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
      const node = nodeShape(name, about);
      nodes.set(name, node);
      parts.push(node.group);
    }
    drawing.replaceChildren(...parts);
    const tracks = [...edges].map(([key, { line }]) => [key, track(line)]);
    for (const [key, points] of tracks) edges.get(key).middle = points[POINTS >> 1];
    const boxes = Object.fromEntries(Object.entries(plan.nodes).map(([name, { box }]) => [name, box]));
    player.ask("plan", { width: plan.width, tracks, boxes });
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

  function showNodes() {
    for (const [name, { group, title, line, pill, about }] of nodes) {
      const [state, busy, rate, got, slow] = model.get("nodes")[name] ?? ["up", 0, 0, 0, 1];
      if (group.dataset.state && group.dataset.state !== state) player.ask("forget");
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
        if (edge.said) player.ask("forget");
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
    if (message.journeys && !calm && sight.visible) {
      look(); // on another screen a pixel may have another size, and a theme's colours come when they like
      player.ask("add", message.journeys);
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
    sight.stop();
    sized.disconnect();
    player.close();
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
