// What the page knows, kept up to date by server-sent events. Views are told what changed; they ask nothing of the network for it.

const SPARK = 60;
export const BAD = ["abnormal", "silent", "sensor", "drift"];
const GRAVITY = { abnormal: 0, silent: 1, sensor: 2, drift: 3, unknown: 4, normal: 5, off: 6 };
const natural = new Intl.Collator("en", { numeric: true });

export const gravity = (machine) => GRAVITY[machine.mood] ?? 4;

export function byGravity(a, b) {
  return gravity(a) - gravity(b) || (gravity(a) < 4 ? since(b) - since(a) : 0) || natural.compare(a.name, b.name);
}

// Since when it is as it is: an alarm knows best.
export function since(machine) {
  const alarms = machine.alarms || [];
  return alarms.length ? Math.min(...alarms.map((alarm) => alarm.opened)) : machine.since;
}

export class Store extends EventTarget {
  constructor() {
    super();
    this.machines = new Map();
    this.byName = new Map();
    this.system = null;
    this.features = new Map();
    this.heardAt = 0;
    this.skew = 0;
    this.source = null;
    this.watched = null;
    this.known = null;
    // A connection that is gone without a word is noticed by its silence.
    setInterval(() => this.checkSilence(), 1000);
  }

  // The server's clock, in seconds since 1970.
  now() {
    return Date.now() / 1000 + this.skew;
  }

  // Seconds since anything came.
  silence() {
    return this.heardAt ? (performance.now() - this.heardAt) / 1000 : Infinity;
  }

  get live() {
    return this.silence() < 5;
  }

  // Connect; with a machine's number, its samples come along.
  watch(number) {
    if (this.source && this.watched === number && this.source.readyState !== EventSource.CLOSED) return;
    this.watched = number;
    this.connect();
  }

  connect() {
    if (this.source) this.source.close();
    const source = new EventSource(this.watched === null || this.watched === undefined ? "/api/live" : `/api/live?n=${this.watched}`);
    this.source = source;
    this.opened = performance.now();
    source.onmessage = (event) => this.take(JSON.parse(event.data));
    source.addEventListener("samples", (event) => this.dispatchEvent(new CustomEvent("samples", { detail: JSON.parse(event.data) })));
    source.onerror = () => {
      // A closed source does not try again by itself: the login may have ended, or the machine is not known yet.
      if (source.readyState === EventSource.CLOSED && this.source === source) setTimeout(() => this.retry(source), 1500);
    };
  }

  async retry(source) {
    if (this.source !== source) return;
    try {
      const answer = await fetch("/api/alarms?limit=1", { headers: { Accept: "application/json" } });
      if (answer.status === 401) {
        location.assign("/login");
        return;
      }
    } catch {
      // Still away.
    }
    if (this.source === source) this.connect();
  }

  checkSilence() {
    const began = (performance.now() - (this.opened || 0)) / 1000;
    if (this.silence() > 10 && began > 10) this.connect();
    this.dispatchEvent(new Event("second"));
  }

  take(frame) {
    const first = !this.heardAt;
    this.heardAt = performance.now();
    this.skew = frame.now - Date.now() / 1000;
    const touched = new Set();
    let structure = false;
    if (frame.system) {
      this.system = frame.system;
      this.features = new Map(frame.system.features.map((feature) => [feature.name, feature]));
    }
    if (frame.all) {
      const before = this.machines;
      this.machines = new Map();
      this.byName = new Map();
      for (const tile of frame.all) {
        const old = before.get(tile.n);
        if (!tile.spark.length && old && old.name === tile.name) tile.spark = old.spark;
        this.put(tile);
        touched.add(tile.n);
      }
      structure = true;
    }
    for (const tile of frame.changed || []) {
      const old = this.machines.get(tile.n);
      tile.spark = old ? old.spark : [];
      if (!old || old.mood !== tile.mood || since(old) !== since(tile)) structure = true;
      this.put(tile);
      touched.add(tile.n);
    }
    for (const [n, smoothed, raw] of frame.moved || []) {
      const machine = this.machines.get(n);
      if (!machine) continue;
      machine.smoothed = smoothed;
      machine.score = raw;
      machine.heard = frame.now;
      machine.spark.push(smoothed);
      if (machine.spark.length > SPARK) machine.spark.shift();
      touched.add(n);
    }
    if (frame.all || frame.changed || frame.system) this.tellAlarms();
    this.dispatchEvent(new CustomEvent("update", { detail: { touched, structure, system: Boolean(frame.system), first } }));
  }

  put(tile) {
    this.machines.set(tile.n, tile);
    this.byName.set(tile.name, tile);
  }

  openAlarms() {
    const found = [];
    for (const machine of this.machines.values()) for (const alarm of machine.alarms || []) found.push(alarm);
    for (const alarm of (this.system && this.system.loose_alarms) || []) found.push(alarm);
    return found.sort((a, b) => b.opened - a.opened);
  }

  tellAlarms() {
    const open = new Map(this.openAlarms().map((alarm) => [alarm.id, alarm]));
    if (this.known) {
      for (const [id, alarm] of open) if (!this.known.has(id)) this.dispatchEvent(new CustomEvent("opened", { detail: alarm }));
      for (const [id, alarm] of this.known) if (!open.has(id)) this.dispatchEvent(new CustomEvent("closed", { detail: alarm }));
    }
    this.known = open;
  }
}
