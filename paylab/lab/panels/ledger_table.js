import { h, write, begin, Frames, Ears } from "./panel.js";

const SEARCH_AFTER_MS = 150;
const COLUMNS = [["account", "account"], ["posted", "posted"], ["held", "held"], ["available", "available"]];
const SUMS = ["bank", "customers", "held", "clearing", "funding", "sum"];
const NUMBER = new Intl.NumberFormat("en");

/** 1234567.00 EUR with thousands apart. */
function money(text) {
  const [amount, currency] = text.split(" ");
  const [whole, decimals] = amount.split(".");
  return `${whole.replace("-", "−").replace(/\B(?=(\d{3})+$)/g, ",")}${decimals ? `.${decimals}` : ""} ${currency}`;
}

function nothing(text) {
  return /^[0.,]+ /.test(text);
}

function render({ model, el }) {
  const undo = begin(model, el, "paylab-ledgers");
  const save = (trait, value) => { model.set(trait, value); model.save_changes(); };

  let timer = 0;
  const search = h("input", { type: "search", placeholder: "Search accounts and owners", "aria-label": "Search", oninput: () => {
    clearTimeout(timer);
    timer = setTimeout(() => save("search", search.value), SEARCH_AFTER_MS);
  } });
  const count = h("span", { class: "count quiet", "aria-live": "polite" });
  const heads = COLUMNS.map(([name, column]) => {
    const button = h("button", { type: "button", onclick: () => {
      const descending = model.get("order") === column || (column !== "account" && model.get("order") !== `-${column}`);
      save("order", descending ? `-${column}` : column);
    } }, name);
    return h("th", { scope: "col" }, button);
  });
  const body = h("tbody");
  const empty = h("div", { class: "empty" });
  const latest = h("tbody");
  const title = h("h4");
  const sums = h("tbody");
  const footer = h("footer");

  el.append(
    h("header", {}, h("h3", {}, "Ledgers"), search, count, h("span", { class: "badge" }, model.get("badge"))),
    h("div", { class: "halves" },
      h("div", { class: "accounts", tabindex: -1 }, h("table", {}, h("thead", {}, h("tr", {}, ...heads)), body), empty),
      h("div", { class: "postings" }, title, h("table", {}, latest))),
    h("div", { class: "sums" }, h("table", {}, h("thead", {}, h("tr", {}, ...SUMS.map((name) => h("th", { scope: "col" }, name)))), sums)),
    footer);

  const choose = (account) => save("account", model.get("account") === account ? "" : account);
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(row.dataset.account);
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    const other = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (other) other.focus();
    else if (event.key === "Enter" || event.key === " ") choose(row.dataset.account);
    else return;
    event.preventDefault();
  });

  const known = new Map();
  const drawAccounts = () => {
    const rows = model.get("rows"), chosen = model.get("account");
    while (body.children.length > rows.length) body.lastChild.remove();
    rows.forEach(([account, owner, posted, held, available, closed], n) => {
      let row = body.children[n];
      if (!row) {
        row = h("tr", { tabindex: 0 }, h("td"), h("td"), h("td"), h("td"));
        row.addEventListener("animationend", () => row.classList.remove("changed"));
        body.append(row);
      }
      const same = row.dataset.account === account;
      row.dataset.account = account;
      row.title = owner && !account.endsWith(`/${owner}`) ? `owned by ${owner}` : "";
      row.setAttribute("aria-selected", account === chosen);
      write(row.children[0], closed ? `${account} (closed)` : account);
      [posted, held, available].forEach((text, m) => {
        const cell = row.children[m + 1];
        write(cell, money(text));
        cell.classList.toggle("none", nothing(text));
      });
      row.children[2].classList.add("held");
      row.classList.toggle("changed", same && known.has(account) && known.get(account) !== posted
        || (same && row.classList.contains("changed")));
      known.set(account, posted);
    });
    const total = model.get("total"), matching = model.get("matching");
    write(count, matching === total ? `${NUMBER.format(total)} accounts` : `${NUMBER.format(matching)} of ${NUMBER.format(total)} accounts`);
    write(empty, rows.length ? "" : total ? "No account matches." : "No account was opened yet.");
    empty.style.display = rows.length ? "none" : "";
    const order = model.get("order");
    heads.forEach((head, n) => {
      const [name, column] = COLUMNS[n];
      const mine = order.replace("-", "") === column;
      head.setAttribute("aria-sort", mine ? (order.startsWith("-") ? "descending" : "ascending") : "none");
      write(head.firstChild, mine ? `${name} ${order.startsWith("-") ? "↓" : "↑"}` : name);
    });
  };

  const drawPostings = () => {
    const account = model.get("account");
    const key = account || "*";
    if (title.dataset.key !== key) {
      title.dataset.key = key;
      title.replaceChildren(...(account
        ? ["Last postings of ", h("b", {}, account), h("button", { type: "button", onclick: () => save("account", "") }, "all")]
        : ["Last postings"]));
    }
    latest.replaceChildren(...model.get("postings").map(([at, whose, txn, amount, out]) =>
      h("tr", { title: txn },
        h("td", { class: "time" }, at),
        h("td", { class: "left" }, account ? (txn === "opening" ? txn : txn.slice(0, 10)) : whose),
        h("td", { class: out ? "out" : "in" }, money(amount)))));
  };

  const drawSums = () => {
    sums.replaceChildren(...model.get("sums").map((row) =>
      h("tr", {}, ...row.map((text, n) => h("td", { class: n && nothing(text) ? "none" : "" }, n ? money(text) : text)))));
    const { balanced, clearing = [], settled, prepared = 0 } = model.get("verdict");
    footer.replaceChildren(
      h("span", { class: balanced ? "good" : "bad" }, balanced ? "✓ every bank's postings sum to zero" : "✘ a bank's postings do not sum to zero"),
      h("span", { class: settled ? "good" : "" }, settled ? "✓ clearing sums to zero over all banks"
        : `clearing sums to ${clearing.map(money).join(", ")}: payments are on their way`),
      h("span", { class: "quiet" }, `${NUMBER.format(prepared)} ${prepared === 1 ? "transaction holds" : "transactions hold"} money`));
  };

  const frames = new Frames(el, () => {
    drawAccounts();
    drawPostings();
    drawSums();
    return false;
  });
  const ears = new Ears(model);
  ears.on("change:rows change:account change:order change:matching change:total change:postings change:sums change:verdict", () => frames.wake());
  ears.on("change:search", () => { if (document.activeElement !== search) search.value = model.get("search"); });
  search.value = model.get("search");
  frames.wake();

  return () => {
    clearTimeout(timer);
    frames.stop();
    ears.stop();
    undo();
  };
}

export default { render };
