"use strict";
// Puts the page together: buttons, keys, what follows the crosshair.
(async function (review) {
  const page = window.REVIEW;
  const byId = (id) => document.getElementById(id);
  const readout = byId("readout");
  const table = byId("lesions");
  const viewer = new review.Viewer(page);
  const strip = new review.Strip(page, viewer, byId("draws"));
  const projections = new review.Projections(page.mip, page.words);
  const corrections = new review.Corrections(page, table);
  let current = 0; // lesion shown, 0 for none
  let live = false;

  function press(kind, isOn) {
    for (const button of document.querySelectorAll(`button[data-${kind}]`)) {
      button.setAttribute("aria-pressed", String(isOn(button.dataset[kind])));
    }
  }

  function mark() {
    press("background", (id) => id === viewer.background);
    press("overlay", (id) => viewer.on.has(id));
    press("view", (name) => name === viewer.view);
    strip.mark();
  }

  function follow(place) {
    const seen = viewer.at(place);
    const signed = (value) => `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(0)}`;
    const parts = [
      `R ${signed(seen.mm[0])}  A ${signed(seen.mm[1])}  S ${signed(seen.mm[2])} mm`,
      `${page.words.slice} ${place[2] + 1}/${page.shape[2]}`,
    ];
    if (Number.isFinite(seen.adc)) parts.push(`ADC ${seen.adc.toFixed(3)} × 10⁻³ mm²/s`);
    if (Number.isFinite(seen.probability)) parts.push(`p ${seen.probability.toFixed(2)}`);
    if (viewer.on.has("draw")) parts.push(`${page.words.draw} ${viewer.draw + 1}/${viewer.draws.count}`);
    if (seen.lesion) {
      parts.push(`#${seen.lesion}`);
      choose(seen.lesion);
    }
    readout.textContent = parts.join(" · ");
    window.requestAnimationFrame(() => strip.paint(viewer.voxel()[2]));
  }

  function choose(number) {
    current = number;
    if (table) for (const row of table.tBodies[0].rows) row.classList.toggle("current", Number(row.dataset.lesion) === number);
  }

  function jump(number) {
    const lesion = page.lesions.find((l) => l.lesion === number);
    if (!lesion) return;
    viewer.jump(lesion.voxel);
    choose(number);
  }

  function next(step) {
    const count = page.lesions.length;
    if (!count) return;
    if (current) jump(((current - 1 + step + count) % count) + 1);
    else jump(step > 0 ? 1 : count);
  }

  function stepView() {
    const names = ["multi", "axial", "coronal", "sagittal"];
    viewer.setView(names[(names.indexOf(viewer.view) + 1) % names.length]);
    mark();
  }

  const flip = (id) => { byId(id).checked = !byId(id).checked; byId(id).dispatchEvent(new Event("change")); };
  const help = byId("help");
  const actions = {
    "[": async () => { await viewer.chooseDraw(viewer.on.has("draw") ? viewer.draw - 1 : viewer.draw); mark(); },
    "]": async () => { await viewer.chooseDraw(viewer.on.has("draw") ? viewer.draw + 1 : viewer.draw); mark(); },
    d: async () => { await viewer.toggle("draw"); mark(); },
    ArrowUp: () => viewer.step(1), ArrowDown: () => viewer.step(-1),
    n: () => next(1), N: () => next(-1),
    k: () => current && corrections.decide(current, "keep"),
    x: () => current && corrections.decide(current, "remove"),
    u: () => current && corrections.decide(current, "unsure"),
    m: stepView, o: () => flip("outline"), i: () => flip("smooth"),
    " ": () => projections.toggle(),
  };
  for (const row of page.backgrounds) actions[row.key] = async () => { await viewer.show(row.id); mark(); };
  for (const row of page.overlays) if (row.key) actions[row.key] = async () => { await viewer.toggle(row.id); mark(); };

  // Before the viewer's own keys, so that one key means one thing wherever the focus is.
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (at.matches("input[type=text], input[type=file], input[type=radio]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (at.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
    if (at.matches("button, a, input, summary") && (event.key === " " || event.key === "Enter")) return;
    if (event.key === "?") { help.showModal(); event.preventDefault(); return; }
    if (help.open) return;
    if (at.id === "viewer" && event.key !== "Tab") event.stopPropagation();
    const act = Object.prototype.hasOwnProperty.call(actions, event.key) ? actions[event.key] : null;
    if (!act || (!live && event.key !== " ")) return;
    event.preventDefault();
    act();
  }, true);

  byId("help-close").addEventListener("click", () => help.close());
  if (byId("help-button")) byId("help-button").addEventListener("click", () => help.showModal());
  projections.open();

  try {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    viewer.listeners.push(follow);
    await viewer.open(byId("viewer"));
    await strip.open();
  } catch (error) {
    readout.textContent = page.words.no_webgl;
    document.body.dataset.state = "no-viewer";
    console.warn(error);
    return;
  }
  live = true;
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { background, overlay, view, jump: lesion, voxel } = button.dataset;
    if (background) await viewer.show(background);
    else if (overlay) await viewer.toggle(overlay);
    else if (view) viewer.setView(view);
    else if (lesion) jump(Number(lesion));
    else if (voxel) viewer.jump(voxel.split(",").map(Number));
    if (lesion || voxel) byId("viewer").scrollIntoView({ block: "nearest" });
    mark();
  });
  byId("opacity").addEventListener("input", () => viewer.setOpacity(Number(byId("opacity").value)));
  byId("outline").addEventListener("change", () => viewer.setOutline(byId("outline").checked));
  byId("smooth").addEventListener("change", () => viewer.setSmooth(byId("smooth").checked));
  if (page.lesions.length) jump(1);
  mark();
  review.viewer = viewer;
  document.body.dataset.state = "ready";
})(window.review);
