// The view of TimelinePanel: a canvas that draws the rows on screen of a diagram that may be very long.
import { h, write, begin, Frames, Ears } from "./panel.js";

const ROW = 17;
const LEFT = 62;
const RIGHT = 26;
const HEAD = 40;
// An arrow over more rows than this is kept in a list of its own, looked through at every drawing.
const LONG = 120;
const NEAR = 7;
const PLAY_MS = 240;
const SPEEDS = [1, 2, 5, 20];
const FUTURE = 0.22;
const PAYMENTS_LISTED = 300;
// The order of paylab.nodes.events.Kind.
const [SENT, RECEIVED, ANSWERED, RETURNED, FAILED, REFUSED, FORCED, STATE, CRASHED, RESTARTED] =
  ["sent", "received", "answered", "returned", "failed", "refused", "forced", "state", "crashed", "restarted"].map((_, i) => i);
const GROUPS = { messages: [SENT, RECEIVED, ANSWERED, RETURNED, FAILED, REFUSED], "writes and states": [FORCED, STATE], crashes: [CRASHED, RESTARTED] };

/** The events that pass the filters, and the arrows between them, by rows of the drawing. */
class Rows {
  constructor(table) {
    this.table = table;
    this.housekeeping = new Set(table.housekeeping);
    this.ends = this.pair();
    this.filter({ payment: -1, nodes: null, groups: new Set(Object.keys(GROUPS)), housekeeping: false, text: "" });
  }

  /** For each event that begins a message, the event that ends it; -1 for one that is lost. */
  pair() {
    const { call, kind } = this.table;
    const ends = new Map();
    const sent = new Map();
    const answered = new Map();
    const received = new Set();
    for (let row = 0; row < call.length; row += 1) {
      const one = call[row];
      if (one < 0) continue;
      if (kind[row] === SENT) sent.set(one, row);
      else if (kind[row] === RECEIVED) {
        if (sent.has(one) && !received.has(one)) ends.set(sent.get(one), row);
        received.add(one);
      } else if (kind[row] === ANSWERED || kind[row] === REFUSED) answered.set(one, row);
      else if (kind[row] === RETURNED && answered.has(one)) ends.set(answered.get(one), row);
      else if (kind[row] === FAILED) {
        if (!received.has(one) && sent.has(one)) ends.set(sent.get(one), -1);
        else if (answered.has(one)) ends.set(answered.get(one), kind[answered.get(one)] === REFUSED ? row : -1);
      }
    }
    return ends;
  }

  filter(wanted) {
    const { table } = this;
    const kinds = new Set([...wanted.groups].flatMap((name) => GROUPS[name]));
    const text = wanted.text.toLowerCase();
    const matching = text && new Set(table.texts.flatMap((one, i) => (one.toLowerCase().includes(text) ? [i] : [])));
    // A balancer's hop names no payment: it belongs to it by the call that it serves or makes.
    const calls = wanted.payment < 0 ? null : this.callsOf(wanted.payment);
    this.shown = [];
    for (let row = 0; row < table.kind.length; row += 1) {
      const down = table.kind[row] === CRASHED || table.kind[row] === RESTARTED;
      if (!kinds.has(table.kind[row])) continue;
      if (!wanted.housekeeping && this.housekeeping.has(row)) continue;
      if (wanted.nodes && !wanted.nodes.has(table.node[row])) continue;
      if (wanted.nodes && table.peer[row] >= 0 && !wanted.nodes.has(table.peer[row])) continue;
      if (matching && !matching.has(table.label[row])) continue;
      if (calls && !down && !table.about[row].includes(wanted.payment) && !calls.has(table.call[row])) continue;
      this.shown.push(row);
    }
    this.place = new Map(this.shown.map((row, i) => [row, i]));
    const columns = new Set(this.shown.flatMap((row) => [table.node[row], ...(table.peer[row] >= 0 ? [table.peer[row]] : [])]));
    this.columns = [...columns].sort((a, b) => a - b);
    this.arrows = [];
    this.long = [];
    this.bands = [];
    const downSince = new Map();
    this.shown.forEach((row, i) => {
      if (table.kind[row] === CRASHED) downSince.set(table.node[row], i);
      if (table.kind[row] === RESTARTED && downSince.has(table.node[row])) {
        this.bands.push([table.node[row], downSince.get(table.node[row]), i]);
        downSince.delete(table.node[row]);
      }
      if (!this.ends.has(row)) return;
      const end = this.ends.get(row);
      const to = end < 0 ? -1 : this.place.get(end);
      if (to === undefined) return;
      const arrow = { row, from: i, to: to < 0 ? i + 1 : to, lost: to < 0, a: table.node[row], b: table.peer[row],
        kind: table.kind[row] === SENT ? "request" : table.kind[row] === REFUSED ? "error" : "reply" };
      (arrow.to - arrow.from > LONG ? this.long : this.arrows).push(arrow);
    });
    for (const [node, since] of downSince) this.bands.push([node, since, this.shown.length]);
  }

  callsOf(payment) {
    const { about, call } = this.table;
    const calls = new Set();
    about.forEach((list, row) => list.includes(payment) && call[row] >= 0 && calls.add(call[row]));
    return calls;
  }

  /** Arrows that touch rows first to last: those that begin near, found by bisection, and all long ones. */
  arrowsIn(first, last) {
    let [low, high] = [0, this.arrows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.arrows[middle].from < first - LONG) low = middle + 1;
      else high = middle;
    }
    const found = [];
    for (let i = low; i < this.arrows.length && this.arrows[i].from <= last; i += 1) if (this.arrows[i].to >= first) found.push(this.arrows[i]);
    for (const arrow of this.long) if (arrow.from <= last && arrow.to >= first) found.push(arrow);
    return found;
  }
}

function clock(ms) {
  return ms < 10_000 ? `${ms.toFixed(ms < 1000 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function render({ model, el }) {
  const show = begin(model, el, "paylab-timeline");
  const ears = new Ears(model);
  const table = JSON.parse(model.get("table"));
  const rows = new Rows(table);
  const wanted = { payment: table.payments.indexOf(table.payment), nodes: null, groups: new Set(Object.keys(GROUPS)), housekeeping: false, text: "" };

  // The frame --------------------------------------------------------------------------------------
  const button = (label, title, run) => h("button", { type: "button", title, "aria-label": title, onclick: run }, label);
  const play = button("Play", "Play (space)", () => (timer ? pause() : start()));
  play.classList.add("play");
  const speed = h("select", { "aria-label": "Speed" }, ...SPEEDS.map((one) => h("option", { value: one, selected: one === 2 }, `${one}×`)));
  const where = h("span", { class: "where", role: "status", "aria-live": "off" });
  const slider = h("input", { type: "range", min: 0, value: 0, "aria-label": "Event", oninput: () => go(Number(slider.value)) });
  const bar = h("div", { class: "bar" },
    button("|◀", "First event (Home)", () => go(0)), button("◀", "Event before (arrow up)", () => move(-1)), play,
    button("▶", "Next event (arrow down)", () => move(1)), button("▶|", "Last event (End)", () => go(rows.shown.length - 1)),
    speed, slider, where, h("span", { class: "badge" }, model.get("badge")));
  const filters = h("div", { class: "filters" });
  const canvas = h("canvas");
  const spacer = h("div", { class: "spacer" });
  const tip = h("div", { class: "tip", role: "tooltip" });
  tip.hidden = true;
  const view = h("div", { class: "view", tabindex: 0, role: "application", "aria-label": "Timeline: arrow keys step, space plays, Enter shows the event" }, canvas, spacer);
  const cards = h("div", { class: "cards", "aria-label": "What each node holds at this instant" });
  const detail = h("div", { class: "detail" });
  const frame = h("div", { class: "frame" }, view, tip);
  el.append(bar, filters, h("div", { class: "body" }, frame, h("div", { class: "side" }, h("h4", {}, "At this instant"), cards)), detail);

  // Filters ----------------------------------------------------------------------------------------
  const apply = () => {
    const at = rows.shown[cursor];
    rows.filter(wanted);
    let place = rows.shown.findIndex((row) => row >= at);
    if (place < 0) place = rows.shown.length - 1;
    resize();
    go(Math.max(0, place));
  };
  const payments = h("select", { "aria-label": "Payment", onchange: () => ((wanted.payment = Number(payments.value)), apply()) },
    h("option", { value: -1 }, `all ${table.payments.length} payments`),
    ...table.payments.slice(0, PAYMENTS_LISTED).map((name, i) => h("option", { value: i, selected: i === wanted.payment }, name.slice(0, 12))));
  filters.append(payments, h("input", { type: "search", placeholder: "find a word", "aria-label": "Find a word",
    oninput: (event) => ((wanted.text = event.target.value.trim()), apply()) }));
  const chip = (label, pressed, toggle) => {
    const one = h("button", { type: "button", class: "chip", "aria-pressed": String(pressed), onclick: () => {
      const now = one.getAttribute("aria-pressed") !== "true";
      one.setAttribute("aria-pressed", String(now));
      toggle(now);
      apply();
    } }, label);
    return one;
  };
  for (const name of Object.keys(GROUPS)) filters.append(chip(name, true, (on) => (on ? wanted.groups.add(name) : wanted.groups.delete(name))));
  filters.append(chip("housekeeping", false, (on) => (wanted.housekeeping = on)));
  const picked = new Set(table.nodes.keys());
  const nodeChips = h("details", { class: "nodes" }, h("summary", {}, "Nodes"),
    ...table.nodes.map((name, i) => chip(name, true, (on) => {
      if (on) picked.add(i);
      else picked.delete(i);
      wanted.nodes = picked.size === table.nodes.length ? null : picked;
    })));
  filters.append(nodeChips);

  // Where the reader stands ------------------------------------------------------------------------
  let cursor = 0;
  let timer = 0;
  let follow = true;
  let selected = -1;
  function go(place, tell = true) {
    cursor = Math.max(0, Math.min(place, rows.shown.length - 1));
    const row = rows.shown[cursor] ?? -1;
    slider.value = cursor;
    const count = rows.shown.length;
    const word = row < 0 ? "nothing passes the filters" : `${clock(table.at_ms[row])} · event ${(cursor + 1).toLocaleString("en")} of ${count.toLocaleString("en")}`;
    write(where, word);
    el.dataset.row = row;
    if (tell && row >= 0 && model.get("cursor") !== row) {
      model.set("cursor", row);
      saveSoon();
    }
    showCards(row);
    const y = HEAD + cursor * ROW;
    if (follow && (y < view.scrollTop + HEAD || y > view.scrollTop + view.clientHeight - 3 * ROW)) {
      view.scrollTop = Math.max(0, y - view.clientHeight / 2);
    }
    frames.wake();
  }
  let saveDue = 0;
  function saveSoon() {
    if (!saveDue) saveDue = setTimeout(() => ((saveDue = 0), model.save_changes()), 200);
  }
  function move(step) {
    pause();
    go(cursor + step);
  }
  function start() {
    if (cursor >= rows.shown.length - 1) go(0);
    play.textContent = "Pause";
    play.setAttribute("aria-label", "Pause (space)");
    const tick = () => {
      if (cursor >= rows.shown.length - 1) return pause();
      go(cursor + 1);
      timer = setTimeout(tick, PLAY_MS / Number(speed.value));
    };
    timer = setTimeout(tick, PLAY_MS / Number(speed.value));
  }
  function pause() {
    clearTimeout(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-label", "Play (space)");
  }

  /** The state after the cursor's event, which every event before it has helped to make. */
  function stateAt(row) {
    const state = new Map();
    for (const [at, changes] of changed) {
      if (at > row) break;
      for (const [card, line, text] of changes) {
        if (!state.has(card)) state.set(card, new Map());
        if (text === null) state.get(card).delete(line);
        else state.get(card).set(line, text);
      }
    }
    return state;
  }
  const changed = Object.entries(table.changes).map(([row, changes]) => [Number(row), changes]).sort((a, b) => a[0] - b[0]);
  function showCards(row) {
    const state = stateAt(row);
    const now = new Set((table.changes[row] ?? []).map(([card, line]) => `${card}\n${line}`));
    const shown = [];
    for (const [card, lines] of state) {
      if (!lines.size) continue;
      const items = [...lines].map(([line, text]) => h("div", { class: now.has(`${card}\n${line}`) ? "line now" : "line" },
        line ? h("span", { class: "quiet" }, `${line} `) : "", h("span", {}, text)));
      shown.push(h("section", { class: "card", "data-card": card }, h("h5", {}, card), ...items));
    }
    if (!shown.length) shown.push(h("p", { class: "quiet" }, "Nobody holds anything yet."));
    cards.replaceChildren(...shown);
  }

  // Drawing ----------------------------------------------------------------------------------------
  const context = canvas.getContext("2d");
  let palette = {};
  let hovered = null;
  let drawn = [];
  const x = (node) => {
    const place = rows.columns.indexOf(node);
    const width = view.clientWidth - LEFT - RIGHT - 40;
    return LEFT + 24 + (rows.columns.length > 1 ? (place * width) / (rows.columns.length - 1) : width / 2);
  };
  const y = (place) => HEAD + (place + 0.5) * ROW - view.scrollTop;
  function resize() {
    spacer.style.height = `${HEAD + rows.shown.length * ROW + 12 - view.clientHeight}px`;
    slider.max = Math.max(0, rows.shown.length - 1);
  }
  function colours() {
    const style = getComputedStyle(el);
    for (const name of ["paper", "ink", "muted", "faint", "shade", "line", "blue", "green", "vermilion", "amber"]) palette[name] = style.getPropertyValue(`--${name}`).trim();
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [view.clientWidth, view.clientHeight];
    if (!width) return false;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    colours();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = palette.paper;
    context.fillRect(0, 0, width, height);
    const first = Math.max(0, Math.floor((view.scrollTop - ROW) / ROW));
    const last = Math.min(rows.shown.length - 1, Math.ceil((view.scrollTop + height) / ROW));
    drawLines(first, last, height);
    drawn = rows.arrowsIn(first, last);
    const labels = [];
    for (const arrow of drawn) drawArrow(arrow, labels);
    for (let i = first; i <= last; i += 1) drawMark(i, labels);
    drawLabels(labels, width);
    drawCursor(width);
    drawHeads(width);
    el.dataset.painted = `${first}-${last}`;
    return false;
  }

  function drawLines(first, last, height) {
    const step = Math.max(1, Math.round(34 / ROW));
    context.font = "10px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [node, from, to] of rows.bands) {
      if (from > last || to < first) continue;
      context.fillStyle = palette.shade;
      context.strokeStyle = palette.muted;
      context.setLineDash([3, 2]);
      context.fillRect(x(node) - 7, y(from), 14, y(to) - y(from));
      context.strokeRect(x(node) - 7, y(from), 14, y(to) - y(from));
      context.setLineDash([]);
    }
    context.strokeStyle = palette.faint;
    context.lineWidth = 1;
    context.beginPath();
    for (const node of rows.columns) {
      context.moveTo(x(node), HEAD - 8);
      context.lineTo(x(node), Math.min(height, y(rows.shown.length)));
    }
    context.stroke();
    context.fillStyle = palette.muted;
    for (let i = first - (first % step); i <= last; i += step) if (rows.shown[i] !== undefined) context.fillText(clock(table.at_ms[rows.shown[i]]), LEFT - 8, y(i));
  }

  const colourOf = { request: "blue", reply: "muted", error: "vermilion" };
  function drawArrow(arrow, labels) {
    const { row, from, to, a, b, kind, lost } = arrow;
    const [x0, y0, x1] = [x(a), y(from), x(b)];
    let [endX, endY] = lost ? [x0 + (x1 - x0) * 0.5, y(from) + ROW * 0.7] : [x1, y(to)];
    const begun = from <= cursor;
    const arrived = to <= cursor || lost;
    context.globalAlpha = begun ? 1 : FUTURE;
    if (begun && !arrived) {
      const share = (cursor - from) / (to - from);
      [endX, endY] = [x0 + (endX - x0) * Math.max(0.08, share), y0 + (endY - y0) * Math.max(0.08, share)];
    }
    context.strokeStyle = context.fillStyle = palette[colourOf[kind]];
    context.lineWidth = hovered === row || selected === row ? 3 : 1.5;
    context.setLineDash(kind === "request" ? [] : kind === "reply" ? [5, 3] : [2, 2]);
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(endX, endY);
    context.stroke();
    context.setLineDash([]);
    if (lost || kind === "error") cross(...(lost ? [endX, endY] : [(x0 + endX) / 2, (y0 + endY) / 2]));
    else if (begun && !arrived) dot(endX, endY);
    else head(x0, y0, endX, endY);
    const text = table.texts[table.label[row]];
    if (text) labels.push({ text, x: x0 + (endX - x0) * 0.5, y: y0 + (endY - y0) * 0.5 - 6, tone: lost || kind === "error" ? "vermilion" : kind === "reply" ? "muted" : "ink", alpha: context.globalAlpha, align: "center", room: Math.abs(x1 - x0) + 30 });
    context.globalAlpha = 1;
    arrow.line = [x0, y0, endX, endY];
  }
  function head(x0, y0, x1, y1) {
    const angle = Math.atan2(y1 - y0, x1 - x0);
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - 8 * Math.cos(angle - 0.38), y1 - 8 * Math.sin(angle - 0.38));
    context.lineTo(x1 - 8 * Math.cos(angle + 0.38), y1 - 8 * Math.sin(angle + 0.38));
    context.fill();
  }
  function dot(x1, y1) {
    context.beginPath();
    context.arc(x1, y1, 4.5, 0, 7);
    context.fill();
  }
  function cross(x1, y1) {
    context.strokeStyle = palette.vermilion;
    context.lineWidth = 2.4;
    context.beginPath();
    context.moveTo(x1 - 4, y1 - 4);
    context.lineTo(x1 + 4, y1 + 4);
    context.moveTo(x1 - 4, y1 + 4);
    context.lineTo(x1 + 4, y1 - 4);
    context.stroke();
  }

  const TONES = { COMMITTED: "green", COMMIT: "vermilion", ABORTED: "vermilion", DECLINED: "vermilion", QUEUED: "vermilion" };
  function drawMark(i, labels) {
    const row = rows.shown[i];
    const kind = table.kind[row];
    const [cx, cy] = [x(table.node[row]), y(i)];
    const text = table.texts[table.label[row]];
    context.globalAlpha = i <= cursor ? 1 : FUTURE;
    const tone = TONES[text.split(" ")[0]] ?? "ink";
    if (kind === FORCED || kind === STATE) {
      const decision = table.nodes[table.node[row]] === "coordinator" && ["COMMIT", "ABORTED"].includes(text.split(" ")[0]);
      const reach = decision ? 7 : 5;
      context.fillStyle = kind === STATE && !decision ? palette.paper : decision ? palette.vermilion : palette.ink;
      context.strokeStyle = kind === STATE ? palette.ink : palette.paper;
      context.lineWidth = 1.5;
      context.beginPath();
      if (kind === FORCED) {
        context.moveTo(cx, cy - reach);
        context.lineTo(cx + reach, cy);
        context.lineTo(cx, cy + reach);
        context.lineTo(cx - reach, cy);
        context.closePath();
      } else context.arc(cx, cy, 4, 0, 7);
      context.fill();
      context.stroke();
      labels.push({ text, x: cx + reach + 4, y: cy, tone, alpha: context.globalAlpha, align: "left", bold: true, flip: cx - reach - 4 });
    } else if (kind === CRASHED) {
      cross(cx, cy);
      labels.push({ text, x: cx + 10, y: cy, tone: "vermilion", alpha: context.globalAlpha, align: "left", bold: true, flip: cx - 10 });
    } else if (kind === RESTARTED) {
      context.fillStyle = palette.green;
      dot(cx, cy);
      labels.push({ text, x: cx + 10, y: cy, tone: "green", alpha: context.globalAlpha, align: "left", bold: true, flip: cx - 10 });
    } else if (kind === FAILED) {
      context.fillStyle = palette.vermilion;
      context.beginPath();
      context.arc(cx, cy, 3, 0, 7);
      context.fill();
      labels.push({ text, x: cx + 8, y: cy, tone: "vermilion", alpha: context.globalAlpha, align: "left", flip: cx - 8 });
    }
    context.globalAlpha = 1;
  }

  /** Labels that would lie on one another are left out: marks first, then arrows; the hover text has all. */
  function drawLabels(labels, width) {
    const taken = [];
    labels.sort((a, b) => (a.align === "left" ? 0 : 1) - (b.align === "left" ? 0 : 1));
    for (const label of labels) {
      context.font = `${label.bold ? "600 " : ""}10.5px system-ui, sans-serif`;
      const size = context.measureText(label.text).width;
      let { x: at, align } = label;
      if (align === "left" && at + size > width - 4) [at, align] = [label.flip, "right"];
      const left = align === "left" ? at : align === "right" ? at - size : at - size / 2;
      const box = [left - 1, label.y - 6.5, left + size + 1, label.y + 6.5];
      if (box[1] < HEAD - 12 || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      context.globalAlpha = label.alpha;
      context.textAlign = align;
      context.strokeStyle = palette.paper;
      context.lineWidth = 3.5;
      context.lineJoin = "round";
      context.strokeText(label.text, at, label.y);
      context.fillStyle = palette[label.tone];
      context.fillText(label.text, at, label.y);
    }
    context.globalAlpha = 1;
  }

  function drawCursor(width) {
    const row = rows.shown[cursor];
    if (row === undefined) return;
    const at = y(cursor);
    context.globalAlpha = 0.16;
    context.fillStyle = palette.blue;
    context.fillRect(0, at - ROW / 2, width, ROW);
    context.globalAlpha = 1;
    context.strokeStyle = palette.blue;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x(table.node[row]), at, 7.5, 0, 7);
    context.stroke();
  }

  function drawHeads(width) {
    context.fillStyle = palette.paper;
    context.fillRect(0, 0, width, HEAD - 8);
    context.font = "600 10.5px system-ui, sans-serif";
    context.textAlign = "center";
    const ends = [-1e9, -1e9];
    for (const node of rows.columns) {
      const name = table.nodes[node];
      const size = context.measureText(name).width + 10;
      let left = Math.min(Math.max(2, x(node) - size / 2), width - size - 2);
      const line = left > ends[0] + 2 ? 0 : 1;
      if (line === 1) left = Math.max(left, ends[1] + 2);
      ends[line] = left + size;
      context.fillStyle = palette.paper;
      context.strokeStyle = palette.faint;
      context.lineWidth = 1;
      context.beginPath();
      context.roundRect(left, 1 + line * 16, size, 15, 5);
      context.fill();
      context.stroke();
      context.fillStyle = palette.ink;
      context.fillText(name, left + size / 2, 9 + line * 16);
    }
  }

  const frames = new Frames(frame, draw);
  el.paylab = { frames, rows, go, point: (place) => [x(table.node[rows.shown[place]]), y(place)] };

  // The hand ---------------------------------------------------------------------------------------
  /** The event under a point: a row's mark, or else the arrow that passes. */
  function under(px, py) {
    const i = Math.floor((py + view.scrollTop - HEAD) / ROW);
    const near = [i, i - 1, i + 1].find((one) => rows.shown[one] !== undefined && Math.hypot(x(table.node[rows.shown[one]]) - px, y(one) - py) < NEAR + 2);
    if (near !== undefined) return rows.shown[near];
    let [best, least] = [null, NEAR];
    for (const arrow of drawn) {
      if (!arrow.line) continue;
      const off = distance(px, py, arrow.line);
      if (off < least) [best, least] = [arrow.row, off];
    }
    return best;
  }
  function distance(px, py, [x0, y0, x1, y1]) {
    const [dx, dy] = [x1 - x0, y1 - y0];
    const t = Math.max(0, Math.min(1, ((px - x0) * dx + (py - y0) * dy) / (dx * dx + dy * dy || 1)));
    return Math.hypot(px - x0 - t * dx, py - y0 - t * dy);
  }
  const WORDS = ["sends", "receives", "answers", "has the answer to", "gets an error from", "refuses", "forced write:", "state:", "crashed", "restarted"];
  function inWords(row) {
    const [node, peer, kind] = [table.nodes[table.node[row]], table.nodes[table.peer[row]], table.kind[row]];
    const text = table.texts[table.label[row]];
    if (kind >= FORCED) return `${node} ${WORDS[kind]} ${kind < CRASHED ? text : ""}`;
    const end = rows.ends.get(row);
    const took = end > 0 ? `, ${clock(table.at_ms[end] - table.at_ms[row])} on its way` : end === -1 ? ", lost on its way" : "";
    return `${node} ${WORDS[kind]} ${text} ${kind === SENT ? "→" : "·"} ${peer}${took}`;
  }
  view.addEventListener("pointermove", (event) => {
    const box = view.getBoundingClientRect();
    const row = under(event.clientX - box.left, event.clientY - box.top);
    if (row !== hovered) {
      hovered = row;
      frames.wake();
    }
    tip.hidden = row === null;
    if (row === null) return;
    write(tip, `${clock(table.at_ms[row])}  ${inWords(row)}`);
    tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.clientY - box.top + 14, box.height - tip.offsetHeight - 4)}px`;
  });
  view.addEventListener("pointerleave", () => ((hovered = null), (tip.hidden = true), frames.wake()));
  view.addEventListener("click", (event) => {
    const box = view.getBoundingClientRect();
    const row = under(event.clientX - box.left, event.clientY - box.top);
    const i = row === null ? Math.floor((event.clientY - box.top + view.scrollTop - HEAD) / ROW) : rows.place.get(row);
    if (i === undefined || rows.shown[i] === undefined) return;
    pause();
    go(i);
    if (row !== null) ask(row);
  });
  function ask(row) {
    selected = row;
    model.send({ do: "detail", row });
    frames.wake();
  }
  const KEYS = {
    ArrowDown: () => move(1), ArrowRight: () => move(1), ArrowUp: () => move(-1), ArrowLeft: () => move(-1),
    PageDown: () => move(20), PageUp: () => move(-20), Home: () => move(-1e9), End: () => move(1e9),
    " ": () => (timer ? pause() : start()), Enter: () => rows.shown[cursor] !== undefined && ask(rows.shown[cursor]),
  };
  view.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });
  view.addEventListener("scroll", () => frames.wake(), { passive: true });

  function showDetail({ detail: row, text, code }) {
    if (row !== selected) return;
    const [head, ...rest] = text.split("\n");
    const parts = [h("b", {}, head), h("pre", { class: "message" }, rest.join("\n"))];
    if (code) {
      const lines = code.lines.map((line, i) => h("span", { class: code.first + i === code.line ? "here" : "" }, `${String(code.first + i).padStart(4)}  ${line}`));
      parts.push(h("div", { class: "place" }, "this code: ", h("code", {}, code.place)), h("pre", { class: "code" }, ...lines));
    }
    detail.replaceChildren(...parts);
    detail.dataset.row = row;
  }

  // Listening --------------------------------------------------------------------------------------
  ears.on("msg:custom", (message) => message.detail !== undefined && showDetail(message));
  ears.on("change:cursor", () => {
    const place = rows.place.get(model.get("cursor"));
    if (place !== undefined && place !== cursor) go(place, false);
  });
  const grown = new ResizeObserver(() => (resize(), frames.wake()));
  grown.observe(view);
  rows.filter(wanted);
  resize();
  const begun = rows.place.get(model.get("cursor"));
  follow = false;
  go(begun ?? rows.shown.length - 1, false);
  follow = true;

  return () => {
    pause();
    clearTimeout(saveDue);
    ears.stop();
    frames.stop();
    grown.disconnect();
    show();
  };
}

export default { render };
