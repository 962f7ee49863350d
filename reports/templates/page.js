// What the page can do beyond being read: open what a link names, filter by the legend, and show
// curves against another axis or on another scale. Without it everything is there, folded.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  let closed = false;
  for (let each = target; each; each = each.parentElement) {
    if (each.tagName === "DETAILS" && !each.open) each.open = closed = true;
  }
  if (closed) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.hash === location.hash) reveal();
});
reveal();

for (const list of all("nav .legend")) {
  const buttons = all("li", list).map(item => {
    const button = make("button", { type: "button", ariaPressed: "false",
      title: "Highlight this optimizer everywhere" }, ...item.childNodes);
    item.append(button);
    return button;
  });
  const mark = element => element.querySelector("use").getAttribute("href");
  const coloured = /\b[fs]-(c\d+)\b/;
  const highlight = chosen => {
    for (const button of buttons) button.ariaPressed = String(button === chosen);
    const own = chosen && mark(chosen);
    const slot = own && coloured.exec(document.querySelector(own).innerHTML)[1];
    for (const shape of all("svg.figure [class*='-c']")) {
      const found = coloured.exec(shape.getAttribute("class"));
      shape.classList.toggle("dim", Boolean(own && found && found[1] !== slot));
    }
    for (const row of all("tbody tr")) {
      const use = row.querySelector("th use");
      row.classList.toggle("dim", Boolean(own && use && use.getAttribute("href") !== own));
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () =>
      highlight(button.ariaPressed === "true" ? null : button));
  }
}

// Draws a path of straight lines anew, with each of its corners where `place` puts it.
function trace(drawn, place) {
  let x = 0, y = 0;
  return drawn.replace(/([Mlhvz])([^Mlhvz]*)/g, (_, command, steps) => {
    const numbers = (steps.match(/-?[\d.]+/g) ?? []).map(Number);
    let found = command === "z" ? "z" : "";
    while (numbers.length) {
      if (command === "M") x = y = 0;
      if (command !== "v") x += numbers.shift();
      if (command !== "h") y += numbers.shift();
      found += `${command === "M" ? "M" : "L"}${place(x, y)}`;
    }
    return found;
  });
}

// Moves what is drawn of a figure from a linear horizontal axis to a logarithmic one, or back.
function rescale(svg) {
  const { log, x, now, other, ticks } = JSON.parse(svg.dataset.axis);
  const [left, right] = x.map(end => end + svg.viewBox.baseVal.x);
  const [from, into] = log ? [Math.log, Number] : [Number, Math.log];
  const [low, high] = now.map(from), [least, most] = other.map(into);
  const place = value => value <= 0 && !log ? left - 99 : Math.max(left - 99,
    left + (into(value) - least) / (most - least) * (right - left));
  const value = at => {
    const found = low + (at - left) / (right - left) * (high - low);
    return log ? Math.exp(found) : found;
  };
  const move = at => place(value(at)).toFixed(1);
  // What was moved goes back to where it was drawn: a logarithm has no place for zero.
  svg.first ??= { log };
  const change = (element, name, moved) => {
    element.first ??= element.getAttribute(name);
    element.setAttribute(name, log === svg.first.log ? moved(element.first) : element.first);
  };
  const redraw = path => change(path, "d", drawn => trace(
    drawn, (x, y) => `${move(x)} ${y.toFixed(1)}`));
  for (const group of all(".moves", svg)) {
    const marks = all("use", group);
    // An area is one shape that is used where it stands; marks are small shapes used anywhere.
    const area = marks.length === 1 && Number(marks[0].getAttribute("x")) === 0;
    all(area ? "defs path" : ":scope > path", group).forEach(redraw);
    if (!area) for (const use of marks) change(use, "x", x => move(Number(x)));
  }
  const old = all(".tick", svg);
  const made = ticks.map(([value, label]) => {
    const tick = old[0].cloneNode(true), at = place(value).toFixed(1);
    for (const path of all("path", tick)) {
      path.setAttribute("d", trace(path.getAttribute("d"), (x, y) => `${at} ${y.toFixed(1)}`));
    }
    for (const text of all("text", tick)) {
      text.setAttribute("x", at);
      text.textContent = label;
    }
    return tick;
  });
  const shown = all(".tick text", svg).map(
    text => [value(Number(text.getAttribute("x"))), text.textContent]);
  old[0].before(...made);
  for (const tick of old) tick.remove();
  svg.dataset.axis = JSON.stringify(
    { log: !log, x, now: other, other: now, ticks: shown });
}

all(".choices").forEach((block, number) => {
  const folded = block.querySelector(".others");
  if (!folded) return;
  const [shown, hidden] = all(".pair", block);
  const figures = all("figure", block);
  const choices = [...new Set(figures.map(figure => figure.dataset.choice))];
  const group = make("fieldset", { className: "switch" }, make("legend", {}, "Against"));
  for (const choice of choices) {
    const input = make("input", { type: "radio", name: `axis${number}` });
    input.checked = choice === choices[0];
    input.addEventListener("change", () => {
      for (const figure of figures) {
        (figure.dataset.choice === choice ? shown : hidden).append(figure);
      }
    });
    group.append(make("label", {}, input, choice));
  }
  const scaled = all("svg[data-axis]", block);
  if (scaled.length) {
    const input = make("input", { type: "checkbox" });
    const isLog = svg => JSON.parse(svg.dataset.axis).log;
    input.checked = isLog(scaled[0]);
    for (const svg of scaled) if (isLog(svg) !== input.checked) rescale(svg);
    input.addEventListener("change", () => scaled.forEach(rescale));
    group.append(make("label", {}, input, "logarithmic axis"));
  }
  block.prepend(group);
});

all("nav").forEach(nav => {
  const parts = all("details.deep, details.more, details.others");
  if (!parts.length) return;
  const button = make("button", { type: "button", className: "unfold",
    title: "Folded parts are not printed" }, "Unfold all");
  button.addEventListener("click", () => {
    const open = parts.some(part => !part.open);
    for (const part of parts) part.open = open;
    button.textContent = open ? "Fold all" : "Unfold all";
  });
  nav.querySelector(".legend").append(make("li", {}, button));
});
