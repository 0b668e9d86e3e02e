// Puts the page together: finds the view for the address, keeps the bar and the announcements up to date.

import { age, chooseLanguage, count, currentLanguage, describeAlarm, t } from "./i18n.js";
import { el, setText } from "./dom.js";
import { Store, BAD } from "./store.js";
import { Overview } from "./overview.js";
import { MachinePage } from "./machine.js";
import { AlarmList } from "./alarms.js";
import { SystemPage } from "./system.js";

const THEMES = ["auto", "light", "dark"];
const store = new Store();
const main = document.getElementById("main");
let view = null;
let shownPath = null;

chooseLanguage();
store.watch(machineInAddress());
document.getElementById("logout").hidden = true;

function path() {
  return location.hash.replace(/^#/, "") || "/";
}

function machineName(where = path()) {
  if (!where.startsWith("/machine/")) return null;
  try {
    return decodeURIComponent(where.slice("/machine/".length));
  } catch {
    return "";
  }
}

function machineInAddress() {
  const name = machineName();
  const machine = name === null ? null : store.byName.get(name);
  return machine ? machine.n : null;
}

function route(focus) {
  const where = path();
  const name = machineName(where);
  if (view) view.leave();
  main.replaceChildren();
  if (name !== null) view = new MachinePage(main, store, name);
  else if (where.startsWith("/alarms")) view = new AlarmList(main, store, new URLSearchParams(where.split("?")[1] || ""));
  else if (where.startsWith("/system")) view = new SystemPage(main, store);
  else view = new Overview(main, store);
  store.watch(machineInAddress());
  shownPath = where;
  bar();
  if (focus) {
    const heading = main.querySelector("h1");
    if (heading) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
    scrollTo(0, 0);
  }
}

function bar() {
  document.getElementById("skip").textContent = t("skip");
  const thing = store.system && store.system.thing;
  setText(document.getElementById("thing"), thing || t("line"));
  const open = store.openAlarms().length;
  const bad = [...store.machines.values()].filter((machine) => BAD.includes(machine.mood)).length;
  document.title = `${bad ? `(${bad}) ` : ""}${view && view.title ? `${view.title()} · ` : ""}${thing || t("title")}`;
  const nav = document.getElementById("nav");
  nav.setAttribute("aria-label", t("nav"));
  const where = path();
  const entries = [
    ["#/", t("line"), where === "/" || where.startsWith("/machine/"), 0],
    ["#/alarms", t("alarms"), where.startsWith("/alarms"), open],
    ["#/system", t("system"), where.startsWith("/system"), problemCount()],
  ];
  const state = JSON.stringify([entries, currentLanguage()]);
  if (nav.dataset.state !== state) {
    nav.dataset.state = state;
    const focused = [...nav.children].indexOf(document.activeElement);
    nav.replaceChildren(
      ...entries.map(([href, text, current, badge]) =>
        el("a", { href, "aria-current": current ? "page" : null }, text, badge ? el("span", { class: "badge-count" }, count(badge)) : null),
      ),
    );
    if (focused >= 0) nav.children[focused].focus();
  }
  const language = document.getElementById("language");
  setText(language, t("language"));
  language.lang = currentLanguage() === "ko" ? "en" : "ko";
  const theme = document.getElementById("theme");
  setText(theme, t(`theme_${document.documentElement.dataset.theme || "auto"}`));
  setText(document.getElementById("logout-button"), t("logout"));
  document.getElementById("logout").hidden = !(store.system && store.system.login);
  connection();
}

function problemCount() {
  const system = store.system;
  if (!system) return 0;
  const told = (system.health && system.health.problems) || {};
  return Object.keys(told).length + Object.keys(system.own_problems || {}).length;
}

function connection() {
  const link = document.getElementById("link");
  const text = document.getElementById("link-text");
  const banner = document.getElementById("banner");
  const silence = store.silence();
  link.dataset.live = store.live ? "yes" : store.heardAt ? "no" : "waiting";
  setText(text, store.live ? t("live") : store.heardAt ? t("lost", { age: age(silence) }) : t("waiting"));
  const cloud = store.system && store.system.health && store.system.health.cloud;
  let message = "";
  let tone = "warn";
  if (store.heardAt && !store.live) message = t("lostBanner", { age: age(silence) });
  else if (store.system && !store.system.connected) message = t("nucleusLost");
  else if (cloud && cloud.offline === true) {
    message = t("cloudOffline", { waiting: count(cloud.waiting) });
    tone = "calm";
  }
  banner.hidden = !message;
  banner.dataset.tone = tone;
  setText(banner, message);
}

function announce(key, alarm) {
  const news = document.getElementById("news");
  const text = t(key, { machine: alarm.machine || t("unnamed"), what: describeAlarm(alarm, store.features) });
  news.append(el("p", {}, text));
  while (news.children.length > 5) news.firstChild.remove();
}

store.addEventListener("update", (event) => {
  bar();
  const number = machineInAddress();
  if (number !== null && store.watched !== number) store.watch(number);
  if (view) view.update(event.detail);
});
store.addEventListener("samples", (event) => view && view.samples && view.samples(event.detail));
store.addEventListener("opened", (event) => announce("newsOpened", event.detail));
store.addEventListener("closed", (event) => announce("newsClosed", event.detail));
store.addEventListener("second", () => {
  connection();
  if (view && view.second) view.second();
});

addEventListener("hashchange", () => {
  const where = path();
  // The alarm list writes its filters into the address itself.
  if (view instanceof AlarmList && where.startsWith("/alarms") && shownPath.startsWith("/alarms") && view.wrote === where) {
    shownPath = where;
    return;
  }
  route(true);
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("language").addEventListener("click", () => {
  chooseLanguage(currentLanguage() === "ko" ? "en" : "ko");
  route(false);
});
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
  root.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // It holds for this page.
  }
  route(false);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => route(false));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === "/" && !typing) {
    const search = main.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  } else if (event.key === "Escape" && !typing && machineName() !== null) {
    location.hash = "#/";
  }
});

route(false);
