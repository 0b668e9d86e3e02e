// Small helpers to build elements. Text goes in as text nodes only: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A name from a message: isolated, so that right-to-left marks in it move nothing else.
export const nameOf = (text) => el("bdi", {}, text);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const SHAPES = {
  normal: "M3 8.5l3.2 3.2L13 4.8",
  abnormal: "M8 2.2L15 14H1L8 2.2M8 6.4v3.6M8 12v.3",
  sensor: "M8 1.8a6.2 6.2 0 1 0 .01 0M8 4.8v4M8 11v.3",
  silent: "M3 3l10 10M13 3L3 13",
  drift: "M2 12c3 0 3-8 6-8s3 4 6 4",
  off: "M8 2v6M4.6 4.2a5.2 5.2 0 1 0 6.8 0",
  unknown: "M3 8h10",
};

export function icon(mood) {
  return svg(
    "svg",
    { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: SHAPES[mood] || SHAPES.unknown }),
  );
}
