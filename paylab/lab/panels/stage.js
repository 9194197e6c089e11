// What travels over a network: payments in slow motion on a canvas, drawn in a worker where there is one for it.
import { Pace } from "./panel.js";

// A payment should take about so long on screen; the factors to choose from.
const SHOWN_MS = 4500;
export const FACTORS = [5, 10, 20, 50, 100, 200, 500, 1000, 2000];
// A wait is cut down to so much, and whatever travels takes at least so long between two things that happen.
const WAIT_MAX_MS = 420;
const STEP_MIN_MS = 35;
const LOST_MS = 420;
const LINGER_MS = 500;
const MARK_MS = 900;
const PLAYED_MAX = 5;
const WAITING_MAX = 3;
const WAITS_SHOWN_MS = 8000;
// Each edge is so many straight pieces.
export const POINTS = 64;

// What a worker says once it can take the canvas.
const READY = "ready";

const OUTCOMES = {
  COMMITTED: { colour: "--green", shape: "circle", word: "committed" },
  DECLINED: { colour: "--vermilion", shape: "square", word: "declined" },
  QUEUED: { colour: "--purple", shape: "triangle", word: "queued" },
};
const UNDECIDED = { colour: "--blue", shape: "circle", word: "under way" };
export const outcome = (state) => OUTCOMES[state] || UNDECIDED;
export const COLOURS = ["--green", "--vermilion", "--purple", "--blue", "--ink", "--paper"];

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

/** Which journeys are played, and how each moment of them looks. It knows of the page what the page tells. */
class Stage {
  /** told(factor) hears how slow the motion is. */
  constructor(canvas, told) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.told = told;
    this.pace = new Pace((now) => this.draw(now));
    this.journeys = [];
    this.queue = [];
    this.lengths = [];
    this.factor = 100;
    this.chosen = 0;
    this.tracks = new Map();
    this.boxes = {};
    this.palette = {};
  }

  // What the page asks for -------------------------------------------------------------------------

  /** Where nodes and edges are: tracks are the points of each edge, by "from to". */
  plan({ width, tracks, boxes }) {
    this.width = width;
    this.tracks = new Map(tracks);
    this.boxes = boxes;
    this.crowd = Object.keys(boxes).find((name) => name.endsWith(" clients"));
    for (const { hops } of this.journeys) for (const hop of hops) delete hop.track;
  }

  /** The theme's colours, the size in the screen's own pixels, and whether anybody can see it. */
  look({ palette, width, height, visible }) {
    this.palette = palette;
    const { canvas } = this;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.pace.see(visible);
  }

  add(journeys) {
    const now = performance.now();
    for (const data of journeys) this.addOne(data, now);
    this.pace.wake();
  }

  /** Have everything so much slower from now on; 0 chooses by how long payments take. */
  choose(factor) {
    this.chosen = factor;
    this.slow(factor || (this.lengths.length ? this.fitting() : this.factor));
  }

  /** The network has changed: what ended before would walk through a world that is no more. */
  forget() {
    this.journeys = this.journeys.filter((journey) => !journey.over);
    this.queue = this.queue.filter((data) => !data.over);
    this.pace.wake();
  }

  close() {
    this.pace.stop();
  }

  // Which are played -------------------------------------------------------------------------------

  addOne(data, now) {
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
    this.slow(this.chosen || this.fitting());
  }

  fitting() {
    const off = (factor) => {
      const shown = this.lengths.map((data) => new Journey(data, factor).length).sort((a, b) => a - b);
      return Math.abs(Math.log(shown[shown.length >> 1] / SHOWN_MS));
    };
    return FACTORS.reduce((best, factor) => (off(factor) < off(best) - 0.05 ? factor : best));
  }

  slow(factor) {
    if (factor === this.factor) return;
    this.factor = factor;
    this.told(factor);
  }

  // How a moment looks -----------------------------------------------------------------------------

  /** Draw one moment; false when nothing is left that moves. */
  draw(now) {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.journeys = this.journeys.filter((journey) => !journey.done(now));
    while (this.queue.length && this.journeys.length < PLAYED_MAX) {
      const journey = new Journey(this.queue.shift(), this.factor);
      journey.began = now;
      this.journeys.push(journey);
    }
    if (!this.journeys.length || !this.width) return false;
    const zoom = canvas.width / this.width;
    context.setTransform(zoom, 0, 0, zoom, 0, 0);
    for (const journey of this.journeys) this.play(journey, now - journey.began, now);
    return true;
  }

  place(node) {
    return node in this.boxes ? node : this.crowd;
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
    const box = this.boxes[this.place(mark.node)];
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
    const box = this.boxes[this.place(node)];
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

/**
 * A stage that a worker plays on the canvas, so that the page has nothing to draw and to hand on thirty times
 * a second. Where the browser or its rules have no worker for that, the page plays it.
 */
export class FarStage {
  /** `source` is this module as text, for the worker. */
  constructor(canvas, source, told) {
    this.canvas = canvas;
    this.told = told;
    this.waiting = [];
    try {
      if (!canvas.transferControlToOffscreen) throw new Error("a canvas cannot be lent");
      this.url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      this.worker = new Worker(this.url, { type: "module" });
    } catch {
      this.stay();
      return;
    }
    // Lent only to a worker that has answered: one that does not start must not have the canvas.
    this.worker.onmessage = ({ data }) => (data === READY ? this.lend() : told(data));
    this.worker.onerror = () => this.lent || this.stay();
  }

  /** Call a method of the stage, now or as soon as there is one. */
  ask(...call) {
    if (this.stage) perform(this.stage, call);
    else if (this.lent) this.worker.postMessage(call);
    else this.waiting.push(call);
  }

  lend() {
    const lent = this.canvas.transferControlToOffscreen();
    this.worker.postMessage(lent, [lent]);
    this.lent = true;
    this.begin();
  }

  stay() {
    this.stage ??= new Stage(this.canvas, this.told);
    this.begin();
  }

  begin() {
    if (this.url) URL.revokeObjectURL(this.url);
    for (const call of this.waiting.splice(0)) this.ask(...call);
  }

  close() {
    this.worker?.terminate();
    this.stage?.close();
  }
}

const perform = (stage, [name, ...values]) => stage[name](...values);

if (typeof document === "undefined") {
  self.onmessage = ({ data: canvas }) => {
    self.stage = new Stage(canvas, (factor) => self.postMessage(factor));
    self.onmessage = ({ data: call }) => perform(self.stage, call);
  };
  self.postMessage(READY);
}
