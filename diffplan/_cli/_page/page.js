"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const HEIGHT = 150, LEFT = 48, RIGHT = 10, TOP = 8, BOTTOM = 20;

function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "path", "line", "text", "circle"].includes(name);
  const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function short(value, digits = 4) {
  if (value === null || value === undefined) return "not finite";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-2 || size >= 1e6)) return value.toExponential(digits - 2);
  return String(+value.toPrecision(digits));
}

/* Steps, rounds and iterations have all their digits. */
function whole(value) { return Number.isInteger(value) ? String(value) : short(value); }

/* A chart of lines {kind, x, y, name}; `fixed` ones are not drawn, but span its axes too. */
function chart(host, title, label, { log = false, fixed = [] } = {}) {
  const picture = make("svg", { role: "img", "aria-label": title });
  host.append(make("figure", {}, make("figcaption", {}, title), picture));
  let lines = [], mark = null, scales = null;
  const scale = (value) => (log // below is rounding
     ? Math.log10(Math.max(value, 1e-6)) : value);

  function draw() {
    const width = Math.max(picture.clientWidth, 120);
    const all = [...fixed, ...lines];
    const xs = all.flatMap((line) => line.x);
    const ys = all.flatMap((line) => line.y).filter((y) => y !== null).map(scale);
    const [x0, x1] = span(xs), [y0, y1] = span(ys, 0.06);
    const across = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    const up = (y) => HEIGHT - BOTTOM - ((scale(y) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    scales = { across, up };
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const parts = [];
    for (const share of [0.04, 0.5, 0.96]) {
      const y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), value = y0 + share * (y1 - y0);
      parts.push(make("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(make("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(log ? 10 ** value : value, 3)));
    }
    parts.push(make("text", { x: LEFT, y: HEIGHT - 5 }, whole(x0)));
    parts.push(make("text", { x: width - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, `${whole(x1)} ${label}`));
    for (const line of lines) {
      let path = "", pen = "M";
      const drawn = (i) => (line.y[i] ?? null) !== null;
      line.x.forEach((x, i) => {
        if (!drawn(i)) { pen = "M"; return; }
        path += `${pen}${across(x).toFixed(1)} ${up(line.y[i]).toFixed(1)}`;
        pen = "L";
        // Alone it would be a line of no length.
        if (!drawn(i - 1) && !drawn(i + 1)) parts.push(make("circle", { class: line.kind, cx: across(x), cy: up(line.y[i]), r: 3 }));
      });
      parts.push(make("path", { class: line.kind, d: path }));
    }
    if (mark !== null && lines[0].y[mark] !== null) {
      parts.push(make("circle", { class: "mark", cx: across(lines[0].x[mark]), cy: up(lines[0].y[mark]), r: 4.5 }));
    }
    picture.replaceChildren(...parts);
  }

  function hover(event) {
    const box = picture.getBoundingClientRect(), place = event.clientX - box.left;
    const told = [], near = (line) => line.x.reduce((best, x, i) =>
      Math.abs(scales.across(x) - place) < Math.abs(scales.across(line.x[best]) - place) ? i : best, 0);
    if (!lines.length || !lines[0].x.length) return;
    const x = lines[0].x[near(lines[0])];
    for (const line of lines) {
      const i = line.x.indexOf(x);
      if (i >= 0) told.push(`${line.name} ${short(line.y[i])}`);
    }
    picture.querySelectorAll(".cross").forEach((node) => node.remove());
    const at = scales.across(x);
    picture.append(make("line", { class: "cross", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    const tip = $("tip");
    tip.textContent = `${label} ${whole(x)}\n${told.join("\n")}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 10, 4)}px`;
  }

  picture.addEventListener("pointermove", hover);
  picture.addEventListener("pointerdown", hover);
  picture.addEventListener("pointerleave", () => {
    $("tip").hidden = true;
    picture.querySelectorAll(".cross").forEach((node) => node.remove());
  });
  new ResizeObserver(draw).observe(picture);
  return { show(next, at = null) { lines = next; mark = at; draw(); } };
}

function span(values, margin = 0) {
  if (!values.length) return [0, 1];
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  // A constant lies in the middle.
  const more = high > low ? margin * (high - low) : Math.abs(low) * 0.1 || 1;
  return margin || high === low ? [low - more, high + more] : [low, high];
}

/* Chips that choose some of `names`; `changed` is called with the chosen indices. */
function chips(host, names, first, changed) {
  const boxes = names.map((name, index) => {
    const box = make("input", { type: "checkbox", value: index });
    box.checked = first.includes(index);
    box.addEventListener("change", tell);
    host.append(make("label", {}, box, name));
    return box;
  });
  function tell() { changed(names.map((_, i) => i).filter((i) => boxes[i].checked)); }
  tell();
  return tell;
}

function showCurves() {
  const names = Object.keys(data.metrics);
  if (!names.length) return;
  $("curves").hidden = false;
  const wanted = [/^test\/(return|success)/, /(return|success|loss)$/, /./].flatMap((kind) =>
    names.flatMap((name, i) => (kind.test(name) && !name.startsWith("time/") ? [i] : [])));
  const tell = chips($("columns"), names, [...new Set(wanted)].slice(0, 3), (chosen) => {
    const axis = +$("against").value, rows = $("metrics");
    rows.replaceChildren();
    for (const i of chosen) {
      const table = data.metrics[names[i]];
      const line = { kind: "now", name: names[i], x: table.map((row) => row[axis]), y: table.map((row) => row[2]) };
      chart(rows, names[i], axis ? "steps" : "rounds").show([line]);
    }
  });
  $("against").addEventListener("change", tell);
}

function showVideos() {
  if (!data.videos.length) return;
  $("videos").hidden = false;
  for (const { name, source } of data.videos) {
    const film = source.startsWith("data:image") ? make("img", { src: source, alt: name })
      : make("video", { src: source, controls: "", loop: "", playsinline: "", preload: "metadata", "aria-label": name });
    film.muted = true;
    $("films").append(make("figure", {}, film, make("figcaption", {}, name)));
  }
}

function showPlan(plan) {
  const last = plan.cost.length - 1, slider = $("iteration");
  for (const id of ["states", "actions", "progress", "strips", "which", "legend"]) $(id).replaceChildren();
  $("planner").textContent = plan.planner;
  paint($("plan"), plan.colour);
  slider.max = last;
  slider.value = 0;
  const kinds = [["now", "at this iteration"], ["answer", "the answer"]];
  if (plan.happened) kinds.push(["happened", "what happened"]);
  for (const [kind, name] of kinds) {
    const sample = make("svg", { viewBox: "0 0 30 10" }, make("path", { class: kind, d: "M0 5L30 5" }));
    $("legend").append(make("span", {}, sample, name));
  }
  const count = plan.cost.map((_, i) => i), watching = [];
  for (const [name, log] of [["cost", false], ["violation of the dynamics", true]]) {
    const y = log ? plan.violation : plan.cost, drawn = chart($("progress"), name, "iterations", { log });
    watching.push((at) => drawn.show([{ kind: "now", name, x: count, y }], at));
  }

  function follow(host, name, column, happened) {
    const steps = column[0].map((_, t) => t), fixed = [];
    const line = (kind, told, y) => ({ kind, name: told, x: steps.slice(0, y.length), y });
    if (happened) fixed.push(line("happened", "happened", happened));
    // All iterations span the axis, so that it stands still while they pass.
    const every = column.map((y) => line("", "", y));
    const drawn = chart(host, name, "steps", { fixed: every });
    return (at) => drawn.show([line("now", "now", column[at]), line("answer", "answer", column[last]), ...fixed]);
  }

  plan.actions.forEach((column, i) => watching.push(follow($("actions"), `action ${i}`, column)));
  let shown = [];
  const at = () => +slider.value;
  chips($("which"), plan.names, plan.names.map((_, i) => i).slice(0, 6), (chosen) => {
    $("states").replaceChildren();
    shown = chosen.map((i) => follow($("states"), plan.names[i], plan.states[i], plan.happened && plan.happened[i]));
    shown.forEach((show) => show(at()));
  });
  if (plan.strips.length) watching.push(films(plan));
  show = () => {
    const i = at(), where = i === last ? "answer" : `iteration ${i} of ${last}`;
    $("now").textContent = `${where} · cost ${short(plan.cost[i])} · violation ${short(plan.violation[i])}`;
    [...watching, ...shown].forEach((draw) => draw(i));
  };
  show();
}

/* Film strips: imagined at the slider's iteration, above what happened. */
function films(plan) {
  const strip = (name, { source, times: shown }) => {
    const image = make("img", { alt: name, src: source });
    const times = make("div", { class: "times" }, ...shown.map((t) => make("span", {}, `t = ${t}`)));
    const title = make("figcaption", {}, name), box = make("figure", { class: "film" }, title, image, times);
    image.addEventListener("load", () => [...times.children].forEach((label) => {
      label.style.flex = `0 0 ${image.clientWidth / shown.length}px`;
    }));
    $("strips").append(box);
    return { image, title };
  };
  const imagined = strip("imagined", plan.strips[0]);
  if (plan.seen) strip("what happened", plan.seen);
  return (at) => {
    const nearest = plan.strips.reduce((best, each) => (each.iteration <= at ? each : best));
    imagined.image.src = nearest.source;
    imagined.title.textContent = `imagined, iteration ${nearest.iteration}`;
  };
}

function paint(node, [light, dark]) {
  node.style.setProperty("--planner", light);
  node.style.setProperty("--planner-dark", dark);
}

let show = () => {}, timer = 0;
function stop() { clearInterval(timer); timer = 0; $("play").textContent = "Play"; }

function start() {
  paint(document.documentElement, data.colour);
  document.querySelector("h1").textContent = data.title;
  $("facts").textContent = data.facts.join(" · ");
  showCurves();
  showVideos();
  if (!data.plans.length) return;
  $("plan").hidden = false;
  const choice = $("plans"), slider = $("iteration");
  data.plans.forEach((plan, i) => choice.append(make("option", { value: i }, plan.name)));
  choice.addEventListener("change", () => { stop(); showPlan(data.plans[+choice.value]); });
  slider.addEventListener("input", () => { stop(); show(); });
  $("play").addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    $("play").textContent = "Pause";
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      show();
      if (slider.value === slider.max) stop();
    }, Math.min(150, 6000 / slider.max));
  });
  showPlan(data.plans[0]);
}
start();
