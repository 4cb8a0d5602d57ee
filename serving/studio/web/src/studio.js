// The studio's page: what to sample on the right, the mesh on the left. Every change samples at once; while an answer
// is under way only the newest wish waits.
import { download, make, number } from "./dom.js";
import { viewerIn } from "./viewer.js";

const SLIDER_SEEDS = 999;
const RANDOM_SEEDS = 1_000_000;
const MAX_SEED = Number.MAX_SAFE_INTEGER;
// Milliseconds that a slider has to rest.
const REST_MS = 120;
const TEXTURES = [256, 512, 1024, 2048];
const TRIANGLES = [20_000, 10_000, 5_000, 2_000];

export function mountStudio(root) {
  root.replaceChildren();
  root.classList.add("g3-root", "g3-studio");
  const stage = make("div", { "data-g3": "stage" });
  const state = { response: null, name: "", busy: false, wanted: false, psiChosen: false };
  const error = make("p", { class: "g3-error", role: "alert", "data-g3": "error", hidden: true });
  const server = make("p", { class: "g3-server", "data-g3": "server" });

  const first = sample("A", 0);
  const second = sample("B", 7);
  const blend = make("input", { type: "checkbox", "data-g3": "blend" });
  const share = slider("Share of B", "share", { min: 0, max: 1, step: 0.01, value: 0.5 }, percent);
  const mixed = make("div", { class: "g3-mixed", hidden: true }, second.element, share.element);
  const psi = slider("Truncation", "psi", { min: 0, max: 1, step: 0.01, value: 0.7 }, (value) => value.toFixed(2));
  const texture = choice("Texture size", "texture-size", [["", "as served"], ...TEXTURES.map((n) => [n, `${n} × ${n}`])]);
  const triangles = choice("Triangles", "triangles", [["", "all"], ...TRIANGLES.map((n) => [n, `${number.format(n)} at most`])]);
  // Only of models that have classes; the first answer says.
  const kind = make("input", { type: "text", "data-g3": "class", placeholder: "the seed's own", maxlength: 128, spellcheck: "false" });
  const kinds = make("label", { class: "g3-choice", hidden: true }, make("span", {}, "Class"), kind);
  kind.addEventListener("change", () => soon());
  const random = button("Random", "random", "g3-button g3-primary", () => {
    for (const one of blend.checked ? [first, second] : [first]) one.randomize();
    soon();
  });
  const save = button("Download GLB", "download", "g3-button", () => download(state.response, `${state.name}.glb`));
  save.disabled = true;
  const facts = make("dl", { class: "g3-table", "data-g3": "facts" });
  const times = make("div", { class: "g3-times", "data-g3": "times" });

  root.append(
    make("section", { class: "g3-left", "aria-label": "Mesh" }, stage, error),
    make(
      "section",
      { class: "g3-panel", "aria-label": "What to sample" },
      make("header", {}, make("h1", {}, "GET3D studio"), server),
      first.element,
      psi.element,
      make("label", { class: "g3-check" }, blend, "Blend with a second sample"),
      mixed,
      kinds,
      make("div", { class: "g3-pair" }, texture.element, triangles.element),
      make("div", { class: "g3-actions" }, random, save),
      facts,
      times,
    ),
  );
  const viewer = viewerIn(stage);

  let timer = 0;
  function soon() {
    clearTimeout(timer);
    timer = setTimeout(ask, REST_MS);
  }
  root.addEventListener("g3-change", soon);
  psi.element.addEventListener("input", () => (state.psiChosen = true));
  blend.addEventListener("change", () => {
    mixed.hidden = !blend.checked;
    first.label(blend.checked);
    soon();
  });

  /** The request, in the field names of the server's API. */
  function request() {
    const both = blend.checked ? [first, second] : [first];
    const wish = { seed: both.map((one) => one.geometry()) };
    if (both.some((one) => one.texture() !== one.geometry())) wish.seed_tex = both.map((one) => one.texture());
    if (blend.checked) wish.weights = [1 - share.value(), share.value()];
    // Until it is moved, the served model's own.
    if (state.psiChosen) wish.truncation_psi = psi.value();
    if (texture.value()) wish.texture_resolution = Number(texture.value());
    if (triangles.value()) wish.target_triangles = Number(triangles.value());
    if (kind.value.trim()) wish.class_name = kind.value.trim();
    return wish;
  }

  async function ask() {
    if (state.busy) {
      state.wanted = true;
      return;
    }
    state.busy = true;
    root.setAttribute("aria-busy", "true");
    try {
      await fetchMesh(request());
      fail("");
    } catch (problem) {
      fail(problem.message);
    }
    state.busy = false;
    root.setAttribute("aria-busy", "false");
    if (state.wanted) {
      state.wanted = false;
      ask();
    }
  }

  async function fetchMesh(wish) {
    const started = performance.now();
    const answer = await call("api/sample", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish),
    });
    const metadata = JSON.parse(answer.headers.get("X-Get3D-Metadata"));
    const glb = await answer.arrayBuffer();
    const milliseconds = performance.now() - started;
    // Parsing may not take the bytes away that the download needs.
    const shown = viewer ? await viewer.open(glb.slice(0)) : null;
    Object.assign(state, { response: glb, name: fileName(wish) });
    save.disabled = false;
    if (!state.psiChosen) psi.set(metadata.truncation_psi);
    tell(metadata, glb.byteLength, milliseconds, shown);
  }

  function tell(metadata, bytes, milliseconds, shown) {
    const rows = [
      ["Triangles", number.format(shown?.triangles ?? metadata.faces) + before(metadata)],
      ["Vertices", number.format(shown?.vertices ?? metadata.vertices)],
      ["Watertight", metadata.watertight == null ? "not measured" : metadata.watertight ? "yes" : "no"],
      ["Texture", `${metadata.texture_resolution} × ${metadata.texture_resolution}`],
      ["File", `${number.format(Math.round(bytes / 1024))} KiB`],
    ];
    if (metadata.class_name) {
      rows.push(["Class", metadata.class_name]);
      kinds.hidden = false;
    }
    if (metadata.empty) rows.push(["Surface", "none; a stand-in is shown"]);
    facts.replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    facts.dataset.triangles = shown?.triangles ?? "";
    times.replaceChildren(...timings(metadata.milliseconds, milliseconds));
    server.textContent = `${state.url} · ${metadata.model} ${metadata.version} · ${number.format(metadata.kimg)} kimg`;
  }

  function fail(text) {
    error.textContent = text;
    error.hidden = !text;
  }

  call("api/info")
    .then((answer) => answer.json())
    .then(({ url }) => {
      state.url = url;
      server.textContent = url;
      return ask();
    })
    .catch((problem) => fail(problem.message));
}

/** fetch, with what went wrong as one line. */
async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The studio itself does not answer; is get3d studio still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `The studio answered with status ${answer.status}.`);
}

/** The seeds of one sample: geometry and texture, which go together until they are parted. */
function sample(name, seed) {
  const geometry = seedRow("Geometry", `geometry-${name}`, seed);
  const texture = seedRow("Texture", `texture-${name}`, seed);
  const linked = make("input", { type: "checkbox", checked: true, "data-g3": `linked-${name}` });
  const legend = make("legend", {}, "Sample");
  const swap = button("⇅ Swap", `swap-${name}`, "g3-small", () => {
    const [left, right] = [geometry.value(), texture.value()];
    link(false);
    geometry.set(right);
    texture.set(left);
    element.dispatchEvent(new Event("g3-change", { bubbles: true }));
  });
  const foot = make("div", { class: "g3-line" }, make("label", { class: "g3-check" }, linked, "one seed for both"), swap);
  const element = make("fieldset", { class: "g3-sample" }, legend, geometry.element, texture.element, foot);
  function link(on) {
    linked.checked = on;
    texture.disable(on);
    swap.disabled = on;
    if (on) texture.set(geometry.value());
  }
  linked.addEventListener("change", () => {
    link(linked.checked);
    element.dispatchEvent(new Event("g3-change", { bubbles: true }));
  });
  geometry.element.addEventListener("g3-change", () => linked.checked && texture.set(geometry.value()));
  const label = (both) => (legend.textContent = both ? `Sample ${name}` : "Sample");
  label(name !== "A");
  link(true);
  return {
    element,
    label,
    geometry: geometry.value,
    texture: texture.value,
    randomize() {
      geometry.set(randomSeed());
      texture.set(linked.checked ? geometry.value() : randomSeed());
    },
  };
}

/** A seed by slider, for leafing through, or by number, for any. */
function seedRow(text, id, seed) {
  const range = make("input", { type: "range", min: 0, max: SLIDER_SEEDS, step: 1, value: seed, "aria-label": `${text} seed, slider` });
  const field = make("input", { type: "number", min: 0, max: MAX_SEED, step: 1, value: seed, "data-g3": id, "aria-label": `${text} seed` });
  const element = make("div", { class: "g3-seed" }, make("span", {}, text), range, field);
  const changed = () => element.dispatchEvent(new Event("g3-change", { bubbles: true }));
  range.addEventListener("input", () => {
    field.value = range.value;
    changed();
  });
  field.addEventListener("input", () => {
    if (!field.validity.valid || field.value === "") return;
    range.value = field.value;
    changed();
  });
  // What is no seed goes back to the last one that was.
  field.addEventListener("change", () => {
    if (!field.validity.valid || field.value === "") field.value = last;
  });
  let last = seed;
  const value = () => {
    if (field.validity.valid && field.value !== "") last = Number(field.value);
    return last;
  };
  return {
    element,
    value,
    set(next) {
      range.value = field.value = last = next;
    },
    disable(yes) {
      range.disabled = field.disabled = yes;
    },
  };
}

function slider(text, id, attributes, show) {
  const input = make("input", { type: "range", "data-g3": id, "aria-label": text, ...attributes });
  const output = make("output", {}, show(Number(input.value)));
  const element = make("label", { class: "g3-seed" }, make("span", {}, text), input, output);
  input.addEventListener("input", () => {
    output.textContent = show(Number(input.value));
    element.dispatchEvent(new Event("g3-change", { bubbles: true }));
  });
  return {
    element,
    value: () => Number(input.value),
    set(next) {
      input.value = next;
      output.textContent = show(next);
    },
  };
}

function choice(text, id, options) {
  const select = make("select", { "data-g3": id }, ...options.map(([value, name]) => make("option", { value }, name)));
  select.addEventListener("change", () => select.dispatchEvent(new Event("g3-change", { bubbles: true })));
  return { element: make("label", { class: "g3-choice" }, make("span", {}, text), select), value: () => select.value };
}

function button(text, id, look, click) {
  return make("button", { type: "button", class: look, "data-g3": id, click }, text);
}

/** A bar of the server's stages and what remains, in queues and on the way, with its legend. */
function timings(stages, total) {
  const known = Object.entries(stages).filter(([name, value]) => name !== "total" && value >= 0);
  const rest = total - known.reduce((sum, [, value]) => sum + value, 0);
  const parts = rest > 0 ? [...known, ["waiting", rest]] : known;
  const whole = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  const styled = (element, values) => {
    for (const [name, value] of Object.entries(values)) element.style.setProperty(name, value);
    return element;
  };
  const hue = (i) => `var(--g3-part-${i % 6})`;
  return [
    make("p", {}, make("b", {}, `${number.format(Math.round(total))} ms`), " from request to answer"),
    make("div", { class: "g3-stack" }, ...parts.map(([, value], i) => styled(make("i"), { width: `${(100 * value) / whole}%`, background: hue(i) }))),
    make(
      "ul",
      {},
      ...parts.map(([name, value], i) =>
        make("li", {}, styled(make("i"), { background: hue(i) }), `${name.replaceAll("_", " ")} `, make("span", {}, `${value < 10 ? value.toFixed(1) : Math.round(value)}`)),
      ),
    ),
  ];
}

function before(metadata) {
  return metadata.triangles_before ? ` of ${number.format(metadata.triangles_before)}` : "";
}

function fileName({ seed, seed_tex: texture, weights }) {
  const share = weights ? `-share${Math.round(weights[1] * 100)}` : "";
  return `seed${seed.join("-")}${texture ? `-texture${texture.join("-")}` : ""}${share}`;
}

function percent(value) {
  return `${Math.round(value * 100)}%`;
}

function randomSeed() {
  return Math.floor(Math.random() * RANDOM_SEEDS);
}
