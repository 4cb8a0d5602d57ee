// Two users of one viewer: the studio's page, and pages that carry their meshes with them.
import "./viewer.css";
import { mountCarried } from "./carried.js";
import { mountStudio } from "./studio.js";

for (const root of document.querySelectorAll("[data-get3d-studio]")) mountStudio(root);
for (const root of document.querySelectorAll("[data-get3d-carried]")) mountCarried(root);
