// What the views of all panels share. Each panel's own file is joined behind this one.

// About thirty frames a second: just above, so that a late one is made up for.
const FRAME_MS = 32;
// Drawn at the screen's beat that is nearest to when it is due. To be called at a beat and draw nothing costs
// little; a timer that skips beats comes at odd moments between them, and motion stutters.
const EARLY_MS = 8;
// A theme's style sheet comes a moment after its name.
const THEME_MS = 400;

/** Make an element: attributes by name, listeners as functions under "on…", children behind them. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  // JupyterLab takes Enter, arrows and letters for commands on the cell unless what has the focus itself says no.
  if (element.tabIndex >= 0 || "tabindex" in attributes) element.dataset.lmSuppressShortcuts = "true";
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
}

/** Write a text only if it differs: most of what comes twenty times a second is what is there already. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for an attribute. */
export function put(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Prepare a panel's element and hide its still picture while it lives; returns what undoes that. */
export function begin(model, el, name) {
  el.classList.add("paylab-panel", name);
  // JupyterLab would take Enter, arrows and letters for commands on the cell.
  el.dataset.lmSuppressShortcuts = "true";
  const id = model.get("panel_id");
  const rule = h("style");
  rule.textContent =
    `[data-paylab="${id}"],.jp-OutputArea-child:has(> .jp-OutputArea-output [data-paylab="${id}"]){display:none}`;
  document.head.append(rule);
  return () => rule.remove();
}

/**
 * Calls draw(now) about thirty times a second, until it returns false, and only while it is seen. `wake()`
 * starts it again. `drawn` counts, for whoever measures.
 */
export class Pace {
  constructor(draw) {
    this.draw = draw;
    this.drawn = 0;
    this.visible = true;
    this.asked = false;
    this.due = 0;
  }

  see(visible) {
    this.visible = visible;
    this.wake();
  }

  wake() {
    if (this.asked || !this.visible) return;
    this.asked = true;
    this.request = requestAnimationFrame((now) => this.beat(now));
  }

  beat(now) {
    this.asked = false;
    if (!this.visible) return;
    if (now < this.due - EARLY_MS) return this.wake();
    this.due = Math.max(this.due + FRAME_MS, now);
    this.drawn += 1;
    if (this.draw(now) !== false) this.wake();
  }

  stop() {
    cancelAnimationFrame(this.request);
    this.asked = true;
  }
}

/** Whether an element can be seen. Calls changed() when that changes, and when the theme does. */
export class Sight {
  constructor(element, changed) {
    this.onScreen = true;
    this.observer = new IntersectionObserver((entries) => {
      this.onScreen = entries[entries.length - 1].isIntersecting;
      changed();
    });
    this.observer.observe(element);
    this.changed = changed;
    document.addEventListener("visibilitychange", changed);
    // A canvas keeps the colours of the theme that it was drawn in.
    this.themes = new MutationObserver(() => {
      changed();
      setTimeout(changed, THEME_MS);
    });
    this.themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  }

  get visible() {
    return this.onScreen && !document.hidden;
  }

  stop() {
    this.observer.disconnect();
    this.themes.disconnect();
    document.removeEventListener("visibilitychange", this.changed);
  }
}

/** A pace for what is drawn on an element of this page. */
export class Frames extends Pace {
  constructor(element, draw) {
    super(draw);
    this.sight = new Sight(element, () => this.see(this.sight.visible));
  }

  stop() {
    super.stop();
    this.sight.stop();
  }
}

/** Listen to traits and to messages, and stop all of it at once. */
export class Ears {
  constructor(model) {
    this.model = model;
    this.heard = [];
  }

  on(events, listener) {
    for (const event of events.split(" ")) {
      this.model.on(event, listener);
      this.heard.push([event, listener]);
    }
  }

  stop() {
    for (const [event, listener] of this.heard) this.model.off(event, listener);
  }
}
