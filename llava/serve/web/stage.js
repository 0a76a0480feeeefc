// A picture as the tower sees it, tile by tile, and over it which token holds each patch. Hover or click tells more;
// where tokens are picked by hand, click, drag or the space bar picks.
const SVG = "http://www.w3.org/2000/svg";
let drawing = null, picked = [], picks = [], pinned = null, cursor = null, painting = null;

function make(parent, name, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

const hue = (token) => (token * 137.508) % 360;
const hot = (level) => {  // from dark violet over red to yellow
  const x = Math.sqrt(level / 255);
  return `hsl(${(270 + 150 * x) % 360} ${70 + 20 * x}% ${12 + 48 * x}%)`;
};

function draw() {
  drawing = props.value;
  const stage = element.querySelector(".stage");
  stage.replaceChildren();
  pinned = cursor = painting = null;
  if (!drawing) {
    stage.innerHTML = '<p class="empty">The picture appears here, with the patches that are kept.</p>';
    return;
  }
  picks = drawing.tiles.map((_, tile) => new Set(picked[tile] ?? []));
  const { rows, columns, tiles } = drawing;
  const width = Math.max(...tiles.map((tile) => tile.x)) + 1, height = Math.max(...tiles.map((tile) => tile.y)) + 1;
  const svg = make(stage, "svg", {
    viewBox: `0 0 ${width * columns} ${height * rows}`, role: "img", tabindex: 0,
    "aria-label": drawing.byHand ? "patches to pick" : "patches that are kept",
    class: drawing.byHand ? "by-hand" : "",
  });
  tiles.forEach((tile, number) => drawTile(svg, tile, number));
  if (drawing.hasCls) drawClasses(stage);
  drawLegend(stage);
  const told = document.createElement("p");
  told.className = "told";
  told.setAttribute("aria-live", "polite");
  stage.append(told);
  tell(null);
  listen(svg);
}

function drawTile(svg, tile, number) {
  const { rows, columns, view, byHand, kept } = drawing;
  const group = make(svg, "g", { transform: `translate(${tile.x * columns} ${tile.y * rows})` });
  const whole = { width: columns, height: rows, preserveAspectRatio: "none" };
  make(group, "image", { ...whole, href: tile.picture });
  for (let patch = 0; patch < rows * columns; patch += 1) {
    const place = { x: patch % columns, y: Math.floor(patch / columns), width: 1, height: 1 };
    const rect = make(group, "rect", { ...place, class: "patch", "data-tile": number, "data-patch": patch });
    if (view === "attention") rect.style.fill = hot(tile.heat[patch]);
    if (view === "attention") rect.style.fillOpacity = 0.75;
  }
  if (view === "picture") return;
  if (byHand) [...picks[number]].filter((place) => place >= 0).forEach((place) => mark(svg, number, place, true));
  else if (kept) drawKept(group, kept[number], number);
}

function drawKept(group, kept, number) {
  const outlines = [];
  for (const rect of group.querySelectorAll("rect.patch")) {
    const patch = Number(rect.dataset.patch), token = kept.holder[patch];
    rect.dataset.token = token;
    if (drawing.view === "attention") continue;
    if (token < 0) rect.classList.add("dropped");
    else if (kept.merged[token]) rect.style.fill = `hsl(${hue(token)} 85% 50%)`;
    if (token >= 0 && kept.merged[token]) rect.classList.add("merged");
  }
  kept.at.forEach((patch, token) => {
    if (patch < 0) return;
    const kind = kept.merged[token] ? "target" : "dominant";
    outlines.push([kind, patch, token]);
  });
  for (const [kind, patch, token] of outlines.sort(([a]) => (a === "target" ? 1 : -1))) {
    const x = patch % drawing.columns, y = Math.floor(patch / drawing.columns);
    const outline = make(group, "rect", { x: x + 0.06, y: y + 0.06, width: 0.88, height: 0.88, class: kind });
    if (kind === "target") outline.style.stroke = `hsl(${hue(token)} 90% 72%)`;
  }
}

function drawClasses(stage) {
  const line = document.createElement("p");
  line.className = "classes";
  drawing.tiles.forEach((_, number) => {
    const kept = drawing.byHand ? picks[number].has(-1) : drawing.kept ? keepsCls(drawing.kept[number]) : false;
    if (!drawing.byHand && !drawing.kept) return;
    const chip = document.createElement(drawing.byHand ? "button" : "span");
    const name = drawing.tiles.length > 1 ? `CLS of tile ${number}` : "CLS token";
    chip.className = kept ? "chip on" : "chip";
    chip.textContent = `${name}: ${kept ? "kept" : "not kept"}`;
    if (drawing.byHand) {
      chip.type = "button";
      chip.addEventListener("click", () => {
        const on = !picks[number].has(-1);
        on ? picks[number].add(-1) : picks[number].delete(-1);
        chip.className = on ? "chip on" : "chip";
        chip.textContent = `${name}: ${on ? "kept" : "not kept"}`;
        publish();
      });
    }
    line.append(chip);
  });
  if (line.childElementCount) stage.append(line);
}

const keepsCls = (kept) => kept.at.some((patch, token) => patch < 0 && kept.sizes[token] > 0);

function drawLegend(stage) {
  const line = document.createElement("p");
  line.className = "legend";
  const parts = {
    picture: [], attention: ["hot", `what ${drawing.by} attends to`],
    kept: drawing.byHand ? ["dominant", "picked", "dropped", "not picked"]
      : drawing.kept ? ["dominant", "kept as it is", ...(drawing.kept.some(({ merged }) => merged.includes(1))
        ? ["target", "merged: one colour a token"] : []), ...(drawing.kept.some(({ holder }) => holder.includes(-1))
        ? ["dropped", "dropped"] : [])] : [],
  }[drawing.view];
  for (let place = 0; place < parts.length; place += 2) {
    const item = document.createElement("span");
    item.innerHTML = `<i class="${parts[place]}"></i>`;
    item.append(parts[place + 1]);
    line.append(item);
  }
  if (drawing.note) line.append(drawing.note);
  stage.append(line);
}

function describe(tile, patch) {
  const row = Math.floor(patch / drawing.columns) + 1, column = (patch % drawing.columns) + 1;
  const where = `${drawing.tiles.length > 1 ? (tile ? `Tile ${tile}, ` : "Whole picture, ") : ""}row ${row}, column ${column}: `;
  if (drawing.byHand) return where + (picks[tile].has(patch) ? "picked" : "not picked");
  if (!drawing.kept) return `${where}attention ${(drawing.tiles[tile].heat[patch] / 2.55).toFixed(0)} % of the highest`;
  const kept = drawing.kept[tile], token = kept.holder[patch];
  if (token < 0) return `${where}dropped`;
  const name = `token ${token + 1} of ${kept.at.length}`;
  if (!kept.merged[token]) return `${where}kept as it is, ${name}`;
  return `${where}merged with ${kept.sizes[token] - 1} others into ${name}${kept.at[token] === patch ? ", which stands here" : ""}`;
}

function tell(rect) {
  const told = element.querySelector(".told");
  for (const lit of element.querySelectorAll(".lit")) lit.classList.remove("lit");
  const at = rect ?? pinned;
  if (!at) {
    told.textContent = drawing.byHand ? "Click or drag to pick; on a picked patch to unpick." : "Point at a patch.";
    return;
  }
  const { tile, patch, token } = at.dataset;
  told.textContent = describe(Number(tile), Number(patch));
  const same = token >= 0 && !drawing.byHand ? `[data-tile="${tile}"][data-token="${token}"]` : `[data-tile="${tile}"][data-patch="${patch}"]`;
  for (const each of element.querySelectorAll(`rect.patch${same}`)) each.classList.add("lit");
}

function mark(svg, tile, patch, on) {
  svg.querySelector(`rect.patch[data-tile="${tile}"][data-patch="${patch}"]`).classList.toggle("picked", on);
}

function pick(rect, on) {
  const tile = Number(rect.dataset.tile), patch = Number(rect.dataset.patch);
  if (picks[tile].has(patch) === on) return;
  on ? picks[tile].add(patch) : picks[tile].delete(patch);
  rect.classList.toggle("picked", on);
  publish();
}

const listed = () => picks.map((tile) => [...tile].sort((a, b) => a - b));

function publish() {
  picked = listed();
  document.dispatchEvent(new CustomEvent(`picks-${props.pane}`, { detail: picked }));
}

function listen(svg) {
  const patchOf = (event) => (event.target.closest ? event.target.closest("rect.patch") : null);
  svg.addEventListener("pointerover", (event) => {
    const rect = patchOf(event);
    if (rect && painting !== null && event.buttons) pick(rect, painting);
    tell(rect);
  });
  svg.addEventListener("pointerleave", () => tell(null));
  svg.addEventListener("pointerdown", (event) => {
    const rect = patchOf(event);
    if (!rect) return;
    cursor = rect;
    if (drawing.byHand) {
      event.preventDefault();
      if (rect.hasPointerCapture?.(event.pointerId)) rect.releasePointerCapture(event.pointerId);
      painting = !picks[rect.dataset.tile].has(Number(rect.dataset.patch));
      pick(rect, painting);
    } else pinned = pinned === rect ? null : rect;
    tell(rect);
  });
  svg.addEventListener("pointerup", () => { painting = null; });
  svg.addEventListener("keydown", (event) => {
    const { rows, columns } = drawing;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step === undefined && event.key !== " ") return;
    event.preventDefault();
    const tile = Number(cursor?.dataset.tile ?? 0), patch = Number(cursor?.dataset.patch ?? 0);
    const next = cursor && step !== undefined ? patch + step : patch;
    if (next < 0 || next >= rows * columns) return;
    cursor = svg.querySelector(`rect.patch[data-tile="${tile}"][data-patch="${next}"]`);
    if (event.key === " " && drawing.byHand) pick(cursor, !picks[tile].has(next));
    tell(cursor);
  });
}

// The list of picks has one owner, `picks.js`: a drawing that arrives late brings none of its own.
document.addEventListener(`picked-${props.pane}`, (event) => {
  picked = event.detail;
  if (drawing?.byHand && JSON.stringify(picked) !== JSON.stringify(listed())) draw();
});
watch("value", draw);
draw();
