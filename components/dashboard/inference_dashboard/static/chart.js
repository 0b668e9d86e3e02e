// One chart: the value over time with its training range shaded and alarms as spans. Drawn by uPlot.

import { figure, t } from "./i18n.js";
import { el } from "./dom.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  // what: title; options: height, low, high (training range), level (threshold), floor (lowest top of the axis), sync (key).
  constructor(what, options) {
    this.what = what;
    this.options = options;
    this.spans = [];
    this.box = el("div", { class: "chart", role: "img" });
    this.plot = null;
    this.data = [[], [], [], []];
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.box);
  }

  destroy() {
    this.observer.disconnect();
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }

  // times: seconds; rows: [low, mean, high] or null at each; or plain numbers.
  show(times, rows, begin, end, spans) {
    const lows = [];
    const means = [];
    const highs = [];
    for (const row of rows) {
      const triple = Array.isArray(row) ? row : [null, row, null];
      lows.push(row === null ? null : triple[0]);
      means.push(row === null ? null : triple[1]);
      highs.push(row === null ? null : triple[2]);
    }
    this.data = [times, lows, highs, means];
    this.begin = begin;
    this.end = end;
    this.spans = spans;
    this.describe(means, lows, highs);
    if (!this.plot) this.make();
    else {
      this.plot.setData(this.data, false);
      this.scale();
    }
  }

  describe(means, lows, highs) {
    const known = means.filter((value) => value !== null && value !== undefined);
    const key = known.length ? "chartLabel" : "chartEmpty";
    const low = Math.min(...known, ...lows.filter((value) => value !== null));
    const high = Math.max(...known, ...highs.filter((value) => value !== null));
    this.box.setAttribute("aria-label", t(key, { what: this.what, value: figure(known.at(-1)), low: figure(low), high: figure(high) }));
  }

  range() {
    const values = [];
    for (const series of this.data.slice(1)) for (const value of series) if (value !== null && value !== undefined) values.push(value);
    const { low, high, level, floor } = this.options;
    for (const value of [low, high, level]) if (value !== null && value !== undefined) values.push(value);
    if (floor !== undefined) values.push(0, floor);
    if (!values.length) return [0, 1];
    let bottom = Math.min(...values);
    let top = Math.max(...values);
    const pad = (top - bottom || Math.abs(top) || 1) * 0.08;
    if (floor === undefined || bottom < 0) bottom -= pad;
    if (floor === undefined || top > floor) top += pad;
    return [bottom, top];
  }

  scale() {
    if (!this.plot) return;
    const [min, max] = this.range();
    this.plot.batch(() => {
      this.plot.setScale("x", { min: this.begin, max: this.end });
      this.plot.setScale("y", { min, max });
    });
  }

  resize() {
    const width = Math.floor(this.box.clientWidth);
    if (!width) return;
    if (!this.plot && this.begin) this.make();
    else if (this.plot && this.plot.width !== width) this.plot.setSize({ width, height: this.options.height });
  }

  make() {
    const width = Math.floor(this.box.clientWidth);
    if (!width || !window.uPlot) return;
    const text = css("--muted");
    const font = `${Math.round(0.75 * parseFloat(getComputedStyle(document.documentElement).fontSize))}px system-ui, sans-serif`;
    const axis = { stroke: text, font, grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false } };
    const pad = (n) => String(n).padStart(2, "0");
    this.plot = new window.uPlot(
      {
        width,
        height: this.options.height,
        padding: [8, 22, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: this.options.sync }, drag: { x: false, y: false }, points: { size: 7 } },
        scales: { x: { time: true, auto: false }, y: { auto: false } },
        series: [
          {},
          { stroke: "transparent", points: { show: false } },
          { stroke: "transparent", points: { show: false } },
          { stroke: css("--accent"), width: 1.75, points: { show: false }, spanGaps: false },
        ],
        bands: [{ series: [2, 1], fill: css("--band") }],
        axes: [
          {
            ...axis,
            size: 26,
            space: 70,
            values: (_plot, ticks, _axis, _space, step) =>
              ticks.map((tick) => {
                const when = new Date(tick * 1000);
                if (step >= 86400) return `${when.getMonth() + 1}/${when.getDate()}`;
                const time = `${pad(when.getHours())}:${pad(when.getMinutes())}`;
                return step < 60 ? `${time}:${pad(when.getSeconds())}` : time;
              }),
          },
          { ...axis, size: 52, space: 34, values: (_plot, ticks) => ticks.map((tick) => figure(tick)) },
        ],
        hooks: { drawClear: [(plot) => this.shade(plot)] },
      },
      this.data,
      this.box,
    );
    this.scale();
  }

  shade(plot) {
    const { ctx, bbox } = plot;
    const { low, high, level } = this.options;
    ctx.save();
    if (low !== null && low !== undefined && high !== null && high !== undefined) {
      const top = plot.valToPos(high, "y", true);
      ctx.fillStyle = css("--usual");
      ctx.fillRect(bbox.left, top, bbox.width, plot.valToPos(low, "y", true) - top);
    }
    // Behind a sensor an alarm is a strip along the top, so that the range stays readable.
    ctx.fillStyle = css(this.options.strip ? "--bad" : "--span");
    const depth = this.options.strip ? Math.round(4 * devicePixelRatio) : bbox.height;
    for (const [begin, end] of this.spans) {
      const left = Math.max(bbox.left, plot.valToPos(begin, "x", true));
      const right = Math.min(bbox.left + bbox.width, plot.valToPos(end ?? this.end, "x", true));
      if (right > bbox.left && left < bbox.left + bbox.width) ctx.fillRect(left, bbox.top, Math.max(2, right - left), depth);
    }
    if (level !== null && level !== undefined) {
      const y = Math.round(plot.valToPos(level, "y", true));
      ctx.strokeStyle = css("--bad");
      ctx.setLineDash([5, 5]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.restore();
  }
}
