// The list of alarms with filters, and the table that the machine's page shows, too.

import { age, clock, count, describeAlarm, kindName, score, t } from "./i18n.js";
import { el, nameOf, setText } from "./dom.js";

const LIMIT = 200;
const KINDS = ["equipment", "sensor", "silence", "drift"];

export class AlarmList {
  constructor(root, store, query) {
    this.store = store;
    this.alarms = null;
    const option = (value, text, chosen) => el("option", { value, selected: value === chosen }, text);
    this.state = el("select", { id: "f-state" }, ...["", "open", "closed"].map((value) => option(value, value ? t(value) : t("any"), query.get("state") || "")));
    this.kind = el("select", { id: "f-kind" }, ...["", ...KINDS].map((value) => option(value, value ? kindName(value) : t("any"), query.get("kind") || "")));
    this.days = el("select", { id: "f-days" }, ...["1", "7", "30", "365"].map((value) => option(value, t(`days_${value}`), query.get("days") || "7")));
    this.machine = el("input", { id: "f-machine", type: "search", value: query.get("machine") || "", list: "machines", autocomplete: "off" });
    this.names = el("datalist", { id: "machines" });
    this.result = el("p", { class: "hint", role: "status" });
    this.box = el("div", { class: "card" });
    const field = (label, input) => el("div", { class: "field" }, el("label", { for: input.id }, label), input);
    const form = el("form", { class: "filters" }, field(t("state"), this.state), field(t("kind"), this.kind), field(t("range"), this.days), field(t("machine"), this.machine), this.names);
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const input of [this.state, this.kind, this.days]) input.addEventListener("change", () => this.changed());
    this.machine.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.changed(), 250);
    });
    root.append(el("h1", {}, t("alarms")), form, this.result, this.box);
    this.open = this.signature();
    this.fillNames();
    this.load();
  }

  title() {
    return t("alarms");
  }

  leave() {
    this.left = true;
    clearTimeout(this.typing);
    clearTimeout(this.soon);
  }

  fillNames() {
    if (this.names.children.length !== Math.min(500, this.store.machines.size))
      this.names.replaceChildren(...[...this.store.byName.keys()].slice(0, 500).map((name) => el("option", { value: name })));
  }

  query() {
    const values = { state: this.state.value, kind: this.kind.value, days: this.days.value, machine: this.machine.value.trim() };
    return new URLSearchParams(Object.entries(values).filter(([, value]) => value));
  }

  changed() {
    const query = this.query().toString();
    this.wrote = `/alarms${query ? `?${query}` : ""}`;
    location.replace(`#${this.wrote}`);
    this.load();
  }

  async load() {
    const query = this.query();
    const wanted = query.get("machine");
    // A part of a name is enough; the server knows whole ones.
    const whole = wanted && this.store.byName.has(wanted);
    if (!whole) query.delete("machine");
    query.set("limit", String(whole || !wanted ? LIMIT : 500));
    try {
      const answer = await fetch(`/api/alarms?${query}`);
      if (!answer.ok) throw new Error((await answer.text()).trim());
      let { alarms } = await answer.json();
      if (this.left) return;
      if (wanted && !whole) alarms = alarms.filter((alarm) => alarm.machine.toLowerCase().includes(wanted.toLowerCase()));
      this.alarms = alarms;
      this.draw();
    } catch (error) {
      if (this.left) return;
      setText(this.result, t("noHistory", { why: error.message }));
    }
  }

  draw() {
    const { alarms } = this;
    const text = alarms.length >= LIMIT ? t("alarmsCut", { count: count(alarms.length) }) : t(alarms.length === 1 ? "oneAlarmShown" : "alarmsShown", { count: count(alarms.length) });
    setText(this.result, text);
    this.box.replaceChildren(alarms.length ? alarmTable(alarms, this.store, true) : el("p", { class: "hint" }, t("noAlarms")));
  }

  signature() {
    return this.store.openAlarms().map((alarm) => `${alarm.id}:${alarm.sequence}`).join();
  }

  update() {
    this.fillNames();
    const open = this.signature();
    if (open === this.open) return;
    this.open = open;
    // Several changes in a row are one load.
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.load(), 2500);
  }

  second() {
    for (const cell of this.box.querySelectorAll("[data-opened]")) setText(cell, age(this.store.now() - Number(cell.dataset.opened)));
  }
}

export function alarmTable(alarms, store, withMachine) {
  const now = store.now();
  const head = [t("state"), withMachine ? t("machine") : null, t("kind"), t("what"), t("opened"), t("duration"), t("peak")].filter((text) => text !== null);
  const row = (alarm) => {
    const open = alarm.closed === null;
    const duration = open ? { dataset: { opened: alarm.opened } } : {};
    const cells = [
      [t("state"), el("span", { class: "pill", dataset: { open: open ? "yes" : "no" } }, open ? t("open") : t("closed"))],
      withMachine ? [t("machine"), alarm.machine || alarm.kind !== "drift" ? el("a", { href: `#/machine/${encodeURIComponent(alarm.machine)}` }, alarm.machine ? nameOf(alarm.machine) : t("unnamed")) : "–"] : null,
      [t("kind"), kindName(alarm.kind)],
      [t("what"), describeAlarm(alarm, store.features)],
      [t("opened"), clock(alarm.opened, now)],
      [t("duration"), el("span", {}, el("span", duration, age((open ? now : alarm.closed) - alarm.opened)), alarm.presumed ? el("span", { class: "aside" }, ` (${t("presumed")})`) : null)],
      [t("peak"), alarm.kind === "equipment" ? score(alarm.peak) : "–"],
    ].filter((cell) => cell !== null);
    return el("tr", {}, ...cells.map(([label, content]) => el("td", { dataset: { label } }, content)));
  };
  return el(
    "table",
    { class: "list" },
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...alarms.map(row)),
  );
}
