// The viewer in a page that carries its meshes as base64: <div data-get3d-carried> around
// <script type="application/json">[{"name": ..., "file": ..., "glb": base64}]</script>.
import { download, make, number } from "./dom.js";
import { viewerIn } from "./viewer.js";

export function mountCarried(root) {
  const samples = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const stage = make("div");
  const choices = make("div", { class: "g3-choices", role: "group", "aria-label": "Meshes" });
  const facts = make("span", { class: "g3-facts", "data-g3": "facts", role: "status" });
  const save = make("button", { type: "button", class: "g3-button", "data-g3": "download" }, "Download GLB");
  root.classList.add("g3-root");
  root.append(choices, stage, make("div", { class: "g3-foot" }, facts, save));
  const viewer = viewerIn(stage, { inText: true });
  let chosen = samples[0];

  const buttons = samples.map((sample) =>
    make("button", { type: "button", class: "g3-toggle", click: () => choose(sample) }, sample.name),
  );
  choices.append(...buttons);
  save.addEventListener("click", () => download(bytes(chosen.glb), chosen.file));

  async function choose(sample) {
    chosen = sample;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(samples[i] === sample)));
    if (!viewer) return;
    try {
      const size = await viewer.open(bytes(sample.glb).buffer);
      if (size) facts.textContent = `${number.format(size.triangles)} triangles, ${number.format(size.vertices)} vertices`;
    } catch (error) {
      facts.textContent = `This mesh cannot be shown: ${error.message}`;
    }
  }
  choose(chosen);
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
