// The viewer: one mesh, orbited with mouse, touch or keys; painted or as clay; with its triangles or without.
// It draws when something changes and rests otherwise.
import {
  Box3,
  BufferGeometry,
  Color,
  DirectionalLight,
  DoubleSide,
  Group,
  HemisphereLight,
  Mesh,
  MeshBasicMaterial,
  MeshStandardMaterial,
  PerspectiveCamera,
  Scene,
  SRGBColorSpace,
  Vector3,
  WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { mergeVertices } from "three/addons/utils/BufferGeometryUtils.js";
import { make, toggle } from "./dom.js";

// As the renders of the reports: from the front's side, a little above.
const AZIMUTH = Math.PI / 5.5;
const ELEVATION = Math.PI / 9;
const FIELD_OF_VIEW = 32;
// Space around the mesh, for its neighbours in seed are of other sizes.
const MARGIN = 1.1;
// Radians per press of an arrow key.
const KEY_STEP = Math.PI / 18;

export class Viewer {
  /** Fills `root` with the canvas and its buttons. inText: the page goes on above and below, and must still scroll.
   * Throws where the browser has no WebGL 2. */
  constructor(root, { inText = false } = {}) {
    this.root = root;
    this.canvas = make("canvas", {
      class: "g3-canvas",
      tabindex: "0",
      role: "img",
      "aria-label": "Mesh; drag or use the arrow keys to turn it, scroll or + and - to come nearer",
    });
    // Kept after drawing, so that the picture can be saved and read.
    this.renderer = new WebGLRenderer({ canvas: this.canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.outputColorSpace = SRGBColorSpace;
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
    this.lights();
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.addEventListener("change", () => this.draw());
    if (inText) this.leaveScrolling();
    this.loader = new GLTFLoader();
    this.model = null;
    this.wireframe = false;
    this.texture = true;
    this.framed = false;
    // Of meshes that are opened in quick succession the last one is shown.
    this.turn = 0;
    this.bar = make(
      "div",
      { class: "g3-bar", role: "toolbar", "aria-label": "View" },
      toggle("Texture", "texture", true, (on) => this.show({ texture: on })),
      toggle("Wireframe", "wireframe", false, (on) => this.show({ wireframe: on })),
      make("button", { type: "button", class: "g3-toggle", "data-g3": "reset", click: () => this.frame() }, "Reset view"),
    );
    root.classList.add("g3-viewer");
    root.append(this.canvas, this.bar);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("dblclick", () => this.frame());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(root);
    this.resize();
  }

  /** Wheel and vertical swipes belong to the page, the wheel only until the mesh is clicked. */
  leaveScrolling() {
    this.canvas.style.touchAction = "pan-y";
    this.controls.enableZoom = false;
    this.canvas.addEventListener("pointerdown", () => this.canvas.focus({ preventScroll: true }));
    this.canvas.addEventListener("focus", () => (this.controls.enableZoom = true));
    this.canvas.addEventListener("blur", () => (this.controls.enableZoom = false));
  }

  lights() {
    const key = new DirectionalLight(0xffffff, 2);
    key.position.set(-1, 0.9, 0.6);
    // The key light goes with the camera: no side of the clay is ever dark.
    this.camera.add(key);
    this.scene.add(this.camera, new HemisphereLight(0xffffff, 0x7c8494, 1.1));
  }

  /** Shows a GLB (ArrayBuffer); resolves to { triangles, vertices }, or to null if another was opened meanwhile.
   * Rejects for bytes that are no GLB. */
  async open(glb) {
    const mine = ++this.turn;
    const { scene } = await this.loader.parseAsync(glb, "");
    if (mine !== this.turn) return null;
    const size = { triangles: 0, vertices: 0 };
    const model = new Group();
    scene.updateMatrixWorld(true);
    scene.traverse((part) => {
      if (!part.isMesh) return;
      const { geometry } = part;
      size.triangles += (geometry.index ?? geometry.attributes.position).count / 3;
      size.vertices += geometry.attributes.position.count;
      const { map } = part.material;
      const behindLines = { side: DoubleSide, polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1 };
      // What the generator paints has its light in it already; a second one would change the colours.
      const paint = new MeshBasicMaterial({ map, vertexColors: "color" in geometry.attributes, ...behindLines });
      const clay = new MeshStandardMaterial({ color: 0xc9c4bb, roughness: 0.85, ...behindLines });
      const lines = new MeshBasicMaterial({ wireframe: true, transparent: true, opacity: 0.45 });
      const bare = welded(geometry);
      for (const [role, shape, material] of [["paint", geometry, paint], ["clay", bare, clay], ["lines", bare, lines]]) {
        const layer = new Mesh(shape, material);
        layer.name = role;
        layer.applyMatrix4(part.matrixWorld);
        model.add(layer);
      }
    });
    this.clear();
    this.model = model;
    this.scene.add(model);
    if (!this.framed) this.frame();
    this.show({});
    return size;
  }

  clear() {
    if (!this.model) return;
    this.scene.remove(this.model);
    for (const { geometry, material } of this.model.children) {
      geometry.dispose();
      material.map?.source.data?.close?.();
      material.map?.dispose();
      material.dispose();
    }
    this.model = null;
  }

  /** What is seen of the mesh: { texture, wireframe }, each true or false. */
  show(changes) {
    Object.assign(this, changes);
    const seen = { paint: this.texture, clay: !this.texture, lines: this.wireframe };
    for (const layer of this.model?.children ?? []) layer.visible = seen[layer.name];
    this.draw();
  }

  /** Puts the camera where it sees all of the mesh. Later meshes keep where it is then. */
  frame() {
    if (!this.model) return;
    const box = new Box3().setFromObject(this.model);
    const towards = new Vector3().setFromSphericalCoords(1, Math.PI / 2 - ELEVATION, AZIMUTH);
    const distance = MARGIN * this.distanceOf(box, towards);
    box.getCenter(this.controls.target);
    this.camera.position.copy(towards).multiplyScalar(distance).add(this.controls.target);
    Object.assign(this.camera, { near: distance / 100, far: distance * 20 });
    Object.assign(this.controls, { minDistance: distance / 8, maxDistance: distance * 5 });
    this.camera.updateProjectionMatrix();
    this.controls.update();
    this.framed = true;
    this.draw();
  }

  /** How far from the middle of the box the camera sees all its corners, in the direction `towards` it. */
  distanceOf({ min, max }, towards) {
    const middle = min.clone().add(max).multiplyScalar(0.5);
    const right = new Vector3(0, 1, 0).cross(towards).normalize();
    const up = towards.clone().cross(right);
    const slope = Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
    let distance = 1e-3;
    for (const x of [min.x, max.x]) for (const y of [min.y, max.y]) for (const z of [min.z, max.z]) {
      const corner = new Vector3(x, y, z).sub(middle);
      const across = Math.max(Math.abs(corner.dot(up)), Math.abs(corner.dot(right)) / this.camera.aspect);
      distance = Math.max(distance, corner.dot(towards) + across / slope);
    }
    return distance;
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const nearer = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!steps && !nearer)) return;
    event.preventDefault();
    const { target, minDistance, maxDistance } = this.controls;
    const offset = this.camera.position.clone().sub(target);
    const [around, up] = steps ?? [0, 0];
    const distance = Math.min(Math.max(offset.length() * (nearer ?? 1), minDistance), maxDistance);
    const azimuth = Math.atan2(offset.x, offset.z) + around * KEY_STEP;
    const polar = Math.min(Math.max(Math.acos(offset.y / offset.length()) + up * KEY_STEP, 0.05), Math.PI - 0.05);
    this.camera.position.setFromSphericalCoords(distance, polar, azimuth).add(target);
    this.controls.update();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      const ink = new Color(getComputedStyle(this.root).getPropertyValue("--g3-lines").trim() || "#204060");
      for (const layer of this.model?.children ?? []) if (layer.name === "lines") layer.material.color = ink;
      this.renderer.render(this.scene, this.camera);
    });
  }
}

/** The surface without the seams of its texture, so that light goes over them smoothly. */
function welded(geometry) {
  const bare = new BufferGeometry();
  bare.setAttribute("position", geometry.attributes.position.clone());
  if (geometry.index) bare.setIndex(geometry.index.clone());
  const whole = mergeVertices(bare, 1e-6);
  whole.computeVertexNormals();
  return whole;
}

/** The viewer, or nothing and the reason in its place. */
export function viewerIn(root, options) {
  try {
    return new Viewer(root, options);
  } catch {
    root.replaceChildren(make("p", { class: "g3-error", role: "alert" }, "This browser has no WebGL 2, which the viewer draws with; turn it on, or download the mesh."));
    return null;
  }
}
