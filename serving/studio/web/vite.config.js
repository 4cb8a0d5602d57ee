// One minified script and one style sheet, without imports, so that both the studio's server and a report that is
// opened from a file can hold them. `make web` builds and then records what they were built from.
import { readFileSync } from "node:fs";
import { defineConfig } from "vite";

const licence = readFileSync(new URL("./node_modules/three/LICENSE", import.meta.url), "utf8").trim();

// Minifiers drop comments; this one has to travel with the code.
const withLicence = {
  name: "with-licence",
  enforce: "post",
  generateBundle(_, bundle) {
    for (const part of Object.values(bundle)) {
      if (part.type === "chunk") part.code = `/*! With three.js (https://threejs.org).\n\n${licence}\n*/\n${part.code}`;
    }
  },
};

export default defineConfig({
  plugins: [withLicence],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    minify: "esbuild",
    modulePreload: false,
    lib: { entry: "src/main.js", name: "get3dStudio", formats: ["iife"], fileName: () => "studio.js", cssFileName: "studio" },
  },
  esbuild: { legalComments: "none" },
});
