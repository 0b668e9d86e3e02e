// The line at a glance: a tile for each machine, those in trouble first and large.

import { age, clock, count, describeAlarm, describeFault, describeReason, score, t } from "./i18n.js";
import { el, icon, nameOf, setText, svg } from "./dom.js";
import { BAD, byGravity, since } from "./store.js";

const ROOMY = 24;
const SEARCH_FROM = 9;
const FILTERS = ["all", ...BAD, "normal", "off"];
const WIDTH = 120;
const HEIGHT = 32;

export class Overview {
  constructor(root, store) {
    this.store = store;
    this.tiles = new Map();
    this.seen = new Set();
    this.filter = "all";
    this.wanted = "";
    this.heading = el("h1", { id: "headline" });
    this.sub = el("p", { class: "sub" });
    this.chips = el("div", { class: "chips", role: "group", "aria-label": t("state") });
    this.search = el("input", { type: "search", placeholder: t("search"), "aria-label": t("search"), oninput: () => this.refilter(this.search.value) });
    this.tools = el("div", { class: "filters" }, this.chips, this.search);
    this.bad = el("ul", { class: "tiles", "aria-labelledby": "bad-title" });
    this.good = el("ul", { class: "tiles", "aria-labelledby": "good-title" });
    this.badTitle = el("h2", { id: "bad-title" }, t("attention"));
    this.goodTitle = el("h2", { id: "good-title" }, t("running"));
    this.empty = el("div", { class: "empty" });
    root.append(el("div", { class: "headline" }, this.heading, this.sub), this.tools, this.badTitle, this.bad, this.goodTitle, this.good, this.empty);
    root.addEventListener("keydown", (this.keys = (event) => this.walk(event)));
    this.root = root;
    // Of two thousand tiles only those on the screen are drawn.
    this.watcher = new IntersectionObserver((entries) => this.sighted(entries), { rootMargin: "200px" });
    if (store.heardAt) this.arrange();
    else setText(this.heading, t("waiting"));
  }

  title() {
    return t("line");
  }

  leave() {
    this.watcher.disconnect();
    this.root.removeEventListener("keydown", this.keys);
  }

  refilter(text) {
    this.wanted = text.trim().toLowerCase();
    this.arrange();
  }

  update({ touched, structure }) {
    if (structure || this.tiles.size !== this.shownCount) this.arrange();
    for (const n of touched) if (this.seen.has(n)) this.draw(n);
  }

  second() {
    for (const n of this.seen) this.tell(n);
    this.headline();
  }

  matches(machine) {
    const mood = this.filter === "all" || machine.mood === this.filter;
    return mood && (!this.wanted || machine.name.toLowerCase().includes(this.wanted));
  }

  headline() {
    const machines = [...this.store.machines.values()];
    const bad = machines.filter((machine) => BAD.includes(machine.mood));
    const total = machines.length;
    const text = !total
      ? t("noMachines")
      : !bad.length
        ? t(total === 1 ? "oneNormal" : "allNormal", { count: count(total) })
        : t(bad.length === 1 ? "oneNeedsAttention" : "needAttention", { bad: count(bad.length), count: count(total) });
    setText(this.heading, text);
    this.heading.dataset.bad = bad.length ? "yes" : "no";
    const system = this.store.system;
    const model = system && system.health && system.health.model;
    setText(this.sub, model ? `${t("model")} ${model.name} ${model.version}` : "");
  }

  arrange() {
    const machines = [...this.store.machines.values()].sort(byGravity);
    this.shownCount = machines.length;
    this.headline();
    this.drawChips(machines);
    const shown = machines.filter((machine) => this.matches(machine));
    const bad = shown.filter((machine) => BAD.includes(machine.mood));
    const good = shown.filter((machine) => !BAD.includes(machine.mood));
    this.good.classList.toggle("compact", good.length > ROOMY);
    this.bad.classList.toggle("compact", bad.length > 4 * ROOMY);
    this.fill(this.bad, bad);
    this.fill(this.good, good);
    this.badTitle.hidden = this.bad.hidden = !bad.length;
    this.goodTitle.hidden = !bad.length || !good.length;
    this.good.hidden = !good.length;
    const names = new Set(shown.map((machine) => machine.n));
    for (const [n, tile] of this.tiles) {
      if (!names.has(n)) {
        this.watcher.unobserve(tile.item);
        tile.item.remove();
        this.tiles.delete(n);
        this.seen.delete(n);
      }
    }
    this.tools.hidden = machines.length < SEARCH_FROM && this.filter === "all" && !this.wanted;
    this.empty.hidden = shown.length > 0;
    if (!shown.length) this.empty.replaceChildren(el("p", {}, machines.length ? t("nothingFound") : t("noMachinesHint")));
  }

  drawChips(machines) {
    const counts = { all: machines.length };
    for (const machine of machines) counts[machine.mood] = (counts[machine.mood] || 0) + 1;
    const entries = FILTERS.filter((filter) => counts[filter] || filter === this.filter);
    const state = JSON.stringify([entries, counts, this.filter]);
    if (this.chips.dataset.state === state) return;
    this.chips.dataset.state = state;
    const focused = [...this.chips.children].indexOf(document.activeElement);
    this.chips.replaceChildren(
      ...entries.map((filter) =>
        el(
          "button",
          { type: "button", class: "chip", "aria-pressed": String(filter === this.filter), dataset: { mood: filter }, onclick: () => this.choose(filter) },
          filter === "all" ? null : icon(filter),
          `${filter === "all" ? t("filterAll") : t(`mood_${filter}`)} ${count(counts[filter] || 0)}`,
        ),
      ),
    );
    if (focused >= 0 && this.chips.children[focused]) this.chips.children[focused].focus();
  }

  choose(filter) {
    this.filter = filter;
    this.arrange();
  }

  fill(list, machines) {
    let place = list.firstElementChild;
    for (const machine of machines) {
      const tile = this.tiles.get(machine.n) || this.make(machine);
      if (tile.item === place) place = place.nextElementSibling;
      else list.insertBefore(tile.item, place);
    }
  }

  make(machine) {
    const tile = {};
    tile.line = svg("path", { class: "curve" });
    tile.area = svg("path", { class: "area" });
    tile.level = svg("line", { class: "level", x1: 0, x2: WIDTH });
    tile.name = el("span", { class: "tile-name" });
    tile.badge = el("span", { class: "badge" });
    tile.number = el("span", { class: "tile-number" });
    tile.why = el("span", { class: "tile-why" });
    tile.when = el("span", { class: "tile-when" });
    tile.link = el(
      "a",
      { class: "tile", href: `#/machine/${encodeURIComponent(machine.name)}`, dataset: { n: machine.n } },
      el("span", { class: "tile-head" }, tile.name, tile.badge),
      el(
        "span",
        { class: "tile-score" },
        el("span", { class: "tile-figure" }, tile.number, el("span", { class: "tile-label" }, t("score"))),
        svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, tile.area, tile.level, tile.line),
      ),
      tile.why,
      tile.when,
    );
    tile.item = el("li", {}, tile.link);
    tile.name.append(machine.name ? nameOf(machine.name) : t("unnamed"));
    this.tiles.set(machine.n, tile);
    this.draw(machine.n);
    this.watcher.observe(tile.item);
    return tile;
  }

  sighted(entries) {
    for (const entry of entries) {
      const n = Number(entry.target.firstElementChild.dataset.n);
      if (entry.isIntersecting) {
        this.seen.add(n);
        this.draw(n);
      } else this.seen.delete(n);
    }
  }

  draw(n) {
    const machine = this.store.machines.get(n);
    const tile = this.tiles.get(n);
    if (!machine || !tile) return;
    if (tile.mood !== machine.mood) {
      tile.mood = tile.link.dataset.mood = machine.mood;
      tile.badge.replaceChildren(icon(machine.mood), el("span", {}, t(`mood_${machine.mood}`)));
    }
    setText(tile.number, score(machine.smoothed));
    const path = curve(machine);
    tile.line.setAttribute("d", path.line);
    tile.area.setAttribute("d", path.area);
    tile.level.style.display = path.level === null ? "none" : "";
    if (path.level !== null) {
      tile.level.setAttribute("y1", path.level);
      tile.level.setAttribute("y2", path.level);
    }
    this.tell(n);
  }

  tell(n) {
    const machine = this.store.machines.get(n);
    const tile = this.tiles.get(n);
    if (!machine || !tile) return;
    const words = reasonsInWords(machine, this.store.features);
    const told = words.join("\n");
    if (tile.told !== told) {
      tile.told = told;
      tile.why.replaceChildren(...words.map((text) => el("span", {}, text)));
    }
    const now = this.store.now();
    const quiet = now - machine.heard;
    let when = "";
    if (BAD.includes(machine.mood)) when = t("since", { time: clock(since(machine), now), age: age(now - since(machine)) });
    else if (quiet > 30) when = t("lastHeard", { age: age(quiet) });
    setText(tile.when, when);
  }

  walk(event) {
    const tile = event.target.closest && event.target.closest(".tile");
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const step = steps[event.key];
    if (!tile || !step) return;
    const tiles = [...this.root.querySelectorAll(".tile")];
    const at = tiles.indexOf(tile);
    let next = tiles[at + step[0]];
    if (step[1]) {
      const from = tile.getBoundingClientRect();
      const beyond = tiles.filter((each) => (each.getBoundingClientRect().top - from.top) * step[1] > 4);
      const distance = (each) => {
        const box = each.getBoundingClientRect();
        return Math.abs(box.top - from.top) * 4 + Math.abs(box.left - from.left);
      };
      next = beyond.sort((a, b) => distance(a) - distance(b))[0];
    }
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }
}

// Why the machine is as it is, in words, the gravest first.
export function reasonsInWords(machine, features) {
  const words = [];
  const alarms = machine.alarms || [];
  const equipment = alarms.find((alarm) => alarm.kind === "equipment");
  if (machine.mood === "abnormal") {
    if (machine.forecast_hours) words.push(t("forecast", { hours: machine.forecast_hours }));
    const reasons = ((machine.reasons && machine.reasons.length ? machine.reasons : equipment && equipment.reasons) || []).filter((reason) => reason.contribution > 0);
    words.push(...reasons.slice(0, 2).map((reason) => describeReason(reason, features.get(reason.feature))));
  }
  const faulty = new Set();
  for (const alarm of alarms) {
    if (alarm.kind === "equipment") continue;
    if (alarm.kind === "sensor") faulty.add(alarm.sensor);
    words.push(describeAlarm(alarm, features));
  }
  for (const [sensor, reason] of Object.entries(machine.sensors || {})) if (!faulty.has(sensor)) words.push(describeFault(sensor, reason));
  return words;
}

function curve(machine) {
  const values = machine.spark.filter((value) => value !== null);
  if (values.length < 2) return { line: "", area: "", level: null };
  const level = machine.threshold;
  let low = Math.min(0, ...values);
  let high = Math.max(...values, level === null ? 0 : level * 1.15);
  if (low >= 0 && high <= 1.2) high = Math.min(1, Math.max(high, 0.25));
  if (high - low < 1e-9) high = low + 1;
  const y = (value) => (HEIGHT - 1.5 - ((value - low) / (high - low)) * (HEIGHT - 3)).toFixed(1);
  const first = WIDTH - ((values.length - 1) * WIDTH) / 59;
  const points = values.map((value, place) => `${(first + (place * WIDTH) / 59).toFixed(1)} ${y(value)}`);
  const line = `M${points.join("L")}`;
  const above = level !== null && level >= low && level <= high;
  return { line, area: `${line}L${WIDTH} ${HEIGHT}L${first.toFixed(1)} ${HEIGHT}Z`, level: above ? y(level) : null };
}
