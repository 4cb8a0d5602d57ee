// Small helpers of the pages.

/** An element with attributes (functions become listeners) and children (elements or texts). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A button that stays pressed or not. `changed` gets the new state. */
export function toggle(text, id, pressed, changed) {
  const button = make("button", { type: "button", class: "g3-toggle", "data-g3": id, "aria-pressed": String(pressed) }, text);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    changed(now);
  });
  return button;
}

/** Hands the bytes to the browser as a file. */
export function download(bytes, name) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "model/gltf-binary" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const number = new Intl.NumberFormat("en");
