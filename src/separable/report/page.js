// In: the page that Python wrote and the facts inside it. Out: the same page, with order, filter, tooltips and alternatives.
// Names come from other people's models: text is only ever set with textContent.
"use strict";
(() => {
  const MOST_ROWS = innerWidth < 700 ? 12 : 40; // more layers than this start folded
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, text, parent) => {
    const node = document.createElement(tag);
    node.textContent = text;
    parent?.append(node);
    return node;
  };
  const facts = JSON.parse(one("#facts").textContent);
  const bodies = all("#layers > tbody");
  const bells = all("#theory li.layer");
  document.documentElement.classList.add("script");

  // --- a layer's alternatives, opened by its row, its name or its link in the figure ---
  const open = (body, wanted = !body.classList.contains("open")) => {
    body.classList.toggle("open", wanted);
    one("th button", body).setAttribute("aria-expanded", wanted);
  };
  const button = (cell) => {
    const made = make("button", "");
    made.type = "button";
    made.append(...[...cell.childNodes].filter((node) => node.nodeName !== "SMALL"));
    cell.prepend(made);
    return made;
  };
  bodies.forEach((body) => {
    button(one("th", body));
    open(body, false);
    one(".main", body).addEventListener("click", () => getSelection().isCollapsed && open(body));
  });
  const visit = () => {
    const body = bodies.find((candidate) => `#${candidate.id}` === location.hash);
    if (!body) return;
    body.hidden = false;
    open(body, true);
    body.scrollIntoView({ block: "nearest" });
  };
  addEventListener("hashchange", visit);
  bells.forEach((bell) => one("a", bell).addEventListener("click", () => setTimeout(visit)));

  // --- order and filter, the same for the figure and the table ---
  const tools = one(".tools");
  const exact = (node) => (node ? Number(node.value) : null);
  const gain = (kind) => (i) => exact(one(`.${kind} data`, bells[i]));
  const gap = (i) => (gain("measured")(i) === null ? null : gain("measured")(i) / gain("counted")(i));
  const words = (key) => (i) => one(`[data-key="${key}"]`, bodies[i]).textContent;
  const number = (key) => (i) => exact(one(`.main [data-key="${key}"] data`, bodies[i]));
  const orders = new Map([
    ["network", ["as in the network", (i) => -i]],
    ["counted", ["speed-up, counted", gain("counted")]],
    ["measured", ["speed-up, measured", gain("measured")]],
    ["gap", ["share of the promise kept", gap]],
  ]);
  const state = { order: "network", descending: true, folded: true };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);

  const arrange = () => {
    const text = tools.filter.value.trim().toLowerCase();
    const key = orders.get(state.order)[1];
    const keyed = bodies.map((_, i) => ({ i, key: key(i) }));
    const absent = ({ key: value }) => value === null;
    keyed.sort((a, b) => absent(a) - absent(b) || (state.descending ? -1 : 1) * compare(a.key, b.key) || a.i - b.i);
    const fits = ({ i }) => (tools.kept.checked || !bodies[i].classList.contains("kept"))
      && one(".main", bodies[i]).textContent.toLowerCase().includes(text);
    const found = keyed.filter(fits);
    const shown = new Set((state.folded ? found.slice(0, MOST_ROWS) : found).map(({ i }) => i));
    keyed.forEach(({ i }) => {
      one("#layers").append(bodies[i]);
      one("#theory ol").append(bells[i]);
      bodies[i].hidden = bells[i].hidden = !shown.has(i);
    });
    tools.order.value = state.order;
    tools.direction.textContent = state.descending ? "↓" : "↑";
    one("output", tools).textContent = `${shown.size} of ${bodies.length} layers`;
    one(".all").hidden = shown.size === found.length;
    one(".all button").textContent = `Show all ${found.length} layers`;
    all("#layers thead th[data-key]").forEach((th) => {
      if (th.dataset.key !== state.order) th.removeAttribute("aria-sort");
      else th.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    });
  };
  const order = (name) => {
    state.descending = name === state.order ? !state.descending : !["name", "became"].includes(name);
    state.order = name;
    arrange();
  };
  if (tools) {
    all("#layers thead th[data-key]").forEach((th) => {
      const { key } = th.dataset;
      const group = one(`#layers [data-key="${key}"][data-label]`);
      const label = group ? `${group.dataset.label}${th.rowSpan > 1 ? "" : `, ${th.textContent}`}` : th.textContent;
      orders.set(key, [label, group ? number(key) : words(key)]);
      button(th).addEventListener("click", () => order(key));
    });
    orders.forEach(([label], name) => { make("option", label, tools.order).value = name; });
    tools.addEventListener("submit", (event) => event.preventDefault());
    tools.order.addEventListener("change", () => order(tools.order.value));
    tools.direction.addEventListener("click", () => order(state.order));
    tools.filter.addEventListener("input", arrange);
    tools.kept.addEventListener("change", arrange);
    one(".all button").addEventListener("click", () => { state.folded = false; arrange(); });
    tools.hidden = false;
    arrange();
  }

  // --- a tooltip for each layer of the figure: what its row in the table says ---
  const tip = make("div", "", document.body);
  Object.assign(tip, { id: "tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  const fill = (i) => {
    tip.replaceChildren();
    make("b", words("name")(i) && one("bdi", bodies[i]).textContent, tip);
    make("span", one(".became b", bodies[i]).textContent, tip);
    const list = make("dl", "", tip);
    ["counted", "predicted", "measured"].forEach((kind) => {
      make("dt", `Speed-up, ${kind}`, list);
      make("dd", one(`.${kind}`, bells[i]).textContent, list);
    });
    const lines = new Map();
    all(".main [data-label]", bodies[i]).forEach(({ dataset, textContent }) => {
      lines.set(dataset.label, [...(lines.get(dataset.label) ?? []), textContent]);
    });
    lines.forEach((values, label) => {
      make("dt", label, list);
      make("dd", values.join(" → "), list);
    });
  };
  const place = (x, y) => {
    const { width, height } = tip.getBoundingClientRect();
    const top = y + 18 + height < innerHeight ? y + 18 : Math.max(8, y - height - 18);
    tip.style.left = `${Math.max(8, Math.min(x + 14, document.documentElement.clientWidth - width - 8))}px`;
    tip.style.top = `${scrollY + top}px`; // in the page, not in the window: it scrolls with its row
  };
  const hide = () => { tip.hidden = true; };
  bells.forEach((bell, i) => {
    const link = one("a", bell);
    const show = (x, y) => { fill(i); tip.hidden = false; place(x, y); };
    link.setAttribute("aria-describedby", "tip");
    link.addEventListener("pointerenter", (event) => show(event.clientX, event.clientY));
    link.addEventListener("pointermove", (event) => place(event.clientX, event.clientY));
    link.addEventListener("pointerleave", hide);
    link.addEventListener("focus", () => {
      const box = one(".plot", link).getBoundingClientRect();
      if (link.matches(":focus-visible")) show(box.left, box.bottom - 12);
    });
    link.addEventListener("blur", hide);
  });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // --- the loss at a step, by pointer or by arrow keys ---
  const curve = one(".curve");
  if (curve) {
    const { steps, losses } = facts.distillation;
    const line = document.createElementNS(curve.namespaceURI, "line");
    let at = 0;
    const point = (wanted) => {
      at = Math.max(0, Math.min(steps.length - 1, wanted));
      const x = (1000 * at) / Math.max(1, steps.length - 1);
      Object.entries({ x1: x, x2: x, y1: 0, y2: 100 }).forEach(([name, value]) => line.setAttribute(name, value));
      curve.append(line);
      one("#distillation output").textContent = `Step ${steps[at]}: loss ${losses[at].toPrecision(3)}`;
    };
    curve.tabIndex = 0;
    curve.removeAttribute("aria-hidden");
    curve.setAttribute("role", "img");
    curve.setAttribute("aria-label", "Loss by step; the arrow keys read it");
    curve.addEventListener("pointermove", (event) => {
      const box = curve.getBoundingClientRect();
      point(Math.round(((event.clientX - box.left) / box.width) * (steps.length - 1)));
    });
    curve.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
      if (move) { event.preventDefault(); point(at + move); }
    });
  }

  const save = one(".save");
  one("a", save).href = URL.createObjectURL(new Blob([JSON.stringify(facts, null, 1)], { type: "application/json" }));
  save.hidden = false;
  visit();
})();
