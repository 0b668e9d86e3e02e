// One machine: how it is and why, its score and its sensors over time, its alarms.

import { age, clock, figure, score, sensorName, t, unitName, withUnit } from "./i18n.js";
import { el, icon, nameOf, setText } from "./dom.js";
import { Chart } from "./chart.js";
import { reasonsInWords } from "./overview.js";
import { since } from "./store.js";
import { alarmTable } from "./alarms.js";

const RANGES = ["live", "1h", "8h", "24h", "7d", "30d"];
const LIVE_SECONDS = 300;
const REFRESH = 30;

export class MachinePage {
  constructor(root, store, name) {
    this.store = store;
    this.name = name;
    this.range = "live";
    this.scores = [];
    this.readings = [];
    this.columns = [];
    this.history = null;
    this.charts = new Map();
    this.figures = new Map();
    this.badge = el("span", { class: "badge" });
    this.when = el("span", { class: "when" });
    this.words = el("ul", { class: "words" });
    this.bars = el("section", { class: "card reasons", "aria-labelledby": "reasons-title" });
    this.ranges = el("div", { class: "segments", role: "group", "aria-label": t("range") });
    this.legend = el("p", { class: "legend" });
    this.scoreBox = el("section", { class: "card" });
    this.sensorBox = el("div", { class: "charts" });
    this.alarmBox = el("section", { class: "card" });
    this.note = el("p", { class: "note", role: "status", hidden: true });
    root.append(
      el("p", { class: "crumb" }, el("a", { href: "#/" }, `← ${t("back")}`)),
      el("div", { class: "machine-head" }, el("h1", {}, name ? nameOf(name) : t("unnamed")), this.badge, this.when),
      el("div", { class: "summary" }, this.words, this.bars),
      el("div", { class: "range-line" }, this.ranges, this.legend),
      this.note,
      this.scoreBox,
      el("h2", {}, t("sensors")),
      this.sensorBox,
      this.alarmBox,
    );
    this.drawRanges();
    this.build();
    this.update({ touched: new Set([this.machine ? this.machine.n : -1]), system: true });
  }

  get machine() {
    return this.store.byName.get(this.name);
  }

  title() {
    return this.name || t("unnamed");
  }

  leave() {
    this.left = true;
    for (const chart of this.charts.values()) chart.destroy();
    clearTimeout(this.timer);
  }

  drawRanges() {
    this.ranges.replaceChildren(
      ...RANGES.map((range) =>
        el("button", { type: "button", "aria-pressed": String(range === this.range), onclick: () => this.choose(range) }, t(`range_${range}`)),
      ),
    );
  }

  choose(range) {
    this.range = range;
    this.history = null;
    const focused = [...this.ranges.children].indexOf(document.activeElement);
    this.drawRanges();
    if (focused >= 0) this.ranges.children[focused].focus();
    this.load();
    this.draw();
  }

  async load() {
    clearTimeout(this.timer);
    const machine = this.machine;
    if (!machine || this.left) return;
    const range = this.range;
    try {
      // The live view needs the history for its alarms only.
      const answer = await fetch(`/api/history?n=${machine.n}&range=${range}`);
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const history = await answer.json();
      if (this.left || range !== this.range) return;
      this.history = history;
      this.note.hidden = true;
      this.draw();
      this.drawAlarms();
    } catch (error) {
      if (this.left) return;
      this.note.hidden = !this.store.live;
      setText(this.note, t("noHistory", { why: error.message }));
    }
    if (!this.left) this.timer = setTimeout(() => this.load(), REFRESH * 1000);
  }

  // Charts for what the model looks at.
  build() {
    for (const chart of this.charts.values()) chart.destroy();
    this.charts.clear();
    this.figures.clear();
    const wide = innerWidth > 1800;
    const machine = this.machine;
    const height = wide ? 220 : 160;
    const scoreChart = new Chart(t("score"), { height, floor: 1, level: machine ? machine.threshold : null, sync: "machine" });
    const scoreFigure = el("span", { class: "now" });
    this.charts.set("", scoreChart);
    this.figures.set("", scoreFigure);
    this.scoreBox.replaceChildren(
      el("div", { class: "chart-head" }, el("h2", {}, t("score")), scoreFigure, el("span", { class: "usual" }, machine && machine.threshold !== null && machine.threshold !== undefined ? t("threshold", { value: figure(machine.threshold) }) : "")),
      scoreChart.box,
    );
    this.sensorBox.replaceChildren(
      ...[...this.store.features.values()].map((feature) => {
        const chart = new Chart(sensorName(feature.name), { height: wide ? 180 : 130, low: feature.low, high: feature.high, sync: "machine", strip: true });
        const now = el("span", { class: "now" });
        this.charts.set(feature.name, chart);
        this.figures.set(feature.name, now);
        const usual = feature.low === null || feature.high === null ? "" : t("usualRange", { low: figure(feature.low), top: figure(feature.high) });
        return el(
          "section",
          { class: "card", "aria-label": sensorName(feature.name) },
          el("div", { class: "chart-head" }, el("h3", { title: feature.name }, sensorName(feature.name)), now, el("span", { class: "usual" }, `${usual} ${usual ? unitName(feature.unit) : ""}`)),
          chart.box,
        );
      }),
    );
    this.built = this.signature();
  }

  signature() {
    const machine = this.machine;
    return JSON.stringify([[...this.store.features.values()], machine ? machine.threshold : null]);
  }

  update({ touched, system }) {
    const machine = this.machine;
    if (!machine) {
      setText(this.when, this.store.heardAt ? t("noSuchMachine") : t("loading"));
      return;
    }
    if ((system || touched.has(machine.n)) && this.built !== this.signature()) this.build();
    if (!this.loaded) {
      this.loaded = true;
      this.load();
    }
    if (!touched.has(machine.n) && !system) return;
    if (this.mood !== machine.mood) {
      this.mood = this.badge.dataset.mood = machine.mood;
      this.badge.replaceChildren(icon(machine.mood), el("span", {}, t(`mood_${machine.mood}`)));
    }
    const alarms = JSON.stringify(machine.alarms || []);
    if (alarms !== this.alarms) {
      const first = this.alarms === undefined;
      this.alarms = alarms;
      if (!first) setTimeout(() => this.load(), 2500);
    }
    this.drawWords(machine);
    this.second();
  }

  drawWords(machine) {
    const words = reasonsInWords(machine, this.store.features);
    const reasons = (machine.reasons && machine.reasons.length ? machine.reasons : ((machine.alarms || []).find((alarm) => alarm.kind === "equipment") || {}).reasons) || [];
    const state = JSON.stringify([words, reasons, [...this.store.features.values()]]);
    if (state === this.wordState) return;
    this.wordState = state;
    this.words.replaceChildren(...words.map((text) => el("li", {}, text)));
    this.words.hidden = !words.length;
    this.bars.hidden = !reasons.length;
    if (!reasons.length) return;
    const largest = Math.max(...reasons.map((reason) => Math.abs(reason.contribution)), 1e-9);
    this.bars.replaceChildren(
      el("h2", { id: "reasons-title" }, t("reasonsTitle")),
      el("p", { class: "hint" }, t("reasonsHint")),
      el(
        "ul",
        { class: "bars" },
        ...reasons.map((reason) => {
          const bar = el("span", { class: "bar-fill", dataset: { push: reason.contribution >= 0 ? "up" : "down" } });
          const share = Math.abs(reason.contribution) / largest;
          bar.style.width = `${(share * 50).toFixed(1)}%`;
          bar.style.left = `${(reason.contribution >= 0 ? 50 : 50 - share * 50).toFixed(1)}%`;
          return el(
            "li",
            {},
            el("span", { class: "bar-name" }, sensorName(reason.feature)),
            el("span", { class: "bar-value" }, withUnit(reason.value, reason.unit)),
            el("span", { class: "bar", "aria-hidden": "true" }, bar),
            el("span", { class: "bar-push" }, `${reason.contribution >= 0 ? "+" : "−"}${Math.abs(reason.contribution).toFixed(2)}`),
          );
        }),
      ),
    );
  }

  second() {
    const machine = this.machine;
    if (!machine) return;
    const now = this.store.now();
    const quiet = now - machine.heard;
    let text = t("since", { time: clock(since(machine), now), age: age(now - since(machine)) });
    if (quiet > 30) text += ` · ${t("lastHeard", { age: age(quiet) })}`;
    setText(this.when, text);
    setText(this.figures.get(""), score(machine.smoothed));
    if (this.range === "live") this.draw();
  }

  samples({ n, scores, readings, columns }) {
    const machine = this.machine;
    if (!machine || machine.n !== n) return;
    this.columns = columns;
    const begin = this.store.now() - LIVE_SECONDS - 5;
    const add = (held, fresh) => {
      const last = held.length ? held[held.length - 1][0] : -Infinity;
      return [...held.filter((row) => row[0] > begin), ...fresh.filter((row) => row[0] > last)];
    };
    this.scores = add(this.scores, scores);
    this.readings = add(this.readings, readings);
    const latest = this.readings[this.readings.length - 1];
    if (latest)
      for (const [feature, element] of this.figures) {
        if (!feature) continue;
        const known = this.store.features.get(feature);
        const value = latest[1 + columns.indexOf(feature)];
        setText(element, withUnit(value, known ? known.unit : ""));
        const outside = known && value !== null && known.low !== null && known.high !== null && (value < known.low || value > known.high);
        element.dataset.outside = outside ? "yes" : "no";
      }
    if (this.range === "live") this.draw();
  }

  spans() {
    const machine = this.machine;
    const open = ((machine && machine.alarms) || []).filter((alarm) => alarm.kind === "equipment").map((alarm) => [alarm.opened, null]);
    const past = ((this.history && this.history.alarms) || [])
      .filter((alarm) => alarm.kind === "equipment" && alarm.closed !== null)
      .map((alarm) => [alarm.opened, alarm.closed]);
    return [...past, ...open];
  }

  draw() {
    setText(this.legend, [[...this.store.features.values()].some((feature) => feature.low !== null) ? t("rangeShaded") : "", t("alarmShaded")].filter(Boolean).join(" · "));
    const spans = this.spans();
    if (this.range === "live") {
      const end = this.store.now();
      const begin = end - LIVE_SECONDS;
      for (const [feature, chart] of this.charts) {
        if (!feature) {
          chart.show(this.scores.map((row) => row[0]), this.scores.map((row) => row[1]), begin, end, spans);
          continue;
        }
        const column = this.columns.indexOf(feature);
        const rows = column < 0 ? [] : this.readings;
        chart.show(rows.map((row) => row[0]), rows.map((row) => row[1 + column] ?? null), begin, end, spans);
      }
      return;
    }
    if (!this.history) return;
    const { times, score: scores, sensors, begin, end } = this.history;
    const step = times.length > 1 ? Math.min(...times.slice(1).map((time, place) => time - times[place])) : 60;
    for (const [feature, chart] of this.charts) {
      const [x, rows] = withGaps(times, feature ? sensors[feature] || times.map(() => null) : scores, step);
      chart.show(x, rows, begin, end, spans);
    }
  }

  drawAlarms() {
    const alarms = (this.history && this.history.alarms) || [];
    this.alarmBox.replaceChildren(
      el("h2", {}, t("machineAlarms")),
      alarms.length ? alarmTable(alarms, this.store, false) : el("p", { class: "hint" }, t("noAlarms")),
    );
  }
}

// A time without data is a gap in the curve, not a straight line.
function withGaps(times, rows, step) {
  const x = [];
  const y = [];
  times.forEach((time, place) => {
    if (place && time - times[place - 1] > 2.5 * step) {
      x.push(times[place - 1] + step);
      y.push(null);
    }
    x.push(time);
    y.push(rows[place]);
  });
  return [x, y];
}
