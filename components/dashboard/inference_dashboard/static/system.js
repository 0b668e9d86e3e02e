// The system: is the component well, do its counters add up, is the cloud in reach, what is wrong and what to do about it.

import { age, clock, count, figure, known, sensorName, t } from "./i18n.js";
import { el, nameOf } from "./dom.js";

const LATE = 150;

export class SystemPage {
  constructor(root, store) {
    this.store = store;
    this.box = el("div", { class: "cards" });
    root.append(el("h1", {}, t("system")), this.box);
    this.draw();
  }

  title() {
    return t("system");
  }

  leave() {}

  update({ system }) {
    if (system) this.draw();
  }

  second() {
    if (this.store.system) this.draw();
  }

  draw() {
    const system = this.store.system;
    if (!system) {
      this.box.replaceChildren(el("p", { class: "hint" }, t("loading")));
      return;
    }
    const health = system.health || {};
    const cards = [
      this.problems(system, health),
      this.component(system, health),
      this.readings(health),
      this.cloud(health),
      this.latency(health),
      this.drift(health),
      this.here(system),
      this.rejections(system),
    ];
    const state = cards.map((card) => card.textContent).join("\n");
    if (state === this.state) return;
    this.state = state;
    this.box.replaceChildren(...cards);
  }

  component(system, health) {
    const now = this.store.now();
    if (!system.state) return card(t("component"), el("p", { class: "hint" }, t("componentUnheard")));
    const model = health.model;
    const late = now - system.health_at;
    return card(
      t("component"),
      list([
        [t("state"), known(`state_${system.state}`) ? t(`state_${system.state}`) : system.state],
        [t("version"), health.component_version || "–"],
        [t("model"), model ? `${model.name} ${model.version}` : "–"],
        [t("thresholdName"), model && typeof model.threshold === "number" ? figure(model.threshold, 4) : "–"],
        [t("uptime"), typeof health.uptime_seconds === "number" ? age(health.uptime_seconds + late) : "–"],
        [t("heardAt"), clock(system.health_at, now)],
      ]),
      late > LATE ? el("p", { class: "warn-text" }, t("componentLate", { age: age(late) })) : null,
    );
  }

  readings(health) {
    const c = health.counters;
    if (!c) return card(t("readings"), el("p", { class: "hint" }, t("componentUnheard")));
    return card(t("readings"), sum(["received"], ["scored", "rejected", "dropped", "queued"], c, { received: t("received"), scored: t("scored"), rejected: t("rejected"), dropped: t("dropped"), queued: t("queued") }));
  }

  cloud(health) {
    const cloud = health.cloud;
    if (!cloud) return card(t("cloud"), el("p", { class: "hint" }, t("cloudUnknown")));
    const values = { ...cloud, scored: (health.counters || {}).scored };
    const names = { scored: t("scored"), carried_over: t("carriedOver"), delivered: t("delivered"), waiting: t("waitingCount"), expired: t("expired"), unwanted: t("unwanted") };
    return card(
      t("cloud"),
      el("p", {}, el("span", { class: "pill", dataset: { open: cloud.offline ? "yes" : "no" } }, cloud.offline ? t("cloudOff") : t("cloudOn"))),
      sum(["scored", "carried_over"], ["delivered", "waiting", "expired", "unwanted"], values, names),
    );
  }

  latency(health) {
    const latency = health.latency_ms || {};
    return card(
      t("latency"),
      list([
        [t("half"), typeof latency.p50 === "number" ? `${figure(latency.p50)} ms` : "–"],
        [t("worst"), typeof latency.p99 === "number" ? `${figure(latency.p99)} ms` : "–"],
      ]),
      el("p", { class: "hint" }, t("latencyHint")),
    );
  }

  drift(health) {
    const listed = (health.drift && Array.isArray(health.drift.largest) && health.drift.largest) || [];
    // A model says by PSI, or by deviations from what is usual for the line, how far a feature has moved; 1 is where to look.
    const largest = listed.map((item) =>
      typeof item.psi === "number"
        ? { name: item.feature, share: item.psi / 0.25, text: figure(item.psi, 3) }
        : { name: item.feature, share: (item.deviations || 0) / (item.limit || 1), text: `${figure(item.deviations)} / ${figure(item.limit)}` },
    );
    const top = Math.max(1.2, ...largest.map((item) => item.share));
    return card(
      t("drift"),
      largest.length
        ? el(
            "ul",
            { class: "bars plain" },
            ...largest.map((item) => {
              const fill = el("span", { class: "bar-fill", dataset: { push: item.share >= 1 ? "up" : "down" } });
              fill.style.width = `${((100 * item.share) / top).toFixed(1)}%`;
              return el("li", {}, el("span", { class: "bar-name" }, sensorName(item.name)), el("span", { class: "bar", "aria-hidden": "true" }, fill), el("span", { class: "bar-push" }, item.text));
            }),
          )
        : el("p", {}, t("driftNone")),
      el("p", { class: "hint" }, t("driftHint")),
    );
  }

  problems(system, health) {
    const found = [
      ...Object.entries(health.problems || {}).map(([topic, text]) => [topic, text, topic]),
      ...Object.entries(system.own_problems || {}).map(([topic, text]) => [`${t("problem_dashboard")}: ${topic}`, text, topic]),
    ];
    const todo = (topic) => (known(`todo_${topic}`) ? t(`todo_${topic}`) : t("todo_other"));
    const box = card(
      t("problems"),
      found.length
        ? el("ul", { class: "problems" }, ...found.map(([name, text, topic]) => el("li", {}, el("strong", {}, name), el("p", {}, String(text)), el("p", { class: "todo" }, todo(topic)))))
        : el("p", {}, t("noProblems")),
    );
    if (found.length) box.classList.add("has-problems");
    return box;
  }

  here(system) {
    const heard = system.heard;
    return card(
      t("heardHere"),
      list([
        [t("nucleus"), system.connected ? t("connected") : t("disconnected")],
        [t("readings"), count(heard.readings)],
        [t("results"), count(heard.results)],
        [t("rejected"), count(heard.rejections)],
        [t("unreadable"), count(heard.unreadable)],
      ]),
    );
  }

  rejections(system) {
    const now = this.store.now();
    return card(
      t("rejections"),
      system.rejections.length
        ? el(
            "ul",
            { class: "rejections" },
            ...system.rejections.map((item) => el("li", {}, el("span", { class: "when" }, clock(item.at, now)), " ", el("strong", {}, item.machine ? nameOf(item.machine) : t("unnamed")), " ", nameOf(item.why))),
          )
        : el("p", {}, t("noRejections")),
    );
  }
}

function card(title, ...content) {
  return el("section", { class: "card" }, el("h2", {}, title), ...content);
}

function list(rows) {
  return el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// Two sides of an equation, and whether it holds.
function sum(left, right, values, names) {
  const side = (keys) => keys.flatMap((key, place) => [place ? el("span", { class: "sign" }, "+") : null, el("span", { class: "term" }, el("b", {}, count(values[key])), el("small", {}, names[key]))]);
  const total = (keys) => keys.reduce((all, key) => all + (values[key] || 0), 0);
  const difference = total(left) - total(right);
  return el(
    "div",
    {},
    el("p", { class: "equation" }, ...side(left), el("span", { class: "sign" }, "="), ...side(right)),
    el("p", { class: difference ? "warn-text" : "fine-text" }, difference ? t("addsNot", { difference: count(difference) }) : t("addsUp")),
  );
}
